"""Captum as a second opinion on [taylor]: its attributions are the sums that the theorems state.

No method of ours stands in between: effects and shares on one side, captum on the other.
"""

import pytest
import torch
from networks import ACTIVATIONS, lively
from torch import nn

from attribook.allocation import (
    allocate,
    by_degree,
    equally,
    first_order,
    whole_to_members,
    whole_to_patches,
)
from attribook.methods import grad_cam_neurons, occlusion_patch
from attribook.polynomials import SideBySide, random_polynomial
from attribook.score import Score
from attribook.taylor import effects_by_autodiff, polynomial_effects

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
