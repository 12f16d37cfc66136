"""Definitions, transcribed slowly: the second opinion that the library is tested against.

Everything works on one sample in numpy float64, without autograd and without the library. LRP,
DeepLIFT and the sum over paths live in `papers.definitions`, which notebooks use as well; here are the
nodes, rules and games that only the tests need.
"""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from attribook.papers import definitions
from attribook.papers.definitions import (
    ELEMENTWISE,
    Affine,
    Elementwise,
    Graph,
    MaxPool,
    Node,
    append,
    as_graph,
    clamp,
    divide,
    forward,
    lrp_layerwise,
    path_sum,
    propagate,
    send,
    sign,
)

__all__ = ["ELEMENTWISE", "as_graph", "clamp", "lrp_layerwise", "path_sum", "sign"]

# --- nodes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SideBySide(Node):
    """y = the parents one after the other; each part's relevance goes back where it came from."""

    parents: tuple[int, ...]

    def forward(self, *inputs):
        return np.concatenate(inputs)

    def apart(self, together, inputs):
        return np.split(together, np.cumsum([part.size for part in inputs])[:-1])

    def lrp(self, relevance, inputs, y, eps):
        return self.apart(relevance, inputs)

    def deeplift(self, relevance, inputs, baselines, change):
        return self.apart(relevance, inputs)


@dataclass(frozen=True)
class Product(Node):
    """y = u * v, unit by unit."""

    parents: tuple[int, int]
    averaged: bool = True

    def forward(self, u, v):
        return u * v

    def deeplift(self, relevance, inputs, baselines, change):
        """A factor's multiplier is the other one at x, or `averaged` its mean at x and xb."""
        multiplier = divide(relevance, change)
        (u, v), (u0, v0) = inputs, baselines if self.averaged else inputs
        du, dv = u - baselines[0], v - baselines[1]
        return [multiplier * (v + v0) / 2 * du, multiplier * (u + u0) / 2 * dv]


# --- torch modules that say which nodes they are -------------------------------------------------


class Apply(nn.Module):
    """A torch function as a module, beside the same function and its derivative in numpy."""

    def __init__(self, function, f, derivative):
        super().__init__()
        self.function, self.f, self.derivative = function, f, derivative

    def forward(self, x):
        return self.function(x)

    def append_to(self, graph, parent, shape):
        graph.append(Elementwise((parent,), self.f, self.derivative))
        return len(graph)


class Residual(nn.Module):
    """shortcut(x) + body(x)."""

    def __init__(self, body, shortcut=None):
        super().__init__()
        self.body, self.shortcut = body, shortcut or nn.Identity()

    def forward(self, x):
        return self.shortcut(x) + self.body(x)

    def append_to(self, graph, parent, shape):
        ends = tuple(append(graph, part, parent, shape) for part in (self.shortcut, self.body))
        identity = np.eye(self(torch.zeros(1, *shape, dtype=torch.float64)).numel())
        graph.append(Affine(ends, (identity, identity), np.zeros(len(identity))))
        return len(graph)


class Concat(nn.Module):
    """The outputs of all branches side by side, along dimension 1."""

    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], dim=1)

    def append_to(self, graph, parent, shape):
        # channels come first in the flat order, so nothing is interleaved
        ends = tuple(append(graph, branch, parent, shape) for branch in self.branches)
        graph.append(SideBySide(ends))
        return len(graph)


class Gate(nn.Module):
    """left(x) * right(x)."""

    def __init__(self, left, right):
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x):
        return self.left(x) * self.right(x)

    def append_to(self, graph, parent, shape):
        ends = tuple(append(graph, part, parent, shape) for part in (self.left, self.right))
        graph.append(Product(ends))
        return len(graph)


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


def deeplift_layerwise(graph: Graph, x, xb, target, cross_max=True, averaged=True) -> np.ndarray:
    """DeepLIFT (Rescale), with the rules for max-pooling and products chosen.

    `cross_max` shares a max-pool between the two winners, without it all goes to the winner of x;
    `averaged` takes a product's other factor half-way between x and xb, without it at x.
    """
    chosen = [
        replace(node, cross_max=cross_max)
        if isinstance(node, MaxPool)
        else replace(node, averaged=averaged)
        if isinstance(node, Product)
        else node
        for node in graph
    ]
    return definitions.deeplift_layerwise(chosen, x, xb, target)


