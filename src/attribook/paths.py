"""Mechanism 2: integrals of the gradient along a path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attribook.score import Score, plain_gradient

Rule = Callable[[int], tuple[np.ndarray, np.ndarray]]
ELEMENTS_A_PASS = 2**21  # input numbers in one forward pass; bounds the memory of a long path


class NonFiniteGradient(ValueError):
    """The gradient is infinite or NaN at a node of the path."""


@dataclass(frozen=True)
class Path:
    """A curve t -> (point, velocity) for t in [0, 1], smooth between its corners.

    `at` takes nodes of shape (nodes,) and returns two tensors of shape (nodes, batch, *features);
    `end` is its end point. Integration goes from corner to corner, so that no rule straddles one.
    """

    at: Callable[[Tensor], tuple[Tensor, Tensor]]
    end: Tensor
    corners: Sequence[float] = (0.0, 1.0)


def straight(
    inputs: Float[Tensor, "batch *features"], baseline: Float[Tensor, "#batch *features"]
) -> Path:
    """The straight path from the baseline to the inputs. [gradient, Eq. 19]"""
    difference = inputs - baseline

    def at(t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.to(inputs).view(-1, *[1] * inputs.dim())
        return baseline + t * difference, difference.expand(len(t), *inputs.shape)

    return Path(at, inputs)


def path_integral(
    score: Score, path: Path, *, n_steps: int = 50, rule: Rule | None = None
) -> Float[Tensor, "batch *features"]:
    """The integral of gradient times velocity, by `n_steps` nodes between each two corners.

    R_i = int_0^1 dS/dx_i(path(t)) path_i'(t) dt       [gradient, Eq. 19, with the factor corrected]
    Costs one forward and one backward pass a node, in batches of bounded size; weights and sums are
    float64. Raises NonFiniteGradient, naming the node, where the gradient is not finite.
    """
    nodes, weights = _composite(rule or gauss_legendre, n_steps, path.corners)
    at_once = max(1, ELEMENTS_A_PASS // path.end.numel())
    total = torch.zeros_like(path.end, dtype=torch.float64)
    for t, weight in zip(nodes.split(at_once), weights.split(at_once), strict=True):
        points, velocities = path.at(t)
        gradient = plain_gradient(score, points.flatten(0, 1)).view_as(points)
        terms = (gradient * velocities).to(torch.float64)
        total += torch.tensordot(weight.to(total), terms, dims=1)
        if not torch.isfinite(total).all():
            raise NonFiniteGradient(
                f"the gradient is not finite at alpha = {_first_bad(t, gradient):g} on the path;"
                " choose a rule without that node (gauss_legendre, midpoint) or another baseline"
            )
    return total.to(path.end.dtype)


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
    nodes, weights = np.polynomial.legendre.leggauss(_count(n))
    return (nodes + 1) / 2, weights / 2


def _first_bad(t: Tensor, gradient: Tensor) -> float:
    """The first node at which the gradient is not finite."""
    return float(t[~torch.isfinite(gradient).flatten(1).all(1).cpu()][0])


def _count(n: int) -> int:
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"a quadrature rule needs a whole number of steps >= 1, got {n!r}")
    return n


def _composite(rule: Rule, n: int, corners: Sequence[float]) -> tuple[Tensor, Tensor]:
    nodes, weights = rule(n)
    starts, ends = np.array(corners[:-1])[:, None], np.array(corners[1:])[:, None]
    nodes, weights = starts + nodes * (ends - starts), weights * (ends - starts)
    return torch.from_numpy(nodes.ravel()), torch.from_numpy(weights.ravel())
