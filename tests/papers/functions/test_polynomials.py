import itertools
from fractions import Fraction as Fr

import numpy as np
import pytest
import reference as ref
import torch
from torch.testing import assert_close

from attribook.methods import integrated_gradients
from attribook.papers.functions.polynomials import (
    Polynomial,
    SideBySide,
    constant,
    exact_attributions,
    monomial,
    random_polynomial,
)
from attribook.score import Score, plain_gradient


def slowly(polynomial, point):
    """The value at one point, term by term and factor by factor."""
    total = 0
    for exponents, c in polynomial.terms.items():
        for y, k in zip(point, exponents, strict=True):
            for _ in range(k):
                c = c * y
        total = total + c
    return total


@pytest.fixture
def polynomial(generator):
    return random_polynomial(generator, 3, 4)


@pytest.fixture
def points(generator):
    """Five points, some of whose features are exactly zero."""
    found = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    found[0, 1] = found[1, :2] = found[2] = 0
    return found


def test_values_are_sums_of_products(polynomial, points):
    expected = [slowly(polynomial, point.tolist()) for point in points]
    assert_close(polynomial(points), points.new_tensor(expected), atol=1e-14, rtol=0)
    assert [polynomial.at(point.tolist()) for point in points] == pytest.approx(expected)
    assert polynomial(points.float()).dtype == torch.float32


def test_gradients_are_the_derivatives_also_at_zeros(polynomial, points):
    found = plain_gradient(Score(polynomial), points)
    symbolic = torch.stack([polynomial.derivative(i)(points) for i in range(3)], 1)
    assert_close(found, symbolic, atol=1e-14, rtol=0)
    by_differences = [ref.slopes(lambda y: slowly(polynomial, y), p.numpy()) for p in points]
    np.testing.assert_allclose(found, by_differences, atol=1e-10, rtol=0)


@pytest.mark.parametrize("derive", [torch.func.jacrev, torch.func.jacfwd])
def test_derivatives_are_right_to_the_third_order_also_at_zeros(derive, points):
    polynomial = monomial(1, 1, 1) + monomial(0, 3, 0, coefficient=0.5) + monomial(2, 0, 1)
    third = derive(derive(derive(lambda y: polynomial(y[None])[0])))
    for point in points:
        found = third(point)
        for index in itertools.product(range(3), repeat=3):
            expected = polynomial
            for feature in index:
                expected = expected.derivative(feature)
            assert float(found[index]) == pytest.approx(expected.at(point.tolist()), abs=1e-13)


def test_a_constant_has_the_gradient_zero(points):
    for nothing in (constant(3, 3), monomial(1, 0, 0).derivative(1), 0 * monomial(0, 0, 0)):
        assert plain_gradient(Score(nothing), points).abs().max() == 0
        assert integrated_gradients(Score(nothing), points).abs().max() == 0


def test_arithmetic_is_that_of_the_values(generator, points):
    one, other = (random_polynomial(generator, 3, 3) for _ in range(2))
    p, q = one(points), other(points)
    for found, expected in (
        (one + other, p + q),
        (one - other, p - q),
        (one * other, p * q),
        (-2.5 * one, -2.5 * p),
        (one - one, 0 * p),
    ):
        assert_close(found(points), expected, atol=1e-13, rtol=0)
    assert (one * other).degree == one.degree + other.degree


def test_changes_of_variables_are_those_of_the_points(polynomial, points):
    scale, shift = [2.0, -0.5, 1.0], [0.0, 1.5, -2.0]
    moved = points.new_tensor(scale) * points + points.new_tensor(shift)
    assert_close(polynomial.composed(scale, shift)(points), polynomial(moved), atol=1e-11, rtol=0)
    assert_close(polynomial.swapped(0, 2)(points), polynomial(points[:, [2, 1, 0]]))
    with pytest.raises(ValueError, match="scales != 0"):
        polynomial.composed([1, 0, 1], shift)


def test_with_fractions_everything_is_exact():
    p = monomial(2, 1, coefficient=Fr(1, 3)) - monomial(0, 2, coefficient=Fr(2, 7))
    point = Fr(1, 10), Fr(3, 5)
    assert p.at(point) == Fr(1, 3) * Fr(1, 100) * Fr(3, 5) - Fr(2, 7) * Fr(9, 25)
    assert p.derivative(1).at(point) == Fr(1, 300) - Fr(4, 7) * Fr(3, 5)
    there = p.composed([Fr(3), Fr(-1, 7)], [Fr(1, 9), Fr(2)])
    assert there.at(point) == p.at([Fr(3, 10) + Fr(1, 9), Fr(2) - Fr(3, 35)])
    assert (p * p).at(point) == p.at(point) ** 2


def test_the_detour_over_the_top_takes_from_one_feature_and_gives_to_the_other():
    # [integrated, App. C]: (1, -1), by segment
    found = exact_attributions(monomial(1, 1), [(0, 0), (0, 1), (1, 1), (1, 0)])
    assert found == [(0, 0), (1, 0), (0, -1)]


def test_the_five_segments_give_minus_two_thirds_and_five_thirds():  # [integrated, App. E.1]
    corners = [(0, 0), (1, 0), (1, 1), (0, 1), (0, 0), (1, 1)]
    found = exact_attributions(monomial(1, 2), corners)
    assert found == [(0, 0), (0, 1), (-1, 0), (0, 0), (Fr(1, 3), Fr(2, 3))]
    assert [sum(a) for a in zip(*found, strict=True)] == [Fr(-2, 3), Fr(5, 3)]


