import itertools
from fractions import Fraction as Fr
from math import comb, factorial, prod

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import lively, points
from torch import nn
from torch.testing import assert_close

from attribook import numerics
from attribook.coalitions import MaskedGame, all_coalitions, dividends
from attribook.effects import (
    Effects,
    check_flat,
    degrees,
    effects_by_autodiff,
    second_order,
)
from attribook.papers.functions.polynomials import (
    Polynomial,
    SideBySide,
    constant,
    monomial,
    random_polynomial,
)
from attribook.papers.functions.series import PowerSum
from attribook.papers.taylor.exact import (
    exact_effects,
    network_effects,
    neuron_effects,
    polynomial_effects,
)
from attribook.score import Score

# -- slowly: derivatives one after another, the binomial theorem, sums over subsets -------------


def derivative(score, start, kappa):
    """D^kappa f at each start, by reverse differentiation, one order after another."""
    leaf = start.clone().requires_grad_()
    value = score(leaf)
    for feature, k in enumerate(kappa):
        for _ in range(k):
            (slope,) = torch.autograd.grad(
                value.sum(), leaf, create_graph=True, materialize_grads=True
            )
            value = slope[:, feature]
            if not value.requires_grad:
                value = value + 0 * leaf.sum()
    return value.detach()


def effects_one_by_one(score, inputs, baseline, kappas):
    """I(kappa) = D^kappa f(b) d^kappa / kappa!, by definition.   [taylor, Eq. 2]"""
    starts = baseline.expand_as(inputs).clone()
    columns = []
    for kappa in kappas.tolist():
        column = derivative(score, starts, kappa)
        for i, k in enumerate(kappa):
            column = column * (inputs - starts)[:, i] ** k / factorial(k)
        columns.append(column)
    return torch.stack(columns, 1)


def by_the_binomial_theorem(terms, point, baseline):
    """{kappa: I(kappa)}, non-zero ones, in the arithmetic of the numbers."""
    effects = {}
    for exponents, c in terms.items():
        for kappa in itertools.product(*(range(k + 1) for k in exponents)):
            part = c * prod(
                comb(k, m) * b ** (k - m) * (x - b) ** m
                for k, m, x, b in zip(exponents, kappa, point, baseline, strict=True)
            )
            effects[kappa] = effects.get(kappa, 0) + part
    return {kappa: value for kappa, value in effects.items() if any(kappa) and value != 0}


def dividend(score, x, b, members):
    """H(S) = sum over T in S of (-1)^(|S| - |T|) f(x_T).   [taylor, Eq. 9]"""
    total = 0.0
    for size in range(len(members) + 1):
        for kept in itertools.combinations(members, size):
            point = b.clone()
            point[list(kept)] = x[list(kept)]
            total += (-1) ** (len(members) - size) * score(point[None]).item()
    return total


def members_of(number, n):
    return [i for i in range(n) if number >> i & 1]


@pytest.fixture
def smooth():
    """3 features, two classes, three kinds of activations."""
    stages = [nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Softplus(2.0), nn.Linear(4, 3)]
    return lively(nn.Sequential(*stages, nn.Sigmoid(), nn.Linear(3, 2)), gain=1.2)


@pytest.fixture
def cubic():
    """4 features: of degree 6 in them."""
    stages = [nn.Linear(4, 3), PowerSum(0, 1, 0.5), nn.Linear(3, 2), PowerSum(0.2, 1, -0.5, 0.3)]
    return lively(nn.Sequential(*stages, nn.Linear(2, 2)), gain=0.7)


# -- networks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [1, torch.tensor([0, 1, 1])], ids=["one", "each"])
@pytest.mark.parametrize("baselines", ["zeros", "one", "each"])
def test_effects_of_a_network_are_its_derivatives_twice_over(smooth, target, baselines):
    score, inputs = Score(smooth, target), points((3,))
    given = {"zeros": None, "one": points((3,), 1, 5), "each": points((3,), 3, 5)}[baselines]
    start = torch.zeros_like(inputs) if given is None else given
    kappas = degrees(3, 4)
    expected = effects_one_by_one(score, inputs, start, kappas)
    for effects in (
        network_effects(score, inputs, given, order=4),
        effects_by_autodiff(score, inputs, given, order=4),
    ):
        assert effects.degrees.equal(kappas)
        assert_close(effects.values, expected, atol=1e-12, rtol=1e-10)


