"""Reference inputs that stand for the absence of information. [gradient, Sec. 2.3]

A baseline is just a tensor of shape (batch or 1, *features); any other of your own serves as well.
"""

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
