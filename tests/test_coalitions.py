from statistics import stdev

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import shapley_by_permutations
from torch import nn
from torch.testing import assert_close

from attribook import coalitions, numerics
from attribook.coalitions import (
    MaskedGame,
    all_coalitions,
    coalitions_of_size,
    dividends,
    grid_centres,
    moebius,
    patch_masks,
    random_coalitions,
    sampled_shapley_values,
    shapley_values,
    zeta,
)
from attribook.methods import (
    occlusion,
    occlusion_map,
    prediction_difference,
    shapley,
)
from attribook.papers.functions.toys import random_mlp
from attribook.score import Score, count_passes


@pytest.fixture
def score(generator):
    return Score(random_mlp(nn.Tanh, generator), 1)


@pytest.fixture
def x(generator):
    return torch.randn(2, 6, generator=generator, dtype=torch.float64)


@pytest.fixture
def x0(generator):
    return torch.randn(1, 6, generator=generator, dtype=torch.float64)


def test_exact_shapley_values_are_the_mean_gain_over_all_orders(score, x, x0):
    def S(point):
        return float(score(torch.as_tensor(point, dtype=torch.float64)[None])[0])

    expected = [shapley_by_permutations(S, row.numpy(), x0[0].numpy()) for row in x]
    assert_close(shapley(score, x, x0), torch.tensor(expected).double(), atol=1e-12, rtol=0)


def test_shapley_values_cost_each_coalition_once(generator, x):
    net = random_mlp(nn.Tanh, generator)
    with count_passes(net) as passes:
        shapley(Score(net, 0), x[:1])
    assert passes.forward_rows == 2**6
    assert passes.backward_rows == 0


def test_sampled_shapley_values_lie_within_their_standard_error(score, x, x0, generator):
    game = MaskedGame(score, x, x0)
    exact = shapley_values(game)
    mean, error = sampled_shapley_values(game, 400, generator)
    z = (mean - exact) / error
    assert z.abs().max() < 5  # 12 values; 5 standard errors are one chance in 150,000
    assert_close(mean.sum(1), exact.sum(1), atol=1e-12, rtol=0)  # every order is complete
    assert error.min() > 0


@pytest.mark.parametrize("n", [-2, 0, 1, 3, 7])
def test_sampling_needs_an_even_number_of_permutations(score, x, generator, n):
    with pytest.raises(ValueError, match="even number"):
        sampled_shapley_values(MaskedGame(score, x), n, generator)


def test_one_order_and_its_reverse_are_exact_for_pairwise_interactions(generator, recwarn):
    score = Score(lambda z: 2 * z[:, 0] - 3 * z[:, 1] * z[:, 2] + z[:, 0] * z[:, 3])
    game = MaskedGame(score, torch.randn(3, 4, generator=generator, dtype=torch.float64))
    mean, error = sampled_shapley_values(game, 2, generator)
    assert_close(mean, shapley_values(game), atol=1e-14, rtol=0)
    assert error.shape == mean.shape and error.isnan().all() and not recwarn.list


def test_plain_orders_are_drawn_one_by_one(score, x, x0, generator):
    game = MaskedGame(score, x, x0)
    mean, error = sampled_shapley_values(game, 401, generator, antithetic=False)
    assert ((mean - shapley_values(game)) / error).abs().max() < 5  # as above
    paired = sampled_shapley_values(game, 400, generator)[1]
    assert (paired < error).all()  # what the reverses are for
    one, alone = sampled_shapley_values(game, 1, generator, antithetic=False)
    assert_close(one.sum(1), mean.sum(1), atol=1e-12, rtol=0)
    assert alone.isnan().all()
    with pytest.raises(ValueError, match="a permutation or more, got 0"):
        sampled_shapley_values(game, 0, generator, antithetic=False)