def alpha_beta_layerwise(graph: Graph, x, target: int, alpha: float, beta: float) -> np.ndarray:
    """alpha-beta-LRP, unit by unit; biases take no relevance.   [gradient, Sec. 4.3]

    r_i = sum_j (alpha z_ij+ / sum_i' z_i'j+ - beta z_ij- / sum_i' z_i'j-) r_j, 0 where a sum is 0.
    A map that only scales each unit (batch-norm) passes relevance on, like a nonlinearity.
    """
    values = forward(graph, x)

    def share(k, relevance):
        inputs = [values[parent] for parent in graph[k].parents]
        match node := graph[k]:
            case Affine(matrices=[scale]) if is_diagonal(scale):
                return [relevance]
            case Affine():
                z = [matrix * a for matrix, a in zip(node.matrices, inputs, strict=True)]
                positive = [np.maximum(part, 0) for part in z]
                negative = [np.minimum(part, 0) for part in z]
                above = alpha * divide(relevance, sum(part.sum(1) for part in positive))
                below = beta * divide(relevance, sum(part.sum(1) for part in negative))
                return [p.T @ above - n.T @ below for p, n in zip(positive, negative, strict=True)]
            case _:
                return node.lrp(relevance, inputs, values[k + 1], 0.0)

    return propagate(graph, values, target, values[-1][target], share)


def is_diagonal(matrix) -> bool:
    return matrix.shape[0] == matrix.shape[1] and not (matrix - np.diag(matrix.diagonal())).any()


def cancels_somewhere(graph: Graph, x, xb) -> bool:
    """Whether some affine unit stands still although its inputs move: 0/0 in Eq. 18."""
    values, reference = forward(graph, x), forward(graph, xb)
    for node in graph:
        if isinstance(node, Affine):
            moves = [values[parent] - reference[parent] for parent in node.parents]
            parts = [matrix * move for matrix, move in zip(node.matrices, moves, strict=True)]
            size = sum(abs(part).sum(1) for part in parts)
            total = abs(sum(part.sum(1) for part in parts))
            if (total[size > 0] <= 1e-12 * size[size > 0]).any():
                return True
    return False


def gradient_layerwise(graph: Graph, x, target: int, guided: bool = False) -> np.ndarray:
    """The derivative of the target; `guided` stops negative derivatives at every nonlinearity."""
    values = forward(graph, x)

    def share(k, derivative):
        inputs = [values[parent] for parent in graph[k].parents]
        match node := graph[k]:
            case Affine():
                return [matrix.T @ derivative for matrix in node.matrices]
            case Elementwise():
                passed = np.maximum(derivative, 0) if guided else derivative
                return [passed * node.derivative(inputs[0])]
            case MaxPool():
                return [send(derivative, node.winners(inputs[0]), inputs[0].size)]
            case SideBySide():
                return node.apart(derivative, inputs)
            case Product():
                return [derivative * inputs[1], derivative * inputs[0]]

    return propagate(graph, values, target, 1.0, share)


def deep_shap(graph: Graph, x, baselines, target: int) -> np.ndarray:
    """The mean of DeepLIFT over the baselines."""
    return np.mean([deeplift_layerwise(graph, x, xb, target) for xb in baselines], axis=0)


# --- RevealCancel, for chains of affine maps and nonlinearities ----------------------------------


