"""Measures of attribution maps: agreement with the model, smoothness, and where the mass lies.

Maps have shape (batch, height, width), attributions summed over channels; an undefined value is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attribook.coalitions import MaskedGame, random_coalitions
from attribook.numerics import refuse_not_finite
from attribook.paths import check_mask

Maps = Float[Tensor, "batch height width"]
UNUSABLE = "hold {bad} values that are not finite; no number can judge them"
PerMap = Float[Tensor, " batch"]


def sensitivity_n(
    attributions: Float[Tensor, "batch *features"],
    game: MaskedGame,
    sizes: list[int],
    n_coalitions: int,
    generator: torch.Generator,
) -> Float[Tensor, "batch sizes"]:
    """Pearson correlation between attribution sums and score changes over random sets of each size.

    1 for exact attributions of an additive model. (Ancona et al. 2018, the chapter's companion)
    n_coalitions forward passes a size. Pass one game and generator state to compare methods.
    """
    columns = []
    whole = torch.ones(1, game.n_players, dtype=torch.bool)
    by_player = game.by_player(attributions)
    for size in sizes:
        removed = random_coalitions(game.n_players, size, n_coalitions, generator)
        values = game(torch.cat([whole, ~removed]))
        sums = by_player @ removed.T.to(by_player)
        columns.append(correlation(sums, values[:, :1] - values[:, 1:]))
    return torch.stack(columns, 1)


def correlation(
    one: Float[Tensor, "batch *features"], other: Float[Tensor, "batch *features"]
) -> PerMap:
    """Pearson correlation of each sample's two maps; NaN for a constant one."""
    one, other = (x.flatten(1).double() for x in (one, other))
    one, other = (x - x.mean(1, keepdim=True) for x in (one, other))
    return (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1))


def sign_flip_rate(maps: Maps) -> PerMap:
    """The share of neighbouring pairs, both non-zero, with opposite signs; 0.5 for white noise."""
    products = [product.flatten(1) for product in _neighbour_products(maps)]
    flips = sum((product < 0).sum(1) for product in products)
    return flips / sum((product != 0).sum(1) for product in products)


def lag1_autocorrelation(maps: Maps) -> PerMap:
    """Mean product of neighbouring deviations from the mean, over their variance."""
    centred = maps - maps.mean((1, 2), keepdim=True)
    across, down = (product.mean((1, 2)) for product in _neighbour_products(centred))
    return (across + down) / 2 / centred.square().mean((1, 2))


def relative_total_variation(maps: Maps) -> PerMap:
    """Mean absolute difference of neighbours over twice the mean absolute value."""
    across = maps.diff(dim=2).abs().mean((1, 2))
    down = maps.diff(dim=1).abs().mean((1, 2))
    return (across + down) / (2 * maps.abs().mean((1, 2)))


def coherence(maps: Maps) -> PerMap:
    """sum(map) / sum|map|: 1 when all of one sign, near 0 when signs cancel."""
    return maps.sum((1, 2)) / maps.abs().sum((1, 2))


