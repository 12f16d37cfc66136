import copy
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import reference as ref
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from attribook import numerics
from attribook.methods import expected_gradients, integrated_gradients
from attribook.papers.functions.polynomials import (
    Polynomial,
    exact_attributions,
    monomial,
    random_polynomial,
)
from attribook.papers.functions.toys import one_plus_root, random_mlp, switches
from attribook.papers.integrated.rivals import random_detour
from attribook.paths import (
    NonFiniteGradient,
    Path,
    backwards,
    curve,
    ensemble_integral,
    gauss_legendre,
    is_monotone,
    joined,
    left,
    length,
    midpoint,
    path_integral,
    polyline,
    power,
    reclocked,
    right,
    staircase,
    straight,
    trapezoid,
    with_corners,
)
from attribook.score import Score

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
    monkeypatch.setattr(numerics, "NUMBERS_A_PASS", 3 * 6 * 7)
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


# -- paths of the second paper ---------------------------------------------------------------------


def square(*terms):
    """The score of a polynomial, from (0, 0) to (1, 1)."""
    x = torch.ones(1, 2, dtype=torch.float64)
    return Score(sum(terms[1:], start=terms[0])), x, torch.zeros_like(x)


MAKERS = {
    "straight": straight,
    "polyline": random_detour(torch.Generator().manual_seed(3), 4, n_corners=3),
    "staircase": lambda x, x0: staircase(x, x0, [2, 0, 3, 1]),
    "power": lambda x, x0: power(x, x0, x.new_tensor([[0.5, 1.0, 2.0, 1.5]])),
    "curve": lambda x, x0: curve(
        lambda t: x0 + (x - x0) * (t.to(x).view(-1, 1, 1) * math.pi / 2).sin()
    ),
    "joined": lambda x, x0: joined(straight(x + 1, x0), staircase(x, x + 1, [3, 1, 0, 2])),
    "backwards": lambda x, x0: backwards(staircase(x0.expand_as(x), x, [1, 2, 0, 3])),
    "reclocked": lambda x, x0: reclocked(staircase(x, x0, [0, 1, 2, 3]), lambda t: t**2),
    "with corners": lambda x, x0: with_corners(straight(x, x0), lambda y: y - 0.1),
}
every_path = pytest.mark.parametrize("make_path", MAKERS.values(), ids=MAKERS)


@pytest.fixture
def case(generator):
    """A smooth score with a class for each sample, three inputs and a baseline for each."""
    score = Score(random_mlp(nn.Tanh, generator, (4, 8, 3)), torch.tensor([2, 0, 1]))
    x, x0 = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    return score, x, x0


@pytest.mark.parametrize(
    ("make_path", "expected"),
    [
        (lambda x, x0: staircase(x, x0, [0, 1]), (0, 1)),
        (straight, (2 / 3, 1 / 3)),
        (lambda x, x0: curve(lambda t: torch.stack([t, t**3], 1)[:, None]), (2 / 5, 3 / 5)),
        (lambda x, x0: power(x, x0, x.new_tensor([[1.0, 3.0]])), (2 / 5, 3 / 5)),
    ],
)
def test_three_paths_give_three_attributions(make_path, expected):  # [integrated, Fig. 5]
    score, x, x0 = square(monomial(2, 1))
    found = path_integral(score, make_path(x, x0), n_steps=12)
    assert_close(found, x.new_tensor([expected]), atol=1e-14, rtol=0)


def test_the_power_path_is_another_path_than_the_straight_one():  # [integrated, Sec. 2.2]
    score, x = Score(monomial(2, 1)), torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    found = path_integral(score, power(x, 0 * x, 1 + x), n_steps=32)
    assert_close(found, x.new_tensor([[4 / 11, 3 / 22]]), atol=1e-14, rtol=0)


@pytest.mark.parametrize("n", range(-8, 9))
def test_rounds_of_the_square_joined_to_its_diagonal(n):  # [integrated, App. F]
    score, x, x0 = square(monomial(1, 1))
    corners = [x0, x * x.new_tensor([0, 1]), x, x * x.new_tensor([1, 0]), x0]
    clockwise = polyline(corners)
    turn = clockwise if n > 0 else backwards(clockwise)
    found = path_integral(score, joined(*[turn] * abs(n), straight(x, x0)), n_steps=2)
    assert_close(found, x.new_tensor([[0.5 + n, 0.5 - n]]), atol=1e-13, rtol=0)


