"""The modified chain rule against layer-by-layer definitions, path enumeration and known answers.

Bounds: RELATIVE is the claims' own (rounding through these networks stays below 1e-11, the rest is
for near-cancelling denominators); SAME is for two computations of one thing in the same order.
"""

import inspect
import operator
import warnings
from functools import cache

import numpy as np
import pytest
import reference as ref
import torch
import torch.nn.functional as F
from networks import (
    ACTIVATIONS,
    NETWORKS,
    assert_same_state,
    dense,
    lively,
    network,
    points,
    state_of,
)
from torch import nn

from attribook import chain
from attribook.calls import UnsupportedOperation
from attribook.chain import (
    alpha_beta,
    averaged_product,
    cross_max,
    derivative,
    guided,
    intercepted_calls,
    modified_gradient,
    plain_product,
    ratio,
    rescale,
    stabilised,
)
from attribook.score import Score

RELATIVE, SAME = 1e-9, 1e-12
TARGETS = torch.tensor([0, 2, 1])

every_network = pytest.mark.parametrize("name", NETWORKS)
every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)


@cache
def graph_of(name, activation):
    return ref.as_graph(*network(name, activation))


def agree(actual, expected, bound):
    """Largest difference at most `bound` times the largest expected number."""
    expected = torch.as_tensor(np.asarray(expected)).reshape(actual.shape)
    scale = expected.abs().max()
    assert scale > 0
    assert (actual - expected).abs().max() <= bound * scale


def one_by_one(definition, inputs, *args):
    """The definition applied to each sample and its target."""
    rows = zip(inputs, TARGETS.tolist(), *args, strict=True)
    return np.stack([definition(x, target, *rest) for x, target, *rest in rows])


def autograd(score, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(score(x * 1).sum(), x)[0]


def score_of(function):
    """A score whose number is the sum of what the function returns for a sample."""
    return Score(lambda x: function(x).flatten(1).sum(1))


def drop(score, x, baseline):
    return score(x) - score(baseline.expand_as(x))


def gap(score, x, baseline, **rules):
    """Largest completeness gap of (x - baseline) * modified gradient."""
    multipliers = modified_gradient(score, x, baseline=baseline, **rules)
    sums = ((x - baseline) * multipliers).flatten(1).sum(1)
    return (sums - drop(score, x, baseline)).abs().max()


def at(*values):
    return torch.tensor([values], dtype=torch.float64)


ZERO = at(0.0, 0.0)


def close(actual, *expected):
    assert actual.flatten().tolist() == pytest.approx(list(expected), abs=SAME)


# Every rule against its definition, layer by layer


@every_activation
@every_network
def test_the_derivative_rule_gives_autograd_back(name, activation):
    model, shape = network(name, activation)
    score, x = Score(model, TARGETS), points(shape)
    agree(modified_gradient(score, x, nonlinear=derivative), autograd(score, x), SAME)


@every_activation
@every_network
def test_the_ratio_rule_is_epsilon_lrp_layer_by_layer(name, activation):  # [gradient, Prop. 1]
    model, shape = network(name, activation)
    x, graph = points(shape), graph_of(name, activation)
    attributions = x * modified_gradient(Score(model, TARGETS), x, nonlinear=ratio(0))
    agree(attributions, one_by_one(lambda x, c: ref.lrp_layerwise(graph, x, c), x), RELATIVE)


@pytest.mark.parametrize("epsilon", [1e-9, 1e-6, 1e-3, 1e-1])
@every_activation
@every_network
def test_with_every_affine_map_stabilised_lrp_is_exact_at_any_epsilon(name, activation, epsilon):
    model, shape = network(name, activation)
    x, graph = points(shape), graph_of(name, activation)
    rules = {"nonlinear": ratio(0), "linear": stabilised(epsilon)}
    attributions = x * modified_gradient(Score(model, TARGETS), x, **rules)
    expected = one_by_one(lambda x, c: ref.lrp_layerwise(graph, x, c, epsilon), x)
    agree(attributions, expected, RELATIVE)


@pytest.mark.parametrize("epsilon", [1e-9, 1e-3, 1e-1])
@pytest.mark.parametrize("activation", ["ReLU", "tanh", "softplus", "SiLU"])
@every_network
def test_the_ratio_rule_stabilises_only_what_enters_a_nonlinearity(name, activation, epsilon):
    model, shape = network(name, activation)
    x = points(shape)
    graph = ref.stabilised_only_before_nonlinearities(graph_of(name, activation))
    attributions = x * modified_gradient(Score(model, TARGETS), x, nonlinear=ratio(epsilon))
    expected = one_by_one(lambda x, c: ref.lrp_layerwise(graph, x, c, epsilon), x)
    agree(attributions, expected, RELATIVE)


@every_activation
@every_network
def test_rescale_is_deeplift_layer_by_layer(name, activation):  # [gradient, Prop. 2]
    model, shape = network(name, activation)
    score, x, xb = Score(model, TARGETS), points(shape), points(shape, seed=9)
    graph = graph_of(name, activation)
    assert not any(ref.cancels_somewhere(graph, *pair) for pair in zip(x, xb, strict=True))
    rules = {"nonlinear": rescale, "max_pool": cross_max, "baseline": xb}
    attributions = (x - xb) * modified_gradient(score, x, **rules)
    expected = one_by_one(lambda x, c, b: ref.deeplift_layerwise(graph, x, b, c), x, xb)
    agree(attributions, expected, RELATIVE)
    agree(attributions.flatten(1).sum(1), drop(score, x, xb).detach(), RELATIVE)  # complete


def test_where_eq_18_is_0_over_0_the_two_forms_differ_and_both_are_complete():
    # average of relu(x1) and relu(x2), at (1, 0) with baseline (0, 1): the mean stands still
    model = nn.Sequential(
        dense([[1.0, 0.0], [0.0, 1.0]]), nn.ReLU(), dense([[0.5, 0.5]]), nn.Tanh(), dense([[1.0]])
    ).eval()
    x, xb = at(1.0, 0.0), at(0.0, 1.0)
    graph = ref.as_graph(model, (2,))
    assert ref.cancels_somewhere(graph, x, xb)
    assert ref.deeplift_layerwise(graph, x, xb, 0).tolist() == [0, 0]
    slope = (1 - np.tanh(0.5) ** 2) / 2  # the derivative, halved by the average
    multipliers = modified_gradient(Score(model, 0), x, nonlinear=rescale, baseline=xb)
    close((x - xb) * multipliers, slope, -slope)


# where both windows saturate, y = y0, the layer-wise multiplier is 0/0
@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a not in ("ReLU6", "clamp")])
def test_rescale_without_cross_max_routes_to_the_winner_of_the_input(activation):
    name = "CNN with max-pooling"
    model, shape = network(name, activation)
    score, x, xb = Score(model, TARGETS), points(shape), points(shape, seed=9)
    graph = graph_of(name, activation)
    attributions = (x - xb) * modified_gradient(score, x, nonlinear=rescale, baseline=xb)
    plain = one_by_one(
        lambda x, c, b: ref.deeplift_layerwise(graph, x, b, c, cross_max=False), x, xb
    )
    agree(attributions, plain, RELATIVE)


