"""Mechanism 3: the masked game. Players are features or groups of them; a coalition keeps its own.

The model is a black box here: only forward passes, in batches of bounded size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attribook.numerics import at_once
from attribook.score import Score, check_inputs

MOST_PLAYERS = 16
PLAYERS_A_ROW = 4  # in a table of points


class MaskedGame:
    """The score of inputs whose features are kept or set to the baseline.

    `groups` gives every feature its player, numbered from 0; by default each feature is a player.
    """

    def __init__(
        self,
        score: Score,
        inputs: Float[Tensor, "batch *features"],
        baseline: Float[Tensor, "#batch *features"] | None = None,
        groups: Int[Tensor, "..."] | None = None,
    ):
        self.score = score
        self.inputs, self.baseline = check_inputs(inputs, baseline)
        features = inputs.shape[1:]
        if groups is None:
            groups = torch.arange(features.numel(), device=inputs.device).view(features)
        if groups.shape != features:
            raise ValueError(f"groups have shape {tuple(groups.shape)}, features {tuple(features)}")
        self.n_players = int(groups.max()) + 1
        if set(groups.unique().tolist()) != set(range(self.n_players)):
            raise ValueError(
                f"groups must number the players 0..n-1 without gaps, got {groups.unique()}"
            )
        self.groups = groups.to(inputs.device)

    def __call__(
        self, coalitions: Bool[Tensor, "coalitions _"]
    ) -> Float[Tensor, "batch coalitions"]:
        """The score for each coalition: one forward row each."""
        if coalitions.dim() != 2 or coalitions.shape[1] != self.n_players:
            raise ValueError(
                f"coalitions have shape {tuple(coalitions.shape)}, wanted (any, {self.n_players})"
            )
        coalitions = coalitions.to(self.inputs.device)
        points = self._sums_of_rows() if self._rows_pay(len(coalitions)) else self._by_masks
        return torch.cat(
            [self._scores(points(part)) for part in coalitions.split(self._at_once())], dim=1
        )

    def masked(self, masks: Bool[Tensor, "masks *features"]) -> Float[Tensor, "batch masks"]:
        """The score for each mask of features (True = kept), overlapping or not."""
        return torch.cat(
            [self._scores(self._points(part)) for part in masks.split(self._at_once())], dim=1
        )

    def by_player(
        self, attributions: Float[Tensor, "batch *features"]
    ) -> Float[Tensor, "batch players"]:
        """Attributions summed over each player's features."""
        flat = attributions.flatten(1)
        sums = flat.new_zeros(len(flat), self.n_players)
        return sums.index_add(1, self.groups.flatten(), flat)

    def by_feature(
        self, values: Float[Tensor, "batch players"]
    ) -> Float[Tensor, "batch *features"]:
        """Each player's value shared equally among its features; inverse of `by_player`."""
        sizes = torch.bincount(self.groups.flatten(), minlength=self.n_players)
        return (values / sizes)[:, self.groups]

    def _at_once(self) -> int:
        return at_once(self.inputs.numel())

    @torch.no_grad()
    def _scores(self, points: Float[Tensor, "points batch *features"]) -> Tensor:
        return self.score(points.flatten(0, 1)).view(len(points), -1).T

    def _points(self, masks: Tensor) -> Float[Tensor, "masks batch *features"]:
        kept = masks.to(self.inputs.device)[:, None]  # (masks, 1, *features)
        return torch.where(kept, self.inputs, self.baseline)

    def _by_masks(self, coalitions: Tensor) -> Float[Tensor, "coalitions batch *features"]:
        return self._points(coalitions[:, self.groups])

    def _rows_pay(self, n_coalitions: int) -> bool:
        """Whether the table of `_sums_of_rows` is small, and read more often than written."""
        rows = 2**PLAYERS_A_ROW * math.ceil(self.n_players / PLAYERS_A_ROW)
        return rows <= self._at_once() and 2 * rows < n_coalitions

    def _sums_of_rows(self) -> Callable[[Tensor], Tensor]:
        """The same points as `_by_masks`, by sums of rows of a table.

        A row holds the numbers of four players, each kept or not, and zeros elsewhere: sums are
        exact. For a small network masks would cost more than the passes.
        """
        choices = all_coalitions(PLAYERS_A_ROW).to(self.groups.device)
        block, place = self.groups // PLAYERS_A_ROW, self.groups % PLAYERS_A_ROW
        points = self._points(choices[:, place])  # (choices, batch, *features)
        blocks = range(math.ceil(self.n_players / PLAYERS_A_ROW))
        table = torch.cat([torch.where(block == b, points, 0).flatten(1) for b in blocks])
        bits = 2 ** torch.arange(PLAYERS_A_ROW, device=block.device)
        starts = len(choices) * torch.arange(len(blocks), device=block.device)

        def points_of(coalitions: Tensor) -> Tensor:
            whole = F.pad(coalitions, (0, -self.n_players % PLAYERS_A_ROW))
            rows = (whole.view(len(whole), -1, PLAYERS_A_ROW) * bits).sum(2) + starts
            return F.embedding_bag(rows, table, mode="sum").view(-1, *self.inputs.shape)

        return points_of


def all_coalitions(n_players: int) -> Bool[Tensor, "coalitions players"]:
    """All 2^n coalitions; number k keeps player i when bit i of k is set."""
    if n_players > MOST_PLAYERS:
        raise ValueError(
            f"all coalitions of {n_players} players are 2^{n_players}; at most {MOST_PLAYERS} players,"
            " pass coarser groups or sample"
        )
    return torch.arange(2**n_players)[:, None] & 2 ** torch.arange(n_players) != 0


