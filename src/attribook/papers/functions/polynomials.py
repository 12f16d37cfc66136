"""Exact sparse polynomials: the functions on which theorems are checked without rounding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

Number = int | float | Fraction
Exponents = tuple[int, ...]


@dataclass(frozen=True)
class Polynomial:
    """sum_k c_k prod_i y_i^k_i, as the coefficient of each tuple of exponents.

    Called with (rows, features) it returns (rows,), so `Score(polynomial)` explains it; autograd is
    right to any order, at zeros and in forward mode too. Coefficients stay as they are given: with
    fractions, sums, products, derivatives and `at` are exact.
    """

    terms: Mapping[Exponents, Number]

    def __post_init__(self) -> None:
        lengths = {len(exponents) for exponents in self.terms}
        if len(lengths) != 1:
            raise ValueError(
                "every term needs one exponent for each feature (a constant has zeros),"
                f" got {sorted(self.terms)}"
            )
        if any(k < 0 or not isinstance(k, int) for exponents in self.terms for k in exponents):
            raise ValueError(f"exponents are whole numbers >= 0, got {sorted(self.terms)}")

    @property
    def n_features(self) -> int:
        """How many variables it has, used or not."""
        return len(next(iter(self.terms)))

    @property
    def degree(self) -> int:
        """The largest sum of exponents."""
        return max(sum(exponents) for exponents in self.terms)

    def __call__(self, points: Float[Tensor, "rows features"]) -> Float[Tensor, " rows"]:
        """The value at each point."""
        coefficients = points.new_tensor([float(c) for c in self.terms.values()])
        return coefficients @ _monomials(list(self.terms), points)

    def at(self, point: Sequence[Number]) -> Number:
        """The value at one point, in the arithmetic of its numbers."""
        return sum(
            c * prod(y**k for y, k in zip(point, exponents, strict=True))
            for exponents, c in self.terms.items()
        )

    def derivative(self, feature: int) -> Polynomial:
        """The partial derivative by one feature."""
        terms = [
            (_lowered(exponents, feature), c * exponents[feature])
            for exponents, c in self.terms.items()
            if exponents[feature]
        ]
        return _collected([((0,) * self.n_features, 0), *terms])

    def __add__(self, other: Polynomial) -> Polynomial:
        return _collected([*self.terms.items(), *other.terms.items()])

    def __sub__(self, other: Polynomial) -> Polynomial:
        return self + -1 * other

    def __mul__(self, other: Polynomial) -> Polynomial:
        return _collected(
            (tuple(k + m for k, m in zip(one, two, strict=True)), c * d)
            for one, c in self.terms.items()
            for two, d in other.terms.items()
        )

    def __rmul__(self, factor: Number) -> Polynomial:
        return Polynomial({exponents: factor * c for exponents, c in self.terms.items()})

    def composed(self, scale: Sequence[Number], shift: Sequence[Number]) -> Polynomial:
        """y -> F(scale * y + shift), feature by feature; a scale of zero is refused."""
        if not len(scale) == len(shift) == self.n_features:
            raise ValueError(
                f"a polynomial of {self.n_features} features needs a number for each,"
                f" got {list(scale)} and {list(shift)}"
            )
        if not all(scale):
            raise ValueError(f"an affine change of variables needs scales != 0, got {list(scale)}")
        n = self.n_features
        moved = [
            scale[i] * monomial(*(int(i == j) for j in range(n))) + constant(shift[i], n)
            for i in range(n)
        ]
        total = constant(0, n)
        for exponents, c in self.terms.items():
            product = constant(c, n)
            for feature, power in zip(moved, exponents, strict=True):
                for _ in range(power):
                    product = product * feature
            total = total + product
        return total

    def about(self, point: Sequence[Number]) -> Polynomial:
        """The polynomial in y - point: its coefficients are those of the Taylor series there."""
        return self.composed([1] * self.n_features, list(point))

    def swapped(self, i: int, j: int) -> Polynomial:
        """The polynomial with two features in each other's place."""

        def swap(exponents: Exponents) -> Exponents:
            order = list(exponents)
            order[i], order[j] = order[j], order[i]
            return tuple(order)

        return Polynomial({swap(exponents): c for exponents, c in self.terms.items()})


