import itertools
import math

import jaxtyping
import numpy as np
import pytest
import reference as ref
import torch
from torch import nn
from torch.testing import assert_close

from attribook.axioms import (
    asi_gap,
    completeness_gap,
    dummy_gap,
    implementation_gap,
    line_jump,
    linearity_gap,
    ndp_gap,
    relative_completeness_gap,
    score_change,
    sensitivity_gap,
    sensitivity_n_bound,
    sensitivity_n_gap,
    steepest_decrease,
    symmetry_gap,
)
from attribook.baselines import Law
from attribook.coalitions import MaskedGame
from attribook.methods import (
    expected,
    gradient_x_input,
    integrated_gradients,
    lrp_epsilon,
)
from attribook.papers.functions.polynomials import monomial, random_polynomial
from attribook.papers.functions.toys import (
    equivalent_pairs,
    larger,
    largest,
    one_plus_root,
    random_mlp,
    relu_product,
)
from attribook.papers.integrated.rivals import RIVALS
from attribook.score import Score


def row(*numbers):
    return torch.tensor([numbers], dtype=torch.float64)


def product(z):
    return z[:, 0] * z[:, 1]


def test_the_completeness_gap_is_what_is_missing_from_the_change():
    score = Score(one_plus_root)
    gaps = [completeness_gap(row(4, r), score, row(4, 4), row(0, 0)) for r in (2, 1)]
    assert [float(gap) for gap in gaps] == [0, -1]
    relative = relative_completeness_gap(row(4, 1), score, row(4, 4), row(0, 0))
    assert_close(relative, row(1 / 6)[0])
    assert math.isnan(relative_completeness_gap(row(1, 1), score, row(4, 4), row(4, 4)))


@pytest.mark.parametrize(
    ("function", "x", "attributions", "violations"),
    [
        (one_plus_root, (4, 4), (4, 2), (0, 0)),
        (one_plus_root, (4, 4), (4, 1), (1, 1)),  # negative control: Gradient * Input
        (product, (1, 1), (0.5, 0.5), (0.5, 0)),
        (product, (1, 1), (1, 1), (0, 1)),
    ],
)
def test_sensitivity_n_on_closed_forms(function, x, attributions, violations):
    game = MaskedGame(Score(function), row(*x))
    found = [float(sensitivity_n_gap(row(*attributions), game, n)) for n in (1, 2)]
    assert found == list(violations)


def test_a_score_that_works_in_place_leaves_the_points_of_a_gap_alone():
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(2, 1, dtype=torch.float64)).eval()
    x, x0 = torch.tensor([[-1.0, 2.0], [3.0, -4.0]]).double(), row(-1, 1)
    kept, copied = x.clone(), nn.Sequential(nn.ReLU(), net[1]).eval()
    for gap in (completeness_gap, relative_completeness_gap):
        found = gap(0 * x + 1, Score(net, 0), x, x0)
        assert torch.equal(x, kept) and torch.equal(x0, row(-1, 1))
        assert_close(found, gap(0 * x + 1, Score(copied, 0), x, x0))


def test_sensitivity_n_looks_at_every_set_or_a_seeded_sample(generator):
    score = Score(random_mlp(nn.Tanh, generator), 0)
    x = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    game, ig = MaskedGame(score, x), integrated_gradients(score, x)
    every = sensitivity_n_gap(ig, game, 3)
    some = sensitivity_n_gap(ig, game, 3, most=19, generator=torch.Generator().manual_seed(1))
    assert (some <= every).all() and (some > 0).all()
    with pytest.raises(ValueError, match="pass a generator"):
        sensitivity_n_gap(ig, game, 3, most=19)
    with pytest.raises(ValueError, match="1 <= n <= 6"):
        sensitivity_n_gap(ig, game, 7)


@pytest.mark.parametrize(
    ("function", "x", "bound"),
    [
        (product, (1, 1), 1 / 3),
        (larger, (2, 2), 2 / 3),
        (larger, (2, 1), 1 / 3),
        (largest, (1, 1, 1), 2 / 5),
        (relu_product, (3, 2), 4 / 3),
        (one_plus_root, (4, 4), 0),
    ],
)
def test_the_linear_program_finds_the_known_bounds(function, x, bound):
    found = sensitivity_n_bound(MaskedGame(Score(function), row(*x)))
    assert abs(found[0] - bound) < 1e-8  # the solver's own tolerance


