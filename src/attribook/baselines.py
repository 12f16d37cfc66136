"""Reference inputs that stand for the absence of information. [gradient, Sec. 2.3]

A baseline is just a tensor of shape (batch or 1, *features); any other of your own serves as well.
A `Law` stands in its place where baselines are drawn from a distribution. [integrated, Sec. 5]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def zero(inputs: Float[Tensor, "batch *features"]) -> Float[Tensor, "1 *features"]:
    """All zeros; mid-grey for photos normalised as (pixel - 127) / 128."""
    return torch.zeros_like(inputs[:1])


def mean(samples: Float[Tensor, "samples *features"]) -> Float[Tensor, "1 *features"]:
    """The mean of the samples, feature by feature."""
    return samples.mean(0, keepdim=True)


def blur(
    images: Float[Tensor, "batch channel height width"], size: int = 9
) -> Float[Tensor, "batch channel height width"]:
    """Each image under a box filter of odd `size` pixels; outside the image counts as zero."""
    if size < 1 or size % 2 == 0:
        raise ValueError(f"a box filter needs an odd size >= 1, got {size}")
    return F.avg_pool2d(images, size, stride=1, padding=size // 2)


@dataclass(frozen=True)
class Law:
    """A distribution of baselines with finite support: points and their probabilities."""

    points: Float[Tensor, "n_baselines rows *features"]  # rows: 1, or one for each sample
    weights: Float[Tensor, " n_baselines"]

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.points):
            raise ValueError(f"{len(self.weights)} weights for {len(self.points)} baselines")
        if not (self.weights >= 0).all() or not abs(self.weights.sum() - 1) <= 1e-6:  # nor NaN
            raise ValueError(
                f"probabilities are >= 0 and add up to 1, got {self.weights.tolist()};"
                " divide them by their sum"
            )

    def map(self, change: Callable[[Tensor], Tensor]) -> Law:
        """The law of change(X')."""
        return replace(self, points=torch.stack([change(point) for point in self.points]))

    def mean(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """E function(X')."""
        values = torch.stack([function(point) for point in self.points])
        return torch.tensordot(self.weights.to(values), values, dims=1)
