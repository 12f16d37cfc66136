"""Each rule of one layer against its formula, term by term, and whole networks against `chain`.

1e-12 and 1e-10 are rounding; 1e-9 relative is the claims' bound for a method against another form
of it. The formulas are loops over units, inputs, groups and coalitions, in numpy.
"""

import inspect
import itertools
import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from networks import ACTIVATIONS, assert_same_state, dense, lively, network, points, state_of
from torch import nn
from torch.testing import assert_close

from attribook import chain, numerics
from attribook.methods import (
    deeplift_rescale,
    deeplift_reveal_cancel,
    integrated_gradients,
    lrp_epsilon,
    shapley,
)
from attribook.papers.taylor import layers
from attribook.papers.taylor.layers import (
    Layer,
    Rule,
    alpha_beta,
    as_layers,
    deep_shap_by_modules,
    deep_taylor,
    epsilon,
    module_shapley,
    propagate,
    rescale,
    reveal_cancel,
)
from attribook.score import Score

TARGETS = torch.tensor([0, 2, 1])
SIGMAS = {
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "softplus": lambda z: np.log1p(np.exp(z)),
    "ReLU": lambda z: np.maximum(z, 0),
    "leaky ReLU": lambda z: np.where(z > 0, z, 0.01 * z),
}


def row(*values):
    return torch.tensor([values], dtype=torch.float64)


# --- the formulas --------------------------------------------------------------------------------
# Each gives what unit j hands to every input and what it hands to nobody, from its weights w, bias
# s, activation f, the points x and b and its relevance r.


def by_epsilon(eps):  # [taylor, Eq. 31]
    def handed(w, s, f, x, b, r):
        z = sum(w[i] * x[i] for i in range(len(x))) + s
        denominator = z + eps if z >= 0 else z - eps
        to_bias = (s + math.copysign(eps, denominator)) / denominator * r
        return [w[i] * x[i] / denominator * r for i in range(len(x))], to_bias

    return handed


def by_alpha_beta(alpha, beta):  # [taylor, Eq. 33]
    def handed(w, s, f, x, b, r):
        z = [w[i] * x[i] for i in range(len(x))]
        up, down = sum(v for v in z if v > 0), sum(v for v in z if v <= 0)
        received = [0.0] * len(x)
        for i, v in enumerate(z):
            if v > 0:
                received[i] = alpha * v / up * r
            elif down:
                received[i] = beta * v / down * r
        return received, r * (1 - alpha * (up > 0) - beta * (down < 0))

    return handed


def by_rescale(w, s, f, x, b, r):  # [taylor, Eq. 38]
    change = [w[i] * (x[i] - b[i]) for i in range(len(x))]
    return [c / sum(change) * r for c in change], 0.0


def by_reveal_cancel(w, s, f, x, b, r):  # [taylor, Eq. 40]
    start = sum(w[i] * b[i] for i in range(len(b))) + s
    change = [w[i] * (x[i] - b[i]) for i in range(len(x))]
    up, down = sum(c for c in change if c > 0), sum(c for c in change if c <= 0)
    y_up = (f(start + up) - f(start)) / 2 + (f(start + up + down) - f(start + down)) / 2
    y_down = (f(start + down) - f(start)) / 2 + (f(start + up + down) - f(start + up)) / 2
    received = [0.0] * len(x)
    for i, c in enumerate(change):
        if c > 0:
            received[i] = c / up * y_up / (y_up + y_down) * r
        elif down:
            received[i] = c / down * y_down / (y_up + y_down) * r
    return received, 0.0


def by_shapley(w, s, f, x, b, r):  # [taylor, Eq. 43]
    n = len(x)

    def unit(kept):
        return f(sum(w[i] * (x[i] if i in kept else b[i]) for i in range(n)) + s)

    values = np.zeros(n)
    for order in itertools.permutations(range(n)):
        for k, i in enumerate(order):
            values[i] += unit(order[: k + 1]) - unit(order[:k])
    return list(values / sum(values) * r), 0.0


