import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from attribook.baselines import blur, mean, zero
from attribook.coalitions import MaskedGame, grid_centres
from attribook.criteria import (
    box_gain,
    coherence,
    correlation,
    count_passes,
    lag1_autocorrelation,
    occlusion_focus,
    relative_total_variation,
    sensitivity_n,
    sign_flip_rate,
)
from attribook.methods import gradient, integrated_gradients
from attribook.score import Score
from attribook.toys import random_mlp


def test_sensitivity_n_is_one_for_exact_attributions_of_a_linear_model(generator):
    weight = torch.randn(30, generator=generator, dtype=torch.float64)
    x = torch.randn(2, 30, generator=generator, dtype=torch.float64)
    game = MaskedGame(Score(lambda z: z @ weight), x)
    exact = sensitivity_n(x * weight, game, [1, 5, 20], 50, generator)
    wrong = sensitivity_n(weight.expand_as(x), game, [1, 5, 20], 50, generator)
    assert_close(exact, torch.ones(2, 3).double(), atol=1e-12, rtol=0)
    assert (wrong < 0.9).all()  # the gradient alone answers another question


def test_correlation_is_pearsons_and_undefined_for_a_constant():
    one = torch.tensor([[1.0, 2, 3], [1, 2, 3], [1, 1, 1]])
    other = torch.tensor([[2.0, 4, 6], [3, 2, 1], [1, 2, 3]])
    found = correlation(one, other)
    assert_close(found[:2], torch.tensor([1.0, -1.0]).double())
    assert math.isnan(found[2])


def test_smoothness_measures_on_maps_with_known_answers(generator):
    noise = torch.randn(1, 200, 200, generator=generator)
    board = torch.tensor([[1.0, -1], [-1, 1]]).repeat(5, 5)[None]
    flat = torch.ones(1, 10, 10)
    ramp = torch.arange(10.0).expand(1, 10, 10) + 1
    assert abs(float(sign_flip_rate(noise)) - 0.5) < 0.01  # 80,000 pairs: 0.5 +- 0.002
    assert [float(sign_flip_rate(m)) for m in (board, flat)] == [1, 0]
    assert abs(float(lag1_autocorrelation(noise))) < 0.02
    assert float(lag1_autocorrelation(board)) == -1
    assert float(relative_total_variation(flat)) == 0
    assert abs(float(relative_total_variation(noise)) - math.sqrt(2)) < 0.02
    assert_close(relative_total_variation(ramp), torch.tensor([1 / 11.0]))
    assert [float(coherence(m)) for m in (flat, -flat, board)] == [1, -1, 0]


def test_undefined_measures_are_nan_not_numbers():
    nothing = torch.zeros(1, 4, 4)
    for measure in (sign_flip_rate, lag1_autocorrelation, relative_total_variation, coherence):
        assert math.isnan(measure(nothing))
    assert math.isnan(box_gain(-torch.ones(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)))


def test_zero_entries_do_not_count_as_sign_flips():
    holes = torch.tensor([[[1.0, 0, -1], [1, 0, -1]]])
    assert float(sign_flip_rate(holes)) == 0


def test_box_gain_compares_mass_with_area():
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[:, :2, :2] = True
    assert float(box_gain(torch.ones(1, 4, 4), mask)) == 1
    assert float(box_gain(mask.float(), mask)) == 4
    assert float(box_gain(mask.float() - 1, mask.logical_not())) != 4


def test_occlusion_focus_is_one_on_the_subject_and_zero_by_chance():
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[:, 4:12, 4:12] = True
    centres = grid_centres(32, 32, 4)
    inside = mask[0, centres[:, 0], centres[:, 1]].float().view(1, 8, 8)
    focus = occlusion_focus(inside, mask, patch=1, centres=centres, top=4 / 64)
    assert (float(focus.hit), float(focus.kappa)) == (1, 1)
    assert float(focus.chance) == 4 / 64
    elsewhere = occlusion_focus(1 - inside, mask, patch=1, centres=centres, top=4 / 64)
    assert float(elsewhere.hit) == 0 and float(elsewhere.kappa) < 0
    wide = occlusion_focus(inside, mask, patch=9, centres=centres)
    assert float(wide.chance) > float(focus.chance)
    everywhere = occlusion_focus(inside, torch.ones_like(mask), patch=1, centres=centres)
    assert math.isnan(everywhere.kappa)


def test_passes_are_counted_and_no_hook_stays(generator):
    net = random_mlp(nn.Tanh, generator)
    x = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    score = Score(net, 0)
    with count_passes(net) as passes:
        gradient(score, x)
        integrated_gradients(score, x, n_steps=10)
        with torch.no_grad():
            score(x)
    assert (passes.forward_calls, passes.forward_rows) == (3, 3 + 30 + 3)
    assert (passes.backward_calls, passes.backward_rows) == (2, 3 + 30)
    assert not net._forward_hooks


def test_baselines_have_a_row_for_each_sample_or_one_for_all(generator):
    images = torch.rand(4, 1, 12, 12, generator=generator)
    assert zero(images).shape == mean(images).shape == (1, 1, 12, 12)
    assert_close(mean(images)[0], images.sum(0) / 4)
    blurred = blur(images, 3)
    assert blurred.shape == images.shape
    assert_close(blurred[0, 0, 5, 5], images[0, 0, 4:7, 4:7].mean())
    assert_close(blurred[0, 0, 0, 0], images[0, 0, :2, :2].sum() / 9)  # zeros outside
    with pytest.raises(ValueError, match="odd size"):
        blur(images, 4)