def coalitions_of_size(n_players: int, size: int) -> Bool[Tensor, "coalitions players"]:
    """All coalitions with `size` members, in lexicographic order."""
    members = torch.tensor(list(itertools.combinations(range(n_players), size)), dtype=torch.long)
    none = torch.zeros(len(members), n_players, dtype=torch.bool)
    return none.scatter(1, members.view(len(members), size), True)


def random_coalitions(
    n_players: int, size: int, n_coalitions: int, generator: torch.Generator
) -> Bool[Tensor, "coalitions players"]:
    """Coalitions with `size` members each, drawn uniformly and independently."""
    order = torch.rand(n_coalitions, n_players, generator=generator).argsort(1)
    none = torch.zeros(n_coalitions, n_players, dtype=torch.bool)
    return none.scatter(1, order[:, :size], True)


def moebius(values: Float[Tensor, "*batch coalitions"]) -> Float[Tensor, "*batch coalitions"]:
    """The dividend of each coalition, in the order of `all_coalitions`; the inverse of `zeta`.

    d(S) = sum_{T subset of S} (-1)^{|S| - |T|} v(T), by n passes over the 2^n values.
    """
    for player in range(_players(values)):
        without, joined = values.unflatten(-1, (-1, 2, 2**player)).unbind(-2)
        values = torch.stack([without, joined - without], -2).flatten(-3)
    return values


def zeta(dividends: Float[Tensor, "*batch coalitions"]) -> Float[Tensor, "*batch coalitions"]:
    """The value of each coalition, the sum of its subsets' dividends; the inverse of `moebius`."""
    values = dividends
    for player in range(_players(values)):
        without, joined = values.unflatten(-1, (-1, 2, 2**player)).unbind(-2)
        values = torch.stack([without, joined + without], -2).flatten(-3)
    return values


def _players(values: Tensor) -> int:
    """The n of 2^n values."""
    length = values.shape[-1]
    if length < 1 or length & (length - 1):
        raise ValueError(
            f"needs one value for each of 2^n coalitions along the last axis, got {length} values;"
            " number them as all_coalitions(n) does"
        )
    return length.bit_length() - 1


def dividends(game: MaskedGame) -> Float[Tensor, "batch coalitions"]:
    """Harsanyi dividends of all 2^n coalitions, from 2^n forward rows; see `moebius`."""
    return moebius(game(all_coalitions(game.n_players)))


def shapley_values(game: MaskedGame) -> Float[Tensor, "batch players"]:
    """Exact Shapley values from all 2^n coalitions, each evaluated once."""
    coalitions = all_coalitions(game.n_players).to(game.inputs.device)
    n, size = game.n_players, coalitions.sum(1)
    share = torch.tensor([1 / (n * math.comb(n - 1, k)) for k in range(n)], dtype=torch.float64)
    share = share.to(coalitions.device)
    joins = share[(size - 1).clamp(min=0)][:, None] * coalitions
    stays_out = share[size.clamp(max=n - 1)][:, None] * ~coalitions
    values = game(coalitions)
    return (values.double() @ (joins - stays_out)).to(values.dtype)


def sampled_shapley_values(
    game: MaskedGame,
    n_permutations: int,
    generator: torch.Generator,
    antithetic: bool = True,
) -> tuple[Float[Tensor, "batch players"], Float[Tensor, "batch players"]]:
    """Shapley values from random orders and the standard error of each; NaN for a single draw.

    A draw is an order with its reverse, or one order if not `antithetic`.
    Costs n_permutations * (players + 1) forward rows.
    """
    if n_permutations < 1 + antithetic or antithetic and n_permutations % 2:
        wanted = "an even number of permutations >= 2" if antithetic else "a permutation or more"
        raise ValueError(f"needs {wanted}, got {n_permutations}")
    n = game.n_players
    n_draws = n_permutations // (1 + antithetic)
    orders = torch.rand(n_draws, n, generator=generator).argsort(1)
    if antithetic:
        orders = torch.cat([orders, orders.flip(1)])
    rank = orders.argsort(1)
    kept = rank[:, None] < torch.arange(n + 1)[:, None]  # (orders, n + 1, players)
    values = game(kept.flatten(0, 1)).view(-1, len(orders), n + 1)
    gains = values.diff(dim=2).gather(2, rank.to(values.device).expand(len(values), -1, -1))
    draws = gains.unflatten(1, (-1, n_draws)).mean(1)  # (batch, draws, players)
    error = draws.std(1) if n_draws > 1 else torch.full_like(draws[:, 0], math.nan)
    return draws.mean(1), error / math.sqrt(n_draws)


def patch_masks(
    height: int, width: int, patch: int, centres: Int[Tensor, "patches 2"]
) -> Bool[Tensor, "patches height width"]:
    """Masks that remove a square of side `patch` round each centre (row, column), cut at the border."""
    if patch < 1:
        raise ValueError(f"a patch needs a side of at least one pixel, got {patch}")
    top_left = centres - patch // 2
    rows = torch.arange(height) - top_left[:, :1]  # (patches, height)
    columns = torch.arange(width) - top_left[:, 1:]
    inside_rows, inside_columns = ((r >= 0) & (r < patch) for r in (rows, columns))
    return ~(inside_rows[:, :, None] & inside_columns[:, None, :])


def grid_centres(height: int, width: int, stride: int) -> Int[Tensor, "patches 2"]:
    """The centres of the cells of a grid of `stride` pixels, row by row."""
    rows, columns = (torch.arange(stride // 2, size, stride) for size in (height, width))
    return torch.cartesian_prod(rows, columns)
