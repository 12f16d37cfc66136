"""The papers' definitions, layer by layer and slow: the second opinion of notebooks and tests.

One sample at a time, in numpy float64, without autograd and without the rest of the library. A
network is a list of nodes in order of evaluation: `values[0]` is the flat input, `values[k + 1]`
the output of node k. Torch only reads weights: an affine map is what it does to the unit basis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit, ndtr
from torch import nn

from attribook.papers.architectures import Residual, written_out

Vector = np.ndarray
DOUBLE = torch.zeros((), dtype=torch.float64)
Point = np.ndarray | torch.Tensor | Sequence[float]  # one sample, in any shape


class Node:
    """y = forward(*inputs), and what each parent receives of its relevance under each rule."""

    parents: tuple[int, ...]

    def lrp(self, relevance: Vector, inputs: list[Vector], y: Vector, eps: float) -> list[Vector]:
        """The same relevance for each parent, as Eq. 15 has it at a nonlinearity."""
        return [relevance] * len(inputs)

    def deeplift(self, relevance: Vector, inputs: list, baselines: list, change: Vector) -> list:
        """The same relevance for each parent, as Eq. 18 has it at a nonlinearity."""
        return [relevance] * len(inputs)


@dataclass(frozen=True)
class Affine(Node):
    """y = bias + sum of matrix @ parent: dense, convolution, average pool, batch-norm, add."""

    parents: tuple[int, ...]
    matrices: tuple[np.ndarray, ...]  # one (out, in) for each parent
    bias: Vector
    stabilised: bool = True  # whether eps appears in its LRP denominator

    def forward(self, *inputs: Vector) -> Vector:
        return sum(matrix @ x for matrix, x in zip(self.matrices, inputs, strict=True)) + self.bias

    def lrp(self, relevance, inputs, y, eps):
        """z_ij / (z_j + eps sign(z_j)) r_j, summed over j. [gradient, Eq. 15]"""
        weight = divide(relevance, y + eps * sign(y) if self.stabilised else y)
        return [(m * x).T @ weight for m, x in zip(self.matrices, inputs, strict=True)]

    def deeplift(self, relevance, inputs, baselines, change):
        """dz_ij / (sum_i' dz_i'j) r_j, summed over j. [gradient, Eq. 18]"""
        dz = [m * (x - b) for m, x, b in zip(self.matrices, inputs, baselines, strict=True)]
        weight = divide(relevance, sum(part.sum(1) for part in dz))
        return [part.T @ weight for part in dz]


@dataclass(frozen=True)
class Elementwise(Node):
    """y = f(z), unit by unit."""

    parents: tuple[int]
    f: Callable[[Vector], Vector]
    derivative: Callable[[Vector], Vector]

    def forward(self, z: Vector) -> Vector:
        return self.f(z)


@dataclass(frozen=True)
class MaxPool(Node):
    """y_j = max of the inputs in window j; the first of equals wins."""

    parents: tuple[int]
    windows: np.ndarray  # (out, in) bool, True where the input lies in the window
    cross_max: bool = True

    def forward(self, x: Vector) -> Vector:
        return np.array([x[window].max() for window in self.windows])

    def winners(self, x: Vector) -> Vector:
        """The index of the first largest input of every window."""
        return np.array([np.flatnonzero(window)[x[window].argmax()] for window in self.windows])

    def lrp(self, relevance, inputs, y, eps):
        """All to the winner."""
        return [send(relevance, self.winners(inputs[0]), inputs[0].size)]

    def deeplift(self, relevance, inputs, baselines, change):
        """With c = max(y, yb): (c - yb) / (y - yb) to the winner of x, the rest to that of xb.

        Without `cross_max` the multiplier r / (y - yb) goes to the winner of x, as in Eq. 16.
        """
        (x,), (b,) = inputs, baselines
        multiplier, here, there = divide(relevance, change), self.winners(x), self.winners(b)
        if not self.cross_max:
            return [send(multiplier * (x - b)[here], here, x.size)]
        top = np.maximum(x[here], b[there])
        rise = send(multiplier * (top - b[there]), here, x.size)
        return [rise + send(multiplier * (x[here] - top), there, x.size)]


Graph = list[Node]


def forward(graph: Graph, x: Point) -> list[Vector]:
    """The input and the output of every node."""
    values = [np.asarray(x, dtype=np.float64).ravel()]
    for node in graph:
        values.append(node.forward(*(values[parent] for parent in node.parents)))
    return values


def lrp_layerwise(graph: Graph, x: Point, target: int, eps: float = 0.0) -> Vector:
    """epsilon-LRP, unit by unit, as the flat input.   [gradient, Eq. 14-15]

    r_i = sum_j z_ij / (z_j + eps sign(z_j)) r_j, z_j with its bias, sign(0) = +1; a unit whose
    denominator is exactly 0 hands nothing on.
    """
    values = forward(graph, x)

    def share(k: int, relevance: Vector) -> list[Vector]:
        inputs = [values[parent] for parent in graph[k].parents]
        return graph[k].lrp(relevance, inputs, values[k + 1], eps)

    return propagate(graph, values, target, values[-1][target], share)


def deeplift_layerwise(graph: Graph, x: Point, xb: Point, target: int) -> Vector:
    """DeepLIFT (Rescale), unit by unit, as the flat input.   [gradient, Eq. 17-18]

    r_i = sum_j dz_ij / (sum_i' dz_i'j) r_j; a unit whose denominator is exactly 0 hands nothing on.
    """
    values, reference = forward(graph, x), forward(graph, xb)

    def share(k: int, relevance: Vector) -> list[Vector]:
        inputs, baselines = ([v[p] for p in graph[k].parents] for v in (values, reference))
        return graph[k].deeplift(relevance, inputs, baselines, values[k + 1] - reference[k + 1])

    return propagate(graph, values, target, values[-1][target] - reference[-1][target], share)


def path_sum(weights: Sequence[np.ndarray], gs: Sequence[Vector]) -> np.ndarray:
    """(outputs, inputs): the modified derivative, by enumerating every path.   [gradient, Eq. 16]

    weights[l] is (units of layer l + 1, units of layer l); gs[l] holds g at the units of layer
    l + 1, ones where there is no nonlinearity. The end unit's g is on the path, the start unit's
    is not.
    """
    sizes = [weights[0].shape[1], *(matrix.shape[0] for matrix in weights)]
    total = np.zeros((sizes[-1], sizes[0]))
    for path in itertools.product(*(range(size) for size in sizes)):
        steps = zip(weights, gs, itertools.pairwise(path), strict=True)
        total[path[-1], path[0]] += math.prod(matrix[j, i] * g[j] for matrix, g, (i, j) in steps)
    return total


def slopes_along(
    graph: Graph, x: Point, xb: Point, g: Callable[[Elementwise, Vector, Vector], Vector]
) -> tuple[list[np.ndarray], list[Vector]]:
    """The weights and slopes that `path_sum` takes, of a network whose layers follow each other.

    g(node, z, zb) is the slope of a nonlinearity; a max-pool is the 0/1 matrix of x's winners.
    """
    values, reference = forward(graph, x), forward(graph, xb)
    weights, gs = [], []
    for k, node in enumerate(graph):
        if isinstance(node, Elementwise):
            gs[-1] = gs[-1] * g(node, values[k], reference[k])
            continue
        pool = isinstance(node, MaxPool)
        weights.append(
            np.eye(values[k].size)[node.winners(values[k])] if pool else node.matrices[0]
        )
        gs.append(np.ones(len(weights[-1])))
    return weights, gs


def propagate(graph: Graph, values: list[Vector], target: int, start: float, share) -> Vector:
    """What arrives at the input when node k hands on share(k, received), one for each parent."""
    received = [np.zeros_like(value) for value in values]
    received[-1][target] = start
    for k in reversed(range(len(graph))):
        for parent, amount in zip(graph[k].parents, share(k, received[k + 1]), strict=True):
            received[parent] = received[parent] + amount
    return received[0]


def divide(numerator: Vector, denominator: Vector) -> Vector:
    """numerator / denominator, and 0 where the denominator is exactly 0."""
    zero = denominator == 0
    return np.where(zero, 0.0, numerator / np.where(zero, 1.0, denominator))


def sign(z: Vector | float) -> Vector:
    """+1 for z >= 0, else -1."""
    return np.where(z >= 0, 1.0, -1.0)


def send(amounts: Vector, positions: Vector, size: int) -> Vector:
    """An array of this size holding, at each position, the sum of what was sent there."""
    out = np.zeros(size)
    np.add.at(out, positions, amounts)
    return out


# From torch modules to a graph.


def as_graph(model: nn.Module, shape: tuple[int, ...]) -> Graph:
    """The nodes of a float64 network of named stages, for one shape of input.

    A module that is none of the kinds below must be affine, or say itself what it is, by a method
    `append_to(graph, parent, shape)` that appends its nodes and returns where its output will be.
    """
    graph: Graph = []
    append(graph, model, 0, tuple(shape))
    return graph


@torch.no_grad()
def append(graph: Graph, module: nn.Module, parent: int, shape: tuple[int, ...]) -> int:
    """Where the module's output will be among the values; its nodes are appended."""
    if hasattr(module, "append_to"):
        return module.append_to(graph, parent, shape)
    if isinstance(module, nn.Sequential):
        for stage in module:
            parent = append(graph, stage, parent, shape)
            shape = stage(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:]
        return parent
    if isinstance(module, SHAPE_ONLY):
        return parent
    if isinstance(module, Residual):
        ends = (parent, append(graph, module.body, parent, shape))
        identity = np.eye(math.prod(shape))
        graph.append(Affine(ends, (identity, identity), np.zeros(len(identity))))
    elif type(module) in ELEMENTWISE:
        graph.append(Elementwise((parent,), *ELEMENTWISE[type(module)](module)))
    elif isinstance(module, POOLS):  # a unit at 1 among zeros wins every window it lies in
        graph.append(MaxPool((parent,), written_out(module, shape, DOUBLE)[0].numpy() > 0))
    else:
        matrix, bias = (part.numpy() for part in written_out(module, shape, DOUBLE))
        check_affine(module, shape, matrix, bias)
        graph.append(Affine((parent,), (matrix,), bias))
    return len(graph)


