"""The papers' small functions and networks: examples, counterexamples, and random nets to test on.

Functions take (rows, features) and return (rows,), so `Score(function)` explains them; networks are
nn.Sequential of named stages in float64, returning (rows, classes).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attribook.papers.architectures import Residual

Function = Callable[[Float[Tensor, "rows features"]], Float[Tensor, " rows"]]


def linear_investment(x: Tensor) -> Tensor:
    """1.05 x1 + 1.50 x2. [gradient, Eq. 2]"""
    return x @ x.new_tensor([1.05, 1.50])


def one_plus_root(x: Tensor) -> Tensor:
    """x1 + sqrt(x2). [gradient, after Eq. 13]"""
    return x[:, 0] + x[:, 1].sqrt()


def relu_product(x: Tensor) -> Tensor:
    """ReLU(x1 - 1) ReLU(x2). [gradient, Sec. 3.2, before footnote 3]"""
    return F.relu(x[:, 0] - 1) * F.relu(x[:, 1])


def larger(x: Tensor) -> Tensor:
    """max(x1, x2), as one operation. [gradient, Table 2]"""
    return torch.maximum(x[:, 0], x[:, 1])


def larger_by_pooling(x: Tensor) -> Tensor:
    """max(x1, x2), as a max-pooling over a window of two. [gradient, Table 2]"""
    return F.max_pool1d(x[:, None], 2)[:, 0, 0]


def larger_by_relus(x: Tensor) -> Tensor:
    """0.5 (ReLU(x1 - x2) + ReLU(x2 - x1) + ReLU(x1 + x2)); max where x1 + x2 >= 0. [footnote 4]"""
    weights = x.new_tensor([[1, -1], [-1, 1], [1, 1]])
    return F.linear(F.relu(F.linear(x, weights)), x.new_full((1, 3), 0.5))[:, 0]


def largest(x: Tensor) -> Tensor:
    """The maximum of any number of features."""
    return x.amax(1)


def clipped_outside(x: Tensor) -> Tensor:
    """ReLU(ReLU(x1) - 1 - ReLU(x2)). (Sundararajan et al. 2017) Equals `clipped_inside`."""
    return F.relu(F.relu(x[:, 0]) - 1 - F.relu(x[:, 1]))


def clipped_inside(x: Tensor) -> Tensor:
    """ReLU(ReLU(x1 - 1) - ReLU(x2)). (Sundararajan et al. 2017) Equals `clipped_outside`."""
    return F.relu(F.relu(x[:, 0] - 1) - F.relu(x[:, 1]))


class Recurrent(nn.Module):
    """A vanilla recurrent cell written out over time; inputs (rows, steps, inputs).

    z_t = U x_t + b + W tanh(z_{t-1}), with one tanh for all steps; classes from the last one.
    """

    def __init__(self, inputs: int, hidden: int, classes: int):
        super().__init__()
        self.enter, self.recur = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden, bias=False)
        self.tanh, self.leave = nn.Tanh(), nn.Linear(hidden, classes)

    def pre_activations(self, x: Tensor) -> list[Tensor]:
        """z_1, ..., z_steps, each (rows, hidden)."""
        zs: list[Tensor] = []
        for x_t in x.unbind(1):
            z = self.enter(x_t)
            zs.append(z + self.recur(self.tanh(zs[-1])) if zs else z)
        return zs

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.tanh(self.pre_activations(x)[-1]))


class ClippedLinear(nn.Module):
    """ReLU(W+ x + b) - W- x in place of W x + b: the same after a ReLU wherever x >= 0.

    It moves `clipped_outside` to `clipped_inside` in each unit; W = W+ - W- by the weights' sign.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        weight = self.linear.weight
        rise = F.linear(x, weight.clamp(min=0), self.linear.bias)
        return F.relu(rise) - F.linear(x, -weight.clamp(max=0))


