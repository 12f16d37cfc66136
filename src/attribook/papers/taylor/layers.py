"""Back-propagation through one layer x = sigma(W h + s), as [taylor, Eq. 31-43] write it.

`chain` and `parts` reach the same methods by one backward pass through any network. Here the layer
is taken at its word: unit j holds a relevance a_j, and a rule says which part each input receives,

    a_{i<-j} = c_ij g_ij m_j,    a_i = sum_j a_{i<-j}.

c_ij is what the input contributes to z_j, W_ji h_i, or W_ji (h_i - h~_i) for the rules that compare
with a reference. g_ij is the rule's own. m_j is a_j for LRP; for the others it is a_j over the
unit's change, DeepLIFT's multiplier, and c_ij g_ij are parts of that change. `propagate` applies a
rule layer by layer.

Zero denominators. LRP-epsilon has none (sign(0) = +1). A group of LRP-alpha-beta that is empty or
sums to 0 hands nothing on. Each slope of the other rules is a difference quotient of sigma, and its
limit, the derivative half-way, where the step is below `numerics.shortest_step`. A unit that does not
change has a_j / 0: it hands on nothing, unless its multiplier is given, as `propagate` does. What a
unit held and did not hand on (LRP-epsilon: to its bias) is returned as `lost`; negative where a rule
hands on too much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attribook.numerics import at_once, derivative, over, refuse_not_finite, secant, shortest_step
from attribook.papers.architectures import written_out
from attribook.score import (
    Score,
    check_finite,
    check_inputs,
    differentiable,
    grad_of,
)

Activation = Callable[[Tensor], Tensor]
AFFINE = (nn.Linear, nn.Conv2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
MOST_EXACT = 12  # inputs of a unit whose 2^n coalitions are all evaluated
LARGEST_SIDE = 10_000  # of a weight matrix


@dataclass(frozen=True)
class Layer:
    """x = activation(weight h + bias), the module of [taylor, Sec. III-D]. Elementwise activation."""

    weight: Float[Tensor, "units features"]
    bias: Float[Tensor, " units"]
    activation: Activation

    def __post_init__(self):
        if self.weight.dim() != 2 or self.bias.shape != self.weight.shape[:1]:
            raise ValueError(
                "a layer needs a weight of shape (units, features) and a bias of shape (units,), got"
                f" {tuple(self.weight.shape)} and {tuple(self.bias.shape)}"
            )

    def __call__(self, inputs: Float[Tensor, "batch features"]) -> Float[Tensor, "batch units"]:
        """The layer's outputs."""
        return self.activation(inputs @ self.weight.T + self.bias)

    def contributions(
        self, inputs: Float[Tensor, "batch features"]
    ) -> Float[Tensor, "batch units features"]:
        """z_ij = W_ji h_i, unit by unit."""
        return self.weight * inputs[:, None]

    @cached_property
    def seen(self) -> Int[Tensor, "units most"]:
        """The inputs of each unit with a weight, filled up with others: few in a convolution."""
        has_weight = (self.weight != 0).to(torch.uint8)
        most = max(1, int(has_weight.sum(1).max()))
        return has_weight.topk(most, dim=1).indices


class Handed(NamedTuple):
    """What a layer hands on: to each input, by no unit, and to each input for one unit of change."""

    received: Float[Tensor, "batch features"]
    lost: Float[Tensor, "batch units"]
    multiplier: Float[Tensor, "batch features"]