def numbers(polynomial):
    """The polynomial as a function of one point, in plain arithmetic."""
    return lambda point: sum(
        c * math.prod(y**k for y, k in zip(point, exponents, strict=True))
        for exponents, c in polynomial.terms.items()
    )


def test_polylines_equal_the_definition_piece_by_piece_and_node_by_node(generator):
    polynomial = random_polynomial(generator, 3, 4)
    points = list(torch.randn(5, 2, 3, generator=generator, dtype=torch.float64))
    found = path_integral(Score(polynomial), polyline(points), n_steps=4)
    for row in range(2):
        corners = [point[row].numpy() for point in points]
        pieces = [ref.segment(p, q) for p, q in itertools.pairwise(corners)]
        expected = ref.path_attributions(numbers(polynomial), pieces)
        np.testing.assert_allclose(found[row], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_staircase_gives_each_feature_what_it_adds_in_its_turn(order, generator):
    polynomial = random_polynomial(generator, 3, 4)
    x, x0 = torch.randn(2, 2, 3, generator=generator, dtype=torch.float64)
    found = path_integral(Score(polynomial), staircase(x, x0, order), n_steps=4)
    for row in range(2):
        expected = ref.axis_order(numbers(polynomial), x[row].numpy(), x0[row].numpy(), order)
        np.testing.assert_allclose(found[row], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("exponents", [(1, 1, 1), (0.5, 1, 3), (2, 0.75, 0.25)])
def test_a_power_path_equals_the_definition(exponents, generator):
    polynomial = random_polynomial(generator, 3, 4)
    x, x0 = torch.randn(2, 2, 3, generator=generator, dtype=torch.float64)
    path = power(x, x0, x.new_tensor([exponents]))
    found = path_integral(Score(polynomial), path, n_steps=40)
    for start, end, row in zip(x0.numpy(), x.numpy(), found, strict=True):

        def piece(s, start=start, end=end):  # with t = s^4 every feature is a whole power of s
            return start + (end - start) * s ** (4 * np.array(exponents))

        expected = ref.path_attributions(numbers(polynomial), [piece], n=40)
        np.testing.assert_allclose(row, expected, atol=1e-7, rtol=0)  # differences of s^12


@every_path
def test_every_path_is_complete_in_both_directions(make_path, case):
    score, x, x0 = case
    path = make_path(x, x0)
    assert_close(path.end, x, atol=1e-14, rtol=0)
    there = path_integral(score, path, n_steps=60)
    assert_close(there.sum(1), score(x) - score(x0), atol=1e-12, rtol=0)
    back = path_integral(score, backwards(path), n_steps=60)
    assert_close(back, -there, atol=1e-12, rtol=0)
    assert_close(backwards(path).end, x0, atol=1e-14, rtol=0)


@every_path
def test_a_path_moves_as_fast_as_its_velocity_says(make_path, case):
    _, x, x0 = case
    path = make_path(x, x0)
    t = torch.linspace(0.013, 0.986, 29, dtype=torch.float64)  # no corner of the nine paths near
    moved = ref.difference(lambda s: path.at(s)[0], t, h=1e-5)
    assert_close(path.at(t)[1], moved, atol=1e-9, rtol=0)


@every_path
def test_a_batch_of_paths_is_its_samples_one_by_one(make_path, case):
    score, x, x0 = case
    together = path_integral(score, make_path(x, x0), n_steps=20)
    for k, target in enumerate(score.target):
        path = make_path(x[k : k + 1], x0[k : k + 1])
        alone = path_integral(Score(score.model, int(target)), path, n_steps=20)
        assert_close(together[k : k + 1], alone, atol=1e-13, rtol=0)


@every_path
def test_one_baseline_serves_all_inputs(make_path, case):
    score, x, x0 = case
    one, each = make_path(x, x0[:1]), make_path(x, x0[:1].expand_as(x))
    assert_close(path_integral(score, one), path_integral(score, each), atol=1e-15, rtol=0)


@every_path
def test_single_precision_stays_and_agrees_with_double(make_path, case):
    score, x, x0 = case
    exact = path_integral(score, make_path(x, x0), n_steps=20)
    single = Score(copy.deepcopy(score.model).float(), score.target)
    path = make_path(x.float(), x0.float())
    points, velocities = path.at(torch.linspace(0, 1, 5))
    assert points.dtype == velocities.dtype == path.end.dtype == torch.float32
    found = path_integral(single, path, n_steps=20)
    assert found.dtype == torch.float32
    assert_close(found, exact.float(), atol=1e-5, rtol=0)  # of sums of about ten float32 terms


@every_path
def test_a_path_can_be_used_twice_and_leaves_its_points_alone(make_path, case):
    score, x, x0 = case
    kept = x.clone(), x0.clone()
    path = make_path(x, x0)
    assert torch.equal(path_integral(score, path), path_integral(score, path))
    assert torch.equal(x, kept[0]) and torch.equal(x0, kept[1])


@every_path
def test_an_integral_has_no_graph_even_where_the_inputs_have_one(make_path, case):
    score, x, x0 = case
    leaf = x.clone().requires_grad_()
    found = path_integral(score, make_path(leaf, x0))
    assert not found.requires_grad and leaf.grad is None
    assert_close(found, path_integral(score, make_path(x, x0)))


@every_path
@pytest.mark.parametrize("switched_off", [torch.no_grad, torch.inference_mode])
def test_paths_work_where_gradients_are_switched_off(make_path, switched_off, case):
    score, x, x0 = case
    expected = path_integral(score, make_path(x, x0))
    with switched_off():
        found = path_integral(score, make_path(x.clone(), x0.clone()))
        assert_close(found, expected, atol=1e-14, rtol=0)


@every_path
def test_long_paths_of_any_kind_run_in_bounded_batches(make_path, case, monkeypatch):
    score, x, x0 = case
    at_once = path_integral(score, make_path(x, x0), n_steps=7)
    monkeypatch.setattr(numerics, "NUMBERS_A_PASS", 5 * x.numel())
    rows = []
    watched = Score(lambda y: rows.append(len(y)) or score(y))
    found = path_integral(watched, make_path(x, x0), n_steps=7)
    assert_close(found, at_once, atol=1e-14, rtol=0)
    assert max(rows) <= 15


@every_path
def test_nothing_is_built_on_the_default_device(make_path, case):
    score, x, x0 = case
    expected = path_integral(score, make_path(x, x0), n_steps=20)
    with torch.device("meta"):  # stands for an accelerator; its tensors mix with no others
        path = make_path(x, x0)
        back = joined(backwards(path), path)
        found = ensemble_integral(score, [(0.5, path), (0.5, joined(path, back))], n_steps=20)
        is_monotone(path), length(path), with_corners(path, lambda y: y)
    assert_close(found, expected, atol=1e-13, rtol=0)


@pytest.mark.parametrize("make_path", [straight, *list(MAKERS.values())[2:5]])
def test_inputs_that_are_their_baseline_get_exact_zeros(make_path, case):
    score, x, _ = case
    assert path_integral(score, make_path(x, x)).abs().max() == 0


def test_features_that_do_not_differ_get_exact_zeros_on_every_monotone_path(case):
    score, x, x0 = case
    x0[:, 1:3] = x[:, 1:3]
    for name in ("straight", "staircase", "power", "curve"):
        found = path_integral(score, MAKERS[name](x, x0))
        assert found[:, 1:3].abs().max() == 0
        assert found[:, [0, 3]].abs().min() > 0


CLOCKS = [lambda t: t**2, lambda t: (1 - (math.pi * t).cos()) / 2, lambda t: t * (3 - t) / 2]


@pytest.mark.parametrize("clock", CLOCKS)
@every_path
def test_the_pace_along_a_path_makes_no_difference(make_path, clock, case):  # [integrated, Def. 3]
    score, x, x0 = case
    path = make_path(x, x0)
    slow = reclocked(path, clock)
    there = path_integral(score, path, n_steps=80)
    assert_close(path_integral(score, slow, n_steps=80), there, atol=1e-11, rtol=0)
    assert_close(slow.at(torch.ones(1).double())[0][0], path.end, atol=1e-14, rtol=0)


def test_a_clock_may_overshoot_by_rounding(case):
    _, x, x0 = case
    path = reclocked(staircase(x, x0, [0, 1, 2, 3]), lambda t: t * (1 + 4e-16))
    t = torch.tensor([1, 1 + 4e-16], dtype=torch.float64)
    assert_close(path.at(t)[0], torch.stack([x, x]))


def test_the_exponents_of_a_path_take_the_type_of_its_inputs(case):
    _, x, x0 = case
    path = power(x.float(), x0.float(), torch.full((1, 4), 2.0, dtype=torch.float64))
    assert {piece.dtype for piece in path.at(torch.rand(3))} == {torch.float32}


def test_parts_of_a_path_add_up(case):
    score, x, x0 = case
    middle = torch.randn(3, 4, generator=torch.Generator().manual_seed(5)).double()
    first, second, third = straight(middle, x0), power(x, middle, 2 + 0 * x), straight(x0, x)
    parts = [path_integral(score, part, n_steps=60) for part in (first, second, third)]
    whole = path_integral(score, joined(first, second, third), n_steps=60)
    assert_close(whole, sum(parts), atol=1e-12, rtol=0)
    assert_close(whole.sum(1), torch.zeros_like(whole[:, 0]), atol=1e-12, rtol=0)  # a closed curve


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e7])
def test_paths_join_up_to_rounding_and_no_further(dtype, size, generator):
    x, x0 = size * torch.randn(2, 3, 4, generator=generator, dtype=dtype)
    there = straight(x, x0)
    assert_close(joined(there, backwards(there)).end, x0)
    with pytest.raises(ValueError, match="start where the one before it ends"):
        joined(there, straight(x0, x * (1 + 1e-3)))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["straight", "polyline", "staircase", "joined", "backwards"])
