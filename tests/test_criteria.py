import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from attribook.baselines import blur, mean, zero
from attribook.coalitions import MaskedGame, grid_centres
from attribook.criteria import (
    box_gain,
    box_overlap,
    coherence,
    correlation,
    infidelity,
    lag1_autocorrelation,
    literal_sums,
    mask_sums,
    occlusion_focus,
    relative_total_variation,
    removal_drops,
    scaled_sums,
    sensitivity_n,
    sign_flip_rate,
    square_masks,
)
from attribook.methods import gradient, integrated_gradients
from attribook.papers.functions.toys import random_mlp
from attribook.score import Score, count_passes


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


def test_there_are_5605_squares_of_side_1_to_10_in_a_digit():
    squares = square_masks()
    assert squares.shape == (5605, 28, 28) and len(squares.unique(dim=0)) == 5605
    expected = [
        [(r, c) for r in range(row, row + 2) for c in range(column, column + 2)]
        for row in range(3)
        for column in range(3)
    ]
    assert [[tuple(p) for p in m.nonzero().tolist()] for m in ~square_masks(4, [2])] == expected
    for sides in ([0], [5]):
        with pytest.raises(ValueError, match="sides 1 to 4, got"):
            square_masks(4, sides)


@pytest.fixture
def judged(generator):
    """Two methods' maps of three images of two channels, the masks, and the drops of a tanh."""
    shape = (3, 2, 5, 5)
    weight, x = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    maps = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    score = Score(lambda z: (z * weight[0]).flatten(1).sum(1).tanh())
    return maps, x, square_masks(5, range(1, 4)), score


def infidelity_by_loops(a, x, kept, score, variant):
    """Eq. 50 for one map, mask by mask, with beta from the normal equation."""
    told, seen = [], []
    for mask in ~kept:
        p = x * mask
        told.append(float((p * a).sum() if variant is literal_sums else (mask * a).sum()))
        seen.append(float(score(x[None])[0] - score((x - p)[None])[0]))
    beta = 1.0
    if variant is scaled_sums:
        beta = sum(t * s for t, s in zip(told, seen, strict=True)) / sum(t * t for t in told)
    return sum((beta * t - s) ** 2 for t, s in zip(told, seen, strict=True)) / len(told)


@pytest.mark.parametrize("variant", [literal_sums, mask_sums, scaled_sums])
def test_infidelity_is_eq50_for_each_map(judged, variant):  # [taylor, Eq. 50]
    maps, x, kept, score = judged
    drops = removal_drops(MaskedGame(score, x), kept)
    found = infidelity(maps, x, kept, drops, variant)
    expected = [
        [infidelity_by_loops(a, one, kept, score, variant) for a, one in zip(m, x, strict=True)]
        for m in maps
    ]
    expected = torch.tensor(expected, dtype=torch.float64)
    assert_close(found, expected, atol=1e-12, rtol=1e-12)
    assert_close(infidelity(maps[1], x, kept, drops, variant), found[1], atol=0, rtol=1e-14)


def test_contributions_to_a_linear_score_are_faithful_unless_x_enters_twice(generator):
    weight = torch.randn(1, 6, 6, generator=generator, dtype=torch.float64)
    grey = torch.rand(2, 1, 6, 6, generator=generator, dtype=torch.float64)
    kept = square_masks(6, range(1, 4))
    for x in (grey, (grey > 0.5).double()):
        drops = removal_drops(MaskedGame(Score(lambda z: (z * weight).flatten(1).sum(1)), x), kept)
        told = {v: infidelity(weight * x, x, kept, drops, v) for v in (mask_sums, literal_sums)}
        assert told[mask_sums].max() < 1e-24
        assert (told[literal_sums].min() > 1e-3) == (x is grey)
        assert (told[literal_sums].max() < 1e-24) == (x is not grey)
        assert infidelity(weight.expand_as(x), x, kept, drops, literal_sums).max() < 1e-24


def test_the_best_factor_never_hurts_and_forgets_the_scale(judged):
    maps, x, kept, score = judged
    drops = removal_drops(MaskedGame(score, x), kept)
    nothing = infidelity(torch.zeros_like(x), x, kept, drops)
    assert_close(nothing, drops.square().mean(1))  # no NaN from 0/0
    for variant in (literal_sums, mask_sums):
        assert_close(infidelity(0 * x, x, kept, drops, variant), nothing)
    best = infidelity(maps, x, kept, drops)
    assert (best <= infidelity(maps, x, kept, drops, mask_sums) + 1e-14).all()
    assert (best <= nothing + 1e-14).all()
    for factor in (7, -7):
        assert_close(infidelity(factor * maps, x, kept, drops), best, atol=0, rtol=1e-12)