def random_mlp(
    activation: Callable[[], nn.Module],
    generator: torch.Generator,
    sizes: tuple[int, ...] = (6, 8, 8, 3),
    bias: bool = True,
) -> nn.Sequential:
    """A dense network with random weights: sizes[0] inputs, sizes[-1] classes."""
    net = nn.Sequential()
    for i, (before, after) in enumerate(zip(sizes, sizes[1:], strict=False), start=1):
        net.add_module(f"dense{i}", nn.Linear(before, after, bias=bias))
        if i < len(sizes) - 1:
            net.add_module(f"act{i}", activation())
    return randomised(net, generator)


def random_cnn(
    activation: Callable[[], nn.Module],
    generator: torch.Generator,
    pool: Callable[[int], nn.Module] = nn.AvgPool2d,
    bias: bool = True,
) -> nn.Sequential:
    """Two convolutions with a pooling between, then a dense layer; inputs (rows, 2, 8, 8)."""
    net = nn.Sequential()
    net.add_module("conv1", nn.Conv2d(2, 3, 3, bias=bias))
    net.add_module("act1", activation())
    net.add_module("pool", pool(2))
    net.add_module("conv2", nn.Conv2d(3, 4, 2, bias=bias))
    net.add_module("act2", activation())
    net.add_module("flat", nn.Flatten())
    net.add_module("dense", nn.Linear(16, 3, bias=bias))
    return randomised(net, generator)


def random_resnet(
    activation: Callable[[], nn.Module], generator: torch.Generator, bias: bool = True
) -> nn.Sequential:
    """Convolution, batch normalisation, a residual block, a dense layer; inputs (rows, 2, 6, 6)."""
    body = nn.Sequential(
        nn.Conv2d(3, 3, 3, padding=1, bias=bias),
        nn.BatchNorm2d(3),
        activation(),
        nn.Conv2d(3, 3, 3, padding=1, bias=bias),
        nn.BatchNorm2d(3),
    )
    net = nn.Sequential()
    net.add_module("conv", nn.Conv2d(2, 3, 3, bias=bias))
    net.add_module("norm", nn.BatchNorm2d(3))
    net.add_module("act1", activation())
    net.add_module("block", Residual(body))
    net.add_module("act2", activation())
    net.add_module("flat", nn.Flatten())
    net.add_module("dense", nn.Linear(48, 3, bias=bias))
    return randomised(net, generator)