def test_every_rule_is_exact_for_linear_functions_on_straight_pieces(name, rule, case):
    _, x, x0 = case
    weights = x.new_tensor([1.0, -2.0, 3.0, 0.5])
    score = Score(lambda y: y @ weights)
    path = MAKERS[name](x, x0)
    round_trips = [joined(path, straight(x0, x), path), reclocked(path, lambda t: t)]
    for whole in (path, *round_trips):
        found = path_integral(score, whole, n_steps=3, rule=rule)
        assert_close(found, weights * (x - x0), atol=1e-10, rtol=0)


@pytest.mark.parametrize(("rule", "order"), [(left, 1), (right, 1), (midpoint, 2), (trapezoid, 2)])
@pytest.mark.parametrize("turn", [lambda path: path, backwards], ids=["forwards", "backwards"])
def test_a_corner_does_not_lower_the_order_of_a_rule(rule, order, turn, case):
    score, x, x0 = case
    path = turn(joined(staircase(x, x0, [1, 3, 0, 2]), staircase(x0, x, [1, 0, 2, 3])))
    exact = path_integral(score, path, n_steps=40)
    errors = [
        (path_integral(score, path, n_steps=n, rule=rule) - exact).abs().max() for n in (32, 64)
    ]
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.1


def test_one_step_is_the_middle_of_each_piece():
    score, x, x0 = square(monomial(2, 1))
    found = path_integral(score, staircase(x, x0, [1, 0]), n_steps=1)
    assert_close(found, x.new_tensor([[1.0, 0.0]]), atol=1e-15, rtol=0)  # 2 y1 y2 at (1/2, 1)
    found = path_integral(score, straight(x, x0), n_steps=1)
    assert_close(found, x.new_tensor([[0.5, 0.25]]), atol=1e-15, rtol=0)


