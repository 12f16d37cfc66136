"""Taylor effects in closed form, for functions that tell their own series. [taylor, III-A]

Exactly on polynomials, also in fractions; to any order on small networks, by their truncated series;
and for one neuron. `effects` has what works on any score.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attribook.effects import Effects, check_flat, degrees, powers
from attribook.papers.functions.polynomials import Number, Polynomial
from attribook.papers.functions.series import activation_series, network_series
from attribook.score import Score


def polynomial_effects(
    polynomials: Polynomial | Sequence[Polynomial],
    inputs: Float[Tensor, "batch features"],
    baseline: Float[Tensor, "#batch features"] | None = None,
) -> Effects:
    """The effects of a polynomial, or of one for each sample: all of them, there is no remainder."""
    inputs, baseline = check_flat(inputs, baseline)
    batch = len(inputs)
    each = [polynomials] * batch if isinstance(polynomials, Polynomial) else list(polynomials)
    if len(each) != batch:
        raise ValueError(f"{len(each)} polynomials for {batch} samples; pass one, or one for each")
    starts = baseline.expand_as(inputs)
    at_baseline = [p.about(b.tolist()).terms for p, b in zip(each, starts, strict=True)]
    constant = (0,) * inputs.shape[1]
    known = sorted({kappa for terms in at_baseline for kappa in terms} - {constant}, key=_rank)
    known = known or [tuple(degrees(inputs.shape[1], 1)[0].tolist())]  # a constant has no effects
    coefficients = [[float(terms.get(kappa, 0)) for kappa in known] for terms in at_baseline]
    kappa = torch.tensor(known)
    return Effects(kappa, inputs.new_tensor(coefficients) * powers(inputs - starts, kappa))


def exact_effects(
    polynomial: Polynomial, point: Sequence[Number], baseline: Sequence[Number]
) -> dict[tuple[int, ...], Number]:
    """The non-zero effects of a polynomial in the arithmetic of its numbers, such as fractions."""
    moved = [x - b for x, b in zip(point, baseline, strict=True)]
    terms = polynomial.about(baseline).terms
    effects = {kappa: Polynomial({kappa: c}).at(moved) for kappa, c in terms.items() if any(kappa)}
    return {kappa: value for kappa, value in effects.items() if value != 0}


def network_effects(
    score: Score,
    inputs: Float[Tensor, "batch features"],
    baseline: Float[Tensor, "#batch features"] | None = None,
    order: int = 8,
) -> Effects:
    """The effects of a small dense network up to `order`, by its truncated series; see `series`.

    The model is an nn.Sequential of dense layers and analytic activations, the score a logit.
    """
    inputs, baseline = check_flat(inputs, baseline)
    score.outputs_are_fixed()
    if not isinstance(score.model, nn.Sequential) or score.output != "logit":
        raise ValueError(
            "the series needs an nn.Sequential of dense layers and activations and its logit, got"
            f" {type(score.model).__name__} and {score.output}; effects_by_autodiff takes any score"
        )
    starts = baseline.expand_as(inputs)
    terms = network_series(score.model, starts, inputs - starts, order)
    blocks = terms.permute(2, 0, 1)  # linear in the outputs, so the score reads each term alike
    values = score.select(blocks.flatten(0, 1)).view(len(blocks), -1)
    return Effects(degrees(inputs.shape[1], order), values[1:].T)


def neuron_effects(
    activation: nn.Module,
    start: Float[Tensor, " batch"],
    contributions: Float[Tensor, "batch features"],
    order: int,
) -> Effects:
    """The effects of one neuron sigma(w.u + s) in closed form.

    I(kappa) = |kappa|! / kappa! c_|kappa|(z_b) prod_i Dz_i^kappa_i, with start z_b = w.b + s and
    contributions Dz_i = w_i (x_i - b_i).
    """
    kappa = degrees(contributions.shape[1], order)
    size = kappa.sum(1)
    orderings = torch.lgamma(size.double() + 1) - torch.lgamma(kappa.double() + 1).sum(1)
    coefficients = activation_series(activation, start, order)[size].T  # (batch, terms)
    at_degrees = powers(contributions, kappa)
    return Effects(kappa, orderings.exp().round().to(at_degrees) * coefficients * at_degrees)


def _rank(kappa: tuple[int, ...]) -> tuple:
    """The order of `series.degrees`."""
    return sum(kappa), tuple(-k for k in kappa)