def randomised(net: nn.Module, generator: torch.Generator) -> nn.Module:
    """The network in float64 and eval mode, every weight, bias and running statistic drawn anew."""
    net = net.double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 4
            parameter.normal_(0, fan_in**-0.5, generator=generator)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.running_mean.normal_(0, 0.5, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
    return net


def deep_relu_mlp(depth: int, generator: torch.Generator, width: int = 32) -> nn.Sequential:
    """`depth` hidden layers of ReLUs after He's initialisation, biases of deviation 0.2."""
    net = random_mlp(nn.ReLU, generator, (width,) * (depth + 1) + (1,))
    with torch.no_grad():
        for layer in net.children():
            if isinstance(layer, nn.Linear):
                layer.weight.normal_(0, (2 / width) ** 0.5, generator=generator)
                layer.bias.normal_(0, 0.2, generator=generator)
    return net


def random_lstm(generator: torch.Generator, features: int = 3, units: int = 4) -> Function:
    """A random LSTM with a linear readout, (rows, steps, features) -> (rows,); its gates multiply.

    Written out, since the fused `nn.LSTM` hides its nonlinearities from a modified chain rule.
    """

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weight, bias, readout = draw(features + units, 4 * units), draw(4 * units), draw(units)

    def score(x: Tensor) -> Tensor:
        hidden = cell = x.new_zeros(len(x), units)
        for step in x.unbind(1):
            gates = torch.cat([step, hidden], 1) @ weight.to(x.device) + bias.to(x.device)
            take, forget, show, new = gates.chunk(4, 1)
            cell = forget.sigmoid() * cell + take.sigmoid() * new.tanh()
            hidden = show.sigmoid() * cell.tanh()
        return hidden @ readout.to(x.device)

    return score


class Pair(NamedTuple):
    """Two models equal as functions, points to compare them at, and whether the paths are smooth."""

    one: Callable[[Tensor], Tensor]
    other: Callable[[Tensor], Tensor]
    points: Tensor
    smooth: bool


def equivalent_pairs(generator: torch.Generator, n_points: int = 1000) -> dict[str, Pair]:
    """Pairs of implementations of one function, all explained by class 0. [gradient, Eq. 7]"""

    def points(*features: int) -> Tensor:
        return torch.randn(n_points, *features, generator=generator, dtype=torch.float64)

    mlp = random_mlp(nn.ReLU, generator)
    net = random_resnet(nn.ReLU, generator)
    tanh = random_mlp(nn.Tanh, generator)
    return {
        "hidden units permuted": Pair(mlp, permuted(mlp, generator), points(6), False),
        "ReLU units scaled": Pair(mlp, rescaled(mlp, 3.0), points(6), False),
        "batch-norm folded": Pair(net, folded(net), points(2, 6, 6), False),
        "identity as two ReLUs": Pair(mlp, lambda x: mlp(F.relu(x) - F.relu(-x)), points(6), False),
        "tanh by sigmoid": Pair(tanh, with_tanh_by_sigmoid(tanh), points(6), True),
        "ReLU moved inside": Pair(
            lambda x: clipped_outside(x)[:, None],
            lambda x: clipped_inside(x)[:, None],
            points(2) * 3,
            False,
        ),
        "max by pooling, by ReLUs": Pair(
            lambda x: larger_by_pooling(x)[:, None],
            lambda x: larger_by_relus(x)[:, None],
            points(2).abs() + 0.1,
            False,
        ),
    }


def permuted(mlp: nn.Sequential, generator: torch.Generator) -> nn.Sequential:
    """The same function with the units of the first hidden layer in another order."""
    first, second = _copied_linear(mlp.dense1), _copied_linear(mlp.dense2)
    order = torch.randperm(first.out_features, generator=generator)
    with torch.no_grad():
        first.weight.copy_(first.weight[order])
        first.bias.copy_(first.bias[order])
        second.weight.copy_(second.weight[:, order])
    return _with(mlp, dense1=first, dense2=second)


def rescaled(mlp: nn.Sequential, factor: float) -> nn.Sequential:
    """The same function (ReLU networks) with hidden units made `factor` times larger."""
    first, second = _copied_linear(mlp.dense1), _copied_linear(mlp.dense2)
    with torch.no_grad():
        first.weight.mul_(factor)
        first.bias.mul_(factor)
        second.weight.div_(factor)
    return _with(mlp, dense1=first, dense2=second)


def folded(resnet: nn.Sequential) -> nn.Sequential:
    """The same function with the first batch normalisation folded into its convolution."""
    conv = torch.nn.utils.fusion.fuse_conv_bn_eval(resnet.conv, resnet.norm)
    return _with(resnet, conv=conv, norm=nn.Identity())


def clipped(net: nn.Sequential) -> nn.Sequential:
    """The same function of inputs >= 0 (dense ReLU networks), clipped inside each hidden unit."""
    stages = list(net.named_children())
    after = {name: following for (name, _), (_, following) in zip(stages, stages[1:], strict=False)}
    return _with(
        net,
        **{name: ClippedLinear(s) for name, s in stages if isinstance(after.get(name), nn.ReLU)},
    )


class TanhBySigmoid(nn.Module):
    """tanh(z) = 2 sigmoid(2 z) - 1."""

    def forward(self, z: Tensor) -> Tensor:
        return 2 * torch.sigmoid(2 * z) - 1


def with_tanh_by_sigmoid(mlp: nn.Sequential) -> nn.Sequential:
    """The same function with every tanh written as a sigmoid."""
    activations = {name: TanhBySigmoid() for name, m in mlp.named_children() if "act" in name}
    return _with(mlp, **activations)


def _with(net: nn.Sequential, **replaced: nn.Module) -> nn.Sequential:
    other = nn.Sequential()
    for name, stage in net.named_children():
        other.add_module(name, replaced.get(name, stage))
    return other.eval()


def _copied_linear(layer: nn.Linear) -> nn.Linear:
    copy = nn.utils.skip_init(
        nn.Linear, layer.in_features, layer.out_features, dtype=layer.weight.dtype
    )
    copy.load_state_dict(layer.state_dict())
    return copy


# -- many functions in one batch, kinks, growing networks ---------------------------------------


def each(functions: Sequence[Function]) -> Function:
    """The function that is functions[r % len(functions)] on row r of its inputs.

    So a batch whose length is a multiple of theirs explains many functions in the passes of one.
    Networks of one class, (rows, 1), count as functions.
    """

    def applied(x: Tensor) -> Tensor:
        rows = x.unflatten(0, (-1, len(functions)))
        values = [f(rows[:, i]).view(len(rows)) for i, f in enumerate(functions)]
        return torch.stack(values, 1).flatten()

    return applied


def switches(net: nn.Sequential) -> Callable[[Tensor], Tensor]:
    """points -> (rows, switches): where one of them changes sign, a unit of the network may kink.

    The inputs of ReLUs, and the differences in each pair that an `nn.MaxPool1d(2)` compares.
    """

    def at(x: Tensor) -> Tensor:
        found = []
        for stage in net:
            if isinstance(stage, nn.ReLU):
                found.append(x)
            if isinstance(stage, nn.MaxPool1d):
                found.append(x[:, ::2] - x[:, 1::2])
            x = stage(x)
        return torch.cat(found, 1)

    return at


def kink_distances(net: nn.Sequential, points: Tensor) -> Float[Tensor, " rows"]:
    """How far each point is from the nearest kink: min over switches z of |z| / |dz/dx|.

    Exact where the switches are linear up to there (ReLU and max networks), else of first order.
    A switch that does not change at a point has no kink near it. One forward pass with tangents for
    each feature.
    """
    moves = torch.eye(points.shape[1]).to(points)[:, None].expand(-1, *points.shape)
    with torch.no_grad():
        slopes = [torch.func.jvp(switches(net), (points,), (move,)) for move in moves]
    z, steepness = slopes[0][0].abs(), torch.stack([slope for _, slope in slopes]).norm(dim=0)
    return torch.where(steepness > 0, z / steepness, torch.inf).amin(1)


def growing_mlp(
    activation: Callable[[], nn.Module],
    generator: torch.Generator,
    sizes: tuple[int, ...],
    growing_in: Sequence[int],
) -> nn.Sequential:
    """A `random_mlp` that does not decrease in the features listed, for a monotone activation.

    Their weights and those of all later layers are >= 0; the other features' are of any sign.
    """
    net = random_mlp(activation, generator, sizes)
    with torch.no_grad():
        for i, layer in enumerate(m for m in net if isinstance(m, nn.Linear)):
            features = slice(None) if i else list(growing_in)
            layer.weight[:, features] = layer.weight[:, features].abs()
    return net


def random_maxout(generator: torch.Generator, sizes: tuple[int, ...]) -> nn.Sequential:
    """A `random_mlp` whose hidden units are each the larger of two linear functions."""
    net = nn.Sequential()
    for i, (before, after) in enumerate(zip(sizes, sizes[1:], strict=False), start=1):
        hidden = i < len(sizes) - 1
        net.add_module(f"dense{i}", nn.Linear(before, 2 * after if hidden else after))
        if hidden:
            net.add_module(f"max{i}", nn.MaxPool1d(2))
    return randomised(net, generator)