# -- kinks, monotonicity, length -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["straight", "polyline", "staircase", "joined"])
def test_corners_at_its_kinks_make_a_relu_network_exact_with_one_node(name, case):
    _, x, x0 = case
    net = random_mlp(nn.ReLU, torch.Generator().manual_seed(1), (4, 16, 16, 1))
    score, path = Score(net, 0), MAKERS[name](x, x0)
    cornered = with_corners(path, switches(net))
    found = path_integral(score, cornered, n_steps=1)
    assert_close(found.sum(1), score(x) - score(x0), atol=1e-12, rtol=0)
    without = path_integral(score, path, n_steps=50).sum(1) - (score(x) - score(x0))
    assert without.abs().max() > 1e-6
    fine = path_integral(score, path, n_steps=4000, rule=midpoint)
    assert_close(found, fine, atol=1e-3, rtol=0)


def test_crossings_are_found_to_the_last_digit_also_on_the_samples(case):
    _, x, _ = case
    x, x0 = torch.ones_like(x[:1]), torch.zeros_like(x[:1])
    where = x.new_tensor([1 / 3, 0.5, 0.123456789, 2.0])  # the second on a sample, the last beyond
    found = np.array(with_corners(straight(x, x0), lambda y: y - where).corners)
    assert abs(found[:, None] - np.array([0, 1, 1 / 3, 0.5, 0.123456789])).min(0).max() < 1e-15
    assert abs(found[:, None] - np.array([0, 1, 1 / 3, 0.5, 0.123456789])).min(1).max() < 1e-15