def test_rescale_without_cross_max_is_incomplete():  # [gradient, Sec. 3.2, against its statement]
    model, shape = network("CNN with max-pooling", "tanh")
    score, x, xb = Score(model, TARGETS), points(shape), points(shape, seed=9)
    assert gap(score, x, xb, nonlinear=rescale) > 0.1  # of scores around 1
    assert gap(score, x, xb, nonlinear=rescale, max_pool=cross_max) < RELATIVE


@every_activation
@every_network
def test_the_guided_rule_stops_negative_gradients_at_every_nonlinearity(name, activation):
    model, shape = network(name, activation)
    x, graph = points(shape), graph_of(name, activation)
    expected = one_by_one(lambda x, c: ref.gradient_layerwise(graph, x, c, guided=True), x)
    agree(modified_gradient(Score(model, TARGETS), x, nonlinear=guided), expected, RELATIVE)


@pytest.mark.parametrize(("alpha", "beta"), [(1, 0), (2, 1)])
@every_activation
@every_network
def test_alpha_beta_is_its_definition_layer_by_layer(name, activation, alpha, beta):
    model, shape = network(name, activation)
    x, graph = points(shape), graph_of(name, activation)
    rules = {"nonlinear": ratio(0), "linear": alpha_beta(alpha, beta)}
    attributions = x * modified_gradient(Score(model, TARGETS), x, **rules)
    expected = one_by_one(lambda x, c: ref.alpha_beta_layerwise(graph, x, c, alpha, beta), x)
    agree(attributions, expected, RELATIVE)


@pytest.mark.parametrize(("rule", "averaged"), [(plain_product, False), (averaged_product, True)])
def test_product_rules_are_their_definitions_unit_by_unit(rule, averaged):
    left = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    right = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid())
    model = lively(nn.Sequential(nn.Linear(4, 4), nn.ELU(), ref.Gate(left, right), nn.Linear(3, 3)))
    x, xb, graph = points((4,)), points((4,), seed=2), ref.as_graph(model, (4,))
    rules = {"nonlinear": rescale, "product": rule, "baseline": xb}
    attributions = (x - xb) * modified_gradient(Score(model, TARGETS), x, **rules)

    def definition(x, c, b):
        return ref.deeplift_layerwise(graph, x, b, c, averaged=averaged)

    agree(attributions, one_by_one(definition, x, xb), RELATIVE)


POOLS = {
    "overlapping": (nn.MaxPool2d(3, stride=1), (2, 5, 5)),
    "padded": (nn.MaxPool2d(3, stride=2, padding=1), (2, 5, 5)),
    "dilated": (nn.MaxPool2d(2, dilation=2), (2, 5, 5)),
    "rounded up": (nn.MaxPool2d(2, ceil_mode=True), (2, 5, 5)),
    "adaptive": (nn.AdaptiveMaxPool2d(3), (2, 5, 5)),
    "in one dimension": (nn.MaxPool1d(3, stride=2), (2, 9)),
}


@pytest.mark.parametrize("kind", POOLS)
def test_cross_max_is_its_definition_for_any_windows(kind):
    pool, shape = POOLS[kind]
    size = pool(torch.zeros(1, *shape)).numel()
    stages = nn.Tanh(), pool, nn.Flatten(), nn.Linear(size, 3)
    model = lively(nn.Sequential(*stages))
    x, xb, graph = points(shape), points(shape, seed=2), ref.as_graph(model, shape)
    rules = {"nonlinear": rescale, "max_pool": cross_max, "baseline": xb}
    attributions = (x - xb) * modified_gradient(Score(model, TARGETS), x, **rules)
    expected = one_by_one(lambda x, c, b: ref.deeplift_layerwise(graph, x, b, c), x, xb)
    agree(attributions, expected, RELATIVE)


@pytest.mark.parametrize(
    "product",
    [
        lambda u, v: u * v,
        lambda u, v: u[:, :, None] @ v[:, None, :],
        lambda u, v: torch.einsum("bi,bj->bij", u, v),
        lambda u, v: torch.bmm(v[:, None, :], u[:, :, None]),
        lambda u, v: u.mul_(v),
    ],
    ids=["elementwise", "matmul", "einsum", "bmm", "in place"],
)
def test_the_averaged_product_is_complete_for_every_product_of_two_factors(product):
    first, second = lively(nn.Linear(3, 4), seed=1), lively(nn.Linear(3, 4), seed=2)
    score = score_of(lambda x: product(torch.tanh(first(x)), torch.sigmoid(second(x))))
    x, xb = points((3,)), points((3,), n=1, seed=2)
    assert gap(score, x, xb, nonlinear=rescale, product=averaged_product) < RELATIVE
    assert gap(score, x, xb, nonlinear=rescale, product=plain_product) > 1e-2


# Eq. 16: the sum over all paths


def slopes(rule, node, z, z0):
    match rule:
        case "derivative":
            return node.derivative(z)
        case "ratio":
            return node.f(z) / z
        case "rescale":
            return (node.f(z) - node.f(z0)) / (z - z0)


def weights_and_slopes(graph, x, xb, rule):
    """What `path_sum` needs of a graph that is a chain."""
    values, reference = ref.forward(graph, x), ref.forward(graph, xb)
    weights, gs = [], []
    for k, node in enumerate(graph):
        if isinstance(node, ref.Elementwise):
            gs[-1] = gs[-1] * slopes(rule, node, values[k], reference[k])
            continue
        chosen = isinstance(node, ref.MaxPool)
        matrix = np.eye(values[k].size)[node.winners(values[k])] if chosen else node.matrices[0]
        weights.append(matrix)
        gs.append(np.ones(len(matrix)))
    return weights, gs