def test_no_attribution_does_better_than_the_bound(generator):
    score = Score(random_mlp(nn.Tanh, generator), 0)
    x = torch.randn(1, 6, generator=generator, dtype=torch.float64)
    game = MaskedGame(score, x)
    bound = sensitivity_n_bound(game)[0]
    for scale in (0.0, 0.01, 1.0):
        noise = scale * torch.randn(1, 6, generator=generator, dtype=torch.float64)
        guess = integrated_gradients(score, x) + noise
        assert max(float(sensitivity_n_gap(guess, game, n)) for n in range(1, 7)) >= bound - 1e-8


def test_too_many_players_for_the_linear_program_are_refused():
    with pytest.raises(ValueError, match="at most 12 players"):
        sensitivity_n_bound(MaskedGame(Score(lambda z: z.sum(1)), torch.zeros(1, 13)))


def test_equivalent_pairs_are_equal_and_tell_invariant_methods_from_others(generator):
    gaps = {}
    for name, pair in equivalent_pairs(generator, n_points=200).items():
        one, other = Score(pair.one, 0), Score(pair.other, 0)
        assert_close(one(pair.points), other(pair.points), atol=1e-12, rtol=0)
        gap = implementation_gap(gradient_x_input, one, other, pair.points)
        assert float(gap.max()) < 1e-12
        gaps[name] = float(implementation_gap(lrp_epsilon, one, other, pair.points).max())
    assert gaps["tanh by sigmoid"] > 0.1


def test_jumps_shrink_for_a_continuous_method_and_stay_for_a_step():
    start, end = row(-1.0), row(1.3)
    continuous = [line_jump(lambda x: x * x.abs(), start, end, n) for n in (200, 400)]
    step = [line_jump(torch.sign, start, end, n) for n in (200, 400)]
    assert 0.45 < continuous[1] / continuous[0] < 0.55
    assert step == [2, 2]


def test_a_line_of_four_steps_has_steps_of_a_quarter():
    assert line_jump(lambda x: x, row(0.0), row(1.0), 4) == 0.25
    assert line_jump(lambda x: x, row(1.0, -2.0), row(4.0, 2.0), 1) == 5.0


def test_the_shape_annotations_are_checked_while_these_tests_run():
    with pytest.raises(jaxtyping.TypeCheckError, match="inputs"):
        completeness_gap(row(1, 2), Score(product), row(1, 2, 3), row(0, 0, 0))


# -- the axioms of the second paper: each with a method that keeps it and one that breaks it ---------

IG = RIVALS["Integrated Gradients"]


@pytest.fixture
def networks(generator):
    """Two scores on three features, with five inputs and a baseline for each."""
    one, other = (Score(random_mlp(nn.Tanh, generator, (3, 8, 2)), k) for k in range(2))
    x, x0 = torch.rand(2, 5, 3, generator=generator, dtype=torch.float64)
    return one, other, x, x0


def only(x, x0, feature):
    """The baseline that differs from the inputs in one feature."""
    start = x.clone()
    start[:, feature] = x0[:, feature]
    return start


def test_sensitivity_holds_for_integrated_gradients_and_not_on_the_detour(networks):
    # [integrated, Sec. 3.1]: on App. C's path F = y1 (1 - y2) gives (0, 1), F changes by 1
    score, x, x0 = Score(monomial(1, 0) - monomial(1, 1)), row(1, 0), row(0, 0)
    detour = RIVALS["detour over the top"]
    assert_close(detour(score, x, x0), row(0, 1), atol=1e-14, rtol=0)
    assert_close(sensitivity_gap(detour, score, x, x0, 0), row(1)[0], atol=1e-14, rtol=0)
    assert sensitivity_gap(IG, score, x, x0, 0) == 0
    one, _, x, x0 = networks
    for feature in range(3):
        start = only(x, x0, feature)
        assert sensitivity_gap(IG, one, x, start, feature).abs().max() == 0
        ignores = lambda s, a, b: 0 * a  # noqa: E731
        change = (one(x) - one(start)).abs().detach()
        assert_close(sensitivity_gap(ignores, one, x, start, feature), change)
        with pytest.raises(ValueError, match=f"differ in feature {feature} only"):
            sensitivity_gap(IG, one, x, x0, feature)


def test_linearity_holds_for_integrated_gradients_and_not_for_their_squares(networks):
    one, other, x, x0 = networks
    assert linearity_gap(IG, one, other, 0.7, -1.3, x, x0).max() < 1e-13
    squared = lambda s, a, b: IG(s, a, b) ** 2  # noqa: E731
    first, second = Score(monomial(1, 0)), Score(monomial(1, 0) + monomial(0, 1, coefficient=0))
    gap = linearity_gap(squared, first, second, 1, 2, row(1, 1), row(0, 0))
    assert_close(gap, row(6)[0])  # 3^2 - 1 - 2
    classes = torch.tensor([0, 1, 1, 0, 1])
    each = Score(one.model, classes)
    assert linearity_gap(IG, each, other, 2, 1, x, x0).max() < 1e-13


