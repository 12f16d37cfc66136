"""RevealCancel: DeepLIFT with positive and negative parts carried apart.

It does not fit Eq. 16 of the chapter: a unit has two multipliers, one for the positive and one for
the negative part of its difference from the reference, and affine maps mix the two. So the model runs
on three values for each of its own, the two parts and the reference value, and ordinary
differentiation does the rest.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from attribook.calls import (
    Affine,
    Call,
    Chain,
    MaxPool,
    swap,
)
from attribook.chain import NOT_FINITE
from attribook.numerics import over, refuse_not_finite
from attribook.score import (
    Score,
    check_inputs,
    differentiable,
    grad_of,
)


def reveal_cancel(
    score: Score,
    inputs: Float[Tensor, "batch *features"],
    baseline: Float[Tensor, "#batch *features"],
) -> Float[Tensor, "batch *features"]:
    """DeepLIFT (RevealCancel) attributions: each part's share, averaged over the two orders.

    With z+ and z- the sums of positive and negative contributions to a unit's difference from z0,
    y+ = [f(z0 + z+) - f(z0) + f(z0 + z+ + z-) - f(z0 + z-)] / 2, and y- likewise. A contribution's
    sign is that of weight times net change (half to either for zero); a map that only scales or
    shifts its units keeps their parts. Complete.
    [gradient, Sec. 4.3; DeepLIFT, Sec. 3.5] One forward and one backward pass of 3 batch rows.
    """
    inputs, baseline = check_inputs(inputs, baseline)
    baseline = baseline.expand_as(inputs)
    difference = inputs - baseline
    rows = torch.cat([difference.clamp(min=0), difference.clamp(max=0), baseline])
    chain = _Parts()
    score.outputs_are_fixed()
    with differentiable():
        leaf = rows.clone().requires_grad_()
        with chain.watching(score.model, leaf, len(rows), 0) as watched:
            outputs = score.model(watched)
        chain.refuse_unseen(outputs, score)
        above, below, _ = outputs.chunk(3)
        gradient = grad_of(score.select(above) + score.select(below), leaf)
    refuse_not_finite(gradient, NOT_FINITE)
    above, below, _ = (rows * gradient).chunk(3)
    return above + below


class _Parts(Chain):
    """A batch of three blocks: positive parts, negative parts, reference values."""

    def __init__(self):
        super().__init__(None, None, None, None, (), strict=True)

    def _elementwise(self, call: Call) -> Tensor:
        above, below, start = call.args[0].detach().clone().chunk(3)
        at_start, at_above = call.anew(start), call.anew(start + above)
        at_below, at_both = call.anew(start + below), call.anew(start + above + below)
        y_above = (at_above - at_start + at_both - at_below) / 2
        y_below = (at_below - at_start + at_both - at_above) / 2
        slopes = torch.cat([over(y_above, above), over(y_below, below), torch.zeros_like(start)])
        value = torch.cat([y_above, y_below, at_start])
        return swap(value, lambda grad: (grad * slopes,), call.args[0])

    def _affine(self, parts, call: Call, operands: list[Tensor]) -> Tensor:
        affine: Affine = parts(call, operands)
        above, below, _ = zip(*(x.chunk(3) for x in operands), strict=True)
        start = affine.run().chunk(3)[2]
        if not affine.diagonal:  # what a unit receives is sorted by the sign of its net changes
            changes = [up + down for up, down in zip(above, below, strict=True)]
            above = [_positive(x) for x in changes]
            below = [x - _positive(x) for x in changes]
        y_above = affine.plus(*above) + affine.minus(*below)
        y_below = affine.minus(*above) + affine.plus(*below)
        same = torch.zeros_like(start)  # a broadcast bias may have widened the output
        return torch.cat([y_above + same, y_below + same, start])

    def _route(self, call: Call, operands: list[Tensor]):
        if call.name in ("neg", "negative"):
            above, below, start = call.args[0].chunk(3)
            return torch.cat([-below, -above, -start])
        mixes = call.name in ("setitem", "copy", "cat", "concat", "concatenate", "stack", "hstack")
        if (mixes and len(operands) < len(call.tensors)) or call.argument(3, "value"):
            self._refuse(call, None, "RevealCancel cannot tell which part a constant belongs to")
        return super()._route(call, operands)

    def _pool(self, call: MaxPool) -> Tensor:
        raise ValueError("RevealCancel has no rule for max-pooling; use deeplift_rescale")

    def _product(self, call: Call, operands: list[Tensor]) -> Tensor:
        raise ValueError("RevealCancel has no rule for products; use deeplift_rescale")


def _positive(change: Tensor) -> Tensor:
    """The positive changes; one of zero counts half, which only its derivative shows."""
    return change * (change.detach().sign() + 1) / 2
