"""Properties a method may have, each as a gap that is zero when it holds. [gradient, Sec. 2.4]"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linprog
from torch import Tensor

from attribook.coalitions import (
    MaskedGame,
    all_coalitions,
    coalitions_of_size,
    random_coalitions,
)
from attribook.score import Score

Method = Callable[[Score, Tensor], Tensor]


def completeness_gap(
    attributions: Float[Tensor, "batch *features"],
    score: Score,
    inputs: Float[Tensor, "batch *features"],
    baseline: Float[Tensor, "#batch *features"],
) -> Float[Tensor, " batch"]:
    """How far the attributions are from adding up, in units of the score.

    sum_i R_i - (S(x) - S(x0)); zero when completeness (sensitivity-N) holds. [gradient, Eq. 9]
    Two forward passes.
    """
    with torch.no_grad():
        change = score(inputs) - score(baseline.expand_as(inputs))
    return attributions.flatten(1).sum(1) - change


def relative_completeness_gap(
    attributions: Float[Tensor, "batch *features"],
    score: Score,
    inputs: Float[Tensor, "batch *features"],
    baseline: Float[Tensor, "#batch *features"],
) -> Float[Tensor, " batch"]:
    """|sum_i R_i / (S(x) - S(x0)) - 1|; NaN where the score does not change (by 1e-12)."""
    with torch.no_grad():
        change = score(inputs) - score(baseline.expand_as(inputs))
    change = torch.where(change.abs() < 1e-12, math.nan, change)
    return (attributions.flatten(1).sum(1) / change - 1).abs()


def implementation_gap(
    method: Method, one: Score, other: Score, inputs: Float[Tensor, "batch *features"]
) -> Float[Tensor, " batch"]:
    """The largest difference between the attributions of two models that are equal as functions.

    [gradient, Eq. 7] Check that they are equal first, and stay off points without a gradient.
    """
    return (method(one, inputs) - method(other, inputs)).flatten(1).abs().amax(1)


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


def _violations(attributions: Tensor, game: MaskedGame, removed: Tensor) -> Tensor:
    sums = game.by_player(attributions) @ removed.T.to(attributions)
    return sums - _changes(game, removed)


def _changes(game: MaskedGame, removed: Tensor) -> Tensor:
    """S(x) - S(x without A) for each set A, (batch, sets)."""
    whole = torch.ones(1, game.n_players, dtype=torch.bool)
    values = game(torch.cat([whole, ~removed]))
    return values[:, :1] - values[:, 1:]
