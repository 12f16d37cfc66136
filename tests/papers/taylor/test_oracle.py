"""Captum as a second opinion on [taylor]: its attributions are the sums that the theorems state.

No method of ours stands in between: effects and shares on one side, captum on the other.
"""

import pytest
import torch
from networks import ACTIVATIONS, lively
from torch import nn

from attribook.effects import effects_by_autodiff
from attribook.methods import grad_cam_neurons, occlusion_patch
from attribook.papers.functions.polynomials import SideBySide, random_polynomial
from attribook.papers.taylor.exact import neuron_effects, polynomial_effects
from attribook.score import Score
from attribook.sharing import (
    allocate,
    by_degree,
    by_sign,
    equally,
    first_order,
    whole_to_members,
    whole_to_patches,
)

attr = pytest.importorskip("captum.attr")
pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore:Setting (forward, backward|backward hooks)"),
    pytest.mark.filterwarnings("ignore:Input Tensor . did not already require gradients"),
]

EXACT, SINGLE = 1e-10, 1e-6  # SINGLE: captum rounds weights or sums to single precision
PATCHES = torch.tensor([0, 1, 1, 2])


def agree(actual, expected, bound=EXACT):
    scale = expected.abs().max()
    assert scale > 0
    assert (actual - expected).abs().max() <= bound * scale


@pytest.fixture
def case():
    """Polynomials side by side, inputs, baselines, and all effects."""
    generator = torch.Generator().manual_seed(0)
    polynomials = [random_polynomial(generator, 4, 6) for _ in range(10)]
    x, b = torch.rand(2, 10, 4, generator=generator, dtype=torch.float64) * 2 - 1
    function = SideBySide(polynomials)
    return lambda u: function(u), x, b, polynomial_effects(polynomials, x, b)


def test_gradient_x_input_is_the_first_order_of_the_tangent(case):  # Theorem 2
    function, x, _, _ = case
    expected = attr.InputXGradient(function).attribute(x.clone().requires_grad_()).detach()
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(leaf).sum(), leaf)
    tangent = Score(lambda u: function(x) + (slope * (u - x)).sum(1))
    agree(allocate(effects_by_autodiff(tangent, x, order=2), first_order), expected)


def test_ablation_gives_whole_effects_to_their_variables(case):  # Theorem 3
    function, x, b, effects = case
    expected = attr.FeatureAblation(function).attribute(x, b)
    agree(allocate(effects, whole_to_members), expected)


def test_ablation_by_patches_gives_whole_effects_to_the_patches_they_meet(case):  # Theorem 4
    function, x, b, effects = case
    expected = attr.FeatureAblation(function).attribute(x, b, feature_mask=PATCHES[None])
    agree(allocate(effects, whole_to_patches(PATCHES)), expected)
    agree(occlusion_patch(Score(function), x, PATCHES, b), expected)


def test_integrated_gradients_share_by_degree(case):  # Theorem 7
    function, x, b, effects = case
    options = {"n_steps": 64, "method": "gausslegendre"}
    expected = attr.IntegratedGradients(function).attribute(x, b, **options)
    agree(allocate(effects, by_degree), expected, SINGLE)


def test_shapley_values_share_equally(case):  # Theorem 9
    function, x, b, effects = case
    agree(allocate(effects, equally), attr.ShapleyValues(function).attribute(x, b), SINGLE)


@pytest.mark.parametrize("activation", ["ReLU", "sigmoid"])
@pytest.mark.parametrize("pooled", [True, False], ids=["pooled head", "dense head"])
def test_grad_cam_before_its_relu(pooled, activation):  # Theorem 6
    stages = [nn.Conv2d(2, 3, 3), ACTIVATIONS[activation](), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    stages += [nn.Linear(3, 3)]
    if not pooled:
        stages[2:] = [nn.Flatten(), nn.Linear(48, 3)]
    model, targets = lively(nn.Sequential(*stages)), torch.tensor([0, 2, 1])
    x = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cam = attr.LayerGradCam(model, model[1]).attribute(x, targets, relu_attributions=False)
    agree(grad_cam_neurons(Score(model, targets), x, "1").sum(1, keepdim=True), cam.detach())


@pytest.fixture
def unit():
    """tanh(w.u + s), and moves >= 0 with contributions of both signs, short enough for the series."""
    net = lively(nn.Sequential(nn.Linear(4, 1), nn.Tanh()))
    with torch.no_grad():
        net[0].weight.copy_(net[0].weight.abs() * torch.tensor([1, -1, 1, -1]))
    sizes = torch.rand(10, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return net, 0.5 * sizes / sizes.sum(1, keepdim=True) / net[0].weight.detach().abs()


def test_epsilon_gives_the_first_order_of_the_tangent():  # Theorem 10
    stages = nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 1)
    net = lively(nn.Sequential(*stages))
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(leaf).sum(), leaf)
    tangent = Score(lambda u: net(x)[:, 0].detach() + (slope * (u - x)).sum(1))
    expected = attr.LRP(net).attribute(x, target=0).detach()  # its epsilon is 1e-9
    agree(allocate(effects_by_autodiff(tangent, x, order=2), first_order), expected, 1e-6)


def test_alpha_one_beta_zero_gives_independent_effects_to_others_too(unit):  # Theorem 12
    rules = pytest.importorskip("captum.attr._utils.lrp_rules")
    net, x = unit  # captum takes the sign of a weight for that of z, so x >= 0
    nn.init.zeros_(net[0].bias)  # tanh(0) = 0: the output is the sum of all effects at 0
    net[0].rule = rules.Alpha1_Beta0_Rule()
    expected = attr.LRP(net).attribute(x, target=0).detach()
    z = net[0].weight.detach() * x
    effects = neuron_effects(nn.Tanh(), z.new_zeros(len(z)), z, 20)
    agree(allocate(effects, by_sign(1, 0, z)), expected, 1e-7)  # its own epsilon
    as_printed = allocate(effects, by_sign(1, 0, z, singletons=False))
    assert (as_printed - expected).abs().max() > 1e-2 * expected.abs().max()


@pytest.mark.parametrize("library", ["DeepLift", "DeepLiftShap"])
def test_deep_lift_shares_by_degree_and_deep_lift_shap_too(unit, library):  # Theorem 13, not 15
    net, moves = unit
    b = torch.tensor([[0.3, -0.2, 0.1, 0.4]], dtype=torch.float64)
    several = b if library == "DeepLift" else b.repeat(2, 1)  # it asks for two at least
    expected = getattr(attr, library)(net).attribute(b + moves, several, target=0).detach()
    start = net[0](b)[0].detach().expand(len(moves))
    effects = neuron_effects(nn.Tanh(), start, net[0].weight.detach() * moves, 20)
    agree(allocate(effects, by_degree), expected, 1e-8)
    assert (allocate(effects, equally) - expected).abs().max() > 1e-4 * expected.abs().max()
