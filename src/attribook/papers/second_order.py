"""The polynomial of second order on pixels, and the compact file that holds it exactly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from attribook.papers.weightfiles import Packing, State

GRID = 2**14  # a stored coefficient is a whole number of 1/16384, at most 127 of them
LINEAR, QUADRATIC, PAIRS = "logits.linear", "logits.quadratic", "logits.pairs"


class Quadratic(nn.Module):
    """sum_i c_i x_i + sum_ij c_ij x_i x_j for each class, from zero coefficients. [taylor, Table V]

    No constant term. A square is c_ii; x_i x_j has two coefficients, c_ij and c_ji.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Parameter(torch.zeros(classes, features))
        self.quadratic = nn.Parameter(torch.zeros(classes, features, features))

    def forward(self, x: Tensor) -> Tensor:
        """One value a class; class by class, as all at once would hold (rows, classes, features)."""
        coefficients = zip(self.linear, self.quadratic, strict=True)
        return torch.stack([_second_order(x, c, cc) for c, cc in coefficients], 1)

    def of_class(self, target: int) -> Callable[[Float[Tensor, "rows *features"]], Tensor]:
        """The polynomial of one class, a function of rows, which does not compute the others."""

        def polynomial(x: Tensor) -> Tensor:
            return _second_order(x.flatten(1), self.linear[target], self.quadratic[target])

        return polynomial


def on_grid(model: nn.Sequential) -> nn.Sequential:
    """The model with c_ij = c_ji and every coefficient rounded to a whole number of 1/16384.

    The last step of the training: what is explained is the rounded polynomial. The two c of a pair
    have the same gradient, so only rounding parts them before. A file then needs a byte a pair.
    """
    linear, quadratic = model.logits.linear, model.logits.quadratic
    with torch.no_grad():
        linear.copy_((linear * GRID).round() / GRID)
        quadratic.copy_(((quadratic + quadratic.mT) / 2 * GRID).round() / GRID)
    return model


def pack(state: State) -> State:
    """One byte for each coefficient c_i and c_ij, i <= j, and a bit for each pair that has any."""
    held = state[QUADRATIC].triu().any(0)  # (features, features)
    stored = {
        LINEAR: _whole(state[LINEAR]),
        QUADRATIC: _whole(state[QUADRATIC][:, held]),
        PAIRS: torch.from_numpy(np.packbits(held.numpy())),
    }
    back = unpack(stored)
    if not all(torch.equal(back[key], state[key]) for key in state):
        raise ValueError(
            "a file holds only symmetric coefficients k/16384 with |k| <= 127, the largest here is "
            f"{state[QUADRATIC].abs().max():.4f}; round them with on_grid, or change GRID"
        )
    return stored


def unpack(stored: State) -> State:
    """The coefficients that `pack` stored, to the last bit."""
    classes, features = stored[LINEAR].shape
    bits = np.unpackbits(stored[PAIRS].numpy(), count=features**2)
    held = torch.from_numpy(bits).bool().reshape(features, features)
    quadratic = torch.zeros(classes, features, features)
    quadratic[:, held] = stored[QUADRATIC].float() / GRID
    return {LINEAR: stored[LINEAR].float() / GRID, QUADRATIC: quadratic + quadratic.triu(1).mT}


PACKED = Packing(pack, unpack, f"whole numbers of 1/{GRID}, one byte a pair")


def _second_order(
    x: Float[Tensor, "rows n"], c: Float[Tensor, " n"], cc: Float[Tensor, "n n"]
) -> Float[Tensor, " rows"]:
    return x @ c + (x @ cc * x).sum(1)


def _whole(coefficients: Tensor) -> Tensor:
    return (coefficients * GRID).round().to(torch.int8)
