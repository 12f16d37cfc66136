"""Mechanism 2: integrals of the gradient along a path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attribook.numerics import are_finite, at_once
from attribook.score import Score, plain_gradient

Rule = Callable[[int], tuple[np.ndarray, np.ndarray]]


class NonFiniteGradient(ValueError):
    """The gradient, or the path's velocity, is infinite or NaN at a node of the path."""


@dataclass(frozen=True)
class Path:
    """A curve t -> (point, velocity) for t in [0, 1], smooth between its corners.

    `at` takes nodes of shape (nodes,) and returns two tensors of shape (nodes, batch, *features);
    `end` is its end point. Integration goes from corner to corner, so that no rule straddles one, and
    takes the ends of a piece from inside it; at a corner itself the velocity is that of either side.
    `numbers` is how many numbers one node puts through a model, if that is more than its point holds.
    """

    at: Callable[[Tensor], tuple[Tensor, Tensor]]
    end: Tensor
    corners: Sequence[float] = (0.0, 1.0)
    numbers: int = 0


def straight(
    inputs: Float[Tensor, "batch *features"], baseline: Float[Tensor, "#batch *features"]
) -> Path:
    """The straight path from the baseline to the inputs. [gradient, Eq. 19; integrated, Eq. 2]"""
    difference = inputs - baseline

    def at(t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.to(inputs).view(-1, *[1] * inputs.dim())
        return baseline + t * difference, difference.expand(len(t), *inputs.shape)

    return Path(at, inputs)


def polyline(points: Sequence[Float[Tensor, "batch *features"]]) -> Path:
    """Straight pieces from each point to the next, an equal share of [0, 1] for each."""
    if len(points) < 2:
        raise ValueError(f"a polyline needs two points or more, got {len(points)}")
    points = torch.stack(torch.broadcast_tensors(*points))
    pieces = len(points) - 1
    corners = _nodes(k / pieces for k in range(pieces + 1))

    def at(t: Tensor) -> tuple[Tensor, Tensor]:
        here = (torch.searchsorted(corners, t.cpu()) - 1).clamp(0, pieces - 1)  # what t ends
        within = (t.cpu() - corners[here]) * pieces
        start, end = points[here.to(points.device)], points[here.to(points.device) + 1]
        within = within.to(points).view(-1, *[1] * (points.dim() - 1))
        return start + within * (end - start), (end - start) * pieces

    return Path(at, points[-1], corners.tolist())


def staircase(
    inputs: Float[Tensor, "batch features"],
    baseline: Float[Tensor, "#batch features"],
    order: Sequence[int],
) -> Path:
    """From the baseline to the inputs along the axes, one feature after another in `order`."""
    if sorted(order) != list(range(inputs.shape[1])):
        raise ValueError(
            f"order must name each of {inputs.shape[1]} features once, got {list(order)}"
        )
    points = [baseline.expand_as(inputs)]
    for feature in order:
        points.append(points[-1].clone())
        points[-1][:, feature] = inputs[:, feature]
    return polyline(points)


def power(
    inputs: Float[Tensor, "batch *features"],
    baseline: Float[Tensor, "#batch *features"],
    exponents: Float[Tensor, "#batch *features"],
) -> Path:
    """x0 + (x - x0) t^e, each feature with its own exponent; all exponents > 0.

    The clock runs as t = s^4, so that the velocity t^(e - 1) has no pole at 0 where e > 1/4.
    """
    if not (exponents > 0).all():
        raise ValueError(f"exponents must be > 0 for the path to leave the baseline: {exponents}")
    difference, exponents = inputs - baseline, 4 * exponents.to(inputs)

    def at(s: Tensor) -> tuple[Tensor, Tensor]:
        s = s.to(inputs).view(-1, *[1] * inputs.dim())
        velocity = difference * exponents * s ** (exponents - 1)
        return baseline + difference * s**exponents, velocity

    return Path(at, inputs)


def curve(
    point: Callable[[Float[Tensor, " nodes"]], Float[Tensor, "nodes batch *features"]],
    corners: Sequence[float] = (0.0, 1.0),
) -> Path:
    """The path of a function t -> points that torch can differentiate; its velocity follows."""
    end = point(_nodes([1]))

    def at(t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.jvp(point, (t,), (torch.ones_like(t),))

    return Path(at, end[0], corners)


def joined(*paths: Path) -> Path:
    """One path after another; each must start where the one before ends, up to rounding."""
    if not paths:
        raise ValueError("joined() needs one path or more, got none")
    for before, path in zip(paths, paths[1:], strict=False):
        start = path.at(_nodes([0]))[0][0]
        gap, size = (start - before.end).abs().max(), before.end.abs().max() + start.abs().max()
        if not gap <= 1e3 * torch.finfo(start.dtype).eps * size:
            raise ValueError(
                f"a path must start where the one before it ends, got a gap of {float(gap):.3g}"
            )
    share = 1 / len(paths)

    def at(t: Tensor) -> tuple[Tensor, Tensor]:
        index = ((t * len(paths)).ceil() - 1).clamp(0, len(paths) - 1).long()
        points = paths[0].end.new_empty(len(t), *paths[0].end.shape)
        velocities = torch.empty_like(points)
        for i, path in enumerate(paths):
            points[index == i], piece = path.at(t[index == i] * len(paths) - i)
            velocities[index == i] = piece * len(paths)
        return points, velocities

    corners = [(i + corner) * share for i, path in enumerate(paths) for corner in path.corners[:-1]]
    return Path(at, paths[-1].end, [*corners, 1.0], max(path.numbers for path in paths))


def backwards(path: Path) -> Path:
    """The same curve from its end to its start."""
    start = path.at(_nodes([0]))[0][0]

    def at(t: Tensor) -> tuple[Tensor, Tensor]:
        points, velocities = path.at(1 - t)
        return points, -velocities

    return replace(path, at=at, end=start, corners=[1 - c for c in reversed(path.corners)])


def reclocked(path: Path, clock: Callable[[Tensor], Tensor]) -> Path:
    """The same curve run through at another pace: `clock` maps [0, 1] onto itself, piece by piece."""
    corners = _nodes(path.corners)

    def at(s: Tensor) -> tuple[Tensor, Tensor]:
        here = (torch.searchsorted(corners, s) - 1).clamp(0, len(corners) - 2)
        start, width = corners[here], corners[here + 1] - corners[here]
        within = (s - start) / width
        t, pace = torch.func.jvp(clock, (within,), (torch.ones_like(within),))
        points, velocities = path.at(start + width * t)
        return points, velocities * pace.to(velocities).view(-1, *[1] * path.end.dim())

    return replace(path, at=at)


def with_corners(
    path: Path,
    switches: Callable[[Float[Tensor, "rows *features"]], Float[Tensor, "rows switches"]],
    n_samples: int = 256,
) -> Path:
    """The path with a corner wherever one of the switches changes sign, found by bisection.

    For functions with kinks: quadrature then never straddles one. Crossings closer together than
    one of `n_samples` steps of a piece can be missed; a switch that stays zero, or touches zero and
    turns back, is not a crossing.
    """

    def values(t: Tensor) -> Tensor:
        with torch.no_grad():
            parts = [switches(path.at(some)[0].flatten(0, 1)) for some in t.split(_at_once(path))]
        return torch.cat(parts).unflatten(0, (len(t), -1))  # (nodes, batch, switches)

    found = list(path.corners)
    for start, end in zip(path.corners, path.corners[1:], strict=False):
        t = torch.from_numpy(np.linspace(start, end, n_samples + 1))
        signs = values(t).sign()
        step, row, switch = (signs[:-1] * signs[1:] < 0).nonzero(as_tuple=True)
        low, high = t[step.cpu()], t[step.cpu() + 1]
        below, each = signs[step, row, switch], torch.arange(len(step), device=step.device)
        for _ in range(52 if len(step) else 0):
            middle = (low + high) / 2
            same = (values(middle)[each, row, switch].sign() == below).cpu()
            low, high = torch.where(same, middle, low), torch.where(same, high, middle)
        on_sample = (signs[1:-1] == 0) & (signs[:-2] != signs[2:])
        found += [*low.tolist(), *t[1:-1][on_sample.flatten(1).any(1).cpu()].tolist()]
    return replace(path, corners=sorted(set(found)))


def image(
    head: Callable[[Tensor], Tensor],
    path: Path,
    patch: Bool[Tensor, "..."] | None = None,
) -> Path:
    """The path's image in a hidden layer, head(path(t)), with velocity by forward-mode derivatives.

    A path integral of the rest of the model along it gives every neuron its conductance
    [integrated, Eq. 6]. With `patch`, a mask of the features, the velocity is what the patch alone
    brings about, J_head (velocity * patch): then it gives IG_{S,j} [Eq. 7], and the path is only
    followed, not travelled. Each node costs the head one forward pass with tangents.
    """
    mask = 1 if patch is None else check_mask(patch, path.end).to(path.end)
    with torch.no_grad():
        end = head(path.end.clone())  # its first layer may work in place

    def at(t: Tensor) -> tuple[Tensor, Tensor]:
        points, velocities = path.at(t)
        rows, moves = points.flatten(0, 1), (velocities * mask).flatten(0, 1)
        hidden, moved = _forwards(head, rows.detach(), moves.detach())
        shape = (len(t), len(path.end))
        return hidden.unflatten(0, shape), moved.unflatten(0, shape)

    numbers = max(path.numbers, path.end.numel(), end.numel())
    return Path(at, end, path.corners, numbers)


def _forwards(head: Callable[[Tensor], Tensor], rows: Tensor, moves: Tensor):
    """head(rows) and J_head moves; a clear error where torch cannot differentiate forwards."""
    try:
        with torch.no_grad():  # of reverse mode: half the time, half the memory
            return torch.func.jvp(head, (rows,), (moves,), strict=True)
    except RuntimeError as error:
        raise ValueError(
            f"the head's forward-mode derivative failed: {str(error).splitlines()[0]} Write that"
            " operation in others that have one, or use neurons.conductance_by_differences"
        ) from error


def check_mask(mask: Tensor, inputs: Tensor) -> Tensor:
    """The mask, found to be boolean and to broadcast to the shape of one input (or the batch)."""
    if mask.dtype is not torch.bool:
        raise TypeError(f"a patch is a boolean mask, got {mask.dtype}; use mask.bool() or mask > 0")
    try:
        fits = torch.broadcast_shapes(mask.shape, inputs.shape) == inputs.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"a patch of shape {tuple(mask.shape)} does not fit inputs of shape"
            f" {tuple(inputs.shape)}; pass (height, width), one input's shape or the batch's"
        )
    return mask.to(inputs.device)


def is_monotone(path: Path, n_nodes: int = 64) -> Bool[Tensor, " batch"]:
    """Whether no feature both rises and falls along the path, judged at nodes inside each piece."""
    t, _ = _composite(gauss_legendre, n_nodes, path.corners)
    velocity = _velocities(path, t)
    slack = 1e-12 * velocity.abs().amax((0, 2))[:, None]
    rises, falls = (velocity > slack).any(0), (velocity < -slack).any(0)
    return ~(rises & falls).any(1)


def length(path: Path, n_nodes: int = 64) -> Float[Tensor, " batch"]:
    """The Euclidean length of the path."""
    t, weights = _composite(gauss_legendre, n_nodes, path.corners)
    return weights.to(path.end) @ _velocities(path, t).norm(dim=2)


def path_integral(
    score: Score, path: Path, *, n_steps: int = 50, rule: Rule | None = None
) -> Float[Tensor, "batch *features"]:
    """The integral of gradient times velocity, by `n_steps` nodes between each two corners.

    R_i = int_0^1 dS/dx_i(path(t)) path_i'(t) dt       [integrated, Eq. 1; gradient, Eq. 19]
    Costs one forward and one backward pass a node, in batches of bounded size, whose sums are added
    in float64. Raises NonFiniteGradient, naming the node, where a term of the sum is not finite.
    """
    nodes, weights = _composite(rule or gauss_legendre, n_steps, path.corners)
    together = _at_once(path)
    total = torch.zeros_like(path.end, dtype=torch.float64)
    for t, weight in zip(nodes.split(together), weights.split(together), strict=True):
        points, velocities = path.at(t)
        gradient = plain_gradient(score, points.flatten(0, 1)).view_as(points)
        terms = (gradient * velocities.detach()).flatten(1)
        total += (weight.to(terms) @ terms).view_as(total)  # in double precision across passes
        if not are_finite(total):
            raise NonFiniteGradient(
                f"gradient times velocity is not finite at alpha = {_first_bad(t, terms):g} on the"
                " path; choose a rule without that node (gauss_legendre, midpoint) or another baseline"
            )
    return total.to(path.end.dtype)


def ensemble_integral(
    score: Score,
    ensemble: Sequence[tuple[float, Path]],
    *,
    n_steps: int = 50,
    rule: Rule | None = None,
) -> Float[Tensor, "batch *features"]:
    """The mean of the path integrals under a probability measure on paths. [integrated, Eq. 3]

    `ensemble` lists (weight, path); weights are >= 0 and add up to 1. Costs as many passes as the
    path integrals together.
    """
    weights = np.array([float(weight) for weight, _ in ensemble])
    if not (weights >= 0).all() or not abs(weights.sum() - 1) <= 1e-12:  # NaN is refused, too
        raise ValueError(
            f"the weights of an ensemble are >= 0 and add up to 1, got {weights.tolist()},"
            f" sum {weights.sum():.6g}; divide them by their sum"
        )
    return sum(
        weight * path_integral(score, path, n_steps=n_steps, rule=rule) for weight, path in ensemble
    )


def left(n: int) -> tuple[np.ndarray, np.ndarray]:
    """n nodes at the left ends of n equal steps of [0, 1], and their weights."""
    return np.arange(_count(n)) / n, np.full(n, 1 / n)


def right(n: int) -> tuple[np.ndarray, np.ndarray]:
    """n nodes at the right ends of n equal steps."""
    return np.arange(1, _count(n) + 1) / n, np.full(n, 1 / n)


def midpoint(n: int) -> tuple[np.ndarray, np.ndarray]:
    """n nodes in the middle of n equal steps; error of order 1/n^2 on smooth functions."""
    return (np.arange(_count(n)) + 0.5) / n, np.full(n, 1 / n)


def trapezoid(n: int) -> tuple[np.ndarray, np.ndarray]:
    """n + 1 nodes at the ends of n equal steps, half weight at 0 and 1; error of order 1/n^2."""
    weights = np.full(_count(n) + 1, 1 / n)
    weights[[0, -1]] /= 2
    return np.arange(n + 1) / n, weights


def gauss_legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    """n Gauss-Legendre nodes, exact for polynomials of degree 2n - 1."""
    nodes, weights = _legendre(_count(n))
    return (nodes + 1) / 2, weights / 2


@lru_cache(maxsize=64)
def _legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(n)  # 0.1 s for a thousand nodes


def _nodes(t: Iterable[float]) -> Tensor:
    """Places on a path, float64; on the CPU whatever device torch prefers."""
    return torch.tensor(list(t), dtype=torch.float64, device="cpu")


def _at_once(path: Path) -> int:
    """How many nodes go through a model in one pass."""
    return at_once(max(path.end.numel(), path.numbers))


def _velocities(path: Path, t: Tensor) -> Float[Tensor, "nodes batch features"]:
    return torch.cat([path.at(some)[1].flatten(2) for some in t.split(_at_once(path))])


def _first_bad(t: Tensor, terms: Tensor) -> float:
    """The first node at which a term is not finite."""
    return float(t[~torch.isfinite(terms).flatten(1).all(1).cpu()][0])


def _count(n: int) -> int:
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"a quadrature rule needs a whole number of steps >= 1, got {n!r}")
    return n


def _composite(rule: Rule, n: int, corners: Sequence[float]) -> tuple[Tensor, Tensor]:
    nodes, weights = rule(n)
    starts, ends = np.array(corners[:-1])[:, None], np.array(corners[1:])[:, None]
    nodes, weights = starts + nodes * (ends - starts), weights * (ends - starts)
    inside = 1e-12 * (ends - starts)  # at a corner between pieces: each is asked from its own side
    lowest, highest = starts + inside, ends - inside
    lowest[0], highest[-1] = starts[0], ends[-1]
    nodes = np.clip(nodes, lowest, highest)
    return torch.from_numpy(nodes.ravel()), torch.from_numpy(weights.ravel())