def inside_outside(
    attributions: Float[Tensor, "batch *features"], mask: Bool[Tensor, "..."]
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """The sums of the attributions inside the mask and outside of it, over all channels."""
    mask = check_mask(mask, attributions)
    inside = torch.where(mask, attributions, 0).flatten(1).sum(1)
    return inside, attributions.flatten(1).sum(1) - inside


def box_gain(maps: Maps, masks: Bool[Tensor, "batch height width"]) -> PerMap:
    """Share of the positive mass inside the mask over the mask's share of the area; 1 is chance."""
    positive = maps.clamp(min=0)
    share = (positive * masks).sum((1, 2)) / positive.sum((1, 2))
    return share / masks.to(maps).mean((1, 2))


def box_overlap(
    maps: Float[Tensor, "batch *channels height width"],
    masks: Bool[Tensor, "batch height width"],
) -> PerMap:
    """The share of the box among as many pixels with the largest |attribution|; by chance its area.

    |B and M| / |B|, |M| = |B|.   [taylor, Eq. 51] Channels are added up first. Where pixels tie
    for the last places of M, the expectation over random orders of them.
    """
    strength = maps.flatten(1).unflatten(1, (-1, masks[0].numel())).double().sum(1).abs()
    refuse_not_finite(strength, f"maps {UNUSABLE}")
    inside = masks.flatten(1)
    size = inside.sum(1, keepdim=True)
    if not size.all():
        empty = (size == 0).flatten().nonzero().flatten().tolist()
        raise ValueError(f"the boxes of samples {empty} are empty; leave out samples without a box")
    weakest = strength.sort(1, descending=True).values.gather(1, size - 1)  # in M
    chosen, tied = strength > weakest, strength == weakest
    places = (size - chosen.sum(1, keepdim=True)) / tied.sum(1, keepdim=True).double()
    return ((chosen + places * tied) * inside).sum(1) / size.flatten()


def square_masks(
    size: int = 28, sides: Iterable[int] = range(1, 11)
) -> Bool[Tensor, "masks size size"]:
    """All masks that remove a square of these sides from `size` x `size` pixels; True = kept."""
    place = torch.arange(size)
    squares = []
    for side in sides:
        if not 1 <= side <= size:
            raise ValueError(
                f"a square in {size} x {size} pixels has sides 1 to {size}, got {side}"
            )
        first = torch.arange(size - side + 1)[:, None]
        strips = (first <= place) & (place < first + side)  # (places, size)
        squares.append((strips[:, None, :, None] & strips[:, None]).flatten(0, 1))
    return ~torch.cat(squares)


def removal_drops(
    game: MaskedGame, kept: Bool[Tensor, "masks height width"]
) -> Float[Tensor, "batch masks"]:
    """f(x) - f(x where only these pixels are kept): what the attributions of a game should tell.

    One forward row a mask, for all methods together.
    """
    kept = kept[:, None]  # (masks, 1, height, width)
    return game.masked(torch.ones_like(kept[:1])) - game.masked(kept)


Drops = Float[Tensor, "*methods batch masks"]  # in double precision


def literal_sums(attributions: Tensor, inputs: Tensor, kept: Tensor, drops: Tensor) -> Drops:
    """p'a with p = x where the mask removes, else 0, as printed: for gradients, not contributions."""
    return mask_sums(inputs.double() * attributions, inputs, kept, drops)


def mask_sums(attributions: Tensor, inputs: Tensor, kept: Tensor, drops: Tensor) -> Drops:
    """The attributions summed over what each mask removes; contributions hold the factor x already."""
    masks = (~kept).flatten(1).double()
    batch = attributions.dim() - inputs.dim()
    pixels = attributions.double().flatten(batch + 1).unflatten(-1, (-1, masks.shape[1])).sum(-2)
    return pixels @ masks.T


def scaled_sums(attributions: Tensor, inputs: Tensor, kept: Tensor, drops: Tensor) -> Drops:
    """`mask_sums` times the factor of each map that fits the drops best, of either sign."""
    sums = mask_sums(attributions, inputs, kept, drops)
    square = sums.square().sum(-1, keepdim=True)
    return sums * (sums * drops).sum(-1, keepdim=True) / square.where(square > 0, 1)


def infidelity(
    attributions: Float[Tensor, "*methods_batch_features"],
    inputs: Float[Tensor, "batch *features"],
    kept: Bool[Tensor, "masks height width"],
    drops: Float[Tensor, "batch _"],
    predicted: Callable[[Tensor, Tensor, Tensor, Tensor], Drops] = scaled_sums,
) -> Float[Tensor, "*methods batch"]:
    """The mean squared error of the drops that attributions predict, over all masks.

    E_p (p'a - (f(x) - f(x - p)))^2   [taylor, Eq. 50]. `predicted` is what p'a means:
    literal_sums (the paper's), mask_sums or scaled_sums. Axes of `attributions` before those of
    the inputs, say one for methods, stay. `drops` come from `removal_drops`, once for all.
    """
    if attributions.shape[attributions.dim() - inputs.dim() :] != inputs.shape:
        raise ValueError(
            f"attributions {tuple(attributions.shape)} must end like inputs {tuple(inputs.shape)}"
        )
    if drops.shape != (len(inputs), len(kept)):
        raise ValueError(
            f"drops {tuple(drops.shape)} must be (batch, masks) = {(len(inputs), len(kept))}"
        )
    refuse_not_finite(attributions, f"attributions {UNUSABLE}")
    refuse_not_finite(drops, f"drops {UNUSABLE}")
    told = predicted(attributions, inputs, kept, drops.double())
    return (told - drops).square().mean(-1)


class Focus(NamedTuple):
    """Share of the strongest cells on the subject, the same by chance, and kappa between them."""

    hit: PerMap
    chance: PerMap
    kappa: PerMap


def occlusion_focus(
    maps: Float[Tensor, "batch rows columns"],
    masks: Bool[Tensor, "batch height width"],
    patch: int,
    centres: Int[Tensor, "cells 2"],
    top: float = 0.10,
) -> Focus:
    """How many of an occlusion map's strongest cells touch the subject, corrected for chance.

    A cell touches when a patch centred there overlaps the mask. kappa = (hit - chance)/(1 - chance).
    """
    window = 2 * (patch // 2) + 1
    dilated = F.max_pool2d(masks[:, None].float(), window, stride=1, padding=patch // 2)[:, 0]
    touches = dilated[:, centres[:, 0], centres[:, 1]]  # (batch, cells)
    strongest = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    best = strongest[:, : round(top * strongest.shape[1])]
    hit, chance = touches.gather(1, best).mean(1), touches.mean(1)
    open_room = torch.where((chance == 0) | (chance == 1), math.nan, 1 - chance)
    return Focus(hit, chance, (hit - chance) / open_room)


def _neighbour_products(maps: Maps) -> tuple[Tensor, Tensor]:
    return maps[:, :, 1:] * maps[:, :, :-1], maps[:, 1:] * maps[:, :-1]