CHAINS = {
    "MLP": (
        lambda: [nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Softplus(), nn.Linear(4, 2)],
        (3,),
    ),
    "convolution and average pooling": (
        lambda: [nn.Conv1d(1, 2, 3), nn.Tanh(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(4, 2)],
        (1, 6),
    ),
    "convolution and max-pooling": (
        lambda: [nn.Conv1d(1, 2, 3), nn.SiLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(4, 2)],
        (1, 6),
    ),
}
RULE = {"derivative": derivative, "ratio": ratio(0), "rescale": rescale}


@pytest.mark.parametrize("rule", RULE)
@pytest.mark.parametrize("chain", CHAINS)
def test_the_modified_derivative_is_the_sum_over_all_paths(chain, rule):  # [gradient, Eq. 16]
    stages, shape = CHAINS[chain]
    model = lively(nn.Sequential(*stages()))
    (x,), (xb,) = points(shape, n=1), points(shape, n=1, seed=2)
    expected = ref.path_sum(*weights_and_slopes(ref.as_graph(model, shape), x, xb, rule))
    rules = {"nonlinear": RULE[rule], "baseline": xb[None]}
    for c in (0, 1):
        agree(modified_gradient(Score(model, c), x[None], **rules), expected[c], SAME)


def test_paths_from_a_hidden_unit_leave_that_units_own_slope_out():
    model = lively(nn.Sequential(*CHAINS["MLP"][0]()))
    x = points((3,), n=1)
    weights, gs = weights_and_slopes(ref.as_graph(model, (3,)), x[0], x[0], "ratio")
    head, tail = Score(model, 1).split("1")
    expected = ref.path_sum(weights[1:], gs[1:])[1]
    agree(modified_gradient(tail, head(x), nonlinear=ratio(0)), expected, SAME)


class Recurrent(nn.Module):
    """A vanilla recurrent cell, unrolled over the steps of a sequence, with one reused tanh."""

    def __init__(self):
        super().__init__()
        self.enter, self.stay, self.leave = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.activation = nn.Tanh()

    def forward(self, x):
        h = torch.zeros(len(x), 3, dtype=x.dtype)
        for step in x.unbind(1):
            h = self.activation(self.enter(step) + self.stay(h))
        return self.leave(h)


def unrolled(model, x):
    """Weights and ratio slopes of the recurrent net as a chain with state (h, steps to come)."""
    enter, stay, leave = (
        (part.weight.detach().numpy(), part.bias.detach().numpy())
        for part in (model.enter, model.stay, model.leave)
    )
    weights, gs, h = [], [], np.zeros(3)
    for step in range(len(x)):
        z = enter[0] @ x[step] + enter[1] + stay[0] @ h + stay[1]
        to_come = 2 * (len(x) - step - 1)
        matrix = np.zeros((3 + to_come, 3 + 2 + to_come))
        matrix[:3, :3], matrix[:3, 3:5], matrix[3:, 5:] = stay[0], enter[0], np.eye(to_come)
        weights.append(matrix if step else matrix[:, 3:])  # the first state is a constant
        h = np.tanh(z)
        gs.append(np.concatenate([h / z, np.ones(to_come)]))
    return [*weights, leave[0]], [*gs, np.ones(2)]


def test_a_recurrent_cell_with_one_reused_tanh_is_the_sum_over_paths_through_time():
    model, x = lively(Recurrent()), points((4, 2), n=1)
    expected = ref.path_sum(*unrolled(model, x[0].numpy()))[1]
    agree(modified_gradient(Score(model, 1), x, nonlinear=ratio(0)), expected, SAME)
    assert intercepted_calls(Score(model, 1), x) == {"tanh": 4}


# One function in many spellings


def discarding(h):
    h.relu_()
    return h


def through_a_view(h):
    h.view(-1).relu_()
    return h


RELUS = {
    "nn.ReLU modules": lambda: (nn.ReLU(), nn.ReLU()),
    "one reused nn.ReLU": lambda: (nn.ReLU(),) * 2,
    "F.relu": lambda: (F.relu,) * 2,
    "torch.relu": lambda: (torch.relu,) * 2,
    "x.relu_() with its result discarded": lambda: (discarding,) * 2,
    "nn.ReLU(inplace=True)": lambda: (nn.ReLU(inplace=True), nn.ReLU(inplace=True)),
    "hardtanh on a wide range": lambda: (nn.Hardtanh(0, 1e6),) * 2,
    "x.relu()": lambda: (torch.Tensor.relu,) * 2,
    "torch.relu_": lambda: (torch.relu_,) * 2,
    "F.relu_": lambda: (F.relu_,) * 2,
    "F.relu(x, True)": lambda: (lambda h: F.relu(h, True),) * 2,
    "x.clamp(min=0)": lambda: (lambda h: h.clamp(min=0),) * 2,
    "x.clamp_min_(0)": lambda: (lambda h: h.clamp_min_(0),) * 2,
    "a view changed in place": lambda: (through_a_view,) * 2,
}
SIXES = {
    "nn.ReLU6": lambda: (nn.ReLU6(),) * 2,
    "nn.ReLU6(inplace=True)": lambda: (nn.ReLU6(inplace=True),) * 2,
    "F.relu6": lambda: (F.relu6,) * 2,
    "F.hardtanh": lambda: (lambda h: F.hardtanh(h, 0.0, 6.0),) * 2,
    "F.hardtanh_": lambda: (lambda h: F.hardtanh_(h, 0.0, 6.0),) * 2,
    "torch.clamp": lambda: (lambda h: torch.clamp(h, 0, 6),) * 2,
    "x.clamp_": lambda: (lambda h: h.clamp_(0, 6),) * 2,
}
RULES = {
    "derivative": {"nonlinear": derivative},
    "ratio": {"nonlinear": ratio(0)},
    "stabilised": {"nonlinear": ratio(0), "linear": stabilised(1e-3)},
    "rescale": {"nonlinear": rescale, "baseline": points((5,), n=1, seed=2)},
    "guided": {"nonlinear": guided},
    "alpha-beta": {"nonlinear": ratio(0), "linear": alpha_beta(2, 1)},
}
every_rule = pytest.mark.parametrize("rule", RULES)


class Spelled(nn.Module):
    """An MLP 5-6-5-3 whose two activations are given."""

    def __init__(self, activations):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(5, 6), nn.Linear(6, 5), nn.Linear(5, 3)])
        self.activations = activations

    def forward(self, x):
        first, second, third = self.layers
        return third(self.activations[1](second(self.activations[0](first(x)))))