def test_a_switch_that_stays_zero_or_only_touches_zero_makes_no_corner(case):
    _, x, _ = case
    x, x0 = torch.ones_like(x[:1]), torch.zeros_like(x[:1])
    never = [lambda y: 0 * y, lambda y: (y - 0.5) ** 2, lambda y: y * 0 + 1]
    assert all(with_corners(straight(x, x0), zero).corners == [0, 1] for zero in never)


@every_path
def test_monotone_paths_and_lengths_are_those_of_fine_chords(make_path, case):
    _, x, x0 = case
    path = make_path(x, x0)
    points = path.at(torch.arange(4001).double() / 4000)[0].numpy()
    monotone, far = is_monotone(path), length(path)
    for row in range(3):
        expected, one_way = ref.chords(lambda t, r=row: points[round(t * 4000), r])
        assert bool(monotone[row]) == one_way
        assert abs(float(far[row]) - expected) < 1e-5  # chords are shorter by h^2
    assert all(found.shape == (3,) for found in (monotone, far))


def test_corners_monotonicity_and_length_run_in_bounded_batches_too(case, monkeypatch):
    _, x, x0 = case
    path, rows = MAKERS["polyline"](x, x0), []
    watched = replace(path, at=lambda t: rows.append(3 * len(t)) or path.at(t))

    def switch(y):
        rows.append(len(y))
        return y - 0.1

    questions = [lambda p: with_corners(p, switch).corners, is_monotone, length]
    expected = [question(path) for question in questions]
    monkeypatch.setattr(numerics, "NUMBERS_A_PASS", 5 * x.numel())
    rows.clear()
    found = [question(watched) for question in questions]
    assert found[0] == expected[0]
    assert all(torch.equal(*pair) for pair in zip(found[1:], expected[1:], strict=True))
    assert max(rows) == 3 * 5


def test_monotonicity_is_judged_over_all_pieces_together():
    x = torch.ones(2, 2, dtype=torch.float64)
    points = [0 * x, x * x.new_tensor([[2, 1], [1, 1]]), x]
    assert is_monotone(polyline(points)).tolist() == [False, True]
    assert is_monotone(straight(-x, x)).all() and is_monotone(straight(x, x)).all()
    up_and_down = curve(lambda t: torch.sin(3 * t).view(-1, 1, 1) * x)
    assert not is_monotone(up_and_down).any()
    assert_close(length(polyline([0 * x, x, 0 * x])), x.new_tensor([8.0, 8.0]).sqrt())


# -- ensembles, refusals ---------------------------------------------------------------------------


def test_an_ensemble_is_the_weighted_mean_of_its_paths(case):  # [integrated, Def. 5]
    score, x, x0 = case
    chosen = [MAKERS[name](x, x0) for name in ("straight", "staircase", "power")]
    each = [path_integral(score, path, n_steps=20) for path in chosen]
    ensemble = list(zip((0.5, 0.2, 0.3), chosen, strict=True))
    expected = 0.5 * each[0] + 0.2 * each[1] + 0.3 * each[2]
    found = ensemble_integral(score, ensemble, n_steps=20)
    assert_close(found, expected, atol=1e-14, rtol=0)
    assert torch.equal(ensemble_integral(score, [(1, chosen[0])], n_steps=20), each[0])


def test_a_continuous_ensemble_by_its_draws_and_by_its_mean(generator):
    # paths (t^p, t^q), p and q uniform on [1, 3]; F = y1^2 y2: each path gives 2p / (2p + q)
    score, x, x0 = square(monomial(2, 1))
    draws = 1 + 2 * torch.rand(100, 2, generator=generator, dtype=torch.float64)
    ensemble = [(1 / 100, power(x, x0, exponents[None])) for exponents in draws]
    found = ensemble_integral(score, ensemble, n_steps=40)
    values = 2 * draws[:, 0] / (2 * draws[:, 0] + draws[:, 1])
    assert_close(found[0, 0], values.mean(), atol=1e-9, rtol=0)  # 40 nodes of powers up to 36
    nodes = [(1 + 2 * s, w) for s, w in ref.unit_interval(40)]
    mean = sum(v * w * 2 * p / (2 * p + q) for p, v in nodes for q, w in nodes)
    assert abs(float(values.mean()) - mean) < 4 * float(values.std()) / 100**0.5


