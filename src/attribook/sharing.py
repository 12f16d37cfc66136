"""Attribution as allocation: each Taylor effect is shared out among variables. [taylor, III-C, IV]

A *sharing* maps degrees (terms, features) to weights w_{i, kappa}, (terms, features) or (batch,
terms, features) where the shares depend on the sample. An attribution is a_i = sum_kappa w_{i, kappa}
I(kappa) [taylor, Eq. 12], so a method is told by its sharing. `papers.taylor.probes` measures that of
a method which nobody has analysed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attribook.effects import Effects
from attribook.numerics import over
from attribook.score import check_finite

Degrees = Int[Tensor, "terms features"]
Weights = Float[Tensor, "*batch terms features"]
Sharing = Callable[[Degrees], Weights]


# Who receives which share. [taylor, Table IV]


def first_order(degrees: Degrees) -> Weights:
    """phi(e_i) to variable i, and nothing else: a tangent model. [taylor, Theorems 2, 6, 10]"""
    return _float((degrees == 1) & (degrees.sum(1, keepdim=True) == 1))


def times_degree(degrees: Degrees) -> Weights:
    """Every effect kappa_i times: what (x - b) * gradient does on f's own expansion.

    Euler's identity for each monomial; the corrected Theorem 2.
    """
    return _float(degrees)


def whole_to_members(degrees: Degrees) -> Weights:
    """The whole effect to each of its variables: Occlusion-1. [taylor, Theorem 3]"""
    return _float(degrees > 0)


def whole_to_patches(groups: Int[Tensor, " features"]) -> Sharing:
    """The whole effect to each variable of each patch that it meets. [taylor, Theorem 4]"""

    def sharing(degrees: Degrees) -> Weights:
        if groups.numel() != degrees.shape[1]:
            raise ValueError(
                f"degrees have {degrees.shape[1]} features and groups {groups.numel()};"
                " pass the group of each feature"
            )
        patches = torch.nn.functional.one_hot(groups.flatten())  # (features, patches)
        return _float(((degrees > 0).long() @ patches > 0).long() @ patches.T)

    return sharing


def by_degree(degrees: Degrees) -> Weights:
    """kappa_i / |kappa|: Integrated Gradients, DeepLIFT Rescale. [taylor, Theorems 7, 8, 13]"""
    return degrees / degrees.sum(1, keepdim=True).double()


def equally(degrees: Degrees) -> Weights:
    """1 / |S| to each of its variables: Shapley value, Deep SHAP. [taylor, Theorems 9, 15]"""
    members = _float(degrees > 0)
    return members / members.sum(1, keepdim=True)


def by_sign(
    alpha: float,
    beta: float,
    contributions: Float[Tensor, "batch features"],
    *,
    singletons: bool = True,
) -> Sharing:
    """LRP-alpha-beta on one module with contributions z_i = w_i x_i. [taylor, Theorem 11]

    alpha times every effect goes to N+ = {z_i > 0}, by degree among the members of N+, or by z_i
    where there is none; beta times every effect goes likewise to the rest, N-. alpha + beta = 1 keeps
    the total. The theorem as printed leaves effects of one variable out of "where there is none":
    `singletons=False`.
    """
    check_finite(contributions, "contributions")

    def sharing(degrees: Degrees) -> Weights:
        degrees = degrees.to(contributions.device)
        positive = (contributions > 0)[:, None]  # (batch, 1, features)
        counted = ((degrees > 0).sum(1, keepdim=True) > 1) | singletons
        return sum(
            factor * (_within(degrees, sign) + _if_none(degrees, sign, contributions) * counted)
            for factor, sign in ((alpha, positive), (beta, ~positive))
        )

    return sharing


def within_signs(contributions: Float[Tensor, "batch features"]) -> Sharing:
    """DeepLIFT RevealCancel on one module with contributions Dz_i. [taylor, Theorem 14]

    By degree among the members of N+ = {Dz_i > 0} and of the rest, N-; an effect with members in
    both is halved between the two.
    """
    check_finite(contributions, "contributions")

    def sharing(degrees: Degrees) -> Weights:
        degrees = degrees.to(contributions.device)
        positive = (contributions > 0)[:, None]
        sides = [_within(degrees, sign) for sign in (positive, ~positive)]
        return sum(sides) / sum(side.sum(-1, keepdim=True) for side in sides)

    return sharing


def _within(degrees: Degrees, side: Tensor) -> Weights:
    """kappa_i / sum of kappa over the side, for its members; zero where the effect has none there."""
    counts = _float(degrees * side)
    return counts / counts.sum(-1, keepdim=True).clamp(min=1)


def _if_none(degrees: Degrees, side: Tensor, contributions: Tensor) -> Weights:
    """z_i / sum of z over the side, where the effect has no member there; zero elsewhere."""
    z = (contributions[:, None] * side).double()
    shares = over(z, z.sum(-1, keepdim=True))
    return shares * ((degrees * side).sum(-1, keepdim=True) == 0)


# What follows from a sharing.


def allocate(effects: Effects, sharing: Sharing) -> Float[Tensor, "batch features"]:
    """a_i = sum_kappa w_{i, kappa} I(kappa). [taylor, Eq. 12]"""
    weights = sharing(effects.degrees).to(effects.values)
    return torch.matmul(effects.values[:, None], weights)[:, 0]


def allocate_second_order(
    gradient: Float[Tensor, "batch n"],
    hessian: Float[Tensor, "batch n n"],
    moves: Float[Tensor, "batch n"],
    sharing: Sharing,
) -> Float[Tensor, "batch n"]:
    """The same for the effects of order 1 and 2 of a large input, without listing them.

    The sharing is asked about every x_i, one x_i^2 and one x_i x_j, and must treat variables alike.
    """
    single, square = gradient * moves, hessian.diagonal(dim1=1, dim2=2) * moves**2 / 2
    halves = moves * (hessian @ moves[:, :, None])[:, :, 0] / 2  # of a pair's effect, one for each
    n = moves.shape[1]
    unit = torch.eye(n, dtype=torch.long, device=moves.device)
    kinds = torch.cat([unit, 2 * unit[:1], unit[:1] + unit[-1:]])
    weights = sharing(kinds).to(moves)
    as_the_first = [0] * n + [n, n + 1]  # what the first variable receives, x_i like x_0
    if weights.dim() != 2 or not weights.equal(weights[as_the_first, :1] * (kinds > 0)):
        raise ValueError(
            "this sharing does not treat variables alike or goes outside the effect's variables;"
            " list the effects and use allocate"
        )
    pairs = 2 * (halves - square)
    one, two, pair = weights[[0, n, n + 1], 0]
    return one * single + two * square + pair * pairs


def second_order_to_patches(
    gradient: Float[Tensor, "batch n"],
    hessian: Float[Tensor, "batch n n"],
    moves: Float[Tensor, "batch n"],
    groups: Int[Tensor, " n"],
) -> Float[Tensor, "batch n"]:
    """The same for `whole_to_patches(groups)`: all effects that a variable's patch meets."""
    member = torch.nn.functional.one_hot(groups.flatten()).to(moves)  # (n, groups)
    moved = moves[:, :, None] * member  # (batch, n, groups)
    bent = hessian @ moved
    met = gradient[:, :, None] + bent.sum(2, keepdim=True) - bent / 2  # pairs within count once
    return (moved * met).sum(1) @ member.T


