"""Captum as a second opinion, on networks that it handles right.

What it does not: nonlinearities that are not modules, a module used twice, ReLU6, SiLU, GELU (it
silently keeps their gradient), a max-pool beside another nonlinearity or with overlapping windows
(its DeepLIFT is incomplete there), LRP through a functional addition, trapezoid weights that do not
sum to one. Those are compared with the definitions in reference.py instead. Inputs are float64;
RELATIVE is the claims' bound, SINGLE is for where captum rounds to float32 on the way.
"""

import pytest
import torch
from networks import ACTIVATIONS, cnn_average, lively, mlp, network, points
from torch import nn

from attribook.chain import modified_gradient, ratio, stabilised
from attribook.methods import (
    deep_shap,
    deeplift_rescale,
    grad_cam,
    gradient_x_input,
    guided_backprop,
    integrated_gradients,
    lrp_epsilon,
    occlusion,
    sensitivity,
    shapley,
)
from attribook.neurons import conductance, neuron_flow
from attribook.paths import left, midpoint, right
from attribook.score import Score

attr = pytest.importorskip("captum.attr")
pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore:Setting (forward, backward|backward hooks)"),
    pytest.mark.filterwarnings("ignore:Input Tensor . did not already require gradients"),
]

RELATIVE, SINGLE = 1e-9, 1e-5
TARGETS = torch.tensor([0, 2, 1])
AS_MODULES = ["ReLU", "leaky ReLU", "ELU", "sigmoid", "tanh", "softplus"]
ADDITIVE = ["MLP", "CNN with average pooling", "residual CNN with batch-norm"]
every_network = pytest.mark.parametrize("name", ADDITIVE)
every_activation = pytest.mark.parametrize("activation", AS_MODULES)


def agree(actual, expected, bound=RELATIVE):
    scale = expected.abs().max()
    assert scale > 0
    assert (actual - expected).abs().max() <= bound * scale


def case(name, activation):
    """A model, its score, inputs and a baseline for each."""
    model, shape = network(name, activation)
    return model, Score(model, TARGETS), points(shape), points(shape, seed=9)


@every_activation
@every_network
def test_deeplift_rescale(name, activation):
    model, score, x, xb = case(name, activation)
    expected = attr.DeepLift(model).attribute(x, xb, target=TARGETS)
    agree(deeplift_rescale(score, x, xb), expected)


