"""Rules that hold in every mechanism: limits, quotients by zero, what is not finite, and budgets."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

NUMBERS_A_PASS = 2**20  # in the rows of one pass; bounds the memory, and stays within caches


def at_once(numbers: int) -> int:
    """How many things of so many numbers each go through in one pass; one at least."""
    return max(1, NUMBERS_A_PASS // max(1, numbers))


def derivative(f: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """f'(z) of an elementwise function, by automatic differentiation."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = z.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(f(leaf).sum(), leaf)
        return slope


def shortest_step(dtype: torch.dtype) -> float:
    """The length below which a secant becomes the derivative half-way, for rounding spoils it."""
    return 1e-9 if dtype == torch.float64 else 1e-4


def secant(f: Callable[[Tensor], Tensor], start: Tensor, step: Tensor) -> Tensor:
    """(f(start + step) - f(start)) / step; for steps below `shortest_step` their common limit."""
    close = step.abs() < shortest_step(step.dtype)
    slope = (f(start + step) - f(start)) / step.masked_fill(close, 1)
    if close.any():
        slope[close] = derivative(f, (start + step / 2)[close])
    return slope


def over(numerator: Tensor | float, total: Tensor) -> Tensor:
    """numerator / total, and 0 where the total is 0, or so small that the quotient overflows."""
    total, tiny = total.detach(), torch.finfo(total.dtype).tiny
    quotient = numerator / total
    if total.numel() and (total.amin() >= tiny or total.amax() <= -tiny):
        return quotient  # a quick look, instead of one at each entry
    return torch.where(total.abs() < tiny, 0.0, quotient)


def are_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite; by the extremes, which is cheaper than value by value."""
    ends = (values.amin(), values.amax()) if values.numel() else ()  # aminmax may copy all of them
    return all(math.isfinite(end) for end in ends)


def refuse_not_finite(values: Tensor, message: str) -> None:
    """ValueError with this message where a value is NaN or infinite; `{bad}` is their number."""
    if not are_finite(values):
        raise ValueError(message.format(bad=int((~values.isfinite()).sum())))