def generic_ratios(effects: Effects, sharing: Sharing) -> Float[Tensor, "batch features sets"]:
    """w_{i, S}, the part of J(S) that variable i receives; NaN where J(S) = 0. [taylor, Eq. 13]

    No share in general: where effects of one set nearly cancel, the ratio is unbounded. What rounding
    leaves counts as zero; the parts themselves are `allocate` on the effects of that set alone.
    """
    weights = sharing(effects.degrees).to(effects.values)
    given = (effects.values[:, :, None] * weights).mT  # (batch, features, terms)
    n = effects.degrees.shape[1]
    parts = Effects(effects.degrees, given.flatten(0, 1)).generic().unflatten(0, (-1, n))
    whole = effects.generic()[:, None]
    size = Effects(effects.degrees, effects.values.abs()).generic()[:, None]
    cancelled = whole.abs() <= 16 * torch.finfo(whole.dtype).eps * size
    return torch.where(cancelled, torch.nan, parts / whole)


def fitting_error(
    attributions: Float[Tensor, "batch *features"], reference: Float[Tensor, "batch *features"]
) -> Float[Tensor, " batch"]:
    """||a - a*|| / ||a*|| for each sample, as a ratio; 0/0 is 0 and a/0 infinite. [taylor, Eq. 45]"""
    miss = (attributions - reference).flatten(1).norm(dim=1)
    size = reference.flatten(1).norm(dim=1)
    return torch.where(miss == 0, 0.0, miss / size)


# The three principles. [taylor, Sec. IV]


class Principles(NamedTuple):
    """How far a method is from each principle, and whether it counts as kept: Table VI by numbers."""

    residual: float  # of the expansion explained, relative: the median over functions
    unrelated: float  # the largest share that goes to a variable outside the effect
    incomplete: float  # the largest distance of an effect's shares from 1 in sum

    @property
    def ticks(self) -> tuple[bool, bool, bool]:
        """Low approximation error, no unrelated allocation, complete allocation."""
        return (self.residual <= 1e-8, self.unrelated <= 1e-9, self.incomplete <= 1e-9)


def principles(
    residuals: Float[Tensor, " functions"], weights: Weights, degrees: Degrees
) -> Principles:
    """The principles, measured. [taylor, Eq. 46-49]

    `residuals` are |f(x) - f(b) - sum of the explained effects| / |f(x) - f(b)| on many functions,
    `weights` the shares of the explained effects, of these degrees. NaN keeps no principle.
    """
    outside = weights * (degrees == 0)
    return Principles(
        residuals.quantile(0.5).item(),  # of an even number the mean of the middle two
        outside.abs().max().item(),
        (weights.sum(-1) - 1).abs().max().item(),
    )


def _float(counts: Tensor) -> Weights:
    return counts.double()
