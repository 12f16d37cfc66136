"""Definitions, transcribed slowly: the second opinion that the library is tested against.

Everything works on one sample in numpy float64, without autograd and without the library. A network
is a list of nodes in order of evaluation; `values[0]` is the flat input and `values[k + 1]` the
output of node k. Torch is used once per layer, to read an affine map off by pushing the unit basis
through it.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.special import erf, expit
from torch import nn

# --- nodes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Affine:
    """y = bias + sum of matrix @ parent: dense, convolution, average pool, batch-norm, add."""

    parents: tuple[int, ...]
    matrices: tuple[np.ndarray, ...]  # one (out, in) for each parent
    bias: np.ndarray
    stabilised: bool = True  # whether epsilon appears in its LRP denominator

    def forward(self, *inputs):
        return sum(matrix @ x for matrix, x in zip(self.matrices, inputs, strict=True)) + self.bias


@dataclass(frozen=True)
class Elementwise:
    """y = f(z), unit by unit."""

    parents: tuple[int]
    f: Callable
    derivative: Callable

    def forward(self, z):
        return self.f(z)


@dataclass(frozen=True)
class SideBySide:
    """y = the parents one after the other."""

    parents: tuple[int, ...]

    def forward(self, *inputs):
        return np.concatenate(inputs)


@dataclass(frozen=True)
class MaxPool:
    """y_j = max of the inputs in window j."""

    parents: tuple[int]
    windows: np.ndarray  # (out, in) bool, True where the input lies in the window

    def forward(self, x):
        return np.array([x[window].max() for window in self.windows])

    def winners(self, x):
        """The index of the first largest input of every window."""
        return np.array([np.flatnonzero(window)[x[window].argmax()] for window in self.windows])


@dataclass(frozen=True)
class Product:
    """y = u * v, unit by unit."""

    parents: tuple[int, int]

    def forward(self, u, v):
        return u * v


Node = Affine | Elementwise | SideBySide | MaxPool | Product
Graph = list[Node]


def forward(graph: Graph, x) -> list[np.ndarray]:
    """The input and the output of every node."""
    values = [np.asarray(x, dtype=np.float64).ravel()]
    for node in graph:
        values.append(node.forward(*(values[parent] for parent in node.parents)))
    return values


# --- elementwise functions and their derivatives -------------------------------------------------


def relu(z):
    return np.where(z > 0, z, 0.0)


def relu_derivative(z):
    return np.where(z > 0, 1.0, 0.0)


def tanh_derivative(z):
    return 1 - np.tanh(z) ** 2


def sigmoid_derivative(z):
    return expit(z) * (1 - expit(z))


def softplus(beta, threshold):  # torch makes it exactly linear above the threshold
    return (
        lambda z: np.where(beta * z > threshold, z, np.logaddexp(0, beta * z) / beta),
        lambda z: np.where(beta * z > threshold, 1.0, expit(beta * z)),
    )


def clamp(low, high):
    return lambda z: np.minimum(np.maximum(z, low), high), lambda z: np.where(
        (z > low) & (z < high), 1.0, 0.0
    )


def leaky_relu(slope):
    return lambda z: np.where(z > 0, z, slope * z), lambda z: np.where(z > 0, 1.0, slope)


def elu(alpha):
    return (
        lambda z: np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0))),
        lambda z: np.where(z > 0, 1.0, alpha * np.exp(np.minimum(z, 0))),
    )


def silu(z):
    return z * expit(z)


def silu_derivative(z):
    return expit(z) + z * sigmoid_derivative(z)


def normal_cdf(z):
    return 0.5 * (1 + erf(z / math.sqrt(2)))


def gelu(z):
    return z * normal_cdf(z)


def gelu_derivative(z):
    return normal_cdf(z) + z * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


ELEMENTWISE = {  # torch module -> (f, f')
    nn.ReLU: lambda module: (relu, relu_derivative),
    nn.Tanh: lambda module: (np.tanh, tanh_derivative),
    nn.Sigmoid: lambda module: (expit, sigmoid_derivative),
    nn.Softplus: lambda module: softplus(module.beta, module.threshold),
    nn.ReLU6: lambda module: clamp(0.0, 6.0),
    nn.Hardtanh: lambda module: clamp(module.min_val, module.max_val),
    nn.LeakyReLU: lambda module: leaky_relu(module.negative_slope),
    nn.ELU: lambda module: elu(module.alpha),
    nn.SiLU: lambda module: (silu, silu_derivative),
    nn.GELU: lambda module: (gelu, gelu_derivative),
}


# --- from torch modules to a graph ---------------------------------------------------------------


class Apply(nn.Module):
    """A torch function as a module, beside the same function and its derivative in numpy."""

    def __init__(self, function, f, derivative):
        super().__init__()
        self.function, self.f, self.derivative = function, f, derivative

    def forward(self, x):
        return self.function(x)


class Residual(nn.Module):
    """shortcut(x) + body(x)."""

    def __init__(self, body, shortcut=None):
        super().__init__()
        self.body, self.shortcut = body, shortcut or nn.Identity()

    def forward(self, x):
        return self.shortcut(x) + self.body(x)


class Concat(nn.Module):
    """The outputs of all branches side by side, along dimension 1."""

    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class Gate(nn.Module):
    """left(x) * right(x)."""

    def __init__(self, left, right):
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x):
        return self.left(x) * self.right(x)


SHAPE_ONLY = (nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout)
POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool2d)


def as_graph(model: nn.Module, shape: tuple[int, ...]) -> Graph:
    """The nodes of a network of nested nn.Sequential and the modules above, for one shape."""
    graph: Graph = []
    append_nodes(graph, model, 0, tuple(shape))
    return graph


@torch.no_grad()
def append_nodes(graph: Graph, module: nn.Module, parent: int, shape: tuple) -> tuple[int, tuple]:
    """Where the module's output will be among the values, and its shape; appends its nodes."""

    def append(node):
        graph.append(node)
        return len(graph)

    out_shape = tuple(module(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:])
    if isinstance(module, nn.Sequential):
        for stage in module:
            parent, shape = append_nodes(graph, stage, parent, shape)
        return parent, shape
    if isinstance(module, SHAPE_ONLY):
        return parent, out_shape
    if type(module) in ELEMENTWISE:
        return append(Elementwise((parent,), *ELEMENTWISE[type(module)](module))), out_shape
    if isinstance(module, Apply):
        return append(Elementwise((parent,), module.f, module.derivative)), out_shape
    if isinstance(module, POOLS):  # a unit at 1 among zeros wins every window it lies in
        windows, _ = affine_map(module, shape)
        return append(MaxPool((parent,), windows > 0)), out_shape
    if isinstance(module, Residual):
        parts = (module.shortcut, module.body)
        ends = tuple(append_nodes(graph, part, parent, shape)[0] for part in parts)
        identity = np.eye(math.prod(out_shape))
        return append(Affine(ends, (identity, identity), np.zeros(len(identity)))), out_shape
    if isinstance(module, Concat):
        return concat_nodes(graph, module, parent, shape), out_shape
    if isinstance(module, Gate):
        parts = (module.left, module.right)
        ends = tuple(append_nodes(graph, part, parent, shape)[0] for part in parts)
        return append(Product(ends)), out_shape
    matrix, bias = affine_map(module, shape)
    check_affine(module, shape, matrix, bias)
    return append(Affine((parent,), (matrix,), bias)), out_shape