@dataclass(frozen=True)
class Rule:
    """A rule, told by its g_ij and by whether it compares with a reference.

    `slopes(activation, start, contributions)` returns g_ij from z_j without contributions,
    (batch, units, 1), and the contributions, (batch, units, inputs).
    """

    slopes: Callable[[Activation, Tensor, Tensor], Tensor]
    compares: bool

    @torch.no_grad()
    def __call__(
        self,
        layer: Layer,
        inputs: Float[Tensor, "batch features"],
        reference: Float[Tensor, "#batch features"] | None,
        relevance: Float[Tensor, "batch units"],
        multiplier: Float[Tensor, "batch units"] | None = None,
    ) -> Handed:
        """The relevance of units handed on to inputs.

        LRP ignores the reference (None means zeros). `multiplier` is relevance over change where
        that is known: without it a unit that does not change hands nothing on.
        """
        inputs, reference = check_inputs(inputs, reference if self.compares else None)
        _check_shapes(layer, inputs, relevance, multiplier)
        start, moves = layer.bias + reference @ layer.weight.T, inputs - reference
        total, lost = torch.zeros_like(inputs), []
        most = layer.seen.shape[1]
        width = (2**most if most <= MOST_EXACT else most) * len(inputs)
        for block in torch.arange(len(layer.bias)).split(at_once(width)):
            seen = layer.seen[block]
            weight = layer.weight[block].gather(1, seen)
            contributions, z = weight * moves[:, seen], start[:, block, None]
            held = relevance[:, block, None]
            if self.compares and multiplier is not None:
                held = multiplier[:, block, None]
            elif self.compares:
                reached = z + contributions.sum(2, keepdim=True)
                held = over(held, layer.activation(reached) - layer.activation(z))
            shares = self.slopes(layer.activation, z, contributions) * held  # (batch, block, most)
            lost.append(relevance[:, block] - (contributions * shares).sum(2))
            total.index_add_(1, seen.flatten(), (weight * shares).flatten(1))
        refuse_not_finite(
            total,
            "an activation or its derivative is infinite or NaN on the way; move the inputs or the"
            " reference off that point",
        )
        return Handed(moves * total, torch.cat(lost, 1), total)


def epsilon(epsilon: float = 1e-9) -> Rule:
    """LRP-epsilon, z_ij / (z_j + epsilon sign(z_j)) with the bias in z_j. [taylor, Eq. 31]"""
    if epsilon <= 0:
        raise ValueError(f"LRP-epsilon needs epsilon > 0, got {epsilon}")

    def slopes(activation: Activation, start: Tensor, contributions: Tensor) -> Tensor:
        z = start + contributions.sum(2, keepdim=True)
        return 1 / torch.where(z < 0, z - epsilon, z + epsilon)

    return Rule(slopes, compares=False)


def alpha_beta(alpha: float, beta: float) -> Rule:
    """LRP-alpha-beta: alpha z_ij / Z+ to the positive ones, beta z_ij / Z- to others. [taylor, Eq. 33]

    The paper's signs: alpha + beta = 1 keeps the sum where both groups are there, (2, -1) for one.
    """

    def slopes(activation: Activation, start: Tensor, contributions: Tensor) -> Tensor:
        up, down = _by_sign(contributions)
        return torch.where(contributions > 0, over(alpha, up), over(beta, down))

    return Rule(slopes, compares=False)


deep_taylor = alpha_beta(1, 0)  # [taylor, Eq. 36]


def _rescale(activation: Activation, start: Tensor, contributions: Tensor) -> Tensor:
    return secant(activation, start, contributions.sum(2, keepdim=True))


def _reveal_cancel(activation: Activation, start: Tensor, contributions: Tensor) -> Tensor:
    up, down = _by_sign(contributions)
    of_up = (secant(activation, start, up) + secant(activation, start + down, up)) / 2
    of_down = (secant(activation, start, down) + secant(activation, start + up, down)) / 2
    side = (contributions.sign() + 1) / 2  # half to either where there is no contribution
    return of_up * side + of_down * (1 - side)


rescale = Rule(_rescale, compares=True)
"""DeepLIFT (Rescale), Dz_ij / sum_i Dz_ij. [taylor, Eq. 38]"""

reveal_cancel = Rule(_reveal_cancel, compares=True)
"""DeepLIFT (RevealCancel): each sign's part, Dy+ or Dy-, shared by Dz_ij. [taylor, Eq. 40]

Dy+ = [f(z~ + Z+) - f(z~) + f(z~ + Z+ + Z-) - f(z~ + Z-)] / 2, the average of the text; the formula
itself stands in the paper's supplement.
"""


