import math

import jaxtyping
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from attribook.axioms import (
    completeness_gap,
    implementation_gap,
    line_jump,
    relative_completeness_gap,
    sensitivity_n_bound,
    sensitivity_n_gap,
)
from attribook.coalitions import MaskedGame
from attribook.methods import gradient_x_input, integrated_gradients, lrp_epsilon
from attribook.score import Score
from attribook.toys import (
    equivalent_pairs,
    larger,
    largest,
    one_plus_root,
    random_mlp,
    relu_product,
)


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


def test_the_shape_annotations_are_checked_while_these_tests_run():
    with pytest.raises(jaxtyping.TypeCheckError, match="inputs"):
        completeness_gap(row(1, 2), Score(product), row(1, 2, 3), row(0, 0, 0))