def concat_nodes(graph, module, parent, shape):
    """Branches side by side; channels come first in the flat order, so nothing is interleaved."""
    ends = tuple(append_nodes(graph, branch, parent, shape)[0] for branch in module.branches)
    graph.append(SideBySide(ends))
    return len(graph)


def affine_map(module, shape):
    """(out, in) matrix and (out,) bias of an affine torch layer."""
    size = math.prod(shape)
    bias = module(torch.zeros(1, *shape, dtype=torch.float64)).flatten().numpy()
    columns = module(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).flatten(1).numpy()
    return (columns - bias).T, bias


def check_affine(module, shape, matrix, bias):
    """Raises if the layer is not the affine map that was read off it."""
    probe = np.random.default_rng(0).normal(size=math.prod(shape))
    output = module(torch.from_numpy(probe).reshape(1, *shape)).flatten().numpy()
    if not np.allclose(matrix @ probe + bias, output, rtol=1e-10, atol=1e-10):
        raise TypeError(f"no reference for {module}: it is neither affine nor a module known here")


def fuse_affine(graph: Graph) -> Graph:
    """The same network, each affine map that feeds only one other affine map multiplied into it."""
    for k, first in enumerate(graph):
        readers = [m for m, node in enumerate(graph) for parent in node.parents if parent == k + 1]
        if not isinstance(first, Affine) or len(readers) != 1:
            continue
        second = graph[readers[0]]
        if isinstance(second, Affine) and len(second.parents) == 1:
            matrix = second.matrices[0]
            matrices = tuple(matrix @ m for m in first.matrices)
            fused = Affine(first.parents, matrices, matrix @ first.bias + second.bias)
            rest = [*graph[: readers[0]], fused, *graph[readers[0] + 1 :]]
            return fuse_affine(without(rest, k))
    return graph