@every_rule
@pytest.mark.parametrize(
    ("spelling", "usual"),
    [(spell, RELUS["nn.ReLU modules"]) for spell in RELUS.values()]
    + [(spell, SIXES["nn.ReLU6"]) for spell in SIXES.values()],
    ids=[*RELUS, *SIXES],
)
def test_every_spelling_of_one_function_gives_the_same_result(spelling, usual, rule):
    x = points((5,))
    one, other = (lively(Spelled(spell()), gain=5) for spell in (spelling, usual))
    actual = modified_gradient(Score(one, TARGETS), x, **RULES[rule])
    agree(actual, modified_gradient(Score(other, TARGETS), x, **RULES[rule]), SAME)


@every_network
def test_relu6_really_saturates_in_these_tests(name):
    graph, x = graph_of(name, "ReLU6"), points(NETWORKS[name][1])
    before = [node.parents[0] for node in graph if isinstance(node, ref.Elementwise)]
    assert any((ref.forward(graph, row)[k] > 6).any() for row in x for k in before)


@pytest.mark.parametrize("spelling", [*RELUS.values(), *SIXES.values()], ids=[*RELUS, *SIXES])
def test_every_activation_executed_is_counted_also_when_its_module_is_reused(spelling):
    counts = intercepted_calls(Score(lively(Spelled(spelling())), 0), points((5,)))
    assert sum(counts.values()) == 2


WEIGHT = points((4, 5), n=1, seed=3)[0]  # (out, in)
BIAS = points((4,), n=1, seed=4)[0]
AFFINE = {
    "F.linear": lambda x: F.linear(x, WEIGHT, BIAS),
    "keywords": lambda x: F.linear(input=x, weight=WEIGHT, bias=BIAS),
    "matmul": lambda x: x @ WEIGHT.T + BIAS,
    "constant first": lambda x: BIAS + torch.matmul(WEIGHT, x[:, :, None]).squeeze(2),
    "einsum": lambda x: torch.einsum("oi,bi->bo", WEIGHT, x) + BIAS,
    "product and sum": lambda x: (x[:, None] * WEIGHT).sum(-1).add_(BIAS),
    "convolution": lambda x: F.conv1d(x[:, None], WEIGHT[:, None], BIAS).squeeze(2),
    "mean": lambda x: (x[:, None] * (5 * WEIGHT)).mean(dim=-1) + BIAS,
    "division": lambda x: x / 2 @ (2 * WEIGHT.T) - (-BIAS),
    "difference": lambda x: BIAS - F.linear(x, -WEIGHT),
    "negative": lambda x: -(-(x @ WEIGHT.T) - BIAS),
    "feature by feature": lambda x: (
        sum(t[:, None] * w for t, w in zip(x.T, WEIGHT.T, strict=True)) + BIAS
    ),
    "written into a buffer": lambda x: write(x @ WEIGHT.T + BIAS),
    "halves side by side": lambda x: torch.cat(
        [F.linear(x, WEIGHT[:2], BIAS[:2]), F.linear(x, WEIGHT[2:], BIAS[2:])], dim=1
    ),
}


def write(h):
    out = torch.zeros(h.shape, dtype=h.dtype)
    out[:, :] = h
    return out


# x.T moves the batch dimension, which is refused beside references (see MOVING_ROWS); alpha-beta
# looks at each map by itself, so additions one by one and negative weights are other networks to it
EXCEPT = {
    ("feature by feature", "rescale"),
    ("feature by feature", "alpha-beta"),
    ("difference", "alpha-beta"),
}
AFFINE_AND_RULE = [
    (spelling, rule)
    for spelling in AFFINE
    for rule in ("derivative", "ratio", "rescale", "guided", "alpha-beta")
    if (spelling, rule) not in EXCEPT
]


@pytest.mark.parametrize(("spelling", "rule"), AFFINE_AND_RULE)
def test_every_spelling_of_an_affine_map_gives_the_same_result(spelling, rule):
    x = points((5,))

    def score(affine):
        return score_of(lambda x: F.softplus(affine(x)))

    actual = modified_gradient(score(AFFINE[spelling]), x, **RULES[rule])
    expected = modified_gradient(score(AFFINE["F.linear"]), x, **RULES[rule])
    agree(actual, expected, RELATIVE)


SUMS = {
    "+": (lambda u, v: u + v, 1, 1),
    "-": (lambda u, v: u - v, 1, -1),
    "torch.add": (lambda u, v: torch.add(u, v, alpha=2), 1, 2),
    "torch.sub": (lambda u, v: torch.sub(u, v, alpha=2), 1, -2),
    "rsub": (lambda u, v: torch.rsub(u, v), -1, 1),
    "+=": (lambda u, v: operator.iadd(u, v), 1, 1),
    "-=": (lambda u, v: operator.isub(u, v), 1, -1),
    "x.add_": (lambda u, v: u.add_(v, alpha=-2), 1, -2),
}


@pytest.mark.parametrize("rule", ["derivative", "ratio", "stabilised", "rescale", "alpha-beta"])
@pytest.mark.parametrize("kind", SUMS)
def test_a_sum_of_two_is_the_affine_map_with_their_weights(kind, rule):
    combine, first, second = SUMS[kind]
    eye = torch.eye(4, dtype=torch.float64)
    weight = torch.cat([first * eye, second * eye], 1)

    def score(both):
        return score_of(lambda x: torch.sigmoid(both(torch.tanh(x @ W[0][:, :4]), x[:, :4].tanh())))

    x = points((5,))
    mapped = score(lambda u, v: F.linear(torch.cat([u, v], 1), weight))
    expected = modified_gradient(mapped, x, **RULES[rule])
    agree(modified_gradient(score(combine), x, **RULES[rule]), expected, SAME)


def add_in_place(x):
    h = torch.tanh(F.linear(x, WEIGHT, BIAS))
    h += x[:, :4]
    return torch.tanh(h)


def add_plainly(x):
    return torch.tanh(torch.tanh(F.linear(x, WEIGHT, BIAS)) + x[:, :4])


@every_rule
def test_a_residual_added_in_place_is_the_residual_added_plainly(rule):
    x = points((5,))
    actual = modified_gradient(score_of(add_in_place), x, **RULES[rule])
    agree(actual, modified_gradient(score_of(add_plainly), x, **RULES[rule]), SAME)


@every_rule
def test_average_by_keyword_is_the_average(rule):
    x = points((5,))
    by_keyword = score_of(lambda x: torch.sum(input=torch.tanh(x), dim=1, keepdim=True))
    plain = score_of(lambda x: torch.tanh(x).sum(1, keepdim=True))
    actual = modified_gradient(by_keyword, x, **RULES[rule])
    agree(actual, modified_gradient(plain, x, **RULES[rule]), SAME)