def check_affine(module: nn.Module, shape: tuple[int, ...], matrix, bias) -> None:
    """Raises if the layer is not the affine map that was read off it."""
    probe = np.random.default_rng(0).normal(size=math.prod(shape))
    output = module(torch.from_numpy(probe).reshape(1, *shape)).flatten().numpy()
    if not np.allclose(matrix @ probe + bias, output, rtol=1e-10, atol=1e-10):
        raise TypeError(f"no reference for {module}: it is neither affine nor a module known here")


def softplus(beta: float, threshold: float) -> tuple[Callable, Callable]:
    """Softplus and its derivative; torch makes it exactly linear above the threshold."""
    return (
        lambda z: np.where(beta * z > threshold, z, np.logaddexp(0, beta * z) / beta),
        lambda z: np.where(beta * z > threshold, 1.0, expit(beta * z)),
    )


def clamp(low: float, high: float) -> tuple[Callable, Callable]:
    """z cut off at both ends, and its derivative."""
    return lambda z: np.minimum(np.maximum(z, low), high), lambda z: 1.0 * ((z > low) & (z < high))


def leaky_relu(slope: float) -> tuple[Callable, Callable]:
    """z, times the slope below zero, and its derivative."""
    return lambda z: np.where(z > 0, z, slope * z), lambda z: np.where(z > 0, 1.0, slope)


ELEMENTWISE = {  # torch module -> (f, f')
    nn.ReLU: lambda _: leaky_relu(0.0),
    nn.LeakyReLU: lambda module: leaky_relu(module.negative_slope),
    nn.ReLU6: lambda _: clamp(0.0, 6.0),
    nn.Hardtanh: lambda module: clamp(module.min_val, module.max_val),
    nn.Tanh: lambda _: (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    nn.Sigmoid: lambda _: (expit, lambda z: expit(z) * expit(-z)),
    nn.Softplus: lambda module: softplus(module.beta, module.threshold),
    nn.ELU: lambda module: (
        lambda z: np.where(z > 0, z, module.alpha * np.expm1(np.minimum(z, 0))),
        lambda z: np.where(z > 0, 1.0, module.alpha * np.exp(np.minimum(z, 0))),
    ),
    nn.SiLU: lambda _: (
        lambda z: z * expit(z),
        lambda z: expit(z) + z * expit(z) * expit(-z),
    ),
    nn.GELU: lambda _: (
        lambda z: z * ndtr(z),
        lambda z: ndtr(z) + z * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi),
    ),
}
SHAPE_ONLY = (nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout)
POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool2d)