@dataclass(frozen=True)
class SideBySide:
    """One polynomial for each sample of a batch: row r of the points goes to number r % batch.

    Rows come as a mechanism passes them, k blocks of the batch, so that one call of a method
    explains many polynomials, each at its own point.
    """

    polynomials: Sequence[Polynomial]

    def __call__(self, points: Float[Tensor, "rows features"]) -> Float[Tensor, " rows"]:
        """The value of each row's polynomial."""
        batch = len(self.polynomials)
        if len(points) % batch:
            raise ValueError(f"{batch} polynomials for {len(points)} rows; pass a multiple")
        terms = sorted({exponents for p in self.polynomials for exponents in p.terms})
        coefficients = points.new_tensor(
            [[float(p.terms.get(exponents, 0)) for p in self.polynomials] for exponents in terms]
        )
        values = _monomials(terms, points).unflatten(1, (-1, batch))  # (terms, blocks, batch)
        return (coefficients[:, None] * values).sum(0).flatten()


def monomial(*exponents: int, coefficient: Number = 1) -> Polynomial:
    """coefficient * prod_i y_i^exponents_i."""
    return Polynomial({exponents: coefficient})


def constant(value: Number, n_features: int) -> Polynomial:
    """The polynomial that is `value` everywhere."""
    return Polynomial({(0,) * n_features: value})


def random_polynomial(
    generator: torch.Generator,
    n_features: int,
    degree: int,
    n_terms: int = 8,
    low: float = -1.0,
    high: float = 1.0,
) -> Polynomial:
    """Terms of degree 1 to `degree` drawn with replacement, coefficients uniform on [low, high]."""
    terms = []
    for _ in range(n_terms):
        size = int(torch.randint(1, degree + 1, (1,), generator=generator))
        chosen = torch.randint(n_features, (size,), generator=generator)
        exponents = torch.bincount(chosen, minlength=n_features).tolist()
        draw = torch.rand(1, generator=generator, dtype=torch.float64)
        terms.append((tuple(exponents), low + (high - low) * draw.item()))
    return _collected(terms)


def exact_attributions(
    polynomial: Polynomial, points: Sequence[Sequence[Number]]
) -> list[tuple[Fraction, ...]]:
    """The attributions by each straight segment of the polyline through the points, exactly.

    A_i = int_0^1 dF/dy_i(p + t (q - p)) (q_i - p_i) dt [integrated, Eq. 1], with the integrand
    expanded as a polynomial in t and integrated term by term, in fractions.
    """
    polynomial = Polynomial({exponents: Fraction(c) for exponents, c in polynomial.terms.items()})
    corners = [[Fraction(y) for y in point] for point in points]
    return [
        tuple(
            _integral(polynomial.derivative(i), p, q) * (q[i] - p[i])
            for i in range(polynomial.n_features)
        )
        for p, q in zip(corners, corners[1:], strict=False)
    ]


def _integral(polynomial: Polynomial, p: list[Fraction], q: list[Fraction]) -> Fraction:
    """int_0^1 F(p + t (q - p)) dt."""
    total = Fraction(0)
    for exponents, c in polynomial.terms.items():
        in_t = [Fraction(c)]  # coefficients of 1, t, t^2, ...
        for start, end, k in zip(p, q, exponents, strict=True):
            for _ in range(k):
                in_t = _times_line(in_t, start, end - start)
        total += sum(a / (power + 1) for power, a in enumerate(in_t))
    return total


def _times_line(in_t: list[Fraction], start: Fraction, slope: Fraction) -> list[Fraction]:
    """The coefficients of (start + slope t) times a polynomial in t."""
    kept, raised = [*in_t, Fraction(0)], [Fraction(0), *in_t]
    return [start * a + slope * b for a, b in zip(kept, raised, strict=True)]


def _monomials(
    terms: list[Exponents], points: Float[Tensor, "rows features"]
) -> Float[Tensor, "terms rows"]:
    """prod_i y_i^k_i for each tuple of exponents, at each point."""
    exponents = torch.tensor(terms, device=points.device)
    if points.shape[1] != exponents.shape[1]:
        raise ValueError(
            f"points have {points.shape[1]} features, the polynomial has {exponents.shape[1]}"
        )
    powers = [points**0]  # then products, for higher derivatives of pow and Tensor.prod fail at 0
    for _ in range(int(exponents.max())):
        powers.append(powers[-1] * points)
    features = torch.arange(points.shape[1], device=points.device)
    return prod(torch.stack(powers)[exponents, :, features].unbind(1))  # of (terms, rows) each


def _lowered(exponents: Exponents, feature: int) -> Exponents:
    return (*exponents[:feature], exponents[feature] - 1, *exponents[feature + 1 :])


def _collected(terms: Iterable[tuple[Exponents, Number]]) -> Polynomial:
    """The polynomial with equal exponents added up."""
    total: dict[Exponents, Number] = {}
    for exponents, c in terms:
        total[exponents] = total.get(exponents, 0) + c
    return Polynomial(total)