def module_shapley(n_pairs: int | None = None, generator: torch.Generator | None = None) -> Rule:
    """Deep SHAP by modules: phi_i(x_j) / sum_i phi_i(x_j), Shapley values of a unit. [taylor, Eq. 43]

    Exact for units with up to 12 inputs, from 2^n coalitions. With more, from `n_pairs` random
    orders and their reverses, drawn once for each number of inputs; n_pairs=None refuses those.
    """
    generator = generator or torch.Generator().manual_seed(0)
    if n_pairs is not None and n_pairs < 1:
        raise ValueError(f"needs at least one pair of orders, got n_pairs={n_pairs}")

    @cache
    def orders(n: int) -> Tensor:
        return torch.rand(n_pairs, n, generator=generator).argsort(1)

    def slopes(activation: Activation, start: Tensor, contributions: Tensor) -> Tensor:
        n = contributions.shape[2]
        if n <= MOST_EXACT:
            return _by_coalitions(activation, start, contributions)
        if n_pairs is None:
            raise ValueError(
                f"a unit has {n} inputs; exact Shapley values need at most {MOST_EXACT}, pass n_pairs="
            )
        total = contributions.sum(2, keepdim=True)
        mean = torch.zeros_like(contributions)
        for order in orders(n).to(contributions.device):
            steps = contributions[..., order]
            after = steps.cumsum(2)
            joined = secant(activation, start + after - steps, steps)
            joined += secant(activation, start + total - after, steps)  # in the reverse order
            mean[..., order] += joined / (2 * n_pairs)
        return mean

    return Rule(slopes, compares=True)


def _by_coalitions(activation: Activation, start: Tensor, contributions: Tensor) -> Tensor:
    n = contributions.shape[2]
    bits = torch.arange(2**n, device=contributions.device)[:, None]
    member = (bits >> torch.arange(n, device=bits.device)) % 2 == 1  # (coalitions, n)
    size = member.sum(1)
    share = contributions.new_tensor([1 / (n * math.comb(n - 1, k)) for k in range(n)])
    joins = share[(size - 1).clamp(min=0)][:, None] * member
    stays_out = share[size.clamp(max=n - 1)][:, None] * ~member
    sums = start + contributions @ member.T.to(contributions)  # (batch, units, coalitions)
    values = activation(sums) @ (joins - stays_out)
    close = contributions.abs() < shortest_step(contributions.dtype)
    quotients = values / contributions.masked_fill(close, 1)
    if not close.any():
        return quotients
    return torch.where(close, derivative(activation, sums) @ joins, quotients)


def as_layers(net: nn.Sequential, shape: Sequence[int]) -> list[Layer]:
    """The network as layers on flat inputs, for one shape of input, (*features).

    Each Linear, Conv2d or average pool with the elementwise stages after it is a layer; Flatten and
    nested nn.Sequential are seen through. The weight matrix of a convolution is written out.
    """
    return [layer for layer, _ in _unrolled(net, shape)]


def propagate(
    rule: Rule,
    net: nn.Sequential,
    inputs: Float[Tensor, "batch *features"],
    reference: Float[Tensor, "#batch *features"] | None,
    target: int | Int[Tensor, " batch"],
) -> Float[Tensor, "batch *features"]:
    """Attributions by one rule, layer by layer from the target back to the inputs.

    Starts with f(x) - f(x~) at the target for rules that compare with a reference (None: zeros),
    with f(x) for LRP. Two forward passes, and one activation or more for each weight.
    """
    inputs, reference = check_inputs(inputs, reference)
    score = Score(net, target)
    unrolled = _unrolled(net, inputs.shape[1:])
    points = [(inputs.flatten(1), reference.flatten(1))]
    with torch.no_grad():
        for _, stages in unrolled:
            points.append(tuple(stages(point) for point in points[-1]))
    outputs, at_reference = points.pop()
    with differentiable():
        leaf = outputs.clone().requires_grad_()
        multiplier = grad_of(score.select(leaf), leaf)  # 1 at the target
    relevance = multiplier * (outputs - at_reference if rule.compares else outputs)
    for (layer, _), (x, start) in reversed(list(zip(unrolled, points, strict=True))):
        relevance, _, multiplier = rule(layer, x, start, relevance, multiplier)
    return relevance.view_as(inputs)