def test_a_dummy_gets_nothing_from_integrated_gradients_and_its_share_of_distance(networks):
    one, _, x, x0 = networks
    share = RIVALS["proportional share"]
    for feature in range(3):
        assert dummy_gap(IG, one, feature, x, x0).max() == 0
    gap = dummy_gap(share, Score(monomial(2, 1) + monomial(0, 2)), 0, row(1, 1), row(0, 0))
    assert_close(gap, row(0.5)[0])  # of a change of 1, for y1 counts as zero


def test_symmetry_holds_for_integrated_gradients_and_not_along_the_axes(networks):
    one, _, x, x0 = networks
    x[:, 2], x0[:, 2] = x[:, 0], x0[:, 0]
    assert symmetry_gap(IG, one, 0, 2, x, x0).max() < 1e-13
    gap = symmetry_gap(RIVALS["axis order"], Score(monomial(1, 1)), 0, 1, row(1, 1), row(0, 0))
    assert_close(gap, row(1)[0], atol=1e-14, rtol=0)  # (0, 1)
    for points in ((x, x0 + row(0, 0, 1)), (x + row(1, 0, 0), x0)):
        with pytest.raises(ValueError, match="equal features 0 and 2"):
            symmetry_gap(IG, one, 0, 2, *points)


def test_affine_scales_do_not_matter_to_integrated_gradients_and_do_to_shares(networks):
    one, _, x, x0 = networks
    for scale in itertools.product((-2.0, 0.5), repeat=3):
        change = torch.tensor(scale).double(), torch.tensor([0.3, -1.0, 0.0]).double()
        assert asi_gap(IG, one, *change, x, x0).max() < 1e-13
    # (1, 1) becomes (4/3, 2/3) when the first feature is measured in halves
    double = torch.tensor([2.0, 1.0]).double(), torch.zeros(2).double()
    score = Score(monomial(1, 0) + monomial(0, 1))
    gap = asi_gap(RIVALS["proportional share"], score, *double, row(1, 1), row(0, 0))
    assert_close(gap, row(1 / 3)[0])
    with pytest.raises(ValueError, match="scales != 0"):
        asi_gap(IG, score, 0 * double[0], double[1], row(1, 1), row(0, 0))


def test_the_axiom_of_two_earlier_papers_is_off_by_the_square_of_the_scale():
    # [integrated, footnote 9]: F o T in place of F o T^-1; F = y1, c = 2, from 0.1 to 0.4
    x, x0 = row(0.8), row(0.2)  # T x and T x0
    right, wrong = Score(lambda y: y[:, 0] / 2), Score(lambda y: 2 * y[:, 0])
    assert_close(IG(right, x, x0), row(0.3))
    assert_close(IG(wrong, x, x0), row(1.2))
    scale, shift = torch.tensor([2.0]).double(), torch.zeros(1).double()
    assert asi_gap(IG, Score(monomial(1)), scale, shift, row(0.4), row(0.1)) < 1e-15


def test_rising_functions_get_nothing_negative_but_on_the_five_segments():
    score = Score(monomial(1, 2))
    assert ndp_gap(IG(score, row(1, 1), row(0, 0))) == 0
    five = RIVALS["five segments"](score, row(1, 1), row(0, 0))
    assert_close(five, row(-2 / 3, 5 / 3), atol=1e-14, rtol=0)  # [integrated, App. E.1]
    assert_close(ndp_gap(five), row(2 / 3)[0], atol=1e-14, rtol=0)
    several = torch.tensor([[[1.0, -3.0], [0.5, 2.0]], [[1.0, 0.0], [0.0, 0.0]]]).double()
    assert ndp_gap(several).tolist() == [3, 0]


