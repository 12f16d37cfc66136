"""Properties a method may have, each as a gap that is zero when it holds.

[gradient, Sec. 2.4; integrated, Sec. 2.2, 3.3, 4] A baseline is a tensor or, for methods that take
one, a `Law`: then completeness and sensitivity(a) speak of the mean score over it. [Sec. 5]
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linprog
from torch import Tensor

from attribook.baselines import Law
from attribook.coalitions import (
    MaskedGame,
    all_coalitions,
    coalitions_of_size,
    random_coalitions,
)
from attribook.score import Score, plain_gradient

Attribute = Callable[[Score, Tensor], Tensor]
Baseline = Tensor | Law
Points = Float[Tensor, "batch features"]
Gap = Float[Tensor, " batch"]
FromBaseline = Callable[[Score, Tensor, Baseline], Tensor]  # score, inputs, baseline


def completeness_gap(
    attributions: Float[Tensor, "batch *features"],
    score: Score,
    inputs: Float[Tensor, "batch *features"],
    baseline: Baseline,
) -> Float[Tensor, " batch"]:
    """How far the attributions are from adding up, in units of the score.

    sum_i R_i - (S(x) - S(x0)); zero when completeness (sensitivity-N) holds. [gradient, Eq. 9;
    integrated, Sec. 2.2, axiom 3] One forward pass, and one for each baseline.
    """
    return attributions.flatten(1).sum(1) - score_change(score, inputs, baseline)


def score_change(
    score: Score, inputs: Float[Tensor, "batch *features"], baseline: Baseline
) -> Float[Tensor, " batch"]:
    """S(x) - S(x0), or S(x) - E S(X0) for a law. One forward pass, and one for each baseline."""

    def of(point: Tensor) -> Tensor:
        return score(point.expand_as(inputs).clone())  # its first layer may work in place

    with torch.no_grad():
        before = baseline.mean(of) if isinstance(baseline, Law) else of(baseline)
        return of(inputs) - before


def relative_completeness_gap(
    attributions: Float[Tensor, "batch *features"],
    score: Score,
    inputs: Float[Tensor, "batch *features"],
    baseline: Float[Tensor, "#batch *features"],
) -> Float[Tensor, " batch"]:
    """|sum_i R_i / (S(x) - S(x0)) - 1|; NaN where the score does not change (by 1e-12)."""
    change = score_change(score, inputs, baseline)
    change = torch.where(change.abs() < 1e-12, math.nan, change)
    return (attributions.flatten(1).sum(1) / change - 1).abs()


def implementation_gap(
    method: Attribute, one: Score, other: Score, inputs: Float[Tensor, "batch *features"]
) -> Float[Tensor, " batch"]:
    """The largest difference between the attributions of two models that are equal as functions.

    [gradient, Eq. 7] Check that they are equal first, and stay off points without a gradient.
    """
    return (method(one, inputs) - method(other, inputs)).flatten(1).abs().amax(1)


def sensitivity_gap(
    method: FromBaseline, score: Score, inputs: Points, baseline: Baseline, feature: int
) -> Gap:
    """|S(x) - S(x0)| where the one feature that differs from the baseline gets nothing, else 0.

    Sensitivity(a) [integrated, axiom 1]. Refuses baselines that differ in another feature.
    """
    others = torch.arange(inputs.shape[1], device=inputs.device) != feature
    for point in _points(baseline):
        if (point.expand_as(inputs) != inputs)[:, others].any():
            raise ValueError(
                f"sensitivity(a) needs baselines that differ in feature {feature} only"
            )
    ignored = method(score, inputs, baseline)[:, feature].abs() <= 1e-9
    return score_change(score, inputs, baseline).abs() * ignored


def linearity_gap(
    method: FromBaseline,
    one: Score,
    other: Score,
    a: float,
    b: float,
    inputs: Points,
    baseline: Baseline,
) -> Gap:
    """max_i |A_i(a F + b G) - a A_i(F) - b A_i(G)|. [integrated, axiom 4]"""
    both = method(Score(lambda x: a * one(x) + b * other(x)), inputs, baseline)
    apart = a * method(one, inputs, baseline) + b * method(other, inputs, baseline)
    return (both - apart).flatten(1).abs().amax(1)


def dummy_gap(
    method: FromBaseline, score: Score, feature: int, inputs: Points, baseline: Baseline
) -> Gap:
    """|A_i(F)| for the score with `feature` held at zero, on which F then does not depend.

    Sensitivity(b), or dummy. [integrated, axiom 5]
    """
    seen = torch.arange(inputs.shape[1], device=inputs.device) != feature
    blind = Score(lambda x: score(torch.where(seen, x, 0)))
    return method(blind, inputs, baseline)[:, feature].abs()


def symmetry_gap(
    method: FromBaseline, score: Score, i: int, j: int, inputs: Points, baseline: Baseline
) -> Gap:
    """|A_i(F) - A_j(F)| for the score made symmetric in two features, (F(x) + F(x swapped)) / 2.

    Symmetry preserving [integrated, axiom 6]. Refuses points whose two features differ; of a law it
    asks nothing, for the axiom then needs an exchangeable one. [Sec. 5, item 3]
    """
    alike = [inputs] if isinstance(baseline, Law) else [inputs, baseline]
    if any((point[:, i] != point[:, j]).any() for point in alike):
        raise ValueError(f"symmetry needs inputs and baselines with equal features {i} and {j}")
    order = list(range(inputs.shape[1]))
    order[i], order[j] = j, i
    symmetric = Score(lambda x: (score(x) + score(x[:, order])) / 2)
    attributions = method(symmetric, inputs, baseline)
    return (attributions[:, i] - attributions[:, j]).abs()


def asi_gap(
    method: FromBaseline,
    score: Score,
    scale: Float[Tensor, " features"],
    shift: Float[Tensor, " features"],
    inputs: Points,
    baseline: Baseline,
) -> Gap:
    """max_i |A_i(x, x0, F) - A_i(T x, T x0, F o T^-1)| with T y = scale * y + shift.

    Affine scale invariance [integrated, axiom 7]. A scale of zero is refused.
    """
    if (scale == 0).any():
        raise ValueError(f"T must be invertible: scales != 0, got {scale.tolist()}")

    def there(y: Tensor) -> Tensor:
        return scale * y + shift

    moved = baseline.map(there) if isinstance(baseline, Law) else there(baseline)
    back = Score(lambda y: score((y - shift) / scale))
    here = method(score, inputs, baseline)
    return (here - method(back, there(inputs), moved)).flatten(1).abs().amax(1)


def ndp_gap(attributions: Float[Tensor, "batch *features"]) -> Float[Tensor, " batch"]:
    """How far the most negative attribution lies below zero.

    Non-decreasing positivity [integrated, Def. 6]: zero for every score that does not decrease from
    the baseline to the inputs, which `steepest_decrease` tells.
    """
    return (-attributions.flatten(1).amin(1)).clamp(min=0)


def steepest_decrease(
    score: Score,
    inputs: Points,
    baseline: Float[Tensor, "#batch features"],
    n_points: int,
    generator: torch.Generator,
) -> Gap:
    """The fastest decrease of the score towards the inputs at random points of the box between.

    max of -dF/dx_i sign(x_i - x0_i), at least 0, over `n_points` points and all features: zero if F
    is non-decreasing from the baseline to the inputs, as far as the sample tells. [Def. 6]
    """
    difference = inputs - baseline
    shape = (n_points, *inputs.shape)
    t = torch.rand(shape, generator=generator, dtype=inputs.dtype).to(inputs.device)
    slope = plain_gradient(score, (baseline + t * difference).flatten(0, 1)).view(shape)
    return (-slope * difference.sign()).amax((0, 2)).clamp(min=0)


def sensitivity_n_gap(
    attributions: Float[Tensor, "batch *features"],
    game: MaskedGame,
    n: int,
    *,
    most: int = 5000,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " batch"]:
    """The largest violation of sensitivity-n over sets of n players.

    max_A |sum_{i in A} R_i - (S(x) - S(x without A))|, |A| = n. [gradient, Eq. 8] All C(N, n) sets
    if there are at most `most`, else that many drawn with `generator`. One forward pass a set.
    """
    players = game.n_players
    if not 1 <= n <= players:
        raise ValueError(f"sensitivity-n needs 1 <= n <= {players} players, got n = {n}")
    if math.comb(players, n) <= most:
        removed = coalitions_of_size(players, n)
    elif generator is not None:
        removed = random_coalitions(players, n, most, generator)
    else:
        raise ValueError(f"{math.comb(players, n)} sets of {n} players: pass a generator to sample")
    return _violations(attributions, game, removed).abs().amax(1)


def sensitivity_n_bound(game: MaskedGame) -> np.ndarray:
    """The smallest worst violation of sensitivity-n, over all n, that any attribution can have.

    min over R of max over non-empty A of |sum_A R_i - (S(x) - S(x without A))|, one number a sample,
    by linear programming: zero if and only if the game is additive at x. 2^N forward passes, N <= 12.
    """
    if game.n_players > 12:
        raise ValueError(f"the linear program takes at most 12 players, got {game.n_players}")
    removed = all_coalitions(game.n_players)[1:]
    changes = _changes(game, removed).double().cpu().numpy()
    member = removed.numpy().astype(float)
    ones = np.ones((len(member), 1))
    limits = np.block([[member, -ones], [-member, -ones]])
    cost = np.append(np.zeros(game.n_players), 1.0)
    bounds = [(None, None)] * game.n_players + [(0, None)]
    solved = [
        linprog(cost, A_ub=limits, b_ub=np.concatenate([change, -change]), bounds=bounds)
        for change in changes
    ]
    return np.array([solution.fun for solution in solved])


def line_jump(
    attribute: Callable[[Tensor], Tensor], start: Tensor, end: Tensor, n_steps: int
) -> float:
    """The largest step between the attributions of neighbouring points on a line of n_steps steps.

    J(h) = max_k |R(x_k + h) - R(x_k)|; explanation continuity means J(h) -> 0 as h -> 0.
    [gradient, Sec. 2.4] `start` and `end` have shape (1, *features); all points in one batch.
    """
    t = torch.linspace(0, 1, n_steps + 1, dtype=start.dtype, device=start.device)
    points = start + t.view(-1, *[1] * (start.dim() - 1)) * (end - start)
    return float(attribute(points).flatten(1).diff(dim=0).norm(dim=1).max())


def _points(baseline: Baseline) -> list[Tensor]:
    return list(baseline.points) if isinstance(baseline, Law) else [baseline]


def _violations(attributions: Tensor, game: MaskedGame, removed: Tensor) -> Tensor:
    sums = game.by_player(attributions) @ removed.T.to(attributions)
    return sums - _changes(game, removed)


def _changes(game: MaskedGame, removed: Tensor) -> Tensor:
    """S(x) - S(x without A) for each set A, (batch, sets)."""
    whole = torch.ones(1, game.n_players, dtype=torch.bool)
    values = game(torch.cat([whole, ~removed]))
    return values[:, :1] - values[:, 1:]