def deep_shap_by_modules(
    score: Score,
    inputs: Float[Tensor, "batch *features"],
    baseline: Float[Tensor, "#batch *features"] | None = None,
    n_pairs: int | None = 10,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch *features"]:
    """Deep SHAP with the Shapley values of every unit, layer by layer. [taylor, Eq. 43]

    Not what libraries call so: those are Rescale averaged over baselines (`methods.deep_shap`).
    Complete for any n_pairs. 2 n_pairs activations for each weight of a layer written out.
    """
    if score.output != "logit":
        raise ValueError("a softmax is no layer of weights and an activation; explain the logit")
    rule = module_shapley(n_pairs, generator)
    return propagate(rule, score.model, inputs, baseline, score.target)


def _unrolled(net: nn.Sequential, shape: Sequence[int]) -> list[tuple[Layer, nn.Sequential]]:
    """Each layer, and the stages that it stands for, on flat inputs, too."""
    if not isinstance(net, nn.Sequential):
        raise TypeError(f"needs an nn.Sequential of layers, got {type(net).__name__}")
    like = next(net.parameters(), torch.zeros(())).detach()
    found: list[tuple[nn.Sequential, Tensor, Tensor, nn.Sequential]] = []
    with torch.no_grad():
        for name, stage in _stages(net):
            if isinstance(stage, AFFINE):
                flat = nn.Sequential(nn.Unflatten(1, tuple(shape)), stage, nn.Flatten())
                found.append((flat, *_matrix(flat, shape, like), nn.Sequential()))
            elif found and not isinstance(stage, nn.Flatten) and _is_elementwise(stage, like):
                found[-1][-1].append(stage)
            elif not isinstance(stage, nn.Flatten):
                raise TypeError(
                    f"stage {name} is {stage}; layers are Linear, Conv2d or average pools, each with"
                    " elementwise activations after it. Max-pooling and others: use `chain`"
                )
            shape = stage(like.new_zeros(1, *shape)).shape[1:]
    return [
        (Layer(weight, bias, activation), nn.Sequential(flat, activation))
        for flat, weight, bias, activation in found
    ]


def _stages(net: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, stage in net._modules.items():  # named_children leaves out one met before
        if isinstance(stage, nn.Sequential):
            yield from _stages(stage, f"{prefix}{name}.")
        else:
            yield prefix + name, stage


def _is_elementwise(stage: nn.Module, like: Tensor) -> bool:
    """Whether a row of numbers and the same numbers one by one give the same."""
    row = torch.linspace(-2, 2, 5).to(like)[None]
    try:
        together, apart = stage(row), stage(row.T).T
    except (RuntimeError, ValueError, TypeError):  # it wants images, or two arguments
        return False
    return together.shape == row.shape and torch.allclose(together, apart)


def _matrix(flat: nn.Sequential, shape: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor]:
    """The weight (units, features) and the bias (units,) of an affine map of flat inputs."""
    features = math.prod(shape)
    units = flat(like.new_zeros(1, features)).shape[1]
    if max(features, units) > LARGEST_SIDE:
        raise ValueError(
            f"a weight matrix of {units} units and {features} features is too large to write"
            f" out, at most {LARGEST_SIDE:,} each; use smaller inputs, or the methods over `chain`"
        )
    return written_out(flat, (features,), like)


def _check_shapes(
    layer: Layer, inputs: Tensor, relevance: Tensor, multiplier: Tensor | None
) -> None:
    check_finite(relevance, "relevance")
    units, features = layer.weight.shape
    given = [tuple(one.shape) for one in (inputs, relevance, multiplier) if one is not None]
    wanted = [(len(inputs), features), (len(inputs), units), (len(inputs), units)]
    if given != wanted[: len(given)]:
        raise ValueError(
            f"a layer from {features} to {units} needs inputs (batch, {features}), relevance and"
            f" multiplier (batch, {units}), got {given}"
        )


def _by_sign(contributions: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of the positive and of the negative contributions to each unit."""
    up, down = contributions.clamp(min=0), contributions.clamp(max=0)
    return up.sum(2, keepdim=True), down.sum(2, keepdim=True)