def test_a_user_may_name_more_elementwise_functions():
    score, x, xb = score_of(torch.sin), points((4,)), points((4,), seed=2)
    with pytest.raises(UnsupportedOperation, match=r"no rule for sin.*elementwise=\(torch\.sin,\)"):
        modified_gradient(score, x, nonlinear=derivative)
    rules = {"nonlinear": rescale, "baseline": xb, "elementwise": (torch.sin,)}
    agree(modified_gradient(score, x, **rules), (x.sin() - xb.sin()) / (x - xb), SAME)
    in_place = score_of(lambda x: (2 * x).sin_())
    agree(
        modified_gradient(in_place, x, nonlinear=derivative, elementwise=(torch.sin,)),
        2 * (2 * x).cos(),
        SAME,
    )


# References


def test_one_baseline_for_all_is_that_baseline_for_each():
    model, shape = network("CNN with max-pooling", "tanh")
    score, x, xb = Score(model, TARGETS), points(shape), points(shape, n=1, seed=2)
    rules = {"nonlinear": rescale, "max_pool": cross_max}
    one = modified_gradient(score, x, baseline=xb, **rules)
    each = modified_gradient(score, x, baseline=xb.repeat(3, 1, 1, 1), **rules)
    agree(one, each, SAME)


def twice(model):
    """Applies the model to two halves of each sample as 2 * batch rows, and adds the results."""
    return lambda x: model(x.reshape(2 * len(x), *x.shape[2:])).unflatten(0, (len(x), 2)).sum(1)


@pytest.mark.parametrize("name", ["MLP", "CNN with max-pooling"])
def test_several_baselines_explain_blocks_of_the_batch_also_through_a_reshaped_batch(name):
    model, shape = network(name, "tanh")
    score = Score(twice(model), TARGETS)
    x, baselines = points((2, *shape)), points((2, *shape), n=2, seed=2)
    rules = {"nonlinear": rescale, "max_pool": cross_max, "product": averaged_product}
    together = modified_gradient(score, torch.cat([x, x]), baseline=baselines, **rules)
    apart = [modified_gradient(score, x, baseline=xb[None], **rules) for xb in baselines]
    agree(together, torch.cat(apart), SAME)
    difference = x - baselines[0]
    total = (difference * apart[0]).flatten(1).sum(1)
    agree(total, drop(score, x, baselines[:1]).detach(), RELATIVE)