def test_effects_by_differentiation_take_any_score():
    inputs, start = points((2,)), points((2,), 3, 7)
    probability = Score(
        lively(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3))), 2, output="probability"
    )
    for score in (probability, Score(lambda u: torch.sin(u[:, 0]) * u[:, 1].exp())):
        found = effects_by_autodiff(score, inputs, start, order=3)
        expected = effects_one_by_one(score, inputs, start, degrees(2, 3))
        assert_close(found.values, expected, atol=1e-12, rtol=1e-10)


def test_effects_of_a_polynomial_network_have_no_remainder(cubic):
    score, inputs, start = Score(cubic, 0), points((4,)), points((4,), 1, 3)
    effects = network_effects(score, inputs, start, order=7)
    change = score(inputs) - score(start)
    assert_close(effects.total(), change.detach(), atol=1e-11, rtol=1e-10)
    highest = effects.values[:, effects.order == 7]
    assert highest.abs().max() <= 1e-12 * effects.values.abs().max()
    assert (effects.up_to(5).total() - change).abs().max() > 1e-3


def test_sums_over_sets_are_the_dividends_of_the_masked_game(cubic):  # [taylor, Theorem 1]
    score, inputs, start = Score(cubic, 1), points((4,)), points((4,), 1, 3)
    generic = network_effects(score, inputs, start, order=6).generic()
    assert generic.shape == (3, 16) and generic[:, 0].abs().max() == 0
    for row, number in itertools.product(range(3), range(1, 16)):
        expected = dividend(score, inputs[row], start[0], members_of(number, 4))
        assert generic[row, number].item() == pytest.approx(expected, abs=1e-11)


def test_sums_over_sets_come_near_the_dividends_of_an_analytic_network():
    stages = [nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 1)]
    score = Score(lively(nn.Sequential(*stages)), 0)
    inputs, start = points((3,)), torch.zeros(1, 3, dtype=torch.float64)
    inputs *= 0.5 / (score.model[0].weight.detach().abs() @ inputs.abs().T).max()
    expected = [
        [dividend(score, x, start[0], members_of(k, 3)) for k in range(1, 8)] for x in inputs
    ]
    effects = network_effects(score, inputs, start, order=8)
    gaps = [
        (effects.up_to(k).generic()[:, 1:] - inputs.new_tensor(expected)).abs().max()
        for k in (2, 4, 6, 8)
    ]
    assert all(late < early / 3 for early, late in itertools.pairwise(gaps))
    assert gaps[-1] <= 1e-3 * np.abs(expected).max()


