"""Taylor effects: a score split into what single variables and sets of them contribute. [taylor, III-A]

With d = x - b, the effect of degree kappa is I(kappa) = D^kappa f(b) d^kappa / kappa!; its variables
are the support S = {i : kappa_i > 0}. Any score has them by nested differentiation, listed to order
4, or as a gradient and a Hessian for large inputs; functions that tell their own series, polynomials
and small networks, have them to any order in `papers.taylor.exact`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from math import comb

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.func import grad, jvp, vmap

from attribook.numerics import at_once
from attribook.score import Score, check_inputs, plain_gradient

MOST_NUMBERS = 50_000_000  # in one table of degrees or of products
MOST_HESSIAN_NUMBERS = 2**28  # 2 GiB in double precision


@dataclass(frozen=True)
class Effects:
    """The effects I(kappa) of a batch of samples, without the constant f(b). [taylor, Eq. 2]"""

    degrees: Int[Tensor, "terms features"]
    values: Float[Tensor, "batch terms"]

    @property
    def order(self) -> Int[Tensor, " terms"]:
        """|kappa|."""
        return self.degrees.sum(1)

    @property
    def support(self) -> Bool[Tensor, "terms features"]:
        """Which variables take part in each effect. [taylor, Eq. 3]"""
        return self.degrees > 0

    def up_to(self, order: int) -> Effects:
        """The effects of at most this order."""
        kept = self.order <= order
        return Effects(self.degrees[kept], self.values[:, kept])

    def total(self) -> Float[Tensor, " batch"]:
        """Their sum: f(x) - f(b) up to the remainder. [taylor, Eq. 1]"""
        return self.values.sum(1)

    def of(self, *kappa: int) -> Float[Tensor, " batch"]:
        """The effect of one degree, zero if it is not listed."""
        if len(kappa) != self.degrees.shape[1]:
            raise ValueError(f"degrees have {self.degrees.shape[1]} entries here, got {kappa}")
        found = (self.degrees == torch.tensor(kappa)).all(1)
        return self.values[:, found].sum(1)

    def generic(self) -> Float[Tensor, "batch sets"]:
        """psi(i) and J(S): the sums over equal supports, in the order of all 2^n coalitions.

        Set number k holds variable i when bit i of k is set; the empty set has 0. [taylor, Eq. 6-7]
        """
        n = self.degrees.shape[1]
        if n > 20:
            raise ValueError(f"{n} variables have 2^{n} sets; group them, at most 20")
        number = (self.support * 2 ** torch.arange(n)).sum(1)
        sums = self.values.new_zeros(len(self.values), 2**n)
        return sums.index_add(1, number.to(sums.device), self.values)


def degrees(n_features: int, order: int) -> Int[Tensor, "terms features"]:
    """All degree vectors with 1 <= |kappa| <= order: by order, then lexicographically descending.

    There are C(n + order, order) - 1 of them.
    """
    if n_features < 1 or order < 1:
        raise ValueError(f"needs features and an order >= 1, got {n_features} and {order}")
    count = comb(n_features + order, order) - 1
    if count * n_features > MOST_NUMBERS:
        raise ValueError(
            f"{n_features} features have {count} degrees up to order {order}, too many to list;"
            " lower the order, group the features, or use second_order"
        )
    blocks = []
    for size in range(1, order + 1):
        chosen = itertools.combinations_with_replacement(range(n_features), size)
        chosen = torch.tensor(list(chosen))
        zeros = torch.zeros(len(chosen), n_features, dtype=torch.long)
        blocks.append(zeros.scatter_add(1, chosen, torch.ones_like(chosen)))
    return torch.cat(blocks)


def effects_by_autodiff(
    score: Score,
    inputs: Float[Tensor, "batch features"],
    baseline: Float[Tensor, "#batch features"] | None = None,
    order: int = 3,
) -> Effects:
    """The effects up to order 4 by nested forward differentiation.

    One pass with k nested tangents for each degree of order k.
    """
    if not 1 <= order <= 4:
        raise ValueError(
            f"nested differentiation goes to order 4, got {order};"
            " papers.taylor.exact.network_effects goes further on small networks"
        )
    inputs, baseline = check_flat(inputs, baseline)
    starts = baseline.expand_as(inputs).contiguous()  # forward mode writes into each row
    kappa = degrees(inputs.shape[1], order)
    factorials = torch.lgamma(kappa.double() + 1).sum(1).exp().round().to(inputs)
    derivatives = []
    for size in range(1, order + 1):
        of_size = kappa[kappa.sum(1) == size]
        along = torch.stack([_directions(k) for k in of_size]).to(inputs)  # (terms, size, features)
        derivatives.append(vmap(lambda v: _mixed(score, starts, v), chunk_size=256)(along))
    return Effects(
        kappa, torch.cat(derivatives).detach().T / factorials * powers(inputs - starts, kappa)
    )


def second_order(
    score: Score, baseline: Float[Tensor, "batch *features"]
) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n n"]]:
    """Gradient and Hessian of the score at each baseline, features flattened.

    n forward-over-reverse passes of the batch, several directions at a time.
    """
    baseline, _ = check_inputs(baseline)
    batch, n = len(baseline), baseline[0].numel()
    if batch * n * n > MOST_HESSIAN_NUMBERS:
        raise ValueError(
            f"{batch} Hessians of {n} x {n} take {batch * n * n * 8 / 2**30:.1f} GiB;"
            " pass fewer samples at a time"
        )

    def slope(points: Tensor) -> Tensor:
        return grad(lambda u: score(u).sum())(points)

    def column(direction: Tensor) -> Tensor:
        along = direction.view(baseline.shape[1:]).expand_as(baseline)
        return jvp(slope, (baseline,), (along,))[1].flatten(1)

    gradient = plain_gradient(score, baseline)  # refuses black boxes, too
    unit = torch.eye(n, dtype=baseline.dtype, device=baseline.device)
    hessian = vmap(column, out_dims=2, chunk_size=at_once(baseline.numel()))(unit)
    return gradient.flatten(1), (hessian + hessian.mT).detach() / 2


def check_flat(
    inputs: Float[Tensor, "batch ..."], baseline: Float[Tensor, "#batch ..."] | None
) -> tuple[Tensor, Tensor]:
    """As `check_inputs`, for what lists effects by the degree of each feature."""
    inputs, baseline = check_inputs(inputs, baseline)
    if inputs.dim() != 2:
        raise ValueError(
            f"effects are listed for inputs of shape (batch, features), got {tuple(inputs.shape)};"
            " flatten or group the features, or use second_order"
        )
    return inputs, baseline


def powers(
    moves: Float[Tensor, "batch features"], kappa: Int[Tensor, "terms features"]
) -> Float[Tensor, "batch terms"]:
    """prod_i d_i^kappa_i for each sample and degree."""
    return (moves[:, None] ** kappa.to(moves.device)).prod(2)


def _mixed(score: Score, start: Tensor, directions: Float[Tensor, "size features"]) -> Tensor:
    """The derivative of the score at each start, once along each direction."""

    def derived(function, direction: Tensor):
        return lambda u: jvp(function, (u,), (direction.expand_as(u),))[1]

    function = score
    for direction in directions:
        function = derived(function, direction)
    return function(start)


def _directions(kappa: Int[Tensor, " features"]) -> Float[Tensor, "size features"]:
    """Unit vector i, kappa_i times."""
    return torch.eye(len(kappa), dtype=torch.float64).repeat_interleave(kappa, 0)