RULES = {
    "LRP-epsilon": (epsilon(0.1), by_epsilon(0.1)),
    "LRP-alpha-beta": (alpha_beta(2, -1), by_alpha_beta(2, -1)),
    "Deep Taylor": (deep_taylor, by_alpha_beta(1, 0)),
    "Rescale": (rescale, by_rescale),
    "RevealCancel": (reveal_cancel, by_reveal_cancel),
    "Deep SHAP": (module_shapley(), by_shapley),
}
COMPARING = [name for name, (rule, _) in RULES.items() if rule.compares]
every_rule = pytest.mark.parametrize("name", RULES)
every_comparing_rule = pytest.mark.parametrize("name", COMPARING)
every_sigma = pytest.mark.parametrize("activation", SIGMAS)


def layer_by_definition(handed, weight, bias, f, x, b, relevance):
    """What the inputs receive of one sample's relevance, and what each unit loses."""
    received, lost = np.zeros(len(x)), []
    for j in range(len(bias)):
        parts, rest = handed(weight[j], bias[j], f, x, b, relevance[j])
        lost.append(rest)
        for i, part in enumerate(parts):
            received[i] += part
    return received, np.array(lost)


def random_layer(activation, units=3, features=4):
    draw = points((units, features + 1), n=1, seed=3)[0]
    return Layer(draw[:, :-1], draw[:, -1], ACTIVATIONS[activation]())


# --- one layer -----------------------------------------------------------------------------------


@every_sigma
@every_rule
@pytest.mark.parametrize("references", [1, 3])
def test_a_rule_is_its_formula(name, activation, references):
    rule, handed = RULES[name]
    layer = random_layer(activation)
    x, b, relevance = points((4,)), points((4,), n=references, seed=9), points((3,), seed=5)
    found = rule(layer, x, b, relevance)
    weight, bias, f = layer.weight.numpy(), layer.bias.numpy(), SIGMAS[activation]
    for k in range(3):
        changes = layer(x[k : k + 1]) - layer(b[k % references][None])
        defined = (changes != 0)[0]  # dead units have tests of their own
        only = relevance[k] * (defined if rule.compares else 1)
        alive = np.flatnonzero(defined.numpy()) if rule.compares else range(3)
        received, lost = layer_by_definition(
            handed, weight[alive], bias[alive], f, x[k].numpy(), b[k % references].numpy(),
            only.numpy()[alive],
        )  # fmt: skip
        assert_close(found.received[k].numpy(), received, rtol=1e-10, atol=1e-10)
        assert_close(found.lost[k].numpy()[alive], lost, rtol=0, atol=1e-12)


@every_rule
def test_what_is_handed_on_and_what_is_lost_add_up(name):
    rule, _ = RULES[name]
    layer = random_layer("ReLU", units=40, features=3)  # some see one sign, some are dead
    x, relevance = points((3,)), points((40,), seed=5)
    found = rule(layer, x, points((3,), seed=9), relevance)
    total = found.received.sum(1) + found.lost.sum(1)
    assert_close(total, relevance.sum(1), rtol=0, atol=1e-12)
    assert not torch.equal(found.lost, torch.zeros_like(found.lost))


def test_contributions_and_outputs_of_a_layer():
    layer, x = random_layer("tanh"), points((4,))
    z = layer.contributions(x).sum(2) + layer.bias
    assert_close(layer(x), torch.tanh(z), rtol=0, atol=1e-14)


def test_the_multiplier_is_relevance_over_change():
    layer, x, b = random_layer("tanh"), points((4,)), points((4,), seed=9)
    change = layer(x) - layer(b)
    for name in COMPARING:
        rule = RULES[name][0]
        plain, by_multiplier = (
            rule(layer, x, b, 2 * change, m) for m in (None, torch.full_like(change, 2.0))
        )
        for one, other in zip(plain, by_multiplier, strict=True):
            assert_close(one, other, rtol=1e-10, atol=1e-12)
        assert_close(plain.received, (x - b) * plain.multiplier, rtol=0, atol=1e-14)


def test_blocks_of_units_change_nothing(monkeypatch):
    layer, x, b = random_layer("tanh"), points((4,)), points((4,), seed=9)
    whole = [rule(layer, x, b, layer(x)) for rule, _ in RULES.values()]
    monkeypatch.setattr(numerics, "NUMBERS_A_PASS", 1)
    for found, (rule, _) in zip(whole, RULES.values(), strict=True):
        assert_close(found.received, rule(layer, x, b, layer(x)).received, rtol=0, atol=1e-14)


