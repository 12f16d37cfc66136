"""Mechanism 1: one chain rule, with the local derivatives replaced.

    d^g S / d x_i = sum over paths p of prod(weights on p) * prod(g(z) on p)      [gradient, Eq. 16]

Ordinary reverse-mode differentiation computes the sum over paths; only the local derivative of each
nonlinearity is swapped for g. What g is, a *rule* says: it looks at one call y = f(z) and returns
how a gradient is pulled back through it. Rules for affine maps, max-pooling and products work alike.
`calls` finds the calls, in whatever spelling the model uses them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from attribook.calls import (
    Affine,
    Chain,
    MaxPool,
    Product,
    Pull,
    Site,
    swap,
)
from attribook.numerics import derivative as slope_at
from attribook.numerics import over, refuse_not_finite, shortest_step
from attribook.score import (
    Score,
    check_finite,
    check_inputs,
    differentiable,
    grad_of,
)

LINE = 32  # numbers looked at together where input and reference may meet
NOT_FINITE = (
    "the modified gradient is infinite or NaN: a local derivative is, for example of sqrt at 0;"
    " move the input or the baseline off that point"
)


def modified_gradient(
    score: Score,
    inputs: Float[Tensor, "batch *features"],
    *,
    nonlinear: Callable[[Site], Pull],
    linear: Callable[[Affine], Tensor] | None = None,
    max_pool: Callable[[MaxPool], Tensor] | None = None,
    product: Callable[[Product], Tensor] | None = None,
    baseline: Float[Tensor, "references *features"] | None = None,
    elementwise: Sequence[Callable] = (),
    strict: bool = True,
) -> Float[Tensor, "batch *features"]:
    """d^g S / d x: the gradient with the rules in place of the local derivatives. [gradient, Eq. 16]

    Leave a rule out to keep the ordinary derivative; a product of two tensors that both depend on
    the inputs is refused without one, since Eq. 16 does not define it. `elementwise` adds functions
    to the nonlinearities known (torch.sin, say). A rule that compares with a reference needs
    `baseline`: one row, or any number that divides the batch (row i of k belongs to the i-th block
    of batch / k inputs). One forward pass and one backward pass of batch + references rows.
    Raises UnsupportedOperation for a call that no rule covers; `strict=False` lets it keep its
    ordinary derivative instead.
    """
    gradient, _ = _differentiate(
        score,
        inputs,
        Chain(nonlinear, linear, max_pool, product, tuple(elementwise), strict),
        baseline,
    )
    return gradient


def intercepted_calls(
    score: Score, inputs: Float[Tensor, "batch *features"], elementwise: Sequence[Callable] = ()
) -> Counter[str]:
    """How often the model calls each nonlinearity that the modified chain rule swaps. One pass."""
    chain = Chain(derivative, None, None, plain_product, tuple(elementwise), strict=True)
    return _differentiate(score, inputs, chain, None)[1]


def _differentiate(score, inputs, chain, baseline) -> tuple[Tensor, Counter[str]]:
    check_inputs(inputs)
    references = inputs[:0]
    if baseline is not None:
        if baseline.shape[1:] != inputs.shape[1:] or len(inputs) % len(baseline):
            raise ValueError(
                f"baseline has shape {tuple(baseline.shape)}; its features must be those of the inputs,"
                f" {tuple(inputs.shape)}, and its rows must divide theirs"
            )
        check_finite(baseline, "baseline")
        references = baseline.to(inputs)
    score.outputs_are_fixed()
    with differentiable():
        leaf = torch.cat([inputs, references]).detach().requires_grad_()
        with chain.watching(score.model, leaf, len(inputs), len(references)) as rows:
            outputs = score.model(rows)
        chain.refuse_unseen(outputs, score)
        gradient = grad_of(score.select(outputs[: len(inputs)]), leaf)[: len(inputs)]
    refuse_not_finite(gradient, NOT_FINITE)
    return gradient, chain.counts


# Rules for nonlinearities: Site -> how a gradient passes from y back to z.


def derivative(site: Site) -> Pull:
    """The ordinary derivative, g = f'(z)."""
    slope = slope_at(site.f, site.z)
    return lambda grad: grad * slope


def ratio(epsilon: float = 1e-9) -> Callable[[Site], Pull]:
    """Output over input, g = f(z) / (z + epsilon sign(z)) with sign(0) = 1. [gradient, Prop. 1]

    With epsilon = 0 the limit f'(0) stands in at z = 0; where f(0) != 0 there is none: ValueError.
    """
    if epsilon < 0:
        raise ValueError(f"epsilon-LRP needs epsilon >= 0, got {epsilon}")

    def rule(site: Site) -> Pull:
        if epsilon:
            slope = site.y / stabilise(site.z, epsilon)
            return lambda grad: grad * slope
        at_zero = site.z == 0
        if (at_zero & (site.y != 0)).any():
            raise ValueError("f(z)/z has no value at z = 0 where f(0) != 0; use epsilon > 0")
        slope = site.y / site.z.masked_fill(at_zero, 1)
        if at_zero.any():
            slope = torch.where(at_zero, slope_at(site.f, site.z), slope)
        return lambda grad: grad * slope

    return rule


def rescale(site: Site) -> Pull:
    """The average slope from the reference, g = (f(z) - f(z0)) / (z - z0). [gradient, Prop. 2]

    Where the two meet (closer than `numerics.shortest_step`), the derivative half-way between.
    """
    z, z0 = _with_reference(site)
    distance = z - z0
    slope = (site.y - site.y0).div_(distance)
    if distance.abs_().amin() < shortest_step(z.dtype):
        slope = _with_limits(site, slope, distance)
    return lambda grad: grad * slope


