"""The methods that the axioms are tried on: Integrated Gradients and nine that break an axiom each.

[integrated, Sec. 2.2, 3, App. C, E, F] Each takes (score, inputs, baseline), points of shape
(batch, features), and returns attributions of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from attribook.axioms import (
    FromBaseline,
    asi_gap,
    completeness_gap,
    dummy_gap,
    linearity_gap,
    ndp_gap,
    score_change,
    sensitivity_gap,
    symmetry_gap,
)
from attribook.methods import occlusion, shapley
from attribook.numerics import over
from attribook.paths import (
    Path,
    ensemble_integral,
    path_integral,
    polyline,
    power,
    staircase,
    straight,
)
from attribook.score import (
    Score,
    check_inputs,
    differentiable,
    plain_gradient,
)

Points = Float[Tensor, "batch features"]
Baseline = Float[Tensor, "#batch features"]
MakePath = Callable[[Tensor, Tensor], Path]  # inputs, baseline: a path function [Def. 2]

N_STEPS = 64  # nodes a piece: tanh networks and power paths to 1e-10


def path_method(make_path: MakePath, n_steps: int = N_STEPS) -> FromBaseline:
    """The path method of a path function. [integrated, Def. 3]"""

    def method(score: Score, inputs: Points, baseline: Baseline) -> Points:
        return path_integral(score, make_path(inputs, baseline), n_steps=n_steps)

    return method


def ensemble_method(
    weights: Sequence[float], make_paths: Sequence[MakePath], n_steps: int = N_STEPS
) -> FromBaseline:
    """The ensemble of path methods with these weights. [integrated, Def. 5]"""

    def method(score: Score, inputs: Points, baseline: Baseline) -> Points:
        ensemble = [
            (weight, make_path(inputs, baseline))
            for weight, make_path in zip(weights, make_paths, strict=True)
        ]
        return ensemble_integral(score, ensemble, n_steps=n_steps)

    return method


# -- path functions ----------------------------------------------------------------------------


def stretched(corners: Sequence[Sequence[float]]) -> MakePath:
    """A polyline of the unit cube, carried to every box by T(y) = x0 + (x - x0) * y.

    Its path method is affine scale invariant, for T commutes with every such change. [App. E.1]
    """

    def make_path(inputs: Points, baseline: Baseline) -> Path:
        _check_features(inputs, len(corners[0]))
        span = inputs - baseline
        return polyline([baseline + span * inputs.new_tensor(corner) for corner in corners])

    return make_path


five_segments = stretched([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0), (1, 1)])  # [App. E.1]


def rounds(n: int) -> MakePath:
    """`n` clockwise rounds of the boundary of the square, then the diagonal. [App. F]

    For n < 0 the rounds are anticlockwise.
    """
    turn = [(0, 1), (1, 1), (1, 0), (0, 0)]
    turn = turn if n > 0 else [*turn[2::-1], turn[3]]
    return stretched([(0, 0), *turn * abs(n), (1, 1)])


def random_monotone(generator: torch.Generator, n_features: int, n_corners: int = 3) -> MakePath:
    """A monotone polyline with random corners, stretched to every box."""
    draws = torch.rand(n_corners, n_features, generator=generator, dtype=torch.float64)
    inner = draws.sort(dim=0).values.tolist()
    return stretched([[0.0] * n_features, *inner, [1.0] * n_features])


def random_detour(generator: torch.Generator, n_features: int, n_corners: int = 5) -> MakePath:
    """A polyline through random points of the cube, as a rule neither monotone nor simple."""
    draws = torch.rand(n_corners, n_features, generator=generator, dtype=torch.float64)
    return stretched([[0.0] * n_features, *draws.tolist(), [1.0] * n_features])


def in_order(order: Sequence[int]) -> MakePath:
    """Along the axes, one feature after another."""
    return lambda inputs, baseline: staircase(inputs, baseline, order)


def with_exponents(exponents: Sequence[float]) -> MakePath:
    """The power path with these exponents, one for each feature."""
    return lambda inputs, baseline: power(inputs, baseline, inputs.new_tensor([list(exponents)]))


def any_monotone(generator: torch.Generator, n_features: int) -> MakePath:
    """A random monotone path: along the axes, a power path, or a polyline of 1 to 6 corners.

    The exponents are quarters from 1/2 to 2: by the clock of `power` such a path is a polynomial, and
    16 nodes a piece are exact for polynomials of degree 4.
    """
    kind, n_corners = (int(torch.randint(n, (1,), generator=generator)) for n in (3, 6))
    if kind == 0:
        return in_order(torch.randperm(n_features, generator=generator).tolist())
    if kind == 1:
        quarters = torch.randint(2, 9, (n_features,), generator=generator)
        return with_exponents((quarters / 4).tolist())
    return random_monotone(generator, n_features, n_corners + 1)


def random_ensemble(
    generator: torch.Generator, n_features: int, make: Callable = any_monotone
) -> tuple[list[float], list[MakePath]]:
    """Weights and path functions of 2 to 12 random paths, for `ensemble_method`.

    The paths come from `make(generator, n_features)`; the weights are uniform on the simplex.
    """
    n_paths = int(torch.randint(2, 13, (1,), generator=generator))
    spacing = -torch.rand(n_paths, generator=generator, dtype=torch.float64).log()
    paths = [make(generator, n_features) for _ in range(n_paths)]
    return (spacing / spacing.sum()).tolist(), paths


def faster_where_farther(inputs: Points, baseline: Baseline) -> Path:
    """The power path with exponents 1 + |x_i - x0_i|: monotone, symmetric, and not affine."""
    return power(inputs, baseline, 1 + (inputs - baseline).abs())


def over_the_top(inputs: Points, baseline: Baseline) -> Path:
    """x0 -> (x0_1, 1) -> (x_1, 1) -> x: the detour of App. C, continued to every pair of points."""
    _check_features(inputs, 2)
    start, top = baseline.expand_as(inputs), torch.ones_like(inputs[:, 1])
    corners = [torch.stack([first, top], 1) for first in (start[:, 0], inputs[:, 0])]
    return polyline([start, *corners, inputs])


def _check_features(inputs: Points, n: int) -> None:
    if inputs.shape[1] != n:
        raise ValueError(f"this method explains {n} features, got {inputs.shape[1]}")


# -- methods that follow no path ---------------------------------------------------------------


def gradient_times_difference(score: Score, inputs: Points, baseline: Baseline) -> Points:
    """(x_i - x0_i) dF/dx_i(x)."""
    inputs, baseline = check_inputs(inputs, baseline)
    return (inputs - baseline) * plain_gradient(score, inputs)


def proportional_share(score: Score, inputs: Points, baseline: Baseline) -> Points:
    """F(x) - F(x0), shared in proportion to |x_i - x0_i|; zero where x = x0."""
    inputs, baseline = check_inputs(inputs, baseline)
    distance = (inputs - baseline).abs()
    share = over(distance, distance.sum(1, keepdim=True))
    return share * score_change(score, inputs, baseline)[:, None]


def ig_plus_mixed_derivative(
    score: Score, inputs: Points, baseline: Baseline, n_steps: int = N_STEPS
) -> Points:
    """IG + m (1, -1) with m = (x_1 - x0_1)(x_2 - x0_2) d2F/dx1dx2((x + x0) / 2).

    Refutes one direction of [integrated, Conjecture 1] on twice differentiable functions of two
    features: complete, linear, dummy, and yet no ensemble of paths of bounded length.
    """
    inputs, baseline = check_inputs(inputs, baseline)
    _check_features(inputs, 2)
    area = (inputs - baseline).prod(1)
    m = area * mixed_derivative(score, (inputs + baseline) / 2)
    ig = path_integral(score, straight(inputs, baseline), n_steps=n_steps)
    return ig + torch.stack([m, -m], 1)


def mixed_derivative(score: Score, points: Points) -> Float[Tensor, " batch"]:
    """d2F/dx1dx2 at each point; zero where autograd finds no dependence. Two backward passes."""
    with differentiable():
        leaf = points.detach().clone().requires_grad_()
        (first,) = torch.autograd.grad(score(leaf).sum(), leaf, create_graph=True)
        if not first.requires_grad:
            return torch.zeros_like(points[:, 0])
        (second,) = torch.autograd.grad(first[:, 0].sum(), leaf, materialize_grads=True)
    return second[:, 1]


RIVALS: dict[str, FromBaseline] = {
    "Integrated Gradients": path_method(straight),
    "Shapley": shapley,
    "axis order": path_method(lambda x, x0: staircase(x, x0, range(x.shape[1]))),
    "power path": path_method(faster_where_farther),
    "detour over the top": path_method(over_the_top),
    "five segments": path_method(five_segments),
    "gradient * difference": gradient_times_difference,
    "occlusion": occlusion,
    "IG + mixed derivative": ig_plus_mixed_derivative,
    "proportional share": proportional_share,
}  # the rows of the axiom matrix


# -- the axioms, tried on many functions at once -----------------------------------------------

CHANGES = ((0.5, 0.25), (-0.5, 0.75), (2.0, -0.5), (-2.0, 1.5))  # c, d of y -> c y + d


class Trials(NamedTuple):
    """Problems to try an axiom on: every sample has its own function, input and baseline.

    The scores take k * batch rows and know which function each of them belongs to, as
    `polynomials.SideBySide` does; `other` is a second function a sample, to combine with the first.
    """

    score: Score
    other: Score
    inputs: Points
    baseline: Points


def affine_gap(
    method: FromBaseline, trials: Trials, feature: int, c: float, d: float
) -> Float[Tensor, " batch"]:
    """The violation of affine scale invariance when one feature y becomes c y + d. [axiom 7]

    For |c| > 1 the trials' points are the images, which keeps both sides inside their box.
    """
    scale, shift = torch.ones_like(trials.inputs[0]), torch.zeros_like(trials.inputs[0])
    scale[feature], shift[feature] = c, d
    points = trials.inputs, trials.baseline
    if abs(c) > 1:
        points = tuple((point - shift) / scale for point in points)
    return asi_gap(method, trials.score, scale, shift, *points)


def _sensitivity(method: FromBaseline, trials: Trials) -> Tensor:
    score, _, inputs, baseline = trials

    def gap(i: int) -> Tensor:
        start = inputs.clone()
        start[:, i] = baseline[:, i]
        return sensitivity_gap(method, score, inputs, start, i)

    return _worst(gap(i) for i in range(inputs.shape[1]))


def _completeness(method: FromBaseline, trials: Trials) -> Tensor:
    score, _, inputs, baseline = trials
    return completeness_gap(method(score, inputs, baseline), score, inputs, baseline).abs()


def _linearity(method: FromBaseline, trials: Trials) -> Tensor:
    one, other, *points = trials
    return _worst(linearity_gap(method, one, other, a, b, *points) for a, b in ((1, 1), (2, -0.5)))


def _dummy(method: FromBaseline, trials: Trials) -> Tensor:
    score, _, *points = trials
    return _worst(dummy_gap(method, score, i, *points) for i in range(trials.inputs.shape[1]))


def _symmetry(method: FromBaseline, trials: Trials) -> Tensor:
    score, _, *points = trials

    def gap(i: int, j: int) -> Tensor:
        alike = [point.clone() for point in points]
        for point in alike:
            point[:, j] = point[:, i]
        return symmetry_gap(method, score, i, j, *alike)

    return _worst(gap(i, j) for i, j in combinations(range(trials.inputs.shape[1]), 2))


def _affine(method: FromBaseline, trials: Trials) -> Tensor:
    features = range(trials.inputs.shape[1])
    return _worst(affine_gap(method, trials, i, c, d) for i in features for c, d in CHANGES)


def _positivity(method: FromBaseline, trials: Trials) -> Tensor:
    score, _, *points = trials
    return ndp_gap(method(score, *points))


def _worst(gaps: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(gaps)).amax(0)


AXIOMS: dict[str, Callable[[FromBaseline, Trials], Tensor]] = {
    "sensitivity(a)": _sensitivity,
    "completeness": _completeness,
    "linearity": _linearity,
    "dummy": _dummy,
    "symmetry": _symmetry,
    "ASI": _affine,
    "NDP": _positivity,
}  # the columns of the axiom matrix: (method, trials) -> the violation of each sample. Where an
# axiom speaks of special points or functions the trials are made so; NDP needs rising functions.


def three_axioms(method: FromBaseline, trials: Trials) -> Float[Tensor, "3 batch"]:
    """The violations of completeness, linearity and dummy, by one call of the method.

    As the entries of `AXIOMS`, with one combination, 2 F - G / 2: for a method each of whose calls
    is dear. The call has 3 + features rows a sample.
    """
    score, other, *points = trials
    batch, n = trials.inputs.shape
    seen = ~torch.eye(n, dtype=torch.bool, device=trials.inputs.device)[:, None]

    def together(y: Tensor) -> Tensor:
        """F, G, 2 F - G / 2 and F without each feature in turn, block by block."""
        y = y.unflatten(0, (-1, 3 + n, batch))
        blind = torch.where(seen, y[:, 3:], 0)
        first = torch.cat([y[:, [0, 2]], blind], 1).flatten(0, 2)
        first = score(first).unflatten(0, (-1, 2 + n, batch))
        second = other(y[:, 1:3].flatten(0, 2)).unflatten(0, (-1, 2, batch))
        both = 2 * first[:, 1:2] - second[:, 1:] / 2
        return torch.cat([first[:, :1], second[:, :1], both, first[:, 2:]], 1).flatten()

    maps = method(Score(together), *(point.repeat(3 + n, 1) for point in points))
    maps = maps.unflatten(0, (3 + n, batch))
    incomplete = completeness_gap(maps[0], score, *points).abs()
    nonlinear = (2 * maps[0] - maps[1] / 2 - maps[2]).abs().amax(1)
    dummies = maps[3:].abs().diagonal(dim1=0, dim2=2).amax(1)
    return torch.stack([incomplete, nonlinear, dummies])
