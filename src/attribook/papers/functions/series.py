"""Truncated Taylor series: of activations by recursion, of networks by an algebra of polynomials.

A series in n variables up to order K is a vector of 1 + M numbers, the constant and the coefficient
of each of the M degrees of `degrees(n, K)`. Sums are sums of vectors, products are convolutions cut
off at K; a dense layer needs the first, an activation both. No automatic differentiation enters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import comb

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attribook.effects import MOST_NUMBERS, degrees


class PowerSum(nn.Module):
    """The activation z -> sum_k coefficients[k] z^k, whose series ends: PowerSum(0, 1, 0, 1)."""

    def __init__(self, *coefficients: float):
        super().__init__()
        self.coefficients = coefficients

    def forward(self, z: Tensor) -> Tensor:
        """Evaluated by Horner's rule."""
        total = torch.zeros_like(z)
        for coefficient in reversed(self.coefficients):
            total = total * z + coefficient
        return total


def activation_series(
    activation: nn.Module, start: Float[Tensor, "*shape"], order: int
) -> Float[Tensor, "coefficients *shape"]:
    """The Taylor coefficients c_k = sigma^(k)(z0) / k! for k = 0..order, by recursion.

    Sigmoid, Tanh, Softplus (any beta), Identity and PowerSum; others, ReLU among them, are refused:
    they have no Taylor series at every point.
    """
    if order < 0:
        raise ValueError(f"needs an order >= 0, got {order}")
    if type(activation) not in SERIES:
        known = ", ".join(kind.__name__ for kind in SERIES)
        raise ValueError(
            f"no Taylor series of {type(activation).__name__} is known; there are those of {known}."
            " A ReLU has none at 0: use dividends of the masked game, which need no derivatives"
        )
    return torch.stack(SERIES[type(activation)](activation, start, order)[: order + 1])


def network_series(
    network: nn.Sequential,
    start: Float[Tensor, "batch features"],
    moves: Float[Tensor, "batch features"],
    order: int,
) -> Float[Tensor, "batch units numbers"]:
    """The terms of the expansion of network(start + moves) at `start`, one unit of output a row.

    Number 0 is network(start), number 1 + m the term of degree `degrees(features, order)[m]`. For
    networks of dense layers and activations; costs `order` products of series a hidden unit.
    """
    batch, n = start.shape
    terms = start.new_zeros(batch, n, 1 + len(degrees(n, order)))
    terms[:, :, 0] = start
    terms[:, :, 1 : n + 1] = torch.diag_embed(moves)  # the first n degrees are the variables
    for stage in network:
        if isinstance(stage, nn.Linear):
            terms = torch.einsum("uf,bfm->bum", stage.weight.detach(), terms)
            if stage.bias is not None:
                terms[:, :, 0] += stage.bias.detach()
        elif not isinstance(stage, nn.Flatten):
            terms = _composed(stage, terms, n, order)
    return terms


def _composed(activation: nn.Module, terms: Tensor, n: int, order: int) -> Tensor:
    """The series of activation(z), by Horner's rule in z - z0."""
    *low, top = activation_series(activation, terms[..., 0], order)
    change = terms.clone()
    change[..., 0] = 0
    total = torch.zeros_like(terms)
    total[..., 0] = top
    for coefficient in reversed(low):
        total = _product(total, change, n, order)
        total[..., 0] += coefficient
    return total


def _product(one: Tensor, other: Tensor, n: int, order: int) -> Tensor:
    left, right, at = _product_table(n, order)
    products = one[..., left] * other[..., right]
    return torch.zeros_like(one).index_add(-1, at.to(one.device), products)


@cache
def _product_table(n: int, order: int) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs of terms whose product is kept: the number of each, and that of their product."""
    pairs = comb(2 * n + order, order)
    if pairs > MOST_NUMBERS // 10:
        raise ValueError(
            f"series in {n} variables to order {order} need {pairs} products; lower the order"
        )
    kappa = torch.cat([torch.zeros(1, n, dtype=torch.long), degrees(n, order)])
    base = order + 1 + order % 2  # odd: powers of an even one vanish modulo 2^64
    code = kappa @ base ** torch.arange(n)  # adding degrees adds codes
    sorted_codes, number = code.sort()
    size = kappa.sum(1)
    left, right = (size[:, None] + size <= order).nonzero(as_tuple=True)
    return left, right, number[torch.searchsorted(sorted_codes, code[left] + code[right])]


def _sigmoid(_: nn.Module, z: Tensor, order: int) -> list[Tensor]:
    """(k + 1) c_{k+1} = c_k - sum_j c_j c_{k-j}, from s' = s - s^2.

    With 1 - s = sigmoid(-z), for in saturated units nothing is left of 1 - s by subtraction.
    """
    c, rest = [torch.sigmoid(z)], torch.sigmoid(-z)
    for k in range(order):
        ends = (rest - c[0]) * c[k] if k else c[0] * rest
        c.append((ends - sum(c[j] * c[k - j] for j in range(1, k))) / (k + 1))
    return c


def _tanh(activation: nn.Module, z: Tensor, order: int) -> list[Tensor]:
    """c_k = 2^(k+1) s_k with the sigmoid's s_k at 2z, from tanh(z) = 2 sigmoid(2z) - 1."""
    slopes = _sigmoid(activation, 2 * z, order)[1:]
    return [torch.tanh(z), *(2.0 ** (k + 2) * slope for k, slope in enumerate(slopes))]


def _softplus(activation: nn.Module, z: Tensor, order: int) -> list[Tensor]:
    """softplus' = sigmoid(beta z), so c_{k+1} = beta^k s_k / (k + 1) with the sigmoid's s_k.

    Without torch's threshold, above which its softplus is a straight line.
    """
    beta = float(activation.beta)  # powers of a whole number would leave int64
    slopes = _sigmoid(activation, beta * z, max(order - 1, 0))
    value = torch.logaddexp(torch.zeros_like(z), beta * z) / beta
    return [value, *(beta**k * slope / (k + 1) for k, slope in enumerate(slopes))]


def _power_sum(activation: nn.Module, z: Tensor, order: int) -> list[Tensor]:
    """c_k = sum_p a_p C(p, k) z^(p-k)."""
    return [
        sum(
            (
                a * comb(p, k) * z ** (p - k)
                for p, a in enumerate(activation.coefficients)
                if p >= k
            ),
            start=torch.zeros_like(z),
        )
        for k in range(order + 1)
    ]


def _identity(_: nn.Module, z: Tensor, order: int) -> list[Tensor]:
    return [z, torch.ones_like(z), *[torch.zeros_like(z)] * (order - 1)]


Recursion = Callable[[nn.Module, Tensor, int], list[Tensor]]
SERIES: dict[type[nn.Module], Recursion] = {
    nn.Sigmoid: _sigmoid,
    nn.Tanh: _tanh,
    nn.Softplus: _softplus,
    nn.Identity: _identity,
    PowerSum: _power_sum,
}