def dense_layers(graph: Graph) -> list:
    """(weight, bias, f) of each affine layer; f is None where no nonlinearity follows at once."""
    layers = []
    for k, node in enumerate(graph):
        if isinstance(node, Affine):
            after = graph[k + 1] if k + 1 < len(graph) else None
            f = after.f if isinstance(after, Elementwise) else None
            layers.append((node.matrices[0], node.bias, f))
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
    `sort` says which share of w_i up_i and of w_i down_i a linear unit counts in its positive part
    (a map that only scales or shifts each unit keeps the parts apart); a nonlinear unit turns the
    parts of z into parts of y by averaging over the two orders in which they can be added. A part
    of z that is 0 hands nothing on.
    """
    x, xb = (np.asarray(point, dtype=np.float64).ravel() for point in (x, xb))
    up, down, reference, steps = np.maximum(x - xb, 0), np.minimum(x - xb, 0), xb, []
    first = up, down
    for weight, bias, f in dense_layers(graph):
        rule = part_by_part if is_diagonal(weight) else sort
        up_to_plus, down_to_plus = rule(weight, up, down)
        to_plus = weight * up_to_plus, weight * down_to_plus
        to_minus = weight - to_plus[0], weight - to_plus[1]
        plus, minus = (part[0] @ up + part[1] @ down for part in (to_plus, to_minus))
        up, down, reference = plus, minus, weight @ reference + bias
        slopes = np.ones_like(up), np.ones_like(up)
        if f:
            up, down = added(f, reference, plus, minus), added(f, reference, minus, plus)
            slopes, reference = (divide(up, plus), divide(down, minus)), f(reference)
        steps.append((to_plus, to_minus, slopes))
    of_up, of_down = np.zeros_like(reference), np.zeros_like(reference)
    of_up[target] = of_down[target] = 1.0
    for to_plus, to_minus, slopes in reversed(steps):
        of_plus, of_minus = slopes[0] * of_up, slopes[1] * of_down
        of_up = to_plus[0].T @ of_plus + to_minus[0].T @ of_minus
        of_down = to_plus[1].T @ of_plus + to_minus[1].T @ of_minus
    return of_up * first[0] + of_down * first[1]


def added(f, z0, part, other):
    """What `part` adds to f, on average over being added first and being added after `other`."""
    return (f(z0 + part) - f(z0) + f(z0 + other + part) - f(z0 + other)) / 2


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


# --- paths and hidden neurons ---------------------------------------------------------------------


def difference(function, at: float, h: float = 1e-3):
    """The derivative of a function of one number, by differences of fourth order."""
    ahead, far_ahead = function(at + h), function(at + 2 * h)
    back, far_back = function(at - h), function(at - 2 * h)
    return (8 * (ahead - back) - (far_ahead - far_back)) / (12 * h)


def slopes(score, point) -> np.ndarray:
    """dF/dy_i at a point, one feature after another."""
    units = np.eye(len(point))
    return np.array([difference(lambda h, e=e: score(point + h * e), 0.0) for e in units])


def unit_interval(n: int):
    """The Gauss-Legendre nodes of [0, 1] with their weights, one pair after another."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return zip((nodes + 1) / 2, weights / 2, strict=True)


def segment(start, end):
    """The straight piece s -> start + s (end - start)."""
    start, end = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    return lambda s: start + s * (end - start)


def path_attributions(score, pieces, n: int = 12) -> np.ndarray:
    """sum over pieces and nodes of dF/dy_i dgamma_i/ds, both by differences.   [integrated, Eq. 1]

    `pieces` are smooth functions of s in [0, 1], each beginning where the one before it ends.
    """
    total = 0
    for piece in pieces:
        for s, weight in unit_interval(n):
            total = total + weight * slopes(score, piece(s)) * difference(piece, s)
    return total


def axis_order(score, x, xb, order) -> np.ndarray:
    """What each feature adds when the features move from xb to x one after another."""
    point, added = np.array(xb, dtype=np.float64), np.zeros(len(x))
    for i in order:
        before = score(point)
        point[i] = x[i]
        added[i] = score(point) - before
    return added


def chords(path, n: int = 4000) -> tuple[float, bool]:
    """The length of n chords of a curve t -> point, and whether no feature goes both ways."""
    points = np.array([path(k / n) for k in range(n + 1)])
    steps = np.diff(points, axis=0)
    both_ways = ((steps > 1e-12).any(0) & (steps < -1e-12).any(0)).any()
    return sum(np.sqrt((step**2).sum()) for step in steps), not both_ways


def flow(head, tail, x, xb, n: int = 12) -> np.ndarray:
    """IG_{i,j}, input by input and neuron by neuron.   [integrated, Eq. 4]

    `head` takes a vector of inputs to a vector of neurons, `tail` that to a number; both are only
    evaluated, never differentiated but by differences.
    """
    total = np.zeros((len(x), len(head(x))))
    for s, weight in unit_interval(n):
        point = xb + s * (x - xb)
        of_neuron = slopes(tail, head(point))
        for i, unit in enumerate(np.eye(len(x))):
            of_input = difference(lambda h, e=unit, p=point: head(p + h * e), 0.0)
            for j, slope in enumerate(of_neuron):
                total[i, j] += weight * (x[i] - xb[i]) * slope * of_input[j]
    return total