def test_an_effect_needs_all_its_variables_and_no_other(smooth):  # [taylor, Eq. 3]
    score, inputs, start = Score(smooth, 0), points((3,), 1), points((3,), 1, 4)
    whole = network_effects(score, inputs, start, order=4)
    for i in range(3):
        masked, changed = inputs.clone(), inputs.clone()
        masked[:, i], changed[:, i] = start[:, i], 9.0
        takes_part = whole.support[:, i]
        for effects in (
            network_effects(score, masked, start, order=4),
            effects_by_autodiff(score, masked, start, order=4),
        ):
            assert (effects.values[:, takes_part] == 0).all()
        for other in (masked, changed):
            found = network_effects(score, other, start, order=4).values[:, ~takes_part]
            assert_close(found, whole.values[:, ~takes_part], atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize("kind", [nn.Sigmoid, nn.Softplus, nn.Tanh, lambda: PowerSum(0, 1, 0, 1)])
def test_a_neuron_has_its_effects_in_closed_form(kind):
    neuron = lively(nn.Sequential(nn.Linear(3, 1), kind()))
    inputs, start = points((3,)), points((3,), 3, 2)
    z = neuron[0](start)[:, 0].detach()
    steps = (neuron[0].weight * (inputs - start)).detach()
    found = neuron_effects(neuron[1], z, steps, order=7)
    expected = network_effects(Score(neuron, 0), inputs, start, order=7)
    assert found.degrees.equal(expected.degrees)
    assert_close(found.values, expected.values, atol=1e-13, rtol=1e-10)


def test_a_neuron_of_high_order_has_the_effects_of_the_binomial_theorem():
    z, steps = Fr(1, 4), (Fr(1, 2), Fr(-3, 4))
    effects = neuron_effects(
        PowerSum(*[0] * 20, 1),
        torch.tensor([float(z)], dtype=torch.float64),
        torch.tensor([[float(s) for s in steps]], dtype=torch.float64),
        order=20,
    )
    for kappa, value in zip(effects.degrees.tolist(), effects.values[0].tolist(), strict=True):
        k = sum(kappa)
        expected = comb(20, k) * comb(k, kappa[0]) * z ** (20 - k)
        expected *= prod(s**m for s, m in zip(steps, kappa, strict=True))
        assert value == pytest.approx(float(expected), rel=1e-11)


# -- polynomials --------------------------------------------------------------------------------

TABLE_III = sum(
    [monomial(3, 0, 0), monomial(1, 1, 2), monomial(3, 1, 2)], start=monomial(1, 0, 0)
)  # x1 + x1^3 + x1 x2 x3^2 + x1^3 x2 x3^2


def test_table_three_has_four_effects_at_the_baseline_zero():  # [taylor, Table III]
    x = Fr(2, 3), Fr(-5), Fr(1, 7)
    assert exact_effects(TABLE_III, x, (0, 0, 0)) == {
        (1, 0, 0): x[0],
        (3, 0, 0): x[0] ** 3,
        (1, 1, 2): x[0] * x[1] * x[2] ** 2,
        (3, 1, 2): x[0] ** 3 * x[1] * x[2] ** 2,
    }
    generic = polynomial_effects(TABLE_III, torch.tensor([[2.0, 3.0, 5.0]])).generic()[0]
    assert generic.tolist() == [0, 2 + 8, 0, 0, 0, 0, 0, 2 * 75 + 8 * 75]


def test_at_another_baseline_table_three_has_other_effects():
    x, ones = (Fr(2, 3), Fr(-5), Fr(1, 7)), (Fr(1),) * 3
    found = exact_effects(TABLE_III, x, ones)
    assert found == by_the_binomial_theorem(TABLE_III.terms, x, ones)
    assert len(found) == 23 and {(0, 1, 0), (0, 0, 2), (1, 1, 0)} < set(found)
    assert sum(found.values()) == TABLE_III.at(x) - TABLE_III.at(ones)


numbers = st.fractions(min_value=-3, max_value=3, max_denominator=6)
vectors = st.tuples(numbers, numbers, numbers)
exponents = st.tuples(*[st.integers(0, 3)] * 3)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(exponents, numbers, min_size=1, max_size=5), vectors, vectors)
def test_exact_effects_are_those_of_the_binomial_theorem(terms, x, b):
    found = exact_effects(Polynomial(terms), x, b)
    assert found == by_the_binomial_theorem(terms, x, b)
    assert sum(found.values()) == Polynomial(terms).at(x) - Polynomial(terms).at(b)
    tensors = (torch.tensor([[float(y) for y in point]], dtype=torch.float64) for point in (x, b))
    listed = polynomial_effects(Polynomial(terms), *tensors)
    values = dict(zip(map(tuple, listed.degrees.tolist()), listed.values[0].tolist(), strict=True))
    for kappa in {*values, *found}:
        assert values.get(kappa, 0) == pytest.approx(float(found.get(kappa, 0)), abs=1e-8)


def test_every_sample_may_have_its_own_polynomial(generator):
    each = [random_polynomial(generator, 3, 4) for _ in range(4)]
    inputs, starts = points((3,), 4), points((3,), 4, 2)
    for start in (starts, starts[:1]):
        effects = polynomial_effects(each, inputs, start)
        order = effects.degrees.tolist()
        assert order == sorted(order, key=lambda k: (sum(k), [-m for m in k]))
        assert len(set(map(tuple, order))) == len(order) and [0, 0, 0] not in order
        for row, polynomial in enumerate(each):
            point = inputs[row].tolist(), start.expand(4, 3)[row].tolist()
            expected = by_the_binomial_theorem(polynomial.terms, *point)
            found = dict(zip(map(tuple, order), effects.values[row].tolist(), strict=True))
            for kappa in {*found, *expected}:
                assert found.get(kappa, 0) == pytest.approx(expected.get(kappa, 0), abs=1e-12)
        change = SideBySide(each)(inputs) - SideBySide(each)(start.expand_as(inputs))
        assert_close(effects.total(), change, atol=1e-12, rtol=0)


def test_polynomials_have_the_effects_of_their_derivatives(generator):
    each = [random_polynomial(generator, 3, 4) for _ in range(2)]
    inputs, starts = points((3,), 2), points((3,), 2, 2)
    listed = polynomial_effects(each, inputs, starts)
    derived = effects_by_autodiff(Score(SideBySide(each)), inputs, starts, order=4)
    for kappa in degrees(3, 4).tolist():
        assert_close(listed.of(*kappa), derived.of(*kappa), atol=1e-12, rtol=0)


def test_a_constant_has_no_effects():
    effects = polynomial_effects(constant(3, 2), torch.tensor([[1.0, 2.0]]))
    assert effects.values.abs().max() == 0 and effects.total().tolist() == [0]
    assert exact_effects(constant(3, 2), (1, 2), (0, 0)) == {}