def test_deeplift_rescale_through_max_pools_that_do_not_overlap():
    stages = nn.Conv2d(2, 3, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    model = lively(nn.Sequential(*stages))
    x, xb = points((2, 6, 6)), points((2, 6, 6), seed=9)
    expected = attr.DeepLift(model).attribute(x, xb, target=TARGETS)
    agree(deeplift_rescale(Score(model, TARGETS), x, xb), expected)


@every_activation
@every_network
def test_deep_shap(name, activation):
    model, score, x, _ = case(name, activation)
    baselines = points(tuple(x.shape[1:]), n=5, seed=9)
    expected = attr.DeepLiftShap(model).attribute(x, baselines, target=TARGETS)
    agree(deep_shap(score, x, baselines), expected)


@every_activation
@every_network
def test_integrated_gradients_with_gauss_legendre_nodes(name, activation):
    model, score, x, xb = case(name, activation)
    options = {"target": TARGETS, "n_steps": 30, "method": "gausslegendre"}
    expected = attr.IntegratedGradients(model).attribute(x, xb, **options)
    agree(integrated_gradients(score, x, xb, n_steps=30), expected, SINGLE)  # its weights


@pytest.mark.parametrize(
    ("rule", "method"),
    [(left, "riemann_left"), (right, "riemann_right"), (midpoint, "riemann_middle")],
)
def test_integrated_gradients_with_riemann_sums(rule, method):
    model, score, x, xb = case("MLP", "tanh")
    options = {"target": TARGETS, "n_steps": 20, "method": method}
    expected = attr.IntegratedGradients(model).attribute(x, xb, **options)
    agree(integrated_gradients(score, x, xb, n_steps=20, rule=rule), expected, SINGLE)


class Flat(nn.Module):
    """Stages, then a dense layer; flattened by a call, as captum has no LRP rule for nn.Flatten."""

    def __init__(self, stages):
        super().__init__()
        self.body = nn.Sequential(*(s for s in stages[:-1] if not isinstance(s, nn.Flatten)))
        self.top = stages[-1]

    def forward(self, x):
        return self.top(self.body(x).flatten(1))


@pytest.mark.parametrize("activation", ["ReLU", "tanh"])  # the two that its LRP knows
@pytest.mark.parametrize(("stages", "shape"), [(mlp, (5,)), (cnn_average, (2, 6, 6))])
def test_epsilon_lrp(stages, shape, activation):
    model, x = lively(Flat(stages(ACTIVATIONS[activation]))), points(shape)
    score = Score(model, TARGETS)
    expected = attr.LRP(model).attribute(x, target=TARGETS).detach()
    exact = x * modified_gradient(score, x, nonlinear=ratio(0), linear=stabilised(1e-9))
    agree(exact, expected)
    agree(lrp_epsilon(score, x), expected, bound=1e-6)  # without the affine maps' 1e-9 / |z|


@every_activation
@every_network
def test_sensitivity_and_gradient_x_input(name, activation):
    model, score, x, _ = case(name, activation)
    agree(sensitivity(score, x), attr.Saliency(model).attribute(x, target=TARGETS))
    expected = attr.InputXGradient(model).attribute(x, target=TARGETS).detach()
    agree(gradient_x_input(score, x), expected)


@every_network
def test_guided_back_propagation_through_relus(name):
    model, score, x, _ = case(name, "ReLU")
    agree(guided_backprop(score, x), attr.GuidedBackprop(model).attribute(x, target=TARGETS))


def test_grad_cam():
    model, score, x, _ = case("CNN with average pooling", "tanh")
    cam = attr.LayerGradCam(model, model[1]).attribute(x, target=TARGETS, relu_attributions=True)
    enlarged = attr.LayerAttribution.interpolate(cam, x.shape[2:], "bilinear").detach()
    agree(grad_cam(score, x, layer="1"), enlarged.expand_as(x))


@every_activation
def test_occlusion_feature_by_feature(activation):
    model, score, x, xb = case("MLP", activation)
    expected = attr.FeatureAblation(model).attribute(x, xb, target=TARGETS).detach()
    agree(occlusion(score, x, xb), expected)


@every_activation
def test_exact_shapley_values(activation):
    model, score, x, xb = case("MLP", activation)
    expected = attr.ShapleyValues(model).attribute(x, xb, target=TARGETS).detach()
    agree(shapley(score, x, xb), expected, SINGLE)  # it adds up in float32


LAYERS = [("MLP", "1"), ("CNN with average pooling", "2"), ("CNN with max-pooling", "4")]


def neuron_by_neuron(model, layer, shape, x, xb):
    """Captum's part of each input that flows through each neuron, (batch, neurons, *features)."""
    neuron = attr.NeuronConductance(model, model[int(layer)])
    options = {"n_steps": 10, "method": "gausslegendre"}  # by default it takes the trapezoid rule
    indices = torch.cartesian_prod(*map(torch.arange, shape)).view(-1, len(shape)).tolist()
    each = [neuron.attribute(x, tuple(i), xb, TARGETS, **options) for i in indices]
    return torch.stack(each, 1).detach()


@pytest.mark.parametrize(("name", "layer"), LAYERS)
def test_the_flow_through_each_neuron(name, layer):  # [integrated, Eq. 4, 7]
    model, score, x, xb = case(name, "tanh")
    patch = torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(2)) > 0.5
    found = conductance(score, x, layer, xb, patch, n_steps=10)
    expected = neuron_by_neuron(model, layer, found.shape[1:], x, xb)
    flow = neuron_flow(score, x, layer, xb, n_steps=10)
    agree(flow, expected.flatten(2).transpose(1, 2), SINGLE)  # its weights
    agree(found.flatten(1), (expected * patch).flatten(2).sum(2), SINGLE)


@pytest.mark.parametrize(("name", "layer"), LAYERS[:2])
def test_the_conductance_of_a_layer(name, layer):  # [integrated, Eq. 6]
    """Captum takes differences of the layer between the nodes: first order in 1 / n."""
    model, score, x, xb = case(name, "tanh")
    exact, whole = conductance(score, x, layer, xb), attr.LayerConductance(model, model[int(layer)])
    options = {"target": TARGETS, "method": "riemann_trapezoid"}
    found = [whole.attribute(x, xb, n_steps=n, **options).detach() for n in (100, 400)]
    errors = [float((one - exact).abs().max() / exact.abs().max()) for one in found]
    assert errors[1] < 0.01
    assert 3 < errors[0] / errors[1] < 5
