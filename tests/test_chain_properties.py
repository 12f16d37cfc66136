"""What must hold for every network: random ones from a grammar of layers, at random inputs.

The examples are derived from the test itself (derandomize), so a run can be repeated. Bounds:
SAME is rounding; RELATIVE leaves room for denominators that come close to zero by chance.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import reference as ref
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import ACTIVATIONS, assert_same_state, lively, points, state_of
from torch import nn

from attribook.chain import (
    alpha_beta,
    cross_max,
    derivative,
    guided,
    intercepted_calls,
    modified_gradient,
    ratio,
    rescale,
    stabilised,
)
from attribook.score import Score

RELATIVE, SAME = 1e-9, 1e-12
CLASSES = 3
TARGETS = torch.tensor([0, 2, 1])
RULES = {
    "derivative": {"nonlinear": derivative},
    "ratio": {"nonlinear": ratio()},
    "stabilised": {"nonlinear": ratio(0), "linear": stabilised(1e-3)},
    "guided": {"nonlinear": guided},
    "alpha-beta": {"nonlinear": ratio(), "linear": alpha_beta(2, 1)},
    "rescale": {"nonlinear": rescale, "max_pool": cross_max},
}
REFERENCED = ("rescale",)
every_rule = pytest.mark.parametrize("rule", RULES)
examples = settings(max_examples=40, deadline=None, derandomize=True)


# The grammar: a network is a list of stages, each drawn to fit the shape that reaches it


@dataclass(frozen=True)
class Net:
    """A network and the points to explain it at."""

    model: nn.Sequential
    inputs: torch.Tensor
    baseline: torch.Tensor

    @property
    def score(self):
        return Score(self.model, TARGETS)

    @property
    def shape(self):
        return tuple(self.inputs.shape[1:])

    def rules(self, rule):
        """The rule, with this net's baseline if it needs one."""
        return RULES[rule] | ({"baseline": self.baseline} if rule in REFERENCED else {})


def activations(used):
    """A new activation, or one that an earlier stage already uses."""
    new = st.sampled_from(sorted(ACTIVATIONS)).map(lambda name: ACTIVATIONS[name]())
    return st.one_of(new, st.sampled_from(used)) if used else new


@st.composite
def activation(draw, used, channels):
    module = draw(activations(used))
    used.append(module)
    return module


@st.composite
def dense(draw, used, features):
    return nn.Linear(features, draw(st.integers(2, 5)), bias=draw(st.booleans()))


@st.composite
def convolution(draw, used, channels):
    size, bias = draw(st.sampled_from([1, 3])), draw(st.booleans())
    return nn.Conv2d(channels, draw(st.integers(1, 3)), size, padding=size // 2, bias=bias)


def batch_norm(used, channels):
    return st.builds(nn.BatchNorm2d, st.just(channels))


@st.composite
def pool(draw, used, channels):
    kind = draw(st.sampled_from([nn.AvgPool2d, nn.MaxPool2d]))
    overlapping = draw(st.booleans())
    return kind(3, stride=1, padding=1) if overlapping else kind(2, stride=1)


def keeps_width(draw, used, kind, width, affine):
    """A short chain of stages from `width` units or channels to as many."""
    first = draw(kind(used, width))
    between = draw(activation(used, None))
    return nn.Sequential(first, between, affine(width_of(first), width))


def width_of(module):
    return getattr(module, "out_features", None) or module.out_channels


@st.composite
def residual_dense(draw, used, features):
    return ref.Residual(keeps_width(draw, used, dense, features, nn.Linear))


@st.composite
def residual_convolution(draw, used, channels):
    def to_width(before, after):
        return nn.Conv2d(before, after, 1)

    return ref.Residual(keeps_width(draw, used, convolution, channels, to_width))


@st.composite
def concat_dense(draw, used, features):
    return ref.Concat(draw(dense(used, features)), draw(activation(used, None)))


@st.composite
def concat_convolution(draw, used, channels):
    return ref.Concat(draw(convolution(used, channels)), nn.Conv2d(channels, 1, 1))


IMAGE = [activation, convolution, batch_norm, pool, residual_convolution, concat_convolution]
VECTOR = [activation, dense, residual_dense, concat_dense]


@st.composite
def nets(draw, batch=3):
    """A network of up to four image stages and up to four dense stages, and points to explain."""
    used, stages = [], []
    of_images = draw(st.booleans())
    shape = (draw(st.integers(1, 2)), 4, 4) if of_images else (draw(st.integers(1, 5)),)
    reached = shape
    for kinds in [IMAGE, VECTOR] if of_images else [VECTOR]:
        for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=4)):
            stage = draw(kind(used, reached[0]))
            if len(reached) == 3 and min(reached[1:]) < 2 and kind is pool:
                continue
            stages.append(stage)
            reached = shape_after(stage, reached)
        if len(reached) == 3:
            stages.append(nn.Flatten())
            reached = shape_after(stages[-1], reached)
    stages.append(nn.Linear(reached[0], CLASSES))
    seed = draw(st.integers(0, 2**20))
    model = lively(nn.Sequential(*stages), seed, gain=draw(st.sampled_from([1.0, 1.5, 3.0])))
    baselines = draw(st.sampled_from([1, batch]))
    return Net(model, points(shape, batch, seed + 1), points(shape, baselines, seed + 2))