def test_blank_squares_add_nothing_to_the_literal_measure(judged):
    maps, x, kept, score = judged
    x = x.clone()
    x[:, :, :, :3] = 0
    drops = removal_drops(MaskedGame(score, x), kept)
    blank = kept[:, :, 3:].flatten(1).all(1)
    found = infidelity(maps, x, kept, drops, literal_sums)
    inked = infidelity(maps, x, kept[~blank], drops[:, ~blank], literal_sums)
    assert blank.any()
    assert_close(found, inked * (~blank).sum() / len(blank), atol=0, rtol=1e-12)


def test_drops_cost_one_row_a_mask_however_many_maps_are_judged(generator):
    net = nn.Sequential(nn.Flatten(), random_mlp(nn.Tanh, generator, sizes=(25, 4, 2))).eval()
    x = torch.rand(2, 1, 5, 5, generator=generator, dtype=torch.float64)
    kept = square_masks(5, [1, 2])
    with count_passes(net) as passes:
        drops = removal_drops(MaskedGame(Score(net, 0), x), kept)
        infidelity(torch.stack([x, x, x]), x, kept, drops)
    assert passes.forward_rows == 2 * (len(kept) + 1)


def test_infidelity_refuses_what_it_cannot_judge(judged):
    maps, x, kept, score = judged
    drops = removal_drops(MaskedGame(score, x), kept)
    with pytest.raises(ValueError, match="must end like inputs"):
        infidelity(maps[:, :2], x, kept, drops)
    with pytest.raises(ValueError, match=r"must be \(batch, masks\) = \(3, 50\)"):
        infidelity(maps, x, kept, drops[:, :7])
    with pytest.raises(ValueError, match="attributions hold 1 values that are not finite"):
        infidelity(
            maps.flatten().index_fill(0, torch.tensor(4), math.nan).view_as(maps), x, kept, drops
        )
    with pytest.raises(ValueError, match="drops hold 3 values"):
        infidelity(maps, x, kept, drops.index_fill(1, torch.tensor(4), math.inf))


def test_the_overlap_with_a_box_by_hand():  # [taylor, Eq. 51]
    box = torch.zeros(1, 6, 6, dtype=torch.bool)
    box[0, :2, :3] = True
    two = box.clone()
    two[0, 4, 4] = True
    maps = box.double()
    assert box_overlap(maps, box) == 1 == box_overlap(-maps, box)
    assert box_overlap(1 - maps, box) == 0
    assert box_overlap(torch.full_like(maps, -0.3), box) == 6 / 36
    assert box_overlap(torch.zeros_like(maps), box) == 6 / 36
    assert box_overlap(maps, two) == (6 + 1 / 30) / 7  # the seventh among thirty that tie
    channels = torch.stack([maps + 5, -5 * torch.ones_like(maps)], 1)
    assert box_overlap(channels, box) == 1
    assert box_overlap(torch.stack([maps, -maps], 1), box) == 6 / 36  # they cancel


@given(
    st.lists(st.integers(-2, 2), min_size=6, max_size=6),
    st.lists(st.booleans(), min_size=6, max_size=6).filter(any),
)
def test_ties_are_broken_as_by_the_mean_over_all_orders(values, box):
    size, total, orders = sum(box), 0, list(itertools.permutations(range(6)))
    for order in orders:
        ranked = sorted(order, key=lambda i: -abs(values[i]))  # stable: ties stay in order
        total += sum(box[i] for i in ranked[:size]) / size
    found = box_overlap(
        torch.tensor([values]).double().view(1, 2, 3), torch.tensor([box]).view(1, 2, 3)
    )
    assert abs(float(found) - total / len(orders)) < 1e-12


def test_random_maps_overlap_as_the_area_and_samples_do_not_mix(generator):
    masks = torch.zeros(2000, 10, 10, dtype=torch.bool)
    masks[:, 2:6, 3:8] = True
    maps = torch.randn(2000, 10, 10, generator=generator)
    found = box_overlap(maps, masks)
    assert abs(found.mean() - 0.2) < 4 * found.std() / 2000**0.5
    alone = torch.cat([box_overlap(m[None], b[None]) for m, b in zip(maps, masks, strict=True)])
    assert found.equal(alone)


def test_overlap_needs_a_box_and_numbers():
    masks = torch.ones(3, 2, 2, dtype=torch.bool)
    masks[1] = False
    with pytest.raises(ValueError, match=r"boxes of samples \[1\] are empty"):
        box_overlap(torch.ones(3, 2, 2), masks)
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="maps hold 4 values that are not finite"):
            box_overlap(torch.full((1, 2, 2), bad), masks[:1])


def test_the_strongest_tenth_of_a_map_is_rounded_to_whole_cells():
    cells = torch.arange(36.0).view(1, 6, 6)  # a tenth is 3.6 cells: the four last ones
    mask = torch.zeros(1, 6, 6, dtype=torch.bool)
    mask[0, 5, 2] = True  # the fourth strongest
    focus = occlusion_focus(cells, mask, 1, grid_centres(6, 6, 1))
    assert focus.hit.tolist() == [0.25]