def test_a_unit_that_the_baseline_leaves_alone_keeps_its_own_slope():  # [gradient, Listing 1.2]
    first = dense([[1.0, -1.0], [1.0, 1.0]], [-1.0, 0.0])
    model = nn.Sequential(first, nn.ReLU(), dense([[1.0, 1.0]])).eval()
    x, xb = torch.ones(1, 2, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    rules = {"nonlinear": rescale, "baseline": xb}
    assert modified_gradient(Score(model, 0), x, **rules).tolist() == [[1, 1]]  # passing on: 2, 0


def test_rescale_at_the_baseline_itself_is_the_gradient():
    model, shape = network("residual CNN with batch-norm", "softplus")
    score, x = Score(model, TARGETS), points(shape)
    rules = {"nonlinear": rescale, "baseline": x}
    agree(modified_gradient(score, x, **rules), autograd(score, x), SAME)


# Batch rows that would be mixed up with the references must be refused, never be wrong in silence

W = points((5, 5), n=2, seed=5)
MOVING_ROWS = {
    "cat": lambda x: sum(torch.tanh(torch.cat([x @ W[0], x @ W[1]], 0)).chunk(2, 0)),
    "repeat": lambda x: sum(torch.tanh(x.repeat(2, 1) @ W[0]).chunk(2, 0)),
    "stack": lambda x: torch.tanh(torch.stack([x @ W[0], x @ W[1]])).sum(0),
    "expand": lambda x: torch.tanh(x[None].expand(2, -1, -1) @ W).sum(0),
    "flip": lambda x: torch.tanh(x.flip(0) @ W[0]).flip(0),
    "transpose": lambda x: torch.tanh(W[0] @ x.T).T,
    "row by row": lambda x: torch.stack([torch.tanh(row @ W[0]) for row in x]),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("how", MOVING_ROWS)
def test_rows_moved_about_are_refused_or_still_complete(how, batch):
    score, x, xb = score_of(MOVING_ROWS[how]), points((5,), n=batch), points((5,), n=1, seed=2)
    try:
        assert gap(score, x, xb, nonlinear=rescale) < RELATIVE
    except UnsupportedOperation as refused:
        assert "batch" in str(refused) or "keep" in str(refused)


@pytest.mark.parametrize(
    "mixing",
    [lambda x: x + x.sum(), lambda x: x - x.mean(0), lambda x: x - x.mean(dim=0, keepdim=True)],
    ids=["sum", "mean(0)", "mean(dim=0)"],
)
def test_averages_over_the_batch_are_refused(mixing):
    with pytest.raises(UnsupportedOperation, match="batch"):
        modified_gradient(score_of(mixing), points((5,)), nonlinear=derivative)


# What has no rule is refused by name, with a way out


class Cubic(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


def without_gradient(x):
    with torch.no_grad():
        h = torch.tanh(x)
    return h + x


def fused(kind):
    net = kind(5, 3, batch_first=True).double().eval()
    return lambda x: net(x[:, None])[0]


class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        tokens = x.unflatten(1, (-1, 4))
        return self.attention(tokens, tokens, tokens)[0].flatten(1)


def plain_relu(x):
    return torch.relu(x)


def scripted(thing):
    with warnings.catch_warnings():  # torch calls TorchScript deprecated; users still have it
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(thing)


def scripted_module():
    return scripted(lively(nn.Sequential(nn.Linear(5, 3), nn.ReLU())))


MASK = torch.tensor([True, False, True, False, True])
MAPS_ONLY = "integrated_gradients"
UNSUPPORTED = {
    "abs": (lambda x: x.abs(), "abs", MAPS_ONLY),
    "exp": (torch.exp, "exp", MAPS_ONLY),
    "log": (lambda x: torch.log(x + 9), "log", MAPS_ONLY),
    "softmax": (lambda x: x.softmax(1), "softmax", "logit"),
    "nn.Softmax": (nn.Softmax(1), "softmax", "logit"),
    "log_softmax": (lambda x: F.log_softmax(x, 1), "log_softmax", "logit"),
    "logsumexp": (lambda x: x.logsumexp(1, True), "logsumexp", MAPS_ONLY),
    "where": (lambda x: torch.where(MASK, x, -x), "where", MAPS_ONLY),
    "comparison": (lambda x: x * (x > 0), "gt", MAPS_ONLY),
    "branch": (lambda x: x if (x > 0).all() else -x, "gt", MAPS_ONLY),
    "**": (lambda x: x**2, "pow", r"x \* x"),
    "pow": (lambda x: x.pow(3), "pow", r"x \* x"),
    "square": (torch.square, "square", r"x \* x"),
    "product of two": (lambda x: x * x, "mul", "averaged_product"),
    "matrix product of two": (lambda x: x[:, None] @ x[:, :, None], "matmul", "averaged_product"),
    "quotient of two": (lambda x: x[:, :1] / (x[:, 1:] + 9), "div", MAPS_ONLY),
    "reciprocal": (lambda x: 1 / (x + 9), "rdiv", MAPS_ONLY),
    "torch.reciprocal": (lambda x: (x + 9).reciprocal(), "reciprocal", MAPS_ONLY),
    "max over a dimension": (lambda x: x.max(1, keepdim=True)[0], "max", MAPS_ONLY),
    "sort": (lambda x: x.sort(1)[0], "sort", MAPS_ONLY),
    "norm": (lambda x: F.normalize(x), "normalize", MAPS_ONLY),
    "layer_norm": (nn.LayerNorm(5).double(), "layer_norm", MAPS_ONLY),
    "group_norm": (lambda x: F.group_norm(x, 5), "group_norm", MAPS_ONLY),
    "batch statistics": (
        nn.BatchNorm1d(5, track_running_stats=False).double().eval(),
        "batch_norm",
        "training=False",
    ),
    "dropout while training": (lambda x: F.dropout(x, 0.5), "dropout", "eval|training=False"),
    "detach": (lambda x: x.detach() + x, "detach", MAPS_ONLY),
    "data": (lambda x: x.data + x, "data", MAPS_ONLY),
    "tolist": (lambda x: x * x.tolist()[0][0], "tolist", MAPS_ONLY),
    "no_grad": (without_gradient, "tanh", "no_grad"),
    "nn.RNN": (fused(nn.RNN), "rnn_tanh", "write the cell out"),
    "nn.LSTM": (fused(nn.LSTM), "lstm", "write the cell out"),
    "nn.GRU": (fused(nn.GRU), "gru", "write the cell out"),
    "nn.LSTMCell": (lambda x: nn.LSTMCell(5, 3).double()(x)[0], "lstm_cell", "write the cell out"),
    "sdpa": (
        lambda x: F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None]),
        "scaled_dot_product_attention",
        MAPS_ONLY,
    ),
    "a script module": (scripted_module(), "", "Script"),
    "a script function": (scripted(plain_relu), "", "Script"),
    "a custom autograd function": (Cubic.apply, "", "custom autograd function"),
    "a constant": (lambda x: torch.ones(len(x), 5), "", "plain PyTorch"),
}


@pytest.mark.parametrize("baseline", [None, points((5,), n=1, seed=2)], ids=["alone", "baseline"])
@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_calls_without_a_rule_are_refused_by_name_with_a_way_out(kind, baseline):
    function, name, way_out = UNSUPPORTED[kind]
    with pytest.raises(UnsupportedOperation, match=f"(?s){name}.*({way_out})"):
        modified_gradient(score_of(function), points((5,)), nonlinear=derivative, baseline=baseline)


def test_a_script_module_inside_the_model_is_refused_by_its_name():
    model = nn.Sequential()
    model.add_module("encoder", scripted_module())
    model.add_module("classifier", lively(nn.Linear(3, 2)))
    with pytest.raises(UnsupportedOperation, match="ScriptModule 'encoder'.*Python module"):
        modified_gradient(Score(model.eval(), 0), points((5,)), nonlinear=derivative)


@pytest.mark.parametrize("baseline", [None, points((8,), n=1, seed=2)], ids=["alone", "baseline"])
def test_attention_is_refused_by_its_name_with_a_way_out(baseline):
    model, x = Attentive().double().eval(), points((8,))
    with pytest.raises(UnsupportedOperation, match="(?s)MultiheadAttention.*integrated_gradients"):
        modified_gradient(Score(model, 0), x, nonlinear=derivative, baseline=baseline)
    with pytest.raises(UnsupportedOperation, match="no rule for"):  # hidden inside a function
        hidden = Score(lambda x: model(x), 0)
        modified_gradient(hidden, x, nonlinear=derivative, baseline=baseline)


def test_strict_false_keeps_the_ordinary_derivative_where_no_rule_is_known():
    score, x = score_of(lambda x: torch.exp(x).softmax(1)[:, :1] * x.abs()), points((5,))
    loose = modified_gradient(score, x, nonlinear=derivative, strict=False)
    agree(loose, autograd(score, x), SAME)


def test_shapes_dtypes_and_constants_made_from_the_inputs_are_not_refused():
    def function(x):
        start = x.new_zeros(x.size(0), 5) + torch.zeros_like(x)
        return torch.tanh(start + x.to(x.dtype)).view(x.shape[0], -1)

    x = points((5,))
    agree(modified_gradient(score_of(function), x, nonlinear=ratio(0)), torch.tanh(x) / x, SAME)


# Errors, as a user sees them: without the type checker that the tests put before every function

unchecked = inspect.unwrap(modified_gradient)


def a_score():
    return Score(network("MLP", "tanh")[0], 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_inputs_and_baselines_that_are_not_finite_are_refused(bad):
    x, spoilt = points((5,)), points((5,), n=1)
    spoilt[0, 2] = bad
    with pytest.raises(ValueError, match="inputs must be finite"):
        unchecked(a_score(), spoilt, nonlinear=derivative)
    with pytest.raises(ValueError, match="baseline must be finite"):
        unchecked(a_score(), x, nonlinear=rescale, baseline=spoilt)


@pytest.mark.parametrize("shape", [(1, 4), (2, 5), (5,), (1, 1, 5)])
def test_a_baseline_of_the_wrong_shape_is_refused_with_both_shapes(shape):
    with pytest.raises(ValueError, match=r"baseline has shape .*\(3, 5\)"):
        unchecked(a_score(), points((5,)), nonlinear=rescale, baseline=torch.zeros(shape).double())


def test_inputs_must_be_a_batch_of_floating_point_numbers():
    with pytest.raises(TypeError, match="floating-point"):
        unchecked(a_score(), torch.ones(3, 5, dtype=torch.int64), nonlinear=derivative)
    with pytest.raises(ValueError, match=r"x\[None\]"):
        unchecked(a_score(), points((5,))[0], nonlinear=derivative)


def test_a_model_in_training_mode_is_refused_even_if_only_a_part_of_it_is():
    model = lively(nn.Sequential(nn.Linear(5, 3), nn.Dropout()))
    model[1].train()
    with pytest.raises(ValueError, match=r"training mode.*eval\(\)"):
        modified_gradient(Score(model, 0), points((5,)), nonlinear=derivative)


@pytest.mark.parametrize(
    "rules", [{"nonlinear": rescale}, {"nonlinear": derivative, "max_pool": cross_max}]
)
def test_rules_that_compare_say_that_they_need_a_baseline(rules):
    model, shape = network("CNN with max-pooling", "tanh")
    with pytest.raises(ValueError, match="baseline="):
        modified_gradient(Score(model, 0), points(shape), **rules)


def test_the_averaged_product_says_that_it_needs_a_baseline():
    with pytest.raises(ValueError, match="baseline="):
        modified_gradient(
            score_of(lambda x: x * x), points((5,)), nonlinear=derivative, product=averaged_product
        )


def test_a_ratio_without_a_limit_is_refused():
    x = torch.zeros(1, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="epsilon > 0"):
        modified_gradient(score_of(torch.sigmoid), x, nonlinear=ratio(0))
    assert modified_gradient(score_of(torch.tanh), x, nonlinear=ratio(0)).item() == 1  # tanh'(0)
    stabiliser = modified_gradient(score_of(torch.sigmoid), x, nonlinear=ratio(1e-3)).item()
    assert stabiliser == pytest.approx(500, rel=SAME)  # f(0) / epsilon, with sign(0) = +1


def test_a_stabiliser_of_zero_is_refused_and_a_small_one_leaves_zeros_alone():
    with pytest.raises(ValueError, match="epsilon > 0"):
        stabilised(0)
    x = torch.tensor([[-1.0, 2.0]], dtype=torch.float64)
    rules = {"nonlinear": ratio(0), "linear": stabilised(1e-15)}
    close(modified_gradient(score_of(lambda x: torch.relu(x) * 3), x, **rules), 0, 3)


def test_an_infinite_local_derivative_is_an_error_and_not_a_nan():
    x = torch.zeros(1, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="infinite or NaN"):
        modified_gradient(score_of(torch.sqrt), x, nonlinear=derivative)


# Nothing is left behind


CNN_RULES = {
    "derivative": {"nonlinear": derivative},
    "ratio": {"nonlinear": ratio()},
    "stabilised": {"nonlinear": ratio(0), "linear": stabilised(1e-6)},
    "rescale": {"nonlinear": rescale, "max_pool": cross_max, "baseline": points((2, 6, 6), n=1)},
    "guided": {"nonlinear": guided},
    "alpha-beta": {"nonlinear": ratio(), "linear": alpha_beta(2, 1)},
}


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("rule", CNN_RULES)
@pytest.mark.parametrize("name", [n for n in NETWORKS if "CNN" in n])
def test_the_model_and_the_inputs_are_untouched_afterwards(name, rule, frozen):
    model, shape = network(name, "ReLU6")
    x = points(shape)
    kept = x.clone()
    for parameter in model.parameters():
        parameter.requires_grad_(not frozen)
    before = state_of(model)
    modified_gradient(Score(model, TARGETS), x, **CNN_RULES[rule])
    assert_same_state(before, state_of(model))
    assert torch.equal(x, kept) and not x.requires_grad and x.grad is None


@every_rule
def test_a_model_that_starts_in_place_does_not_change_the_users_inputs(rule):
    model = lively(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 3)))
    x = points((5,))
    kept = x.clone()
    actual = modified_gradient(Score(model, 0), x, **RULES[rule])
    plain = lively(nn.Sequential(nn.ReLU(), nn.Linear(5, 3)))
    agree(actual, modified_gradient(Score(plain, 0), x, **RULES[rule]), SAME)
    assert torch.equal(x, kept)


