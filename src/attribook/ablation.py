"""Ablating the neurons of a hidden layer in the order of a ranking, and what is left of the model.

A neuron is one number of the layer's output for one sample; to prune it sets that number to 0 for
every sample. [integrated, Sec. 7.1]
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor, nn

from attribook.numerics import at_once
from attribook.score import Score


def prune_order(
    ranking: Real[Tensor, "*features"], descending: bool = True
) -> Int[Tensor, " neurons"]:
    """The neurons (flat indices into the layer) in the order in which they are pruned.

    Highest value first, or lowest first; equal values by index in both directions.
    """
    if torch.isnan(ranking).any():
        raise ValueError(
            f"the ranking has {int(torch.isnan(ranking).sum())} NaN, which have no place in an order;"
            " find out where they come from"
        )
    return ranking.flatten().argsort(descending=descending, stable=True)


def random_orders(
    n_neurons: int, n_orders: int, generator: torch.Generator
) -> Int[Tensor, "orders neurons"]:
    """Orders drawn uniformly and independently, the control of every ranking."""
    draws = [torch.randperm(n_neurons, generator=generator) for _ in range(n_orders)]
    return torch.stack(draws)


def keep_masks(
    order: Int[Tensor, " neurons"], fractions: Sequence[float], features: Sequence[int]
) -> Bool[Tensor, "fractions *features"]:
    """True for the neurons that stay; for fraction p the first floor(p n) of the order are False.

    `features` is the shape of the layer's output for one sample.
    """
    n = len(order)
    if not torch.equal(order.sort().values, torch.arange(n, device=order.device)):
        raise ValueError(
            f"an order names each of the {n} neurons 0..{n - 1} once; this one does not."
            " prune_order(ranking) makes one"
        )
    if math.prod(features) != n:
        raise ValueError(
            f"the order has {n} neurons, features {tuple(features)} are {math.prod(features)}"
        )
    if bad := [p for p in fractions if not 0 <= p <= 1]:
        raise ValueError(f"fractions to prune lie in [0, 1], got {bad}")
    # 0.29 * 100 is 28.999...96 in floating point
    counts = torch.tensor([math.floor(p * n + 1e-9) for p in fractions], device=order.device)
    place = torch.empty_like(order)
    place[order] = torch.arange(n, device=order.device)
    return (place >= counts[:, None]).view(len(fractions), *features)


class Kept(nn.Module):
    """The neurons of a mask as they are and all others zero, for every sample."""

    def __init__(self, keep: Tensor):
        super().__init__()
        if keep.dtype != torch.bool:
            raise TypeError(f"keep must be a mask (torch.bool, True = kept), got {keep.dtype}")
        self.register_buffer("keep", keep)

    def forward(self, activations: Tensor) -> Tensor:
        """The layer's output times the mask: bit for bit the same where all are kept."""
        if activations.shape[1:] != self.keep.shape:
            raise ValueError(
                f"keep has shape {tuple(self.keep.shape)}, the layer puts out"
                f" {tuple(activations.shape[1:])} a sample; keep_masks(..., features=) shapes it"
            )
        return activations * self.keep.to(activations)


def pruned_tail(tail: Score, keep: Bool[Tensor, "..."]) -> Score:
    """The score of the layer's output with only the neurons in `keep` left."""
    tail.outputs_are_fixed()
    model = nn.Sequential(OrderedDict(kept=Kept(keep), tail=tail.model))
    return Score(model.eval(), tail.target, tail.output)


def pruned(score: Score, layer: str, keep: Bool[Tensor, "..."]) -> Score:
    """The score of the whole model with only the neurons of `layer` in `keep` left.

    Its model has the stages head, kept, tail: `split("kept")` gives the pruned layer's output.
    """
    head, tail = score.split(layer)
    kept, rest = pruned_tail(tail, keep).model
    model = nn.Sequential(OrderedDict(head=head, kept=kept, tail=rest))
    return Score(model.eval(), score.target, score.output)


@torch.no_grad()
def layer_outputs(
    head: Callable[[Tensor], Tensor], inputs: Float[Tensor, "n *inputs"]
) -> Float[Tensor, "n *features"]:
    """What the head of `score.split` puts out for every input, to be computed once and pruned often."""
    return torch.cat([head(rows) for rows in _batches(inputs)])


@torch.no_grad()
def predicted_classes(
    tail: Score,
    activations: Float[Tensor, "n *features"],
    masks: Bool[Tensor, "masks ..."],
    progress: Callable[[Iterable], Iterable] = iter,
) -> Int[Tensor, "masks n"]:
    """The class with the largest logit for every sample, by the model pruned to each mask.

    Costs one forward pass of the tail a mask and sample, on the layer's outputs computed before.
    `progress` wraps the loop over masks, as tqdm does.
    """
    predictions = activations.new_empty(len(masks), len(activations), dtype=torch.long)
    for row, keep in zip(predictions, progress(masks), strict=True):
        model = pruned_tail(tail, keep).model
        logits = torch.cat([model(rows) for rows in _batches(activations)])
        if logits.dim() != 2:
            raise ValueError(
                f"classes need outputs (rows, classes), the model puts out {tuple(logits.shape)}"
            )
        row.copy_(logits.argmax(1))
    return predictions


def accuracy(
    predictions: Int[Tensor, "masks n"], labels: Int[Tensor, " n"]
) -> Float[Tensor, " masks"]:
    """The share of samples whose class is predicted, for each mask."""
    return (predictions == labels.to(predictions)).double().mean(1)


def recall(
    predictions: Int[Tensor, "masks n"], labels: Int[Tensor, " n"], n_classes: int
) -> Float[Tensor, "masks classes"]:
    """The share of each class's samples that are found: the paper's accuracy of a class.

    It rises, too, where a model gives one answer to nearly everything; `precision` tells. NaN for
    a class without samples.
    """
    counts = confusion(predictions, labels, n_classes)
    return counts.diagonal(dim1=1, dim2=2) / counts.sum(2).double()


def precision(
    predictions: Int[Tensor, "masks n"], labels: Int[Tensor, " n"], n_classes: int
) -> Float[Tensor, "masks classes"]:
    """The share of the samples predicted as each class that belong to it; NaN where there are none."""
    counts = confusion(predictions, labels, n_classes)
    return counts.diagonal(dim1=1, dim2=2) / counts.sum(1).double()


def confusion(
    predictions: Int[Tensor, "masks n"], labels: Int[Tensor, " n"], n_classes: int
) -> Int[Tensor, "masks true predicted"]:
    """How many samples of each class (rows) are predicted as each class (columns)."""
    for name, classes in {"labels": labels, "predictions": predictions}.items():
        if classes.numel() and not (0 <= int(classes.min()) <= int(classes.max()) < n_classes):
            raise ValueError(
                f"{name} must be classes 0..{n_classes - 1}, got"
                f" {int(classes.min())} to {int(classes.max())}"
            )
    n_masks = len(predictions)
    masks = torch.arange(n_masks, device=predictions.device)[:, None]
    cells = (masks * n_classes + labels.to(predictions)) * n_classes + predictions
    counts = torch.bincount(cells.flatten(), minlength=n_masks * n_classes**2)
    return counts.view(n_masks, n_classes, n_classes)


def _batches(samples: Tensor) -> tuple[Tensor, ...]:
    return samples.split(at_once(samples[:1].numel()))