def test_a_monomial_is_shared_by_its_exponents(generator):
    # from the origin in a straight line: IG_i = F(x) k_i / sum(k)  [integrated, Eq. 2]
    for exponents in itertools.product(range(4), repeat=3):
        if not any(exponents):
            continue
        x, p = (Fr(2, 3), Fr(-1, 2), Fr(5, 4)), monomial(*exponents, coefficient=Fr(3))
        (found,) = exact_attributions(p, [(0, 0, 0), x])
        assert found == tuple(p.at(x) * Fr(k, sum(exponents)) for k in exponents)


def test_exact_attributions_are_exact_for_coefficients_that_are_floats(polynomial):
    corners = [(0, 0, 0), (1, Fr(1, 3), 2), (Fr(-1, 2), 1, Fr(1, 7))]
    exact = Polynomial({exponents: Fr(c) for exponents, c in polynomial.terms.items()})
    found = exact_attributions(polynomial, corners)
    assert found == exact_attributions(exact, corners)
    assert sum(map(sum, found)) == exact.at(corners[-1]) - exact.at(corners[0])
    assert all(isinstance(a, Fr) for piece in found for a in piece)


def test_exact_attributions_equal_the_definition_by_differences(polynomial):
    corners = [(0.1, 0.2, -0.3), (1.0, 0.5, 2.0), (-0.5, 1.0, 0.2)]
    found = exact_attributions(polynomial, corners)
    for piece, ends in zip(found, itertools.pairwise(corners), strict=True):
        definition = ref.path_attributions(lambda y: slowly(polynomial, y), [ref.segment(*ends)])
        np.testing.assert_allclose(np.array(piece, dtype=float), definition, atol=1e-10, rtol=0)


def test_what_is_no_polynomial_is_refused(points):
    for terms in ({}, {(1,): 1.0, (1, 2): 1.0}):
        with pytest.raises(ValueError, match="one exponent for each feature"):
            Polynomial(terms)
    with pytest.raises(ValueError, match="whole numbers"):
        monomial(1, -1)
    for function in (monomial(1, 1), SideBySide([monomial(1, 1)]), monomial(1, 1, 1, 1)):
        with pytest.raises(ValueError, match="points have 3 features"):
            function(points)
    with pytest.raises(ValueError, match="points have 1 features"):
        SideBySide([monomial(1, 1)])(points[:, :1])
    with pytest.raises(ValueError, match="one exponent for each feature"):
        monomial(1, 1) + monomial(1, 1, 1)


def test_random_polynomials_repeat_from_their_generator_and_keep_to_their_bounds():
    draws = [torch.Generator().manual_seed(7) for _ in range(2)]
    one, other = (random_polynomial(g, 4, 3, n_terms=30, low=0.0, high=0.5) for g in draws)
    assert one == other
    assert one.n_features == 4 and one.degree == 3
    assert all(1 <= sum(exponents) <= 3 for exponents in one.terms)
    assert all(0 <= c <= 0.5 * 30 for c in one.terms.values())


def test_side_by_side_each_sample_has_its_own_polynomial(generator):
    polynomials = [random_polynomial(generator, 3, 4) for _ in range(5)]
    points = torch.rand(10, 3, generator=generator, dtype=torch.float64)  # two blocks of the batch
    expected = torch.stack([polynomials[r % 5](points[r : r + 1])[0] for r in range(10)])
    assert_close(SideBySide(polynomials)(points), expected, atol=1e-14, rtol=0)
    together = integrated_gradients(Score(SideBySide(polynomials)), points[:5], n_steps=4)
    alone = [
        integrated_gradients(Score(p), points[k : k + 1], n_steps=4)
        for k, p in enumerate(polynomials)
    ]
    assert_close(together, torch.cat(alone), atol=1e-14, rtol=0)


def test_side_by_side_refuses_rows_it_cannot_share_out(generator):
    two = SideBySide([random_polynomial(generator, 2, 2) for _ in range(2)])
    with pytest.raises(ValueError, match="2 polynomials for 3 rows"):
        two(torch.rand(3, 2, dtype=torch.float64))


def test_about_a_point_the_coefficients_are_the_derivatives_there():  # [taylor, Eq. 2]
    p = monomial(3, 1, 0, coefficient=Fr(2)) + monomial(0, 2, 2, coefficient=Fr(-1, 3))
    p = p + monomial(1, 0, 0) + constant(Fr(5), 3)
    point = Fr(1, 2), Fr(-2), Fr(3)
    moved = p.about(point)
    for kappa in itertools.product(range(4), repeat=3):
        derivative, factorials = p, 1
        for feature, k in enumerate(kappa):
            for m in range(k):
                derivative, factorials = derivative.derivative(feature), factorials * (m + 1)
        assert moved.terms.get(kappa, 0) * factorials == derivative.at(point)
    x = Fr(7), Fr(1, 3), Fr(-1)
    assert moved.at([a - b for a, b in zip(x, point, strict=True)]) == p.at(x)
    for wrong in ([1, 2], [1, 2, 3, 4]):
        with pytest.raises(ValueError, match="3 features needs a number for each"):
            p.about(wrong)