# --- Deep SHAP -----------------------------------------------------------------------------------


class Square(nn.Module):
    def forward(self, z):
        return z**2


def test_one_pair_of_orders_is_exact_for_a_square():
    """An order and its reverse: i comes before k in one of the two, as pairwise effects want."""
    draw = points((2, 21), n=1)[0]
    layer, x = Layer(draw[:, :20], draw[:, 20], Square()), points((20,), seed=4)
    found = module_shapley(n_pairs=1)(layer, x, None, layer(x) - layer(0 * x))
    c = layer.contributions(x)
    expected = c * (c.sum(2, keepdim=True) + 2 * layer.bias[:, None])
    assert_close(found.received, expected.sum(1), rtol=1e-10, atol=1e-10)


def test_pairs_of_orders_tend_to_the_exact_values_and_are_complete(monkeypatch):
    draw = points((2, 14), n=1)[0]
    layer, x = Layer(draw[:, :13], draw[:, 13], nn.Sigmoid()), points((13,), seed=4)
    change = layer(x) - layer(0 * x)
    draws = {
        n: [
            module_shapley(n, torch.Generator().manual_seed(k))(layer, x, None, change)
            for k in range(10)
        ]
        for n in (4, 400)
    }
    monkeypatch.setattr(layers, "MOST_EXACT", 13)
    exact = module_shapley()(layer, x, None, change).received
    few, many = (
        sum(float((one.received - exact).square().sum()) for one in found)
        for found in draws.values()
    )
    assert 50 < few / many < 200  # the variance falls by 100, and nothing else is left
    for found in draws[4]:
        assert_close(found.lost, torch.zeros_like(found.lost), rtol=0, atol=1e-12)


def test_inputs_that_contribute_nothing_are_dummies():
    """Zero weights do not count as inputs: a unit of 4 among 30 is exact without n_pairs."""
    layer, x, b = random_layer("sigmoid"), points((4,)), points((4,), seed=9)
    wide = Layer(torch.cat([layer.weight, torch.zeros(3, 26)], 1).flip(1), layer.bias, nn.Sigmoid())
    pad = points((26,), seed=6)
    narrow = module_shapley()(layer, x, b, layer(x)).received
    padded = (torch.cat([one, k * pad], 1).flip(1) for k, one in enumerate((x, b)))
    found = module_shapley()(wide, *padded, layer(x)).received.flip(1)
    assert_close(found[:, :4], narrow, rtol=0, atol=1e-12)
    assert not found[:, 4:].any()


def test_the_same_generator_state_gives_the_same_bits(generator):
    layer, x = random_layer("sigmoid", features=20), points((20,))
    rules = [module_shapley(3, torch.Generator().manual_seed(k)) for k in (0, 0, 1)]
    one, same, other = (rule(layer, x, None, layer(x)).received for rule in rules)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    again = rules[0](layer, x[1:2], None, layer(x[1:2])).received  # and does not see the batch
    assert_close(again, one[1:2], rtol=0, atol=1e-13)


# --- zero denominators ---------------------------------------------------------------------------


def one_unit(weights, bias, activation):
    return Layer(row(*weights), torch.tensor([bias], dtype=torch.float64), activation)


def test_epsilon_at_zero_takes_the_plus_sign():
    found = epsilon(0.5)(one_unit([1.0, -1.0], 0.0, nn.ReLU()), row(1.0, 1.0), None, row(3.0))
    assert found.received.tolist() == [[6.0, -6.0]]
    assert found.lost.tolist() == [[3.0]]


@pytest.mark.parametrize(
    ("x", "received", "lost"),
    [
        ((1.0, 3.0), [0.5, 1.5], -1.0),  # none negative: alpha of it
        ((-1.0, -3.0), [-0.25, -0.75], 2.0),  # none positive: beta of it
        ((0.0, 0.0), [0.0, 0.0], 1.0),
        ((1e-310, -1e-310), [0.0, 0.0], 1.0),  # so small that its inverse is infinite
    ],
)
def test_an_empty_group_hands_nothing_on(x, received, lost):
    unit = one_unit([1.0, 1.0], 0.3, nn.Tanh())
    found = alpha_beta(2, -1)(unit, row(*x), None, row(1.0))
    assert found.received.tolist() == [received]
    assert found.lost.tolist() == [[lost]]