def test_the_steepest_decrease_tells_rising_functions_from_others(generator):
    def steepest(function, x, x0):
        return steepest_decrease(Score(function), x, x0, 2000, generator)

    assert steepest(monomial(1, 2), row(1, 1), row(0, 0)) == 0
    falls = steepest(monomial(1, 0) - monomial(1, 1), row(1, 1), row(0, 0))
    assert 0.99 < float(falls) <= 1  # -dF/dy2 = y1
    assert steepest(monomial(1, 1), row(-1, -1), row(0, 0)) == 0  # rises towards the inputs
    assert 0.99 < float(steepest(monomial(1, 0), row(-1, 1), row(0, 1))) <= 1
    # a feature that does not differ carries no condition, and samples keep apart
    free = monomial(1, 0) - monomial(0, 1, coefficient=5)
    both = torch.tensor([[1.0, 1.0], [1.0, 2.0]]).double()
    assert steepest(free, both, row(0, 1)).tolist() == [0, 5]


@pytest.mark.parametrize("name", RIVALS)
def test_gaps_have_one_number_a_sample(name, generator):
    score, other = (Score(random_polynomial(generator, 2, 3)) for _ in range(2))
    x, x0 = torch.rand(2, 3, 2, generator=generator, dtype=torch.float64)
    x[:, 1], x0[:, 1] = x[:, 0], x0[:, 0]
    method, scale = RIVALS[name], torch.tensor([2.0, 0.5]).double()
    gaps = {
        "completeness": completeness_gap(method(score, x, x0), score, x, x0),
        "sensitivity": sensitivity_gap(method, score, x, only(x, x0, 1), 1),
        "linearity": linearity_gap(method, score, other, 2, 3, x, x0),
        "dummy": dummy_gap(method, score, 0, x, x0),
        "symmetry": symmetry_gap(method, score, 0, 1, x, x0),
        "ASI": asi_gap(method, score, scale, 0 * scale, x, x0),
        "NDP": ndp_gap(method(score, x, x0)),
    }
    for axiom, gap in gaps.items():
        assert gap.shape == (3,) and torch.isfinite(gap).all(), axiom
        assert axiom == "completeness" or gap.min() >= 0


# -- laws of baselines -------------------------------------------------------------------------------

EG = expected(IG)


def law(*points, weights):
    return Law(
        torch.tensor(points, dtype=torch.float64)[:, None],
        torch.tensor(weights, dtype=torch.float64),
    )


def test_a_law_of_three_baselines_gives_the_known_shares():  # [integrated, Sec. 5]
    score = Score(monomial(1, 2))
    baselines = law((0, 0), (0.5, 0), (0, 1), weights=(0.5, 0.25, 0.25))
    found = EG(score, row(1, 1), baselines)
    assert_close(found, row(11 / 24, 13 / 24), atol=1e-14, rtol=0)
    assert_close(completeness_gap(found, score, row(1, 1), baselines), row(0)[0])
    assert_close(score_change(score, row(1, 1), baselines), row(1)[0])


def test_exchangeable_baselines_keep_symmetry_where_none_of_them_does():  # [Sec. 5, App. K]
    score, x = Score(monomial(2, 1) + monomial(1, 2)), row(1, 1)
    points = (0, 0.5), (0.5, 0)
    single = [IG(score, x, row(*point)) for point in points]
    assert_close(single[0], row(17 / 12, 7 / 12))
    assert_close(single[1], row(7 / 12, 17 / 12))
    baselines = law(*points, weights=(0.5, 0.5))
    assert_close(EG(score, x, baselines), row(1, 1))
    assert symmetry_gap(EG, score, 0, 1, x, baselines) < 1e-14
    lopsided = law(*points, weights=(0.75, 0.25))
    assert_close(symmetry_gap(EG, score, 0, 1, x, lopsided), row(5 / 12)[0])


def test_equal_marginals_without_exchangeability_are_not_enough():
    # Y1 and Y2 are uniform on {0, 1} each, but the third feature tells which of them is 1
    score, x = Score(monomial(1, 0, 1) + monomial(0, 1, 1)), row(1, 1, 1)
    baselines = law((0, 1, 0), (1, 0, 1), weights=(0.5, 0.5))
    assert_close(symmetry_gap(EG, score, 0, 1, x, baselines), row(0.25)[0])