@pytest.mark.parametrize("antithetic", [False, True])
def test_the_standard_error_is_the_spread_of_the_draws_over_the_root_of_their_number(antithetic):
    score = Score(lambda z: z.prod(1) + z[:, 0].sin())
    x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    orders = torch.rand(5, 3, generator=torch.Generator().manual_seed(3)).argsort(1).tolist()

    def gains(order):
        point, gained = torch.zeros_like(x), [0.0] * 3
        for player in order:
            before, point[0, player] = float(score(point)), x[0, player]
            gained[player] = float(score(point)) - before
        return gained

    draws = [gains(order) for order in orders]
    if antithetic:  # a draw is an order with its reverse
        pairs = zip(draws, [gains(order[::-1]) for order in orders], strict=True)
        draws = [[(a + b) / 2 for a, b in zip(one, other, strict=True)] for one, other in pairs]
    expected = [stdev(column) / 5**0.5 for column in zip(*draws, strict=True)]
    generator = torch.Generator().manual_seed(3)
    n_permutations = 10 if antithetic else 5
    _, error = sampled_shapley_values(MaskedGame(score, x), n_permutations, generator, antithetic)
    assert error[0].tolist() == pytest.approx(expected, rel=1e-12)


def test_dividends_are_the_coefficients_of_a_multilinear_polynomial():
    score = Score(lambda z: 2 * z[:, 0] - 3 * z[:, 1] * z[:, 2] + 5 * z.prod(1))
    found = dividends(MaskedGame(score, torch.ones(1, 3, dtype=torch.float64)))
    expected = torch.tensor(
        [[0, 2, 0, 0, 0, 0, -3, 5]]
    ).double()  # sets {}, 1, 2, 12, 3, 13, 23, 123
    assert_close(found, expected, atol=1e-14, rtol=0)


def test_dividends_of_subsets_add_up_to_the_value_of_a_coalition(score, x, x0):
    game = MaskedGame(score, x, x0)
    sets = all_coalitions(6)
    below = ((sets[:, None] & sets[None]) == sets[None]).all(2)  # [S, T]: T is a subset of S
    sums = dividends(game) @ below.T.double()
    assert_close(sums, game(sets), atol=1e-12, rtol=0)


def test_moebius_is_the_alternating_sum_over_subsets_and_zeta_its_inverse(generator):
    values = torch.randn(3, 2, 16, generator=generator, dtype=torch.float64)
    expected = torch.zeros_like(values)
    for S in range(16):
        for T in range(16):
            if T & S == T:
                expected[..., S] += (-1) ** (S ^ T).bit_count() * values[..., T]
    found = moebius(values)
    assert_close(found, expected, atol=1e-14, rtol=0)
    assert_close(zeta(found), values, atol=1e-14, rtol=0)
    assert_close(moebius(zeta(values)), values, atol=1e-14, rtol=0)


@given(st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=64))
def test_transforms_of_whole_numbers_undo_each_other_exactly(numbers):
    whole = torch.tensor(numbers).double()[: 2 ** (len(numbers).bit_length() - 1)]
    assert zeta(moebius(whole)).equal(whole) and moebius(zeta(whole)).equal(whole)
    assert zeta(whole)[-1] == whole.sum()  # the grand coalition contains all


@pytest.mark.parametrize("shape, length", [((3,), 3), ((16, 6), 6), ((2, 0), 0)])
def test_transforms_refuse_what_is_not_a_power_of_two(shape, length):
    for transform in (moebius, zeta):
        with pytest.raises(ValueError, match=f"2\\^n coalitions along the last axis, got {length}"):
            transform(torch.zeros(shape))


def test_all_coalitions_number_their_players_by_bits():
    sets = all_coalitions(3)
    assert sets.shape == (8, 3)
    assert sets[5].tolist() == [True, False, True]


def test_coalitions_of_a_size_are_all_different_and_of_that_size():
    sets = coalitions_of_size(7, 3)
    assert len(sets.unique(dim=0)) == 35
    assert (sets.sum(1) == 3).all()


def test_random_coalitions_have_their_size_and_cover_players_evenly(generator):
    sets = random_coalitions(10, 3, 20_000, generator)
    assert (sets.sum(1) == 3).all()
    assert_close(sets.double().mean(0), torch.full((10,), 0.3).double(), atol=0.02, rtol=0)


def test_groups_are_masked_together_and_share_equally(score, x):
    groups = torch.tensor([0, 0, 1, 1, 1, 2])
    drops = occlusion(score, x, groups=groups)
    without = x.clone()
    without[:, 2:5] = 0
    assert_close(drops[:, 2] * 3, score(x) - score(without), atol=1e-14, rtol=0)
    assert_close(drops[:, 2], drops[:, 4])