@every_comparing_rule
@pytest.mark.parametrize("relevance", [0.0, 1.0])
def test_an_input_at_its_reference_receives_nothing(name, relevance):
    unit, x = one_unit([1.0, 2.0], 0.3, nn.Tanh()), row(0.5, -0.2)
    for multiplier in (None, row(1.0)):
        found = RULES[name][0](unit, x, x, row(relevance), multiplier)
        assert not found.received.any()
        assert found.lost.tolist() == [[relevance]]


def test_a_unit_that_does_not_change_hands_nothing_on_unless_told_its_multiplier():
    """Dead at both points, alive between them: Dy+ + Dy- = 0 with Dy+ = 1/2; phi likewise."""
    unit, x, b = one_unit([2.0, -3.0], -1.0, nn.ReLU()), row(1.0, 1.0), row(0.0, 0.0)
    expected = {"Rescale": [0.0, 0.0], "RevealCancel": [0.5, -0.5], "Deep SHAP": [0.5, -0.5]}
    for name in COMPARING:
        alone = RULES[name][0](unit, x, b, row(0.7))
        assert alone.received.tolist() == [[0.0, 0.0]]
        assert alone.lost.tolist() == [[0.7]]
        told = RULES[name][0](unit, x, b, row(0.0), row(1.0))
        assert_close(told.received, row(*expected[name]), rtol=0, atol=1e-15)
        assert_close(told.lost, row(0.0), rtol=0, atol=1e-15)


@every_comparing_rule
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus", "leaky ReLU"])
@pytest.mark.parametrize("step", [0.0, 1e-10, -1e-10])
def test_contributions_that_cancel_receive_the_limit(name, activation, step):
    rule, _ = RULES[name]
    unit = one_unit([1.0, -2.0, 0.5], 0.4, ACTIVATIONS[activation]())
    x, b = row(1.0, 1.0, 2.0), row(0.0, 0.0, 0.0)
    near = x + row(1e-6, 0.0, 0.0)
    limit = rule(unit, near, b, unit(near) - unit(b)).received
    x = x + row(step, 0.0, 0.0)
    found = rule(unit, x, b, unit(x) - unit(b), row(1.0))
    assert_close(found.received, limit, rtol=1e-4, atol=0)
    assert_close(
        found.received.sum(1) + found.lost.sum(1), (unit(x) - unit(b))[0], rtol=0, atol=1e-12
    )
    if step:  # then relevance over change has a value, 1
        assert_close(rule(unit, x, b, unit(x) - unit(b)).received, limit, rtol=1e-4, atol=0)


@every_comparing_rule
def test_equal_outputs_are_still_explained(name):
    net = nn.Sequential(dense([[1.0, -1.0]])).eval()
    found = propagate(RULES[name][0], net, row(1.0, 1.0), None, 0)
    assert_close(found, row(1.0, -1.0), rtol=0, atol=1e-12)


@every_comparing_rule
def test_the_multiplier_of_an_unchanged_input_is_that_of_a_nearly_unchanged_one(name):
    """For RevealCancel half that of a small positive and half that of a small negative change."""
    rule, _ = RULES[name]
    for rest in (row(0.0, 1.0, 2.0), row(0.0, -1.0, -2.0)):  # both groups, and one of them empty
        unit, b = one_unit([1.0, 0.7, 0.5], 0.4, nn.Tanh()), 0 * rest
        at, above, below = (
            rule(unit, x, b, unit(x) - unit(b)).multiplier[0, 0]
            for x in (rest, rest + row(1e-6, 0.0, 0.0), rest - row(1e-6, 0.0, 0.0))
        )
        assert_close(at, (above + below) / 2, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["Rescale", "Deep SHAP"])
def test_attributions_do_not_jump_where_a_hidden_unit_dies(name):
    """At x = (1, 1 +- 1e-7) the hidden ReLU is just alive and just dead, but alive between.

    RevealCancel does jump wherever a contribution changes its sign.
    """
    net = nn.Sequential(dense([[2.0, -3.0], [1.0, 0.5]], [1.0, 0.2]), nn.ReLU())
    net.extend([dense([[1.0, 0.4]], [0.1]), nn.Tanh(), dense([[1.0]])])
    b = row(-2.0, -0.9)  # dead at the reference, too
    dead, alive = (
        propagate(RULES[name][0], net.eval(), row(1.0, 1.0 + step), b, 0) for step in (1e-7, -1e-7)
    )
    assert_close(dead, alive, rtol=0, atol=1e-5)


