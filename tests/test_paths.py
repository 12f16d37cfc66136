import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from attribook import paths
from attribook.methods import expected_gradients, integrated_gradients
from attribook.paths import (
    NonFiniteGradient,
    Path,
    gauss_legendre,
    left,
    midpoint,
    path_integral,
    right,
    straight,
    trapezoid,
)
from attribook.score import Score
from attribook.toys import one_plus_root, random_mlp

RULES = [left, right, midpoint, trapezoid, gauss_legendre]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_quadrature_weights_sum_to_one_on_nodes_inside_the_interval(rule, n):
    nodes, weights = rule(n)
    assert len(nodes) == len(weights) == n + (rule is trapezoid)
    assert abs(weights.sum() - 1) < 1e-14 * n  # a rounding error a node
    assert nodes.min() >= 0 and nodes.max() <= 1


@pytest.mark.parametrize(
    ("rule", "degree"), [(left, 0), (right, 0), (midpoint, 1), (trapezoid, 1), (gauss_legendre, 7)]
)
def test_a_rule_integrates_polynomials_up_to_its_degree_and_no_further(rule, degree):
    nodes, weights = rule(4)
    errors = [abs(weights @ nodes**p - 1 / (p + 1)) for p in range(degree + 2)]
    assert max(errors[:-1]) < 1e-15
    assert errors[-1] > 1e-6


@pytest.mark.parametrize("n", [0, -1])
def test_a_rule_refuses_a_number_of_steps_that_is_no_count(n):
    with pytest.raises(ValueError, match="whole number of steps"):
        gauss_legendre(n)


def test_integrated_gradients_of_a_polynomial_are_exact_and_carry_the_difference_factor():
    # S = x1^2 x2 from (1, 1) to (2, 3): R = (19/3, 14/3)  [gradient, Eq. 19 corrected]
    score = Score(lambda z: z[:, 0] ** 2 * z[:, 1])
    x = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
    x0 = torch.ones_like(x)
    ig = integrated_gradients(score, x, x0, n_steps=2)
    assert_close(ig, torch.tensor([[19 / 3, 14 / 3]], dtype=torch.float64), atol=1e-14, rtol=0)


@pytest.mark.parametrize("rule", [left, trapezoid])
def test_an_infinite_gradient_is_reported_with_its_node(rule):
    x = torch.full((1, 2), 4.0, dtype=torch.float64)
    with pytest.raises(NonFiniteGradient, match="alpha = 0 "):
        integrated_gradients(Score(one_plus_root), x, n_steps=10, rule=rule)


@pytest.mark.parametrize(
    ("rule", "n", "value"),
    [(right, 50, 1.803458), (midpoint, 50, 1.914463), (gauss_legendre, 50, 1.982758)],
)
def test_the_square_root_converges_as_slowly_as_known(rule, n, value):
    x = torch.full((1, 2), 4.0, dtype=torch.float64)
    ig = integrated_gradients(Score(one_plus_root), x, n_steps=n, rule=rule)
    assert_close(ig, torch.tensor([[4.0, value]], dtype=torch.float64), atol=1e-5, rtol=0)


def test_long_paths_run_in_bounded_batches_with_the_same_result(monkeypatch, generator):
    score = Score(random_mlp(nn.Tanh, generator), 0)
    x = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    at_once = integrated_gradients(score, x, n_steps=40)
    rows = []
    monkeypatch.setattr(paths, "ELEMENTS_A_PASS", 3 * 6 * 7)
    watched = Score(lambda z: rows.append(len(z)) or score(z))
    assert_close(integrated_gradients(watched, x, n_steps=40), at_once, atol=1e-15, rtol=0)
    assert max(rows) == 21 and sum(rows) == 120


def test_a_corner_is_integrated_from_both_sides():
    def at(t):  # from (0, 0) along the first axis to (1, 0), then up to (1, 1)
        t = t.double().view(-1, 1)
        before = t < 0.5
        point = torch.where(before, 2 * t, 1.0), torch.where(before, 0.0, 2 * t - 1)
        velocity = torch.where(before, 2.0, 0.0), torch.where(before, 0.0, 2.0)
        return torch.stack(point, 2), torch.stack(velocity, 2)

    end = torch.ones(1, 2, dtype=torch.float64)
    score = Score(lambda z: z[:, 0] * z[:, 1])
    exact = path_integral(score, Path(at, end, corners=(0, 0.5, 1)), n_steps=2)
    assert_close(exact, torch.tensor([[0.0, 1.0]]).double(), atol=1e-15, rtol=0)


def test_expected_gradients_are_the_mean_over_baselines(generator):
    score = Score(random_mlp(nn.Tanh, generator), torch.tensor([0, 1, 2]))
    x, baselines = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (3, 4))
    each = [integrated_gradients(score, x, x0[None], n_steps=20) for x0 in baselines]
    expected = torch.stack(each).mean(0)
    assert_close(expected_gradients(score, x, baselines), expected, atol=1e-14, rtol=0)


def test_a_straight_path_starts_at_the_baseline_and_ends_at_the_inputs(generator):
    x, x0 = (torch.randn(2, 5, generator=generator) for _ in range(2))
    points, velocities = straight(x, x0).at(torch.tensor([0.0, 1.0]))
    assert_close(points, torch.stack([x0, x]))
    assert_close(velocities[0], x - x0)


def test_gauss_legendre_converges_faster_than_any_power_on_a_smooth_net(generator):
    score = Score(random_mlp(nn.Tanh, generator), 0)
    x = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    fine = integrated_gradients(score, x, n_steps=60)
    errors = [
        float((integrated_gradients(score, x, n_steps=n) - fine).abs().max()) for n in (4, 8, 16)
    ]
    assert np.all(np.diff(np.log(errors)) < -math.log(2**4))