def test_large_games_run_in_bounded_batches_with_the_same_result(monkeypatch, score, x):
    whole = MaskedGame(score, x)(all_coalitions(6))
    monkeypatch.setattr(numerics, "NUMBERS_A_PASS", 5 * x.numel())
    assert_close(MaskedGame(score, x)(all_coalitions(6)), whole, atol=1e-15, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("n_players", [5, 8, 9])
def test_points_from_a_table_are_those_of_the_masks_to_the_bit(generator, dtype, n_players):
    x = torch.randn(3, 2, 20, generator=generator, dtype=torch.float64).to(dtype)
    x0 = torch.randn(3, 2, 20, generator=generator, dtype=torch.float64).to(dtype)
    groups = torch.randperm(40, generator=generator).view(2, 20) % n_players
    seen = []
    game = MaskedGame(Score(lambda z: seen.append(z) or z.sum((1, 2))), x, x0, groups)
    sets = random_coalitions(n_players, 3, 1000, generator)
    by_table, by_masks = game(sets), torch.cat([game(part) for part in sets.split(10)], 1)
    assert by_table.equal(by_masks)
    assert len(seen) == 101  # so many coalitions at once take the table, ten do not
    assert seen[0].equal(torch.cat(seen[1:]))
    expected = torch.where(sets[:, groups][:, None], x, x0).flatten(0, 1)
    assert seen[0].equal(expected)


def test_prediction_difference_averages_occlusion_over_baselines(score, x, generator):
    baselines = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    expected = sum(occlusion(score, x, x0[None]) for x0 in baselines) / 3
    assert_close(prediction_difference(score, x, baselines), expected, atol=1e-14, rtol=0)


def test_a_patch_is_a_square_round_its_centre_cut_at_the_border():
    kept = patch_masks(5, 6, 3, torch.tensor([[2, 3], [0, 0]]))
    assert (~kept[0]).nonzero().tolist() == [[r, c] for r in (1, 2, 3) for c in (2, 3, 4)]
    assert (~kept[1]).sum() == 4


def test_an_occlusion_map_equals_one_patch_at_a_time(generator):
    images = torch.randn(2, 3, 10, 12, generator=generator)
    weight = torch.randn(3, 10, 12, generator=generator)
    score = Score(lambda z: (z * weight).flatten(1).sum(1).tanh())
    drops = occlusion_map(score, images, patch=5, stride=4, value=0.25)
    assert drops.shape == (2, 2, 3)
    for k, (row, column) in enumerate(grid_centres(10, 12, 4).tolist()):
        patched = images.clone()
        patched[:, :, max(0, row - 2) : row + 3, max(0, column - 2) : column + 3] = 0.25
        expected = score(images) - score(patched)
        assert_close(drops.flatten(1)[:, k], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("height", "width", "cells"), [(10, 11, (2, 3)), (11, 10, (3, 2))])
def test_an_occlusion_map_has_a_cell_for_each_centre_in_the_image(height, width, cells):
    images = torch.ones(1, 1, height, width)
    drops = occlusion_map(Score(lambda z: z.sum((1, 2, 3))), images, patch=1, stride=4)
    assert drops.tolist() == [[[1.0] * cells[1]] * cells[0]]


def test_too_many_players_are_refused_with_the_way_out():
    x = torch.zeros(1, 17)
    with pytest.raises(ValueError, match="at most 16 players, got 17; pass n_permutations="):
        shapley(Score(lambda z: z.sum(1)), x)
    with pytest.raises(ValueError, match="coarser groups"):
        all_coalitions(17)


@pytest.mark.parametrize(
    "groups", [torch.tensor([0, 1, 2]), torch.tensor([0, 2, 2, 2, 2, 2]), torch.zeros(2, 3).long()]
)
def test_groups_must_number_the_features_without_gaps(score, x, groups):
    with pytest.raises(ValueError, match="groups"):
        MaskedGame(score, x, groups=groups)


def test_coalitions_of_the_wrong_width_are_refused(score, x):
    with pytest.raises(ValueError, match="wanted .any, 6."):
        MaskedGame(score, x)(torch.ones(2, 5, dtype=torch.bool))


def test_a_patch_of_even_side_reaches_one_pixel_further_up_and_left():
    mask = coalitions.patch_masks(5, 5, 2, torch.tensor([[2, 2]]))[0]
    removed = (~mask).nonzero().tolist()
    assert removed == [[1, 1], [1, 2], [2, 1], [2, 2]]