# --- networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        (name, activation)
        for name, activation in itertools.product(RULES, SIGMAS)
        # under ReLU units stay dead, and the two formulas say 0 / 0
        if activation != "ReLU" or name not in ("RevealCancel", "Deep SHAP")
    ],
)
def test_propagation_is_the_formula_layer_by_layer(name, activation):
    rule, handed = RULES[name]
    net, shape = network("MLP", activation)
    x, b, f = points(shape), points(shape, seed=9), SIGMAS[activation]
    found = propagate(rule, net, x, b, TARGETS)
    stages = [net[0], net[2], net[4]]
    for k, target in enumerate(TARGETS.tolist()):
        values = [(x[k].numpy(), b[k].numpy())]
        fs = [f, f, lambda z: z]
        for stage, sigma in zip(stages, fs, strict=True):
            weight, bias = (p.detach().numpy() for p in (stage.weight, stage.bias))
            values.append(tuple(sigma(weight @ value + bias) for value in values[-1]))
        top, bottom = values.pop()
        relevance = (top - bottom * rule.compares) * (np.arange(3) == target)
        for stage, sigma, (at, start) in zip(
            reversed(stages), reversed(fs), reversed(values), strict=True
        ):
            weight, bias = (p.detach().numpy() for p in (stage.weight, stage.bias))
            live = np.flatnonzero(relevance)
            relevance, _ = layer_by_definition(
                handed, weight[live], bias[live], sigma, at, start, relevance[live]
            )
        assert_close(found[k].numpy(), relevance, rtol=0, atol=1e-9 * abs(relevance).max())


def agree(found, expected, bound=1e-9):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= bound * expected.abs().max()


every_network = pytest.mark.parametrize("model", ["MLP", "CNN with average pooling"])


@every_network
@pytest.mark.parametrize("activation", SIGMAS)
def test_networks_by_layers_are_networks_by_the_chain_rule(model, activation):
    net, shape = network(model, activation)
    score, x, b = Score(net, TARGETS), points(shape), points(shape, seed=9)
    agree(propagate(rescale, net, x, b, TARGETS), deeplift_rescale(score, x, b))
    rules = {"nonlinear": chain.ratio(0), "linear": chain.stabilised(1e-6)}
    by_chain = x * chain.modified_gradient(score, x, **rules)
    agree(propagate(epsilon(1e-6), net, x, None, TARGETS), by_chain)
    rules["linear"] = chain.alpha_beta(2, 1)
    by_chain = x * chain.modified_gradient(score, x, **rules)
    agree(propagate(alpha_beta(2, -1), net, x, None, TARGETS), by_chain)


@every_network
@pytest.mark.parametrize("activation", [one for one in SIGMAS if one != "ReLU"])
def test_reveal_cancel_by_layers_is_reveal_cancel_by_parts(model, activation):
    """Not under ReLU, where a unit that stays dead may meet an empty group: `parts` says 0 there."""
    net, shape = network(model, activation)
    x, b = points(shape), points(shape, seed=9)
    expected = deeplift_reveal_cancel(Score(net, 1), x, b)
    agree(propagate(reveal_cancel, net, x, b, 1), expected)


@every_network
@every_sigma
@every_comparing_rule
def test_attributions_are_complete(name, activation, model):
    net, shape = network(model, activation)
    x, b = points(shape), points(shape, seed=9)
    rule = module_shapley(n_pairs=1) if name == "Deep SHAP" else RULES[name][0]
    score = Score(net, TARGETS)
    drop = (score(x) - score(b)).detach()
    agree(propagate(rule, net, x, b, TARGETS).flatten(1).sum(1), drop)