def test_axioms_that_integrated_gradients_hand_on_to_their_means(networks, generator):
    one, other, x, x0 = networks
    points = torch.rand(4, 5, 3, generator=generator, dtype=torch.float64)
    baselines = Law(points, torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64))
    scale, shift = torch.tensor([-2.0, 0.5, 3.0]).double(), torch.tensor([1.0, 0.0, -1.0]).double()
    assert completeness_gap(EG(one, x, baselines), one, x, baselines).abs().max() < 1e-13
    assert linearity_gap(EG, one, other, 2, -3, x, baselines).max() < 1e-13
    assert dummy_gap(EG, one, 1, x, baselines).max() == 0
    assert asi_gap(EG, one, scale, shift, x, baselines).max() < 1e-13
    line = baselines.map(lambda point: only(x, point, 2))
    assert sensitivity_gap(EG, one, x, line, 2).max() == 0
    found = EG(one, x, line)
    assert_close(found[:, 2], score_change(one, x, line), atol=1e-13, rtol=0)
    assert found[:, :2].abs().max() == 0
    with pytest.raises(ValueError, match="differ in feature 2 only"):
        sensitivity_gap(EG, one, x, baselines, 2)
    ignores = lambda s, a, b: 0 * a  # noqa: E731
    change = score_change(one, x, line).abs()
    assert_close(sensitivity_gap(ignores, one, x, line, 2), change)


def test_a_mean_over_rising_paths_has_nothing_negative():
    score = Score(monomial(1, 2))
    below = law((0, 0), (0.5, 0.2), (0.9, 1), weights=(0.2, 0.5, 0.3))
    assert ndp_gap(EG(score, row(1, 1), below)) == 0
    beyond = law((0, 0), (0.5, 2), weights=(0.2, 0.8))
    assert ndp_gap(EG(score, row(1, 1), beyond)) > 0.5


def test_a_law_is_what_its_loops_say(networks, generator):
    one, _, x, _ = networks
    points = torch.rand(3, 5, 3, generator=generator, dtype=torch.float64)
    weights = [0.25, 0.5, 0.25]
    baselines = Law(points, torch.tensor(weights))
    assert_close(score_change(one, x, baselines), slow_change(one, x, points, weights))
    shared = Law(points[:, :1], torch.tensor(weights))
    each = points[:, :1].expand_as(points)
    assert_close(score_change(one, x, shared), slow_change(one, x, each, weights))
    moved = baselines.map(lambda point: 2 * point + 1)
    assert_close(moved.points, 2 * points + 1)
    assert torch.equal(moved.weights, baselines.weights)
    assert_close(
        moved.mean(lambda point: point),
        2 * sum(w * p for w, p in zip(weights, points, strict=True)) + 1,
    )


def slow_change(score, x, points, weights):
    """F(x) - sum_k w_k F(x0_k), sample by sample and baseline by baseline."""
    with torch.no_grad():
        return torch.stack(
            [
                score(x[r : r + 1])[0]
                - sum(w * score(p[r : r + 1])[0] for w, p in zip(weights, points, strict=True))
                for r in range(len(x))
            ]
        )


@pytest.mark.parametrize("weights", [(0.5, 0.6), (1.5, -0.5), (math.nan, 1.0), (0.2, 0.2)])
def test_the_weights_of_a_law_are_probabilities(weights):
    with pytest.raises(ValueError, match="divide them by their sum"):
        law((0, 0), (1, 1), weights=weights)


def test_every_path_method_equals_its_definition_on_a_network(generator):
    net = random_mlp(nn.Tanh, generator, (2, 8, 1))
    x, x0 = torch.rand(2, 3, 2, generator=generator, dtype=torch.float64)

    def slow(point):
        with torch.no_grad():
            return float(net(torch.as_tensor(point)[None]))

    corners = {
        "Integrated Gradients": lambda a, b: [b, a],
        "axis order": lambda a, b: [b, [a[0], b[1]], a],
        "detour over the top": lambda a, b: [b, [b[0], 1], [a[0], 1], a],
        "five segments": lambda a, b: [b, [a[0], b[1]], a, [b[0], a[1]], b, a],
    }
    for name, points in corners.items():
        found = RIVALS[name](Score(net, 0), x, x0)
        for k in range(3):
            bends = points(x[k].tolist(), x0[k].tolist())
            pieces = [ref.segment(p, q) for p, q in itertools.pairwise(bends)]
            np.testing.assert_allclose(found[k], ref.path_attributions(slow, pieces), atol=1e-9)
    shapley = RIVALS["Shapley"](Score(net, 0), x, x0)
    for k in range(3):
        by_orders = ref.shapley_by_permutations(slow, x[k].numpy(), x0[k].numpy())
        np.testing.assert_allclose(shapley[k], by_orders, atol=1e-13)


def test_the_steepest_decrease_is_a_slope_whatever_the_distance(generator):
    falling = Score(lambda x: -3 * x[:, 0])
    far, near = (torch.tensor([[end]], dtype=torch.float64) for end in (5.0, 0.5))
    origin = torch.zeros_like(far)
    found = [steepest_decrease(falling, end, origin, 10, generator).item() for end in (far, near)]
    assert found == [3.0, 3.0]