def without(graph: Graph, k: int) -> Graph:
    """The graph without node k, which nobody reads."""
    rest = graph[:k] + graph[k + 1 :]
    return [replace(node, parents=tuple(p - (p > k) for p in node.parents)) for node in rest]


def stabilised_only_before_nonlinearities(graph: Graph) -> Graph:
    """The same network, epsilon only in affine maps that go straight into a nonlinearity."""
    bare = [replace(n, stabilised=False) if isinstance(n, Affine) else n for n in graph]
    for node in graph:
        if isinstance(node, Elementwise) and node.parents[0] > 0:
            bare[node.parents[0] - 1] = graph[node.parents[0] - 1]
    return bare


# --- layer-by-layer rules ------------------------------------------------------------------------


def divide(numerator, denominator):
    """numerator / denominator, and 0 where the denominator is exactly 0."""
    zero = denominator == 0
    return np.where(zero, 0.0, numerator / np.where(zero, 1.0, denominator))


def sign(z):
    """+1 for z >= 0, else -1."""
    return np.where(z >= 0, 1.0, -1.0)


def propagate(graph: Graph, values, target, start, share):
    """What arrives at the input when node k hands on share(node, k, received), one per parent."""
    received = [np.zeros_like(value) for value in values]
    received[-1][target] = start
    for k in reversed(range(len(graph))):
        if isinstance(graph[k], SideBySide):  # every rule hands each part back where it came from
            cuts = np.cumsum([values[parent].size for parent in graph[k].parents])[:-1]
            shares = np.split(received[k + 1], cuts)
        else:
            shares = share(graph[k], k, received[k + 1])
        for parent, amount in zip(graph[k].parents, shares, strict=True):
            received[parent] = received[parent] + amount
    return received[0]


def lrp_layerwise(graph: Graph, x, target: int, eps: float = 0.0) -> np.ndarray:
    """epsilon-LRP, unit by unit.   [gradient, Eq. 14-15]

    r_i = sum_j z_ij / (z_j + eps sign(z_j)) r_j, z_j with its bias, sign(0) = +1; a nonlinearity
    hands its relevance on unchanged, a max-pool to the winner, a product to both factors.
    """
    values = forward(graph, x)

    def share(node, k, relevance):
        inputs = [values[parent] for parent in node.parents]
        match node:
            case Affine():
                z = values[k + 1]
                denominator = z + eps * sign(z) if node.stabilised else z
                weight = divide(relevance, denominator)
                return [
                    (matrix * a).T @ weight for matrix, a in zip(node.matrices, inputs, strict=True)
                ]
            case MaxPool():
                return [send(relevance, node.winners(inputs[0]), inputs[0].size)]
            case _:
                return [relevance] * len(inputs)

    return propagate(graph, values, target, values[-1][target], share)