def test_with_one_hidden_layer_and_not_with_two():  # [taylor, Thm 13, 15] and our counterexample
    one = lively(nn.Sequential(nn.Linear(4, 3), nn.Softplus(), nn.Linear(3, 2)))
    stages = nn.Linear(4, 3), nn.Softplus(), nn.Linear(3, 3), nn.Softplus(), nn.Linear(3, 2)
    two = lively(nn.Sequential(*stages), gain=3.0)
    x, gaps = points((4,)), []
    for net in (one, two):
        score = Score(net, 1)
        pairs = [
            (propagate(rescale, net, x, None, 1), integrated_gradients(score, x, n_steps=200)),
            (deep_shap_by_modules(score, x), shapley(score, x).detach()),
        ]
        gaps.append([float((a - b).abs().max() / b.abs().max()) for a, b in pairs])
    assert max(gaps[0]) < 1e-8
    assert min(gaps[1]) > 1e-3


def test_layers_of_a_network_have_its_outputs():
    net, shape = network("CNN with average pooling", "tanh")
    x = points(shape)
    values = x.flatten(1)
    layers = as_layers(net, shape)
    for layer in layers:
        values = layer(values)
    assert_close(values, net(x).detach(), rtol=0, atol=1e-12)
    assert [layer.seen.shape[1] for layer in layers] == [18, 4, 12, 4, 4]
    nested = nn.Sequential(nn.Sequential(*net[:3]), net[3:])
    assert all(
        torch.equal(a.weight, b.weight)
        for a, b in zip(layers, as_layers(nested.eval(), shape), strict=True)
    )


def test_a_network_may_begin_with_flatten_and_have_two_activations_in_a_row():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Softplus(), nn.Tanh(), nn.Linear(3, 2))
    x = points((2, 2))
    found = propagate(rescale, lively(net), x, None, 1)
    agree(found, deeplift_rescale(Score(net, 1), x))


def test_one_activation_module_may_stand_in_two_places():
    bend = nn.LeakyReLU(0.1)
    net = nn.Sequential(nn.Linear(4, 3), bend, nn.Linear(3, 3), bend, nn.Linear(3, 2))
    x = points((4,))
    agree(propagate(epsilon(1e-9), lively(net), x, None, 1), lrp_epsilon(Score(net, 1), x))


@every_rule
def test_batches_dtypes_and_models_are_left_as_they_are(name):
    rule, _ = RULES[name]
    net, shape = network("MLP", "tanh")
    x, b = points(shape), points(shape, seed=9)
    before = state_of(net)
    whole = propagate(rule, net, x, b, TARGETS)
    apart = [propagate(rule, net, x[k : k + 1], b[k : k + 1], int(TARGETS[k])) for k in range(3)]
    assert_close(whole, torch.cat(apart), rtol=0, atol=1e-12)
    assert_same_state(before, state_of(net))
    with torch.inference_mode():
        assert_close(propagate(rule, net, x, b, TARGETS), whole, rtol=0, atol=1e-14)
    single = lively(nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 3))).float()
    found = propagate(rule, single, x.float(), b.float(), TARGETS)
    assert found.dtype == torch.float32
    assert_close(
        found.double(), propagate(rule, single.double(), x, b, TARGETS), rtol=1e-3, atol=1e-4
    )


# --- refusals, as a user sees them, without the type checker before every function ---------------


def test_wrong_shapes_and_numbers_are_refused():
    layer, x = random_layer("tanh"), points((4,))
    handed = partial(inspect.unwrap(Rule.__call__), rescale, layer)
    for wrong in [
        (x[:, :3], None, layer(x)),
        (x, None, layer(x)[:, :2]),
        (x, None, layer(x)[:1]),
        (x, None, layer(x), layer(x)[:1]),
    ]:
        with pytest.raises(ValueError, match=r"from 4 to 3 needs inputs \(batch, 4\)"):
            handed(*wrong)
    with pytest.raises(ValueError, match="relevance must be finite"):
        handed(x, None, layer(x) * torch.nan)
    with pytest.raises(ValueError, match="inputs must be finite"):
        handed(x * torch.inf, None, layer(x))
    with pytest.raises(ValueError, match="baseline has shape"):
        handed(x, x[:2], layer(x))
    with pytest.raises(ValueError, match="weight of shape"):
        inspect.unwrap(Layer.__post_init__)(SimpleNamespace(weight=x, bias=x[0]))
    with pytest.raises(ValueError, match="infinite or NaN"):
        rescale(one_unit([1.0], 0.0, torch.sqrt), row(0.0), None, row(0.0), row(1.0))


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="epsilon > 0"):
        epsilon(0.0)
    with pytest.raises(ValueError, match="at least one pair"):
        module_shapley(0)
    layer, x = random_layer("tanh", features=13), points((13,))
    with pytest.raises(ValueError, match="13 inputs.*pass n_pairs="):
        module_shapley()(layer, x, None, layer(x))
    net = nn.Sequential(dense([[1.0, -1.0]])).eval()
    with pytest.raises(ValueError, match="explain the logit"):
        deep_shap_by_modules(Score(net, 0, output="probability"), row(1.0, 2.0))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([nn.Conv2d(1, 2, 3), nn.MaxPool2d(2)], "stage 1 is MaxPool2d"),
        ([nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)], "stage 1 is BatchNorm2d"),
        ([nn.Conv2d(1, 2, 3), nn.Softmax(1)], "stage 1 is Softmax"),
        ([nn.Sequential(nn.ReLU()), nn.Conv2d(1, 2, 3)], "stage 0.0 is ReLU"),
    ],
)
def test_stages_that_are_no_layer_are_refused(stages, message):
    with pytest.raises(TypeError, match=message):
        propagate(rescale, nn.Sequential(*stages).double().eval(), points((1, 6, 6)), None, 0)


