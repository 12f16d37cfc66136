"""Architectures: sequences of named stages, so that any stage can be the layer a method explains."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from attribook.papers.second_order import Quadratic

# EfficientNet-Lite: kernel, stride, expansion, channels, repeats of each group of blocks at width
# and depth 1. Stem and head are never scaled, and the first and last group are never repeated more.
GROUPS = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM, HEAD, CLASSES = 32, 1280, 1000
BATCH_NORM_EPSILON = 1e-3


class SameConv2d(nn.Conv2d):
    """Convolution padded so that the output has ceil(n / stride) rows and columns.

    An odd number of padding rows puts the extra one below, as the checkpoints were trained.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pad by what this input's size needs, then convolve."""
        top, bottom = self._padding(x.shape[-2])
        left, right = self._padding(x.shape[-1])
        return super().forward(F.pad(x, (left, right, top, bottom)))

    def _padding(self, n: int) -> tuple[int, int]:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        total = max((math.ceil(n / stride) - 1) * stride + kernel - n, 0)
        return total // 2, total - total // 2


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Add the body's output to its input."""
        return x + self.body(x)


def written_out(
    module: nn.Module, shape: Sequence[int], like: Tensor
) -> tuple[Float[Tensor, "units features"], Float[Tensor, " units"]]:
    """The weight and the bias of an affine map of flat inputs, of the type of `like`.

    `shape` is that of one input. The weight is what the map, biases left out, does to the unit
    basis: exact for layers that have a bias of this name, up to rounding for others (batch norm).
    """
    size, named = math.prod(shape), module.named_parameters()
    no_bias = {name: torch.zeros_like(one) for name, one in named if name.endswith("bias")}
    nothing = like.new_zeros(1, *shape)
    with torch.no_grad():
        bias = module(nothing).flatten()
        basis = torch.eye(size, dtype=like.dtype, device=like.device).view(size, *shape)
        start, columns = (functional_call(module, no_bias, x).flatten(1) for x in (nothing, basis))
    return (columns - start).T.contiguous(), bias


def stages(**modules: nn.Module) -> nn.Sequential:
    """A sequence of stages under the names given."""
    return nn.Sequential(OrderedDict(modules))


def quadratic() -> nn.Sequential:
    """A second-order polynomial of 784 pixels for each of ten classes. [taylor, Table V]"""
    return stages(flatten=nn.Flatten(), logits=Quadratic(784, 10))


def mlp(activation: Callable[[], nn.Module], width: int = 128) -> nn.Sequential:
    """Three dense layers, 784-128-128-10."""
    return stages(
        flatten=nn.Flatten(),
        dense1=nn.Linear(784, width),
        act1=activation(),
        dense2=nn.Linear(width, width),
        act2=activation(),
        logits=nn.Linear(width, 10),
    )


def cnn(activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Two strided convolutions without padding, 28 -> 12 -> 5, and two dense layers."""
    return stages(
        conv1=nn.Conv2d(1, 8, 5, stride=2),
        act1=activation(),
        conv2=nn.Conv2d(8, 16, 3, stride=2),
        act2=activation(),
        flatten=nn.Flatten(),
        dense=nn.Linear(400, 64),
        act3=activation(),
        logits=nn.Linear(64, 10),
    )


def padded_cnn(activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Two strided convolutions with padding, 28 -> 14 -> 7, and one dense layer."""
    return stages(
        conv1=nn.Conv2d(1, 8, 5, stride=2, padding=2),
        act1=activation(),
        conv2=nn.Conv2d(8, 16, 5, stride=2, padding=2),
        act2=activation(),
        flatten=nn.Flatten(),
        logits=nn.Linear(784, 10),
    )


def pooled_cnn(activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Two convolutions, each pooled, 28 -> 12 -> 4, and three dense layers. [integrated, Table 1]

    The layers the paper probes are `pool1` (5 x 12 x 12) and `act4` (64).
    """
    return stages(
        conv1=nn.Conv2d(1, 5, 5),
        act1=activation(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(5, 10, 5),
        act2=activation(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        dense1=nn.Linear(160, 160),
        act3=activation(),
        dense2=nn.Linear(160, 64),
        act4=activation(),
        logits=nn.Linear(64, 10),
    )


def searching_cnn(activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Four convolutions, 56 -> 28 -> 14 -> 7 -> 7, the mean over all places, and one dense layer.

    No max-pooling, and no layer over 10,000 units, so that every back-propagation rule applies, also
    with the weights written out. A unit of `act4` sees 61 x 61 pixels.
    """
    return stages(
        conv1=nn.Conv2d(1, 12, 5, stride=2, padding=2),
        act1=activation(),
        conv2=nn.Conv2d(12, 32, 5, stride=2, padding=2),
        act2=activation(),
        conv3=nn.Conv2d(32, 64, 5, stride=2, padding=2),
        act3=activation(),
        conv4=nn.Conv2d(64, 64, 5, padding=2),
        act4=activation(),
        pool=nn.AvgPool2d(7),
        flatten=nn.Flatten(),
        logits=nn.Linear(64, 10),
    )


def efficientnet_lite(width: float, depth: float) -> nn.Sequential:
    """EfficientNet-Lite: MobileNet blocks without squeeze-and-excitation, ReLU6 throughout.

    Takes photos of any size; the checkpoints were trained at 224, 240 and 260 pixels (0, 1, 2).
    """
    groups, channels = {}, STEM
    for i, (kernel, stride, expansion, out, repeats) in enumerate(GROUPS, start=1):
        out = _rounded(out * width)
        fixed = i in (1, len(GROUPS))
        blocks = [_block(kernel, stride, expansion, channels, out)]
        for _ in range(1, repeats if fixed else math.ceil(repeats * depth)):
            blocks.append(_block(kernel, 1, expansion, out, out))
        groups[f"group{i}"], channels = nn.Sequential(*blocks), out
    return stages(
        stem=_convolution(3, STEM, 3, stride=2, act=nn.ReLU6()),
        **groups,
        head=_convolution(channels, HEAD, 1, act=nn.ReLU6()),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        logits=nn.Linear(HEAD, CLASSES),
    )


def _block(kernel: int, stride: int, expansion: int, channels: int, out: int) -> nn.Module:
    hidden = channels * expansion
    parts = {
        "expand": _convolution(channels, hidden, 1, act=nn.ReLU6()),
        "depthwise": _convolution(hidden, hidden, kernel, stride, hidden, act=nn.ReLU6()),
        "project": _convolution(hidden, out, 1),
    }
    if expansion == 1:
        del parts["expand"]
    body = stages(**parts)
    return Residual(body) if stride == 1 and channels == out else body


def _convolution(
    channels: int,
    out: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    act: nn.Module | None = None,
) -> nn.Sequential:
    conv = SameConv2d(channels, out, kernel, stride, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu" if act else "linear")
    parts = {"conv": conv, "norm": nn.BatchNorm2d(out, eps=BATCH_NORM_EPSILON)}
    return stages(**parts, act=act) if act else stages(**parts)


def _rounded(channels: float) -> int:
    """The nearest multiple of 8, but never less than 90 % of what was asked."""
    nearest = int(channels + 4) // 8 * 8
    return nearest if nearest >= 0.9 * channels else nearest + 8
