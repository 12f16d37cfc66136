import pytest
import torch
from torch import nn

from attribook.methods import integrated_gradients
from attribook.papers.functions import toys
from attribook.papers.functions.polynomials import monomial
from attribook.papers.integrated.lipschitz import (
    STEEPEST,
    certified_steepness,
    ig_slopes,
    steepness,
)
from attribook.score import Score


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def draw(generator, *shape):
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def test_slopes_are_the_derivatives_of_integrated_gradients(generator):
    score = Score(toys.random_mlp(nn.Tanh, generator, sizes=(3, 16, 1)), 0)
    x, x0, h = draw(generator, 5, 3), draw(generator, 1, 3), 1e-5
    for j, step in enumerate(h * torch.eye(3, dtype=torch.float64)):
        ahead, behind = (integrated_gradients(score, x + s, x0, 64) for s in (step, -step))
        expected = (ahead - behind) / (2 * h)
        torch.testing.assert_close(ig_slopes(score, x, x0)[:, :, j], expected, atol=1e-9, rtol=0)


def test_slopes_of_a_product_are_known():  # IG_i = x1 x2 / 2 from zero
    x = torch.tensor([[1.0, 0.25]], dtype=torch.float64)
    slopes = ig_slopes(Score(monomial(1, 1)), x, torch.zeros_like(x), n_steps=2)
    expected = torch.tensor([[[0.125, 0.5], [0.125, 0.5]]], dtype=torch.float64)
    torch.testing.assert_close(slopes, expected, atol=1e-15, rtol=0)


def test_slopes_leave_the_model_and_the_inputs_as_they_were(generator):
    net = toys.random_mlp(nn.Tanh, generator, sizes=(3, 16, 1))
    x = draw(generator, 2, 3)
    slopes = ig_slopes(Score(net, 0), x, x.flip(0))
    assert not slopes.requires_grad and not x.requires_grad
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_steepness_of_a_quadratic_is_exact_at_the_corners_of_the_box(generator):
    matrix = draw(generator, 3, 3)
    matrix, shift = matrix + matrix.T, draw(generator, 3)
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 3)
    score = Score(lambda y: ((y @ matrix) * y).sum(1) / 2 + y @ shift)
    first, second = steepness(score, corners)
    torch.testing.assert_close(first, (corners @ matrix + shift).abs().amax(0))
    torch.testing.assert_close(second, torch.linalg.matrix_norm(matrix, ord=2))


@pytest.mark.parametrize("activation", STEEPEST)
def test_certified_steepness_is_never_exceeded(activation, generator):
    net = toys.random_mlp(activation, generator, sizes=(3, 16, 1))
    points = 20 * draw(generator, 2000, 3) - 10
    sampled, certified = steepness(Score(net, 0), points), certified_steepness(net)
    assert (sampled[0] <= certified[0]).all() and sampled[1] <= certified[1]


@pytest.mark.parametrize("activation", STEEPEST)
def test_the_steepest_derivatives_of_the_activations(activation):
    z = torch.linspace(-6, 6, 120_001, dtype=torch.float64)
    first = torch.func.vmap(torch.func.grad(activation()))
    second = torch.func.vmap(torch.func.grad(torch.func.grad(activation())))
    found = first(z).abs().max(), second(z).abs().max()
    for value, bound in zip(found, STEEPEST[activation], strict=True):
        assert bound - 0.01 < value <= bound + 1e-12  # softplus' first is a limit