def deeplift_layerwise(graph: Graph, x, xb, target, cross_max=True, averaged=True) -> np.ndarray:
    """DeepLIFT (Rescale), unit by unit.   [gradient, Eq. 17-18]

    r_i = sum_j dz_ij / (sum_i' dz_i'j) r_j; a unit whose denominator is exactly 0 hands nothing on.
    Max-pool with c = max(y, yb): `cross_max` gives the winner of x the part (c - yb) / (y - yb) and
    the winner of xb the part (y - c) / (y - yb); without it the multiplier goes to the winner of x.
    Product: the other factor's value at x, or with `averaged` the mean of its values at x and xb.
    """
    values, reference = forward(graph, x), forward(graph, xb)

    def share(node, k, relevance):
        inputs = [values[parent] for parent in node.parents]
        baselines = [reference[parent] for parent in node.parents]
        deltas = [a - b for a, b in zip(inputs, baselines, strict=True)]
        match node:
            case Affine():
                dz = [matrix * delta for matrix, delta in zip(node.matrices, deltas, strict=True)]
                weight = divide(relevance, sum(part.sum(1) for part in dz))
                return [part.T @ weight for part in dz]
            case Elementwise():
                return [relevance]
            case MaxPool():
                y, yb = values[k + 1], reference[k + 1]
                multiplier = divide(relevance, y - yb)
                here, there = node.winners(inputs[0]), node.winners(baselines[0])
                if not cross_max:
                    return [send(multiplier * deltas[0][here], here, inputs[0].size)]
                top = np.maximum(y, yb)
                rise = send(multiplier * (top - yb), here, inputs[0].size)
                return [rise + send(multiplier * (y - top), there, inputs[0].size)]
            case Product():
                multiplier = divide(relevance, values[k + 1] - reference[k + 1])
                (u, v), (u0, v0) = inputs, baselines
                if not averaged:
                    return [multiplier * v * deltas[0], multiplier * u * deltas[1]]
                return [
                    multiplier * (v + v0) / 2 * deltas[0],
                    multiplier * (u + u0) / 2 * deltas[1],
                ]

    return propagate(graph, values, target, values[-1][target] - reference[-1][target], share)


def alpha_beta_layerwise(graph: Graph, x, target: int, alpha: float, beta: float) -> np.ndarray:
    """alpha-beta-LRP, unit by unit; biases take no relevance.   [gradient, Sec. 4.3]

    r_i = sum_j (alpha z_ij+ / sum_i' z_i'j+ - beta z_ij- / sum_i' z_i'j-) r_j, 0 where a sum is 0.
    """
    values = forward(graph, x)

    def share(node, k, relevance):
        inputs = [values[parent] for parent in node.parents]
        match node:
            case Affine():
                z = [matrix * a for matrix, a in zip(node.matrices, inputs, strict=True)]
                positive = [np.maximum(part, 0) for part in z]
                negative = [np.minimum(part, 0) for part in z]
                above = alpha * divide(relevance, sum(part.sum(1) for part in positive))
                below = beta * divide(relevance, sum(part.sum(1) for part in negative))
                return [p.T @ above - n.T @ below for p, n in zip(positive, negative, strict=True)]
            case MaxPool():
                return [send(relevance, node.winners(inputs[0]), inputs[0].size)]
            case _:
                return [relevance] * len(inputs)

    return propagate(graph, values, target, values[-1][target], share)


def send(amounts, positions, size):
    """An array of this size holding, at each position, the sum of what was sent there."""
    out = np.zeros(size)
    np.add.at(out, positions, amounts)
    return out


def gradient_layerwise(graph: Graph, x, target: int, guided: bool = False) -> np.ndarray:
    """The derivative of the target; `guided` stops negative derivatives at every nonlinearity."""
    values = forward(graph, x)

    def share(node, k, derivative):
        inputs = [values[parent] for parent in node.parents]
        match node:
            case Affine():
                return [matrix.T @ derivative for matrix in node.matrices]
            case Elementwise():
                passed = np.maximum(derivative, 0) if guided else derivative
                return [passed * node.derivative(inputs[0])]
            case MaxPool():
                return [send(derivative, node.winners(inputs[0]), inputs[0].size)]
            case Product():
                return [derivative * inputs[1], derivative * inputs[0]]

    return propagate(graph, values, target, 1.0, share)


def deep_shap(graph: Graph, x, baselines, target: int) -> np.ndarray:
    """The mean of DeepLIFT over the baselines."""
    return np.mean([deeplift_layerwise(graph, x, xb, target) for xb in baselines], axis=0)


# --- path enumeration ----------------------------------------------------------------------------


def path_sum(weights, gs) -> np.ndarray:
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


# --- RevealCancel, for dense networks -------------------------------------------------------------