def fails_halfway(x):
    h = torch.tanh(x)
    if h.shape:
        raise RuntimeError("the model broke")
    return h


@pytest.mark.parametrize(
    ("function", "error"), [(fails_halfway, RuntimeError), (torch.exp, UnsupportedOperation)]
)
def test_after_an_error_torch_is_as_before(function, error):
    with pytest.raises(error):
        modified_gradient(score_of(function), points((5,)), nonlinear=guided)
    assert not torch.overrides._get_current_function_mode_stack()
    x = points((5,)).requires_grad_()
    (plain,) = torch.autograd.grad(-torch.tanh(x).sum(), x)
    agree(plain, (torch.tanh(x) ** 2 - 1).detach(), SAME)  # guided would give zeros


@every_rule
def test_the_caller_may_be_under_no_grad(rule):
    score, x = Score(lively(Spelled(RELUS["F.relu"]())), TARGETS), points((5,))
    expected = modified_gradient(score, x, **RULES[rule])
    with torch.no_grad():
        actual = modified_gradient(score, x, **RULES[rule])
        assert not torch.is_grad_enabled()
    assert torch.equal(actual, expected) and not actual.requires_grad


@every_rule
def test_results_keep_the_dtype_of_the_inputs(rule):
    model = lively(Spelled(RELUS["F.relu"]()))
    x = points((5,))
    expected = modified_gradient(Score(model, TARGETS), x, **RULES[rule])
    single = modified_gradient(Score(model.float(), TARGETS), x.float(), **RULES[rule])
    assert single.dtype == torch.float32
    agree(single.double(), expected, 1e-3)  # float32 carries 7 digits; denominators lose up to 4


# Known answers


def test_x1_plus_the_root_of_x2():  # [gradient, Sec. 3.1]
    score, x = score_of(lambda x: x[:, :1] + torch.sqrt(x[:, 1:])), at(4.0, 4.0)
    close(x * modified_gradient(score, x, nonlinear=derivative), 4, 1)
    close(x * modified_gradient(score, x, nonlinear=ratio(0)), 4, 2)
    close(x * modified_gradient(score, x, nonlinear=rescale, baseline=ZERO), 4, 2)


@pytest.mark.parametrize("x", [at(3.0, 2.0), at(2.0, 5.0), at(1.5, 1.0), at(0.5, 2.0)])
def test_a_product_of_relus_is_counted_twice_by_the_plain_rule(x):  # [gradient, footnote 3]
    score = score_of(lambda x: F.relu(x[:, :1] - 1) * F.relu(x[:, 1:]))
    h = score(x).item()
    plain = modified_gradient(score, x, nonlinear=rescale, product=plain_product, baseline=ZERO)
    close(x * plain, h, h)
    complete = modified_gradient(
        score, x, nonlinear=rescale, product=averaged_product, baseline=ZERO
    )
    close(x * complete, h / 2, h / 2)
    ordinary = modified_gradient(score, x, nonlinear=derivative, product=plain_product)
    close(x * ordinary, *(x * autograd(score, x)).flatten().tolist())