def guided(site: Site) -> Pull:
    """The derivative, for the positive part of what arrives. (Guided back-propagation)"""
    slope = slope_at(site.f, site.z)
    return lambda grad: grad.clamp(min=0) * slope


# Rules for affine maps: Affine -> its output, to be differentiated as the rule wants.


def stabilised(epsilon: float) -> Callable[[Affine], Tensor]:
    """Each affine map's output passes the factor y / (y + epsilon sign(y)). [gradient, Eq. 15]

    With it the modified gradient is epsilon-LRP exactly; without, only as epsilon -> 0.
    """
    if epsilon <= 0:
        raise ValueError(f"a stabiliser needs epsilon > 0, got {epsilon}; leave the rule out for 0")

    def rule(call: Affine) -> Tensor:
        y = call.run()
        factor = y.detach() / stabilise(y.detach(), epsilon)
        return swap(y.detach().clone(), lambda grad: (grad * factor,), y)

    return rule


def alpha_beta(alpha: float, beta: float) -> Callable[[Affine], Tensor]:
    """Positive contributions share alpha times the relevance, negative ones -beta times. (LRP)

    R_i = sum_j (alpha z+_ij / sum_i z+_ij - beta z-_ij / sum_i z-_ij) R_j, without biases, and 0
    where a sum is 0; relevance is conserved when alpha - beta = 1 and both signs are present.
    A scaling or shift (batch normalisation, a constant) passes its relevance on unchanged.
    """

    def rule(call: Affine) -> Tensor:
        if call.diagonal:
            sums, shares = [call.plus(*call.operands) + call.minus(*call.operands)], [1]
        else:
            sums, shares = _by_sign_of_inputs(call), (alpha, -beta)
        known = call.bias is not None  # then the output needs no pass of its own
        y = (sum(sums, call.bias) if known else call.run()).detach()
        pairs = [(s, share) for s, share in zip(sums, shares, strict=True) if isinstance(s, Tensor)]
        factors = [over(y, part).mul_(share) for part, share in pairs]
        return swap(y, lambda grad: tuple(grad * f for f in factors), *(part for part, _ in pairs))

    return rule


# Rules for max-pooling and for products.


def cross_max(call: MaxPool) -> Tensor:
    """Max-pooling under Rescale: complete even where input and reference win at different places.

    With outputs y, y0 and c = max(y, y0), the place that wins at the input takes c - y0 and the one
    that wins at the reference takes y - c, each over its own difference. Plain routing loses
    y - y0 wherever the winners differ. [gradient, Sec. 3.2: Eq. 16 covers pooling for g = f' only]
    """
    z, z0 = call.z, call.z0
    if z0 is None:
        raise ValueError("cross_max compares with a reference; pass baseline=")
    (y, at), (y0, at0) = call.winners(z), call.winners(z0)
    y0, at0 = y0.expand_as(y), at0.expand_as(at)
    top = torch.maximum(y, y0)
    difference = z - z0
    inverse = over(1, difference)

    def pull(grad: Tensor) -> Tensor:
        shares = call.scatter(grad * (top - y0), at) + call.scatter(grad * (y - top), at0)
        return shares * inverse

    return call.swapped(pull)


def plain_product(call: Product) -> Tensor:
    """The ordinary product rule; under Rescale it loses completeness. [gradient, footnote 3]"""
    return call.run(*call.operands)


def averaged_product(call: Product) -> Tensor:
    """u v - u0 v0 = (v + v0)/2 (u - u0) + (u + u0)/2 (v - v0): a product rule that is complete."""
    return call.swapped_at([(z + z0) / 2 for z, z0 in call.pairs()])


def stabilise(z: Tensor, epsilon: float) -> Tensor:
    """z + epsilon sign(z) with sign(0) = +1."""
    z = z + 0.0  # no negative zero, whose sign would be -1
    return torch.copysign(z.new_tensor(epsilon), z).add_(z)


def _by_sign_of_inputs(call: Affine) -> tuple[Tensor | float, Tensor | float]:
    """The sums of all positive and of all negative contributions to each output."""
    if all(x.amin().item() >= 0 for x in call.operands):
        return call.plus(*call.operands), call.minus(*call.operands)
    above = [x.clamp(min=0) for x in call.operands]
    below = [x.clamp(max=0) for x in call.operands]
    return call.plus(*above) + call.minus(*below), call.minus(*above) + call.plus(*below)


def _with_limits(site: Site, slope: Tensor, distance: Tensor) -> Tensor:
    """The average slopes, with the derivative half-way between where input and reference meet.

    Where f acts on entries one by one, only those lines of memory are looked at that hold such an
    entry: to search all entries, and to differentiate at all, would cost more than all the rest.
    """
    z, z0, close = site.z, site.z0, shortest_step(site.z.dtype)
    order = sorted(range(z.dim()), key=z.stride, reverse=True)  # as they lie in memory
    if not site.by_entry or order[0] != 0:
        return torch.where(distance < close, slope_at(site.f, (z + z0) / 2), slope)
    width = math.gcd(z[0].numel(), LINE)

    def lines(x: Tensor) -> Tensor:
        return x.permute(order).reshape(-1, width)

    near = (lines(distance).amin(1) < close).nonzero()[:, 0]
    start, end, met, found = (
        lines(x).index_select(0, near % (x.numel() // width)) for x in (z, z0, distance, slope)
    )
    found = torch.where(met < close, slope_at(site.f, (start + end) / 2), found)
    filled = lines(slope).index_copy_(0, near, found)
    return filled.view(slope.permute(order).shape).permute(*map(order.index, range(z.dim())))


def _with_reference(site: Site) -> tuple[Tensor, Tensor]:
    if site.z0 is None:
        raise ValueError("this rule compares with a reference; pass baseline=")
    return site.z, site.z0