def test_polynomials_that_do_not_fit_the_inputs_are_refused():
    inputs = points((3,))
    with pytest.raises(ValueError, match="2 polynomials for 3 samples; pass one"):
        polynomial_effects([monomial(1, 1, 1)] * 2, inputs)
    for wrong in (monomial(2), monomial(1, 2), monomial(1, 1, 1, 1)):
        with pytest.raises(ValueError, match="features needs a number for each"):
            polynomial_effects(wrong, inputs)


# -- what effects tell --------------------------------------------------------------------------


def test_effects_are_summed_and_sorted_as_a_loop_does(generator):
    kappas = degrees(3, 4)
    effects = Effects(kappas, torch.randn(2, len(kappas), generator=generator))
    listed = list(zip(kappas.tolist(), effects.values.T.tolist(), strict=True))
    assert effects.order.tolist() == [sum(k) for k, _ in listed]
    assert effects.support.tolist() == [[m > 0 for m in k] for k, _ in listed]
    assert effects.up_to(2).degrees.tolist() == [k for k, _ in listed if sum(k) <= 2]
    assert effects.up_to(2).values.T.tolist() == [v for k, v in listed if sum(k) <= 2]
    for kappa, values in listed:
        assert effects.of(*kappa).tolist() == values
    assert effects.of(5, 0, 0).tolist() == [0, 0]
    generic = effects.generic()
    for number, coalition in enumerate(all_coalitions(3).tolist()):
        inside = [v for k, v in listed if [m > 0 for m in k] == coalition]
        assert len(inside) == (comb(4, sum(coalition)) if number else 0)
        expected = [sum(v[row] for v in inside) for row in range(2)]
        assert generic[:, number].tolist() == pytest.approx(expected, abs=1e-5)
    assert effects.total().tolist() == pytest.approx(generic.sum(1).tolist(), abs=1e-5)


def test_sets_are_in_the_order_of_the_dividends(generator):
    polynomial = random_polynomial(generator, 4, 5, n_terms=20)
    inputs, start = points((4,), 2), points((4,), 1, 6)
    expected = dividends(MaskedGame(Score(polynomial), inputs, start))
    found = polynomial_effects(polynomial, inputs, start).generic()
    assert_close(found[:, 1:], expected[:, 1:], atol=1e-11, rtol=0)


def test_a_degree_of_another_length_and_too_many_sets_are_refused():
    effects = Effects(degrees(3, 2), torch.zeros(1, 9))
    for wrong in ((1,), (1, 1), (1, 1, 0, 0)):
        with pytest.raises(ValueError, match="3 entries here, got"):
            effects.of(*wrong)
    with pytest.raises(ValueError, match="21 variables have 2.21 sets; group them"):
        Effects(degrees(21, 1), torch.zeros(1, 21)).generic()


# -- gradient and Hessian -----------------------------------------------------------------------


def images(n=3, seed=1):
    return points((1, 3, 4), n, seed)


@pytest.fixture
def convolutional():
    stages = [nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Conv2d(2, 2, 2, stride=2), nn.Softplus()]
    return lively(nn.Sequential(*stages, nn.Flatten(), nn.Linear(2, 3)))


@pytest.mark.parametrize("at_once", [1, 7, 4096])  # rows: one direction, two, all
def test_second_order_is_gradient_and_hessian_of_every_image(convolutional, monkeypatch, at_once):
    monkeypatch.setattr(numerics, "NUMBERS_A_PASS", at_once)
    target, inputs = [2, 0, 1], images()
    gradient, hessian = second_order(Score(convolutional, torch.tensor(target)), inputs)
    assert gradient.shape == (3, 12) and hessian.shape == (3, 12, 12)
    for row, c in enumerate(target):

        def value(u, c=c):
            return convolutional(u.view(1, 1, 3, 4))[0, c]

        flat = inputs[row].flatten()
        slope = torch.autograd.functional.jacobian(value, flat)
        curvature = torch.autograd.functional.hessian(value, flat)
        assert_close(gradient[row], slope, atol=1e-13, rtol=1e-10)
        assert_close(hessian[row], curvature, atol=1e-13, rtol=1e-10)
    assert hessian.equal(hessian.mT) and not (hessian.requires_grad or gradient.requires_grad)


