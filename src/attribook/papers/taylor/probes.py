"""What a method allocates to whom, measured instead of proved. [taylor, III-C]

`attribook.sharing` lists who receives which share; these tell the sharing of a method that nobody
has analysed, from what it does to functions of one effect each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from attribook.axioms import FromBaseline
from attribook.effects import check_flat, powers
from attribook.papers.functions.polynomials import SideBySide, monomial
from attribook.papers.functions.series import PowerSum
from attribook.papers.taylor.exact import neuron_effects
from attribook.score import Score
from attribook.sharing import Degrees, fitting_error


def probe(
    method: FromBaseline,
    degrees: Degrees,
    inputs: Float[Tensor, "batch features"],
    baseline: Float[Tensor, "#batch features"],
) -> Float[Tensor, "batch terms features"]:
    """The weights of any method that is linear in the function, measured instead of proved.

    The method explains each monomial prod_i (u_i - b_i)^kappa_i, whose only effect is that degree's:
    w_{i, kappa} = a_i / I(kappa). Inputs must differ from the baseline in every feature. As many
    passes as the method needs, each with terms * batch rows.
    """
    inputs, baseline = check_flat(inputs, baseline)
    moves = inputs - baseline
    if not moves.all():
        raise ValueError("a probe needs inputs that differ from the baseline in every feature")
    terms, batch = len(degrees), len(inputs)
    starts = baseline.expand_as(inputs).repeat(terms, 1)  # row (term, sample)
    each = SideBySide([monomial(*kappa) for kappa in degrees.tolist() for _ in range(batch)])

    def about_baseline(points: Tensor) -> Tensor:
        return each(points - starts.repeat(len(points) // len(starts), 1))

    attributions = method(Score(about_baseline), inputs.repeat(terms, 1), starts)
    effects = powers(moves, degrees)  # (batch, terms)
    return attributions.view(terms, batch, -1).transpose(0, 1) / effects[:, :, None]


class Measured(NamedTuple):
    """Constant weights fitted to a rule, and the part of what it hands out that they miss."""

    weights: Float[Tensor, "batch terms receivers"]
    misfit: Float[Tensor, " batch"]


def probe_module(
    handed_out: Callable[[int, Tensor], Tensor],
    order: int,
    contributions: Float[Tensor, "batch draws features"],
) -> Measured:
    """The weights of a rule for one module sigma(z_b + sum_i Dz_i), for `series.degrees(n, order)`.

    `handed_out(k, rows)` is what its receivers, the variables say, get of (z - z_b)^k for rows of Dz.
    The effects k! / kappa! Dz^kappa are independent functions of Dz, so linear systems over the draws
    tell the weights, if they are constant; if not, no weights fit and the misfit is large. For rules
    that look at signs, each element of the batch has one sign pattern.
    """
    if not contributions.all():
        raise ValueError("a probe needs contributions other than 0")
    rows = contributions.flatten(0, 1)
    fits, misfits = [], []
    for k in range(1, order + 1):
        power = PowerSum(*[0] * k, 1)  # about z_b it has effects of order k only
        listed = neuron_effects(power, torch.zeros_like(rows[:, 0]), rows, k)
        effects = listed.values[:, listed.order == k].unflatten(0, contributions.shape[:2])
        draws, terms = effects.shape[1:]
        if draws < 2 * terms:
            raise ValueError(f"{terms} degrees of order {k} need twice as many draws, got {draws}")
        received = handed_out(k, rows).unflatten(0, effects.shape[:2])
        q, r = torch.linalg.qr(effects)  # the same bits on every run, which lstsq does not give
        fits.append(torch.linalg.solve_triangular(r, q.mT @ received, upper=True))
        misfits.append(fitting_error(effects @ fits[-1], received))
    return Measured(torch.cat(fits, 1), torch.stack(misfits).amax(0))