@torch.no_grad()
def shape_after(stage, shape):
    kept = stage.double().eval()
    return tuple(kept(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:])


def close(actual, expected, bound):
    """Largest difference at most `bound` times the largest number, or times one if that is less."""
    scale = max(1.0, float(expected.abs().max()))
    assert float((actual - expected).abs().max()) <= bound * scale


# The properties


@every_rule
@examples
@given(net=nets())
def test_no_rule_changes_the_forward_value(net, rule):
    seen = []

    def watched(x):
        seen.append(net.model(x))
        return seen[-1]

    modified_gradient(Score(watched, TARGETS), net.inputs, **net.rules(rule))
    rows = [net.inputs, net.baseline] if rule in REFERENCED else [net.inputs]
    close(seen[0].detach(), net.model(torch.cat(rows)).detach(), SAME)
    assert len(seen) == 1  # and the model ran once


@examples
@given(net=nets())
def test_the_derivative_rule_is_autograd(net):
    x = net.inputs.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net.score(x).sum(), x)
    close(modified_gradient(net.score, net.inputs, nonlinear=derivative), expected, SAME)


@examples
@given(net=nets())
def test_rescale_is_complete(net):
    multipliers = modified_gradient(net.score, net.inputs, **net.rules("rescale"))
    attributions = ((net.inputs - net.baseline) * multipliers).flatten(1)
    baseline = net.baseline.expand_as(net.inputs)
    drop = (net.score(net.inputs) - net.score(baseline)).detach()
    largest = max(1.0, float(attributions.abs().sum(1).max()))
    assert float((attributions.sum(1) - drop).abs().max()) <= RELATIVE * largest


@examples
@given(net=nets())
def test_the_ratio_rule_is_lrp_layer_by_layer(net):
    graph = ref.as_graph(net.model, net.shape)
    rules = {"nonlinear": ratio(0), "linear": stabilised(1e-3)}
    attributions = net.inputs * modified_gradient(net.score, net.inputs, **rules)
    rows = zip(net.inputs, TARGETS.tolist(), strict=True)
    expected = np.stack([ref.lrp_layerwise(graph, x, c, 1e-3) for x, c in rows])
    close(attributions.flatten(1), torch.from_numpy(expected), RELATIVE)


@every_rule
@examples
@given(net=nets())
def test_a_batch_of_three_is_three_batches_of_one(net, rule):
    together = modified_gradient(net.score, net.inputs, **net.rules(rule))
    each = net.baseline.expand_as(net.inputs)
    for i in range(3):
        rules = RULES[rule] | ({"baseline": each[i : i + 1]} if rule in REFERENCED else {})
        alone = modified_gradient(Score(net.model, int(TARGETS[i])), net.inputs[i : i + 1], **rules)
        close(together[i : i + 1], alone, RELATIVE)


@every_rule
@examples
@given(net=nets())
def test_model_hooks_and_inputs_are_untouched(net, rule):
    kept, before = net.inputs.clone(), state_of(net.model)
    modified_gradient(net.score, net.inputs, **net.rules(rule))
    assert_same_state(before, state_of(net.model))
    assert torch.equal(net.inputs, kept) and not net.inputs.requires_grad
    assert not torch.overrides._get_current_function_mode_stack()


@examples
@given(net=nets())
def test_every_activation_executed_is_counted(net):
    graph = ref.as_graph(net.model, net.shape)
    executed = sum(isinstance(node, ref.Elementwise) for node in graph)
    assert sum(intercepted_calls(net.score, net.inputs).values()) == executed


def test_the_grammar_reaches_every_kind_of_layer():  # so that the tests above mean something
    reached = set()

    @settings(examples, max_examples=200)
    @given(net=nets())
    def collect(net):
        modules = [module for _, module in net.model.named_modules(remove_duplicate=False)]
        reached.update(type(module).__name__ for module in modules)
        if len(modules) > len(set(modules)):
            reached.add("a reused activation")

    collect()
    layers = {"Linear", "Conv2d", "BatchNorm2d", "AvgPool2d", "MaxPool2d", "Residual", "Concat"}
    assert layers | {"ReLU", "Tanh", "ReLU6", "GELU", "Apply", "a reused activation"} <= reached