def test_second_order_gives_the_effects_of_orders_one_and_two(cubic):
    score, inputs, start = Score(cubic, 1), points((4,)), points((4,), 3, 3)
    gradient, hessian = second_order(score, start)
    effects, d = network_effects(score, inputs, start, order=2), inputs - start

    def of(*variables):
        return effects.of(*(variables.count(i) for i in range(4)))

    for i in range(4):
        assert_close(of(i), gradient[:, i] * d[:, i], atol=1e-12, rtol=0)
        square = hessian[:, i, i] * d[:, i] ** 2 / 2
        assert_close(of(i, i), square, atol=1e-12, rtol=0)
        for j in range(i):
            pair = hessian[:, i, j] * d[:, i] * d[:, j]
            assert_close(of(i, j), pair, atol=1e-12, rtol=0)


def test_second_order_keeps_precision_and_takes_expanded_baselines(convolutional):
    single = second_order(Score(convolutional.float(), 0), images().float())
    assert {part.dtype for part in single} == {torch.float32}
    score = Score(convolutional.double(), 0)
    one, many = second_order(score, images(1)), second_order(score, images(1).expand(2, 1, 3, 4))
    for alone, together in zip(one, many, strict=True):
        assert_close(together, alone.expand_as(together), atol=1e-14, rtol=0)


def test_hessians_beyond_memory_and_black_boxes_are_refused():
    score = Score(lambda u: u.flatten(1).sum(1))
    with pytest.raises(ValueError, match="2 Hessians of 12000 x 12000 take 2.1 GiB; pass fewer"):
        second_order(score, torch.zeros(2, 3, 4000))
    with pytest.raises(ValueError, match="no gradient with respect to its inputs"):
        second_order(Score(lambda u: u.detach().sum(1)), points((3,)))


# -- one table for all --------------------------------------------------------------------------

LISTED = {
    "by series": lambda score, x, b: network_effects(score, x, b, order=3),
    "by differentiation": lambda score, x, b: effects_by_autodiff(score, x, b, order=3),
}


@pytest.mark.parametrize("name", LISTED)
def test_batches_are_samples_in_a_row_in_their_precision_and_leave_no_trace(smooth, name):
    find, score = LISTED[name], Score(smooth, 0)
    inputs, starts = points((3,)).requires_grad_(), points((3,), 3, 2)
    together = find(score, inputs, starts)
    alone = [find(score, inputs[k : k + 1], starts[k : k + 1]).values for k in range(3)]
    assert_close(together.values, torch.cat(alone), atol=1e-14, rtol=0)
    assert not together.values.requires_grad and inputs.grad is None
    assert all(p.grad is None and p.requires_grad for p in smooth.parameters())
    with torch.inference_mode():
        assert_close(find(score, inputs, starts).values, together.values)
    single = find(Score(smooth.float(), 0), inputs.float(), starts.float())
    assert single.values.dtype == torch.float32
    assert_close(single.values.double(), together.values, atol=1e-5, rtol=1e-4)


def test_a_neuron_keeps_its_precision():
    found = neuron_effects(nn.Tanh(), torch.zeros(2), torch.ones(2, 3), order=3)
    assert found.values.dtype == torch.float32 and found.values.shape == (2, 19)


@pytest.mark.parametrize("name", LISTED)
def test_unusable_inputs_are_refused_in_words(smooth, name):
    find, score, inputs = LISTED[name], Score(smooth, 0), points((3,))
    with pytest.raises(ValueError, match="inputs must be finite"):
        find(score, inputs * torch.nan, None)
    with pytest.raises(ValueError, match="baseline must be finite"):
        find(score, inputs, torch.full((1, 3), torch.inf))
    with pytest.raises((ValueError, jaxtyping.TypeCheckError)):
        find(score, images(), None)
    with pytest.raises(ValueError, match=r"\(batch, features\), got \(3, 1, 3, 4\); flatten"):
        check_flat(images(), None)  # what it says where shapes are not checked
    with pytest.raises(ValueError, match="training mode"):
        smooth.train()
        find(score, inputs, None)


def test_what_the_series_does_not_reach_is_refused_in_words(smooth):
    inputs = points((3,))
    for score in (Score(smooth, 0, output="probability"), Score(TABLE_III)):
        with pytest.raises(ValueError, match="effects_by_autodiff takes any score"):
            network_effects(score, inputs)
    with pytest.raises(ValueError, match="no Taylor series of ReLU"):
        network_effects(Score(lively(nn.Sequential(nn.Linear(3, 2), nn.ReLU())), 0), inputs)
    for order in (0, 5):
        with pytest.raises(ValueError, match=f"to order 4, got {order}; .*network_effects"):
            effects_by_autodiff(Score(smooth, 0), inputs, order=order)
    with pytest.raises(ValueError, match="order >= 1, got 3 and 0"):
        network_effects(Score(smooth, 0), inputs, order=0)
    with pytest.raises(ValueError, match="baseline has shape"):
        check_flat(inputs, points((4,)))
