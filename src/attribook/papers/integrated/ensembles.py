"""From a method back to its paths: the measure that Theorem 2 promises, found on a grid.

[integrated, Thm 2] says that completeness, linearity, dummy and non-decreasing positivity make an
attribution method an ensemble of monotone paths; its proof shows that the measure exists. Here it
is found, from x' = (0, 0) to x = (1, 1), for the functions that are bilinear on each cell of a
K x K grid. Such a function is its table V of values at the nodes (i, j) / K, i along y1. By linearity
and dummy, A_1 sees nothing but the differences of V along the edges (i, j) -> (i + 1, j), and
A_2 those along (i, j) -> (i, j + 1):

    A_1(F_V) = sum_edges w (V[end] - V[start]) over the edges along y1; A_2 likewise along y2.

So a method is one weight w an edge. Completeness makes w a flow of mass 1 from x' to x, and an
ensemble of monotone paths has w >= 0. Conversely, a flow w >= 0 is a mixture of lattice paths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.optimize import linprog
from scipy.sparse import csc_array
from torch import Tensor

from attribook.axioms import FromBaseline
from attribook.paths import Path, with_corners
from attribook.score import Score

MakePath = Callable[[Tensor, Tensor], Path]
Table = Float[Tensor, "batch nodes nodes"]
TOLERANCE = 1e-10  # of an edge weight below zero, and of the flow lost or gained at a node
MAX_PATHS = 20_000  # columns of the linear programme; a grid of 8 x 8 cells has 12,870


@dataclass(frozen=True)
class Interpolant:
    """The functions on [0, 1]^2 that take the values of the tables at the nodes, bilinear in cells.

    Called with (rows, 2) it returns (rows,), row r by table r % batch; gradients are exact inside
    cells. On an edge the derivative along the edge is exact, the one across it is a side's.
    """

    tables: Table

    def __call__(self, points: Float[Tensor, "rows 2"]) -> Float[Tensor, " rows"]:
        """The value at each point of the unit square; raises for points outside."""
        batch, cells = len(self.tables), self.tables.shape[1] - 1
        if len(points) % batch:
            raise ValueError(f"{batch} tables for {len(points)} points; pass a multiple of {batch}")
        if points.min() < -1e-9 or points.max() > 1 + 1e-9:
            raise ValueError("a table holds values on [0, 1]^2, got a point outside of it")
        scaled = points * cells
        corner = scaled.detach().floor().clamp(0, cells - 1)
        (u, v), (i, j) = (scaled - corner).unbind(1), corner.long().unbind(1)
        table = torch.arange(len(points), device=points.device) % batch
        near = (1 - v) * self.tables[table, i, j] + v * self.tables[table, i, j + 1]
        far = (1 - v) * self.tables[table, i + 1, j] + v * self.tables[table, i + 1, j + 1]
        return (1 - u) * near + u * far


@dataclass(frozen=True)
class Recovered:
    """The weight of every edge: flow_x[i, j] of (i, j) -> (i + 1, j), flow_y[i, j] of (i, j + 1)."""

    flow_x: Float[Tensor, "cells nodes"]
    flow_y: Float[Tensor, "nodes cells"]

    @property
    def cells(self) -> int:
        """How many cells the grid has along an axis."""
        return len(self.flow_x)

    def weights(self) -> Float[Tensor, " edges"]:
        """The weights of all edges, those along y1 first; the order of `probes`."""
        return torch.cat([self.flow_x.flatten(), self.flow_y.flatten()])

    def smallest(self) -> float:
        """The smallest weight; no ensemble of monotone paths has one below zero."""
        return float(self.weights().min())

    def conservation_gap(self) -> Float[Tensor, "nodes nodes"]:
        """What flows in less what flows out, at each node; zero when the method is complete.

        A mass of 1 enters at (0, 0) and leaves at (K, K).
        """
        gap = F.pad(self.flow_x, (0, 0, 1, 0)) - F.pad(self.flow_x, (0, 0, 0, 1))
        gap = gap + F.pad(self.flow_y, (1, 0)) - F.pad(self.flow_y, (0, 1))
        gap[0, 0] += 1
        gap[-1, -1] -= 1
        return gap

    def attributions(self, tables: Table) -> Float[Tensor, "batch 2"]:
        """A(F_V) for each table V, by the weights alone: no path, no gradient, no quadrature."""
        along_x, along_y = tables.diff(dim=1), tables.diff(dim=2)
        sums = (self.flow_x * along_x).sum((1, 2)), (self.flow_y * along_y).sum((1, 2))
        return torch.stack(sums, dim=1)


class LatticePath(NamedTuple):
    """A monotone path along edges of the grid, from (0, 0) to (K, K), and its share of the mass."""

    mass: float
    nodes: list[tuple[int, int]]

    def points(self) -> list[tuple[float, float]]:
        """The nodes as points of the unit square: the corners of a polyline, pieces within cells."""
        cells = len(self.nodes) // 2
        return [(i / cells, j / cells) for i, j in self.nodes]


def probes(cells: int) -> Table:
    """The 2 K (K + 1) tables that single out the edges, in the order of `Recovered.weights`.

    For (i, j) -> (i + 1, j): 1 at the nodes (i + 1, j), ..., (K, j), else 0, which differs along y1
    on that edge only. For (i, j) -> (i, j + 1): 1 at (i, j + 1), ..., (i, K).
    """
    if cells < 1:
        raise ValueError(f"a grid needs one cell or more along an axis, got {cells}")
    beyond = torch.ones(cells, cells + 1, dtype=torch.float64).triu(1)  # (edge, node)
    same = torch.eye(cells + 1, dtype=torch.float64)
    along_x = torch.einsum("cm,rn->crmn", beyond, same)
    along_y = torch.einsum("rm,cn->rcmn", same, beyond)
    return torch.cat([along_x.flatten(0, 1), along_y.flatten(0, 1)])


def grid_switches(cells: int) -> Callable[[Tensor], Tensor]:
    """The distances of points to the lines inside the grid, signed, for `paths.with_corners`.

    (rows, 2) -> (rows, 2 (K - 1)). The interpolants have their kinks there, and quadrature that
    does not stop at every line loses completeness.
    """

    def switches(points: Float[Tensor, "rows 2"]) -> Float[Tensor, "rows lines"]:
        lines = torch.arange(1, cells).to(points) / cells
        return (points[:, :, None] - lines).flatten(1)

    return switches


def on_grid(make_path: MakePath, cells: int) -> MakePath:
    """The same path with a corner at every grid line, for a batch whose rows are all alike.

    The path is made and cut once, for the first row: cutting it for every row of 2 K (K + 1) would
    cost the square of that. Two Gauss-Legendre nodes a piece are exact if the path is a polyline.
    """

    def path(inputs: Float[Tensor, "batch 2"], baseline: Float[Tensor, "#batch 2"]) -> Path:
        if not ((inputs == inputs[:1]).all() and (baseline == baseline[:1]).all()):
            raise ValueError("the rows differ, so they cross the grid at different times; pass one")
        one = with_corners(make_path(inputs[:1], baseline[:1]), grid_switches(cells))

        def at(t: Tensor) -> tuple[Tensor, Tensor]:
            points, velocities = one.at(t)
            return points.expand(-1, len(inputs), -1), velocities.expand(-1, len(inputs), -1)

        return replace(one, at=at, end=one.end.expand_as(inputs))

    return path


def recover(method: FromBaseline, cells: int) -> Recovered:
    """The edge weights of `method(score, inputs, baseline)` on a grid of cells x cells.

    The weight of an edge along y_i is A_i of its probe. [integrated, Thm 2, made constructive]
    One call of the method, with a batch of 2 K (K + 1) rows, all from (0, 0) to (1, 1). The weights
    stand for a method only if it is linear and has dummy: compare `attributions` on other tables.
    """
    tables = probes(cells)
    baseline = tables.new_zeros(len(tables), 2)
    attributions = method(Score(Interpolant(tables)), baseline + 1, baseline)
    if attributions.shape != baseline.shape or not torch.isfinite(attributions).all():
        raise ValueError(
            f"the method must return finite attributions of shape {tuple(baseline.shape)},"
            f" got shape {tuple(attributions.shape)}, finite: {attributions.isfinite().all()}"
        )
    along_x, along_y = attributions.detach().to(tables).chunk(2)
    return Recovered(
        along_x[:, 0].unflatten(0, (cells, cells + 1)),
        along_y[:, 1].unflatten(0, (cells + 1, cells)),
    )


def lattice_paths(recovered: Recovered) -> list[LatticePath]:
    """An ensemble of lattice paths with these edge weights, at most one path an edge.

    Greedy: follow the larger outgoing edge, take off the smallest weight met on the way, until
    nothing is left at the source. Masses add up to 1 within the conservation gap. Raises if a weight
    is negative, or if the flow is not conserved; then there is no such ensemble.
    """
    _check_flow(recovered)
    weights = _outgoing(recovered)
    found = []
    rounding = weights.size * np.finfo(weights.dtype).eps
    while weights[0, 0].sum() > rounding:
        steps = _follow_the_larger(weights)
        mass = weights[steps].min()
        if mass <= 0:  # a dead end: the source held flow that is not conserved further on
            break
        weights[steps] -= mass
        i, j, _ = steps
        found.append(LatticePath(float(mass), [*zip(i, j, strict=True), (recovered.cells,) * 2]))
    return found


def superposed(paths: Sequence[LatticePath]) -> Recovered:
    """The edge weights of an ensemble of lattice paths: each edge, the mass of the paths over it."""
    if not paths:
        raise ValueError("an ensemble needs one lattice path or more, got none")
    crossed = _crossed(np.array([path.nodes for path in paths]))
    weights = torch.from_numpy(crossed @ np.array([path.mass for path in paths]))
    cells = len(paths[0].nodes) // 2
    along_x, along_y = weights.chunk(2)
    return Recovered(along_x.unflatten(0, (cells, -1)), along_y.unflatten(0, (-1, cells)))


def path_measure_exists(recovered: Recovered) -> bool:
    """Whether masses >= 0 on all monotone lattice paths add up to the edge weights.

    A linear programme with an unknown for each of the binomial(2K, K) paths and an equation for
    each edge, solved to TOLERANCE; a second opinion on `lattice_paths`, with which it shares
    nothing but the weights. K <= 8 (a fraction of a second).
    """
    cells = recovered.cells
    if comb(2 * cells, cells) > MAX_PATHS:
        raise ValueError(
            f"a grid of {cells} x {cells} cells has {comb(2 * cells, cells)} lattice paths, more"
            f" than {MAX_PATHS}; take 8 cells or fewer, or decompose the flow with lattice_paths"
        )
    crossed = _crossed(_all_lattice_paths(cells))
    solved = linprog(
        np.zeros(crossed.shape[1]),
        A_eq=crossed,
        b_eq=recovered.weights().numpy(),
        options={"primal_feasibility_tolerance": TOLERANCE},
    )
    if solved.status not in (0, 2):  # optimal, infeasible
        raise ArithmeticError(f"the linear programme came to no answer: {solved.message}")
    return solved.status == 0


def _check_flow(recovered: Recovered) -> None:
    """Raises unless the weights are those of an ensemble: none negative, conserved at every node."""
    if recovered.smallest() < -TOLERANCE:
        raise ValueError(
            f"the edge {_smallest_edge(recovered)} has weight {recovered.smallest():.6g}: no ensemble"
            " of monotone paths can have it; the method is none"
        )
    gap = recovered.conservation_gap().abs()
    if gap.max() > TOLERANCE:
        node = divmod(int(gap.argmax()), len(gap))
        raise ValueError(
            f"the flow is not conserved at the node {node}, by {float(gap.max()):.3g}: the method is"
            " not complete on these functions; does its quadrature stop at the grid lines (on_grid)?"
        )


def _smallest_edge(recovered: Recovered) -> str:
    along_x, along_y = recovered.flow_x, recovered.flow_y
    if along_x.min() <= along_y.min():
        i, j = divmod(int(along_x.argmin()), along_x.shape[1])
        return f"({i}, {j}) -> ({i + 1}, {j})"
    i, j = divmod(int(along_y.argmin()), along_y.shape[1])
    return f"({i}, {j}) -> ({i}, {j + 1})"


def _outgoing(recovered: Recovered) -> Float[np.ndarray, "nodes nodes 2"]:
    """The weights of the two edges out of each node; -1 where they would leave the grid."""
    along_x = F.pad(recovered.flow_x.clamp(min=0), (0, 0, 0, 1), value=-1.0)
    along_y = F.pad(recovered.flow_y.clamp(min=0), (0, 1), value=-1.0)
    return torch.stack([along_x, along_y], dim=2).numpy()


def _follow_the_larger(weights: Float[np.ndarray, "nodes nodes 2"]) -> tuple[list[int], ...]:
    """From (0, 0) to (K, K) by the larger weight at each node: i, j and axis of every step."""
    i = j = 0
    steps = []
    for _ in range(2 * (len(weights) - 1)):
        axis = int(weights[i, j].argmax())
        steps.append((i, j, axis))
        i, j = i + (axis == 0), j + (axis == 1)
    return tuple(map(list, zip(*steps, strict=True)))


def _all_lattice_paths(cells: int) -> Int[np.ndarray, "paths nodes 2"]:
    """The nodes of every monotone lattice path: `cells` of its 2 K steps go along y1."""
    along_x = np.array(list(combinations(range(2 * cells), cells)))
    steps = np.zeros((len(along_x), 2 * cells + 1), dtype=int)
    np.put_along_axis(steps, along_x + 1, 1, axis=1)  # step s leads to node s + 1
    i = steps.cumsum(axis=1)
    return np.stack([i, np.arange(2 * cells + 1) - i], axis=2)


def _crossed(nodes: Int[np.ndarray, "paths nodes 2"]) -> csc_array:
    """1 where a path (column) runs over an edge (row, in the order of `Recovered.weights`)."""
    cells = nodes.shape[1] // 2
    i, j = nodes[:, :-1].transpose(2, 0, 1)
    along_x = np.diff(nodes[..., 0]) == 1
    edge = np.where(along_x, i * (cells + 1) + j, cells * (cells + 1) + i * cells + j)
    starts = np.arange(len(nodes) + 1) * 2 * cells
    return csc_array(
        (np.ones(edge.size), edge.ravel(), starts), (2 * cells * (cells + 1), len(nodes))
    )
