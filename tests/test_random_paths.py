"""The random paths and ensembles of `rivals`, and its methods on functions made to tell them apart."""

import captum.attr
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from attribook.axioms import (
    completeness_gap,
    dummy_gap,
    linearity_gap,
    ndp_gap,
)
from attribook.papers.functions.polynomials import SideBySide, monomial, random_polynomial
from attribook.papers.functions.toys import random_mlp
from attribook.papers.integrated.rivals import (
    AXIOMS,
    RIVALS,
    Trials,
    any_monotone,
    ensemble_method,
    ig_plus_mixed_derivative,
    mixed_derivative,
    path_method,
    random_detour,
    random_ensemble,
    rounds,
    three_axioms,
)
from attribook.paths import is_monotone
from attribook.score import Score

THREE = ("completeness", "linearity", "dummy")


def box(generator, n_features, rows=20):
    return torch.rand(2, rows, n_features, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("n_features", [2, 3, 4])
def test_any_monotone_path_is_monotone_and_exact_with_16_nodes(n_features, generator):
    x, x0 = box(generator, n_features)
    score = Score(random_polynomial(generator, n_features, 4))
    for _ in range(20):
        make_path = any_monotone(generator, n_features)
        assert is_monotone(make_path(x, x0)).all()
        gap = completeness_gap(path_method(make_path, 16)(score, x, x0), score, x, x0)
        assert gap.abs().max() < 1e-12


@pytest.mark.parametrize("make", [any_monotone, random_detour])
def test_a_random_ensemble_keeps_the_axioms_of_its_paths(make, generator):
    x, x0 = box(generator, 3)
    one, other = (Score(random_polynomial(generator, 3, 4)) for _ in range(2))
    weights, paths = random_ensemble(generator, 3, make)
    assert 2 <= len(weights) == len(paths) <= 12
    assert min(weights) > 0 and sum(weights) == pytest.approx(1, abs=1e-15)
    method = ensemble_method(weights, paths, n_steps=16)
    assert completeness_gap(method(one, x, x0), one, x, x0).abs().max() < 1e-12
    assert linearity_gap(method, one, other, 0.7, -1.3, x, x0).max() < 1e-12
    assert dummy_gap(method, one, 1, x, x0).max() == 0


@pytest.mark.parametrize("name", RIVALS)
def test_three_axioms_at_once_are_the_three_one_by_one(name, generator):
    x, x0 = box(generator, 2, rows=4)
    functions = [random_polynomial(generator, 2, 3) for _ in range(4)]
    one, other = (Score(SideBySide(f)) for f in (functions, functions[::-1]))
    at_once = three_axioms(RIVALS[name], Trials(one, other, x, x0))
    alone = [AXIOMS[axiom](RIVALS[name], Trials(one, other, x, x0)) for axiom in THREE]
    assert_close(at_once[0], alone[0], atol=1e-13, rtol=0)
    assert_close(at_once[2], alone[2], atol=1e-13, rtol=0)
    assert (at_once[1] <= alone[1] + 1e-13).all() and at_once[1].max() < 1e-12


def test_a_method_that_is_not_linear_is_found_out_by_the_one_call(generator):
    x, x0 = box(generator, 2, rows=4)
    one, other = (Score(random_polynomial(generator, 2, 3)) for _ in range(2))
    trials = Trials(one, other, x, x0)
    squared = lambda score, x, x0: RIVALS["Shapley"](score, x, x0) ** 2  # noqa: E731
    assert three_axioms(squared, trials)[1].max() > 0.05
    exact = (2 * squared(one, x, x0) - squared(other, x, x0) / 2).sub(
        squared(Score(lambda y: 2 * one(y) - other(y) / 2), x, x0)
    )
    assert_close(three_axioms(squared, trials)[1], exact.abs().amax(1))


def test_monotone_ensembles_keep_ndp_and_detours_do_not(generator):
    growing = Score(random_polynomial(generator, 2, 4, low=0))
    x = torch.ones(1, 2, dtype=torch.float64)
    monotone = ensemble_method(*random_ensemble(generator, 2), n_steps=16)
    assert ndp_gap(monotone(growing, x, 0 * x)) == 0
    detour = RIVALS["five segments"](Score(monomial(1, 2)), x, 0 * x)
    assert_close(ndp_gap(detour), x.new_tensor([2 / 3]))


@pytest.mark.parametrize("n", [-3, -1, 0, 2])
def test_a_round_moves_one_unit_from_one_feature_to_the_other(n):
    # [integrated, App. F]: (0.5 + n, 0.5 - n)
    x = torch.ones(1, 2, dtype=torch.float64)
    attributions = path_method(rounds(n), 2)(Score(monomial(1, 1)), x, 0 * x)
    assert_close(attributions, x.new_tensor([[0.5 + n, 0.5 - n]]), atol=1e-13, rtol=0)


def test_the_mixed_derivative_is_that_of_a_polynomial_and_zero_where_there_is_none(generator):
    x, _ = box(generator, 2)
    function = random_polynomial(generator, 2, 4)
    exact = function.derivative(0).derivative(1)(x)
    assert_close(mixed_derivative(Score(function), x), exact)
    assert (mixed_derivative(Score(monomial(3, 0)), x) == 0).all()
    assert (mixed_derivative(Score(lambda y: y[:, 0]), x) == 0).all()


def test_more_nodes_follow_a_faster_wave():
    x = torch.ones(1, 2, dtype=torch.float64)
    wave = Score(lambda y: y[:, 0] * torch.sin(100 * torch.pi * y[:, 1]))
    exact = 100 * torch.pi * torch.tensor([1.0, -1.0]).double()  # IG is (0, 0)
    assert_close(ig_plus_mixed_derivative(wave, x, 0 * x, n_steps=300)[0], exact)
    assert (ig_plus_mixed_derivative(wave, x, 0 * x)[0] - exact).abs().max() > 1e-3


def test_captums_integrated_gradients_sees_one_partial_derivative_only(generator):
    # [integrated, Lemma 1]: A_i depends on F through dF/dx_i
    net = random_mlp(nn.Tanh, generator, (3, 8, 1))
    rest = random_mlp(nn.Tanh, generator, (2, 8, 1))
    x, x0 = box(generator, 3)
    one = captum.attr.IntegratedGradients(lambda y: net(y)[:, 0])
    other = captum.attr.IntegratedGradients(lambda y: (net(y) + rest(y[:, 1:]))[:, 0])
    first, second = (m.attribute(x, x0, method="gausslegendre") for m in (one, other))
    assert_close(first[:, 0], second[:, 0], atol=1e-12, rtol=0)
    assert (first - second)[:, 1:].abs().max() > 0.01