MAXIMA = {
    "torch.maximum": lambda x: torch.maximum(x[:, :1], x[:, 1:]),
    "torch.max": lambda x: torch.max(x[:, :1], x[:, 1:]),
    "max_pool1d": lambda x: F.max_pool1d(x[:, None], 2),
    "nn.MaxPool1d": lambda x: nn.MaxPool1d(2)(x[:, None]),
    "max_pool2d": lambda x: F.max_pool2d(x[:, None, None], (1, 2)),
    "adaptive_max_pool1d": lambda x: F.adaptive_max_pool1d(x[:, None], 1),
}


@pytest.mark.parametrize("maximum", MAXIMA.values(), ids=MAXIMA)
def test_the_maximum_of_two(maximum):  # [gradient, Table 2 and footnote 4]
    score, x, xb = score_of(maximum), at(2.0, 3.0), at(1.0, 0.0)
    close(x * modified_gradient(score, x, nonlinear=derivative), 0, 3)
    close(x * modified_gradient(score, x, nonlinear=ratio(0)), 0, 3)
    close((x - xb) * modified_gradient(score, x, nonlinear=rescale, baseline=xb), 0, 3)
    rules = {"nonlinear": rescale, "max_pool": cross_max}
    close((x - xb) * modified_gradient(score, x, baseline=xb, **rules), 0, 2)
    fallen = at(2.0, 1.0), at(1.0, 5.0)  # the reference's winner takes the fall
    difference = fallen[0] - fallen[1]
    close(difference * modified_gradient(score, fallen[0], baseline=fallen[1], **rules), 0, -3)
    close(x * modified_gradient(score, x, baseline=ZERO, **rules), 0, 3)


def three_relus(x):  # [gradient, footnote 4]
    first, second = x[:, :1], x[:, 1:]
    return 0.5 * (F.relu(first - second) + F.relu(second - first) + F.relu(first + second))


def test_the_maximum_as_three_relus():  # [gradient, footnote 4 and Sec. 4.3]
    score, x, xb = score_of(three_relus), at(2.0, 3.0), at(1.0, 0.0)
    close((x - xb) * modified_gradient(score, x, nonlinear=rescale, baseline=xb), 0.5, 1.5)
    close(x * modified_gradient(score, x, nonlinear=rescale, baseline=ZERO), 0, 3)
    matrices = dense([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]), dense([[0.5, 0.5, 0.5]])
    model = nn.Sequential(matrices[0], nn.ReLU(), matrices[1]).eval()
    first, second = {"linear": alpha_beta(1, 0)}, {"linear": alpha_beta(2, 1)}
    for rules, x, expected in (
        (first, at(2.0, 2.1), (1, 1.1)),
        (first, at(2.0, 1.9), (1.05, 0.95)),
        (first, at(2.0, 2.0), (1, 1)),
        (second, at(2.0, 2.1), (3.9, 4.4)),
    ):
        close(x * modified_gradient(Score(model, 0), x, nonlinear=ratio(0), **rules), *expected)


@pytest.mark.parametrize(
    ("x", "first", "second"),
    [(at(3.0, 1.0), (1.5, -0.5), (2, -1)), (at(5.0, 2.0), (10 / 3, -4 / 3), (4, -2))],
)
def test_rescale_differs_between_two_implementations_and_lrp_does_not(x, first, second):
    def f(x):
        return F.relu(F.relu(x[:, :1]) - 1 - F.relu(x[:, 1:]))

    def g(x):
        return F.relu(F.relu(x[:, :1] - 1) - F.relu(x[:, 1:]))

    close(x * modified_gradient(score_of(f), x, nonlinear=rescale, baseline=ZERO), *first)
    close(x * modified_gradient(score_of(g), x, nonlinear=rescale, baseline=ZERO), *second)
    for implementation in (f, g):
        lrp = x * modified_gradient(score_of(implementation), x, nonlinear=ratio(0))
        close(lrp, x[0, 0].item(), -x[0, 1].item())


def test_lrp_differs_between_tanh_and_its_sigmoid_form():  # [gradient, Sec. 3.2]
    def shifted(x):
        return 2 * torch.sigmoid(2 * x) - 1

    for x in (at(1.0), at(-2.0)):
        y = torch.tanh(x).item()
        close(x * modified_gradient(score_of(torch.tanh), x, nonlinear=ratio(0)), y)
        close(x * modified_gradient(score_of(shifted), x, nonlinear=ratio(0)), y + 1)


def test_the_stabiliser_follows_the_sign_where_the_printed_listing_has_a_pole():
    # [gradient, Listing 1.1]: tanh(z) / (z + 1e-4) is infinite at -1e-4 and negative at -5e-5
    for z, g in ((-1e-4, 0.5), (-5e-5, 1 / 3), (-2e-4, 2 / 3), (1e-4, 0.5)):
        slope = modified_gradient(score_of(torch.tanh), at(z), nonlinear=ratio(1e-4)).item()
        assert slope == pytest.approx(g, rel=1e-7)  # tanh(z) = z up to z^2 / 3 = 1e-8


def test_lrp_switches_continuously_over_a_width_of_epsilon():
    matrices = dense([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]), dense([[0.5, 0.5, 0.5]])
    score = Score(nn.Sequential(matrices[0], nn.ReLU(), matrices[1]).eval(), 0)
    rules = {"nonlinear": ratio(0), "linear": stabilised(0.01)}
    for e, expected in (
        (0.1, (0.08806, 1.9925)),
        (0.01, (0.49505, 1.49755)),
        (0.0, (0.99254, 0.99254)),
        (-0.01, (1.49005, 0.49255)),
    ):
        x = at(2.0, 2.0 + e)
        attributions = (x * modified_gradient(score, x, **rules)).flatten().tolist()
        assert attributions == pytest.approx(expected, abs=1e-5)  # printed to five digits


def test_the_stabiliser_moves_a_negative_zero_up_like_any_zero():
    zeros = torch.tensor([0.0, -0.0, 2.0, -2.0], dtype=torch.float64)
    assert chain.stabilise(zeros, 0.5).tolist() == [0.5, 0.5, 2.5, -2.5]