@pytest.mark.parametrize("weights", [(0.5, 0.6), (1.5, -0.5), (math.nan, 1), (0.2, 0.2), ()])
def test_an_ensembles_weights_are_probabilities(weights, case):
    score, x, x0 = case
    with pytest.raises(ValueError, match="add up to 1"):
        ensemble_integral(score, [(weight, straight(x, x0)) for weight in weights])


@pytest.mark.parametrize("n_points", [0, 1])
def test_a_polyline_needs_two_points(n_points):
    with pytest.raises(ValueError, match=f"two points or more, got {n_points}"):
        polyline([torch.zeros(1, 2)] * n_points)


def test_paths_that_make_no_sense_are_refused(case):
    _, x, x0 = case
    with pytest.raises(ValueError, match="each of 4 features once"):
        staircase(x, x0, [0, 1, 2, 2])
    for exponents in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="exponents must be > 0"):
            power(x, x0, torch.full_like(x, exponents))
    with pytest.raises(ValueError, match="one path or more"):
        joined()


def test_a_velocity_without_bound_is_reported_with_its_node():
    score, x, x0 = square(monomial(1, 0), monomial(0, 1))
    path = power(x, x0, x.new_tensor([[0.1, 1.0]]))  # even by the clock s^4 of infinite speed at 0
    with pytest.raises(NonFiniteGradient, match="alpha = 0 "):
        path_integral(score, path, n_steps=4, rule=left)


def test_a_nan_is_reported_and_not_passed_on(case):
    score, x, x0 = case
    x[1, 2] = math.nan
    for name in MAKERS.keys() - {"joined"}:  # which refuses ends that are not equal
        with pytest.raises(NonFiniteGradient, match="alpha = "):
            path_integral(score, MAKERS[name](x, x0))


# -- properties: any polyline, any polynomial ------------------------------------------------------

small = st.fractions(-2, 2, max_denominator=8)
quick = settings(max_examples=25, deadline=None, derandomize=True)


@st.composite
def polynomials_and_points(draw, how_many=1):
    """The terms of polynomials of some features, and the corners of a polyline, all fractions."""
    n = draw(st.integers(1, 4))
    exponents = st.tuples(*[st.integers(0, 3)] * n)
    terms = st.dictionaries(exponents, small, min_size=1, max_size=4)
    points = st.lists(st.tuples(*[small] * n), min_size=2, max_size=4)
    return [draw(terms) for _ in range(how_many)], draw(points)


def by_quadrature(polynomial, points):
    corners = [torch.tensor([list(map(float, point))], dtype=torch.float64) for point in points]
    return path_integral(Score(polynomial), polyline(corners), n_steps=7)  # degree 12 at most


@given(polynomials_and_points())
@quick
def test_any_polyline_is_complete_on_any_polynomial_exactly(drawn):
    polynomial, points = Polynomial(drawn[0][0]), drawn[1]
    pieces = exact_attributions(polynomial, points)
    assert sum(map(sum, pieces)) == polynomial.at(points[-1]) - polynomial.at(points[0])
    expected = [float(sum(column)) for column in zip(*pieces, strict=True)]
    size = sum(abs(float(c)) for c in polynomial.terms.values()) * 4.0**12  # of any term on the box
    np.testing.assert_allclose(by_quadrature(polynomial, points)[0], expected, atol=1e-15 * size)


@given(polynomials_and_points(how_many=2), small, small)
@quick
def test_any_polyline_is_linear_exactly(drawn, a, b):
    (one, other), points = map(Polynomial, drawn[0]), drawn[1]
    whole = exact_attributions(a * one + b * other, points)
    apart = [exact_attributions(p, points) for p in (one, other)]
    for total, first, second in zip(whole, *apart, strict=True):
        assert list(total) == [a * p + b * q for p, q in zip(first, second, strict=True)]


@given(polynomials_and_points())
@quick
def test_the_way_back_takes_what_the_way_there_gave(drawn):
    polynomial, points = Polynomial(drawn[0][0]), drawn[1]
    there = exact_attributions(polynomial, points)
    back = exact_attributions(polynomial, points[::-1])
    assert [tuple(-a for a in piece) for piece in reversed(back)] == there
