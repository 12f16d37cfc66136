"""Mechanism 3: the masked game. Players are features or groups of them; a coalition keeps its own.

The model is a black box here: only forward passes, in batches of bounded size.
"""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attribook.score import Score, check_inputs

ELEMENTS_A_PASS = 2**21  # input numbers in one forward pass
MOST_PLAYERS = 16


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
        at_once = self._at_once()
        return torch.cat(
            [self._scores(part[:, self.groups]) for part in coalitions.split(at_once)], dim=1
        )

    def masked(self, masks: Bool[Tensor, "masks *features"]) -> Float[Tensor, "batch masks"]:
        """The score for each mask of features (True = kept), overlapping or not."""
        return torch.cat([self._scores(part) for part in masks.split(self._at_once())], dim=1)

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
        return max(1, ELEMENTS_A_PASS // self.inputs.numel())

    @torch.no_grad()
    def _scores(self, masks: Tensor) -> Tensor:
        kept = masks.to(self.inputs.device)[:, None]  # (masks, 1, *features)
        points = torch.where(kept, self.inputs, self.baseline)  # (masks, batch, *features)
        return self.score(points.flatten(0, 1)).view(len(masks), -1).T


def all_coalitions(n_players: int) -> Bool[Tensor, "coalitions players"]:
    """All 2^n coalitions; number k keeps player i when bit i of k is set."""
    if n_players > MOST_PLAYERS:
        raise ValueError(
            f"all coalitions of {n_players} players are 2^{n_players}; at most {MOST_PLAYERS} players,"
            " pass coarser groups or sample"
        )
    return (torch.arange(2**n_players)[:, None] >> torch.arange(n_players)) % 2 == 1


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


def dividends(game: MaskedGame) -> Float[Tensor, "batch coalitions"]:
    """Harsanyi dividends of all 2^n coalitions, by the fast Moebius transform over 2^n passes.

    d(S) = sum_{T subset of S} (-1)^{|S| - |T|} v(T), in the order of `all_coalitions`.
    """
    values = game(all_coalitions(game.n_players))
    for player in range(game.n_players):
        blocks = values.view(len(values), -1, 2, 2**player)  # without, with the player
        values = torch.stack([blocks[:, :, 0], blocks[:, :, 1] - blocks[:, :, 0]], 2).flatten(1)
    return values


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
    game: MaskedGame, n_permutations: int, generator: torch.Generator
) -> tuple[Float[Tensor, "batch players"], Float[Tensor, "batch players"]]:
    """Shapley values from random orders and their reverses, and the standard error of each.

    Costs n_permutations * (players + 1) forward rows; an even number, at least four.
    """
    if n_permutations < 4 or n_permutations % 2:
        raise ValueError(f"needs an even number of permutations >= 4, got {n_permutations}")
    n = game.n_players
    forward = torch.rand(n_permutations // 2, n, generator=generator).argsort(1)
    orders = torch.cat([forward, forward.flip(1)])
    rank = orders.argsort(1)
    kept = rank[:, None] < torch.arange(n + 1)[:, None]  # (orders, n + 1, players)
    values = game(kept.flatten(0, 1)).view(-1, len(orders), n + 1)
    gains = values.diff(dim=2).gather(2, rank.to(values.device).expand(len(values), -1, -1))
    pairs = (gains[:, : len(forward)] + gains[:, len(forward) :]) / 2
    return pairs.mean(1), pairs.std(1) / math.sqrt(len(forward))


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