def test_networks_that_are_none_or_train_or_are_too_large_are_refused(monkeypatch):
    net = nn.Sequential(nn.Linear(4, 3)).double()
    with pytest.raises(TypeError, match="nn.Sequential"):
        inspect.unwrap(layers._unrolled)(net[0], (4,))
    with pytest.raises(ValueError, match="training mode"):
        propagate(rescale, net.train(), points((4,)), None, 0)
    with pytest.raises(ValueError, match="one of 3 classes"):
        propagate(rescale, net.eval(), points((4,)), None, 3)
    monkeypatch.setattr(layers, "LARGEST_SIDE", 3)
    with pytest.raises(ValueError, match="too large to write out"):
        as_layers(net, (4,))


# --- captum --------------------------------------------------------------------------------------

by_captum = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore:Setting (forward, backward|backward hooks)"),
    pytest.mark.filterwarnings("ignore:Input Tensor . did not already require gradients"),
]


def captum(test):
    for mark in by_captum:
        test = mark(test)
    return test


@captum
@every_network
@pytest.mark.parametrize("activation", ["ReLU", "tanh", "softplus"])
def test_rescale_is_captums(model, activation):
    attr = pytest.importorskip("captum.attr")
    net, shape = network(model, activation)
    x, b = points(shape), points(shape, seed=9)
    expected = attr.DeepLift(net).attribute(x, b, target=TARGETS).detach()
    agree(propagate(rescale, net, x, b, TARGETS), expected)


@captum
@pytest.mark.parametrize("activation", ["ReLU", "tanh"])
def test_epsilon_is_captums(activation):
    attr = pytest.importorskip("captum.attr")
    net, shape = network("MLP", activation)
    x = points(shape)
    expected = attr.LRP(net).attribute(x, target=TARGETS).detach()
    agree(propagate(epsilon(1e-9), net, x, None, TARGETS), expected)


@captum
def test_deep_taylor_is_captums_where_there_is_no_bias_and_no_negative_input():
    attr = pytest.importorskip("captum.attr")
    rules = pytest.importorskip("captum.attr._utils.lrp_rules")
    net = lively(nn.Sequential(nn.Linear(5, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False)))
    x = points((5,)).abs()
    for stage in net:
        stage.rule = rules.Alpha1_Beta0_Rule()
    expected = attr.LRP(net).attribute(x, target=TARGETS).detach()
    agree(propagate(deep_taylor, net, x, None, TARGETS), expected, 1e-7)  # its own epsilon


@captum
def test_what_libraries_call_deep_shap_is_rescale():
    attr = pytest.importorskip("captum.attr")
    net = lively(nn.Sequential(nn.Linear(3, 3), nn.Softplus(), nn.Linear(3, 1)), gain=3.0)
    x, b = points((3,)), points((3,), n=1, seed=9)
    theirs = attr.DeepLiftShap(net).attribute(x, b.repeat(2, 1), target=0).detach()
    agree(theirs, propagate(rescale, net, x, b, 0), 1e-8)
    ours = deep_shap_by_modules(Score(net, 0), x, b)
    assert (theirs - ours).abs().max() > 1e-3 * ours.abs().max()