def dense_layers(graph: Graph) -> list:
    """(weight, bias, f, derivative) of each layer of a dense network; the last one has no f."""
    layers = []
    for k, node in enumerate(graph):
        if isinstance(node, Affine):
            after = graph[k + 1] if k + 1 < len(graph) else None
            functions = (after.f, after.derivative) if after else (None, None)
            layers.append((node.matrices[0], node.bias, *functions))
    return layers


def by_net_difference(weight, up, down):
    """Sec. 3.5.1: both parts of x_i go where w_i dx_i goes, half each way where dx_i = 0."""
    to_plus = (1 + np.sign(weight * (up + down))) / 2
    return to_plus, to_plus


def part_by_part(weight, up, down):
    """Each part of x_i goes where it pushes by itself."""
    return 1.0 * (weight > 0), 1.0 * (weight < 0)


def reveal_cancel_dense(graph: Graph, x, xb, target: int, sort=by_net_difference) -> np.ndarray:
    """DeepLIFT with the RevealCancel rule.   [Shrikumar et al. 2017, Sec. 3.5.1 and 3.5.3]

    Every unit's difference from the reference has a positive and a negative part, up and down.
    `sort` says which share of w_i up_i and of w_i down_i a linear unit counts in its positive part;
    a nonlinear unit turns the parts of z into parts of y by averaging over the two orders in which
    they can be added. A part of z that is 0 gets the limit of that average as its slope.
    """
    x, xb = (np.asarray(point, dtype=np.float64) for point in (x, xb))
    up, down, reference, steps = np.maximum(x - xb, 0), np.minimum(x - xb, 0), xb, []
    first = up, down
    for weight, bias, f, derivative in dense_layers(graph):
        up_to_plus, down_to_plus = sort(weight, up, down)
        to_plus = weight * up_to_plus, weight * down_to_plus
        to_minus = weight - to_plus[0], weight - to_plus[1]
        z0 = weight @ reference + bias
        plus = to_plus[0] @ up + to_plus[1] @ down
        minus = to_minus[0] @ up + to_minus[1] @ down
        slopes = np.ones_like(z0), np.ones_like(z0)  # a part of the score counts as itself
        if f:
            slopes = (
                average_slope(f, derivative, z0, plus, minus),
                average_slope(f, derivative, z0, minus, plus),
            )
        up, down, reference = slopes[0] * plus, slopes[1] * minus, f(z0) if f else z0
        steps.append((to_plus, to_minus, slopes))
    of_up, of_down = np.zeros_like(reference), np.zeros_like(reference)
    of_up[target] = of_down[target] = 1.0
    for to_plus, to_minus, slopes in reversed(steps):
        of_plus, of_minus = slopes[0] * of_up, slopes[1] * of_down
        of_up = to_plus[0].T @ of_plus + to_minus[0].T @ of_minus
        of_down = to_plus[1].T @ of_plus + to_minus[1].T @ of_minus
    return of_up * first[0] + of_down * first[1]


def average_slope(f, derivative, z0, part, other):
    """Mean slope of f along `part`, added first or added after `other`."""
    first, second = f(z0 + part) - f(z0), f(z0 + other + part) - f(z0 + other)
    limit = (derivative(z0) + derivative(z0 + other)) / 2
    return np.where(part == 0, limit, divide((first + second) / 2, part))


# --- games ---------------------------------------------------------------------------------------


def shapley_by_permutations(score, x, xb) -> np.ndarray:
    """Shapley values: the mean, over all orders of arrival, of what each feature adds."""
    x, xb = np.asarray(x, dtype=np.float64), np.asarray(xb, dtype=np.float64)
    total = np.zeros_like(x)
    orders = list(itertools.permutations(range(x.size)))
    for order in orders:
        point = xb.copy()
        for i in order:
            before = score(point)
            point[i] = x[i]
            total[i] += score(point) - before
    return total / len(orders)


def sensitivity_n_brute(score, x, xb, attributions, n: int) -> float:
    """The largest |sum of n attributions - drop of the score without them|.   [gradient, Eq. 8]"""
    x, xb = np.asarray(x, dtype=np.float64), np.asarray(xb, dtype=np.float64)
    violations = []
    for removed in map(list, itertools.combinations(range(x.size), n)):
        point = x.copy()
        point[removed] = xb[removed]
        violations.append(abs(attributions[removed].sum() - (score(x) - score(point))))
    return max(violations)
