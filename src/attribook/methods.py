"""The named methods, each a few lines over one mechanism. [gradient, Table 1 and Sec. 4.3]

Every method takes a score and inputs of shape (batch, *features) and returns attributions of the
same shape, signed and unscaled. `baseline=None` means zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from attribook.baselines import Law
from attribook.chain import (
    alpha_beta,
    averaged_product,
    cross_max,
    guided,
    modified_gradient,
    ratio,
    rescale,
)
from attribook.coalitions import (
    MaskedGame,
    grid_centres,
    patch_masks,
    sampled_shapley_values,
    shapley_values,
)
from attribook.numerics import at_once
from attribook.parts import reveal_cancel
from attribook.paths import path_integral, straight
from attribook.score import Score, check_inputs, plain_gradient

Inputs = Float[Tensor, "batch *features"]
Baseline = Float[Tensor, "#batch *features"]
Baselines = Float[Tensor, "n_baselines *features"]


def gradient(score: Score, inputs: Inputs) -> Inputs:
    """dS/dx_i. [gradient, Eq. 4] One forward and one backward pass."""
    inputs, _ = check_inputs(inputs)
    return plain_gradient(score, inputs)


def sensitivity(score: Score, inputs: Inputs) -> Inputs:
    """Sensitivity analysis, |dS/dx_i|. [gradient, Eq. 11] One forward and one backward pass."""
    return gradient(score, inputs).abs()


def gradient_x_input(score: Score, inputs: Inputs) -> Inputs:
    """Gradient * Input, x_i dS/dx_i. [gradient, Eq. 12] One forward and one backward pass."""
    inputs, _ = check_inputs(inputs)
    return inputs * plain_gradient(score, inputs)


def smooth_grad(
    score: Score,
    inputs: Inputs,
    noise_level: float = 0.15,
    n_samples: int = 50,
    *,
    generator: torch.Generator,
) -> Inputs:
    """The mean gradient under Gaussian noise of `noise_level` times each sample's range of values.

    Smilkov et al. 2017. `n_samples` forward and backward passes.
    """
    inputs, _ = check_inputs(inputs)
    flat = inputs.flatten(1)
    scale = noise_level * (flat.amax(1) - flat.amin(1)).view(-1, *[1] * (inputs.dim() - 1))
    total = torch.zeros_like(inputs)
    for _ in range(n_samples):
        noise = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype).to(inputs)
        total += plain_gradient(score, inputs + scale * noise)
    return total / n_samples


def guided_backprop(score: Score, inputs: Inputs, elementwise: Sequence[Callable] = ()) -> Inputs:
    """The gradient with only positive gradients passed back at each nonlinearity.

    Springenberg et al. 2015. One forward and one backward pass.
    """
    return modified_gradient(score, inputs, nonlinear=guided, elementwise=elementwise)


def grad_cam(
    score: Score, inputs: Float[Tensor, "batch channel height width"], layer: str
) -> Float[Tensor, "batch channel height width"]:
    """Grad-CAM of a convolutional `layer`, enlarged to the inputs' size and the same in each channel.

    ReLU(sum_k mean(dS/da_k) a_k); Selvaraju et al. 2017. One forward pass, one backward on the tail.
    """
    cam = grad_cam_neurons(score, inputs, layer).sum(1, keepdim=True).clamp(min=0)
    enlarged = F.interpolate(cam, inputs.shape[2:], mode="bilinear", align_corners=False)
    return enlarged.expand_as(inputs).contiguous()


def grad_cam_neurons(
    score: Score, inputs: Float[Tensor, "batch channel height width"], layer: str
) -> Float[Tensor, "batch layer_channel layer_height layer_width"]:
    """Grad-CAM before its ReLU, for each neuron of the layer: alpha_k a_k. [taylor, Eq. 23]

    alpha_k = mean over places of dS/da_k. One forward pass, one backward on the tail.
    """
    check_inputs(inputs)
    head, tail = score.split(layer)
    with torch.no_grad():
        activations = head(inputs)
    if activations.dim() != 4:
        raise ValueError(f"layer {layer!r} has shape {tuple(activations.shape)}, not a feature map")
    return plain_gradient(tail, activations).mean((2, 3), keepdim=True) * activations


def lrp_epsilon(
    score: Score, inputs: Inputs, epsilon: float = 1e-9, elementwise: Sequence[Callable] = ()
) -> Inputs:
    """epsilon-LRP, x_i d^g S/dx_i with g = f(z)/z. [gradient, Prop. 1]

    Max-pooling passes relevance to the winner. One forward and one backward pass.
    """
    inputs, _ = check_inputs(inputs)
    rule = ratio(epsilon)
    return inputs * modified_gradient(score, inputs, nonlinear=rule, elementwise=elementwise)


def lrp_alpha_beta(
    score: Score,
    inputs: Inputs,
    alpha: float = 2,
    beta: float = 1,
    elementwise: Sequence[Callable] = (),
) -> Inputs:
    """alpha-beta-LRP: positive and negative contributions weighted apart. [gradient, Sec. 4.3]

    alpha - beta = 1 keeps the relevance's sum where both signs are present. Two to four passes
    through the affine maps, one backward.
    """
    inputs, _ = check_inputs(inputs)
    multipliers = modified_gradient(
        score, inputs, nonlinear=ratio(), linear=alpha_beta(alpha, beta), elementwise=elementwise
    )
    return inputs * multipliers


def deeplift_rescale(
    score: Score,
    inputs: Inputs,
    baseline: Baseline | None = None,
    *,
    max_pool: Callable | None = cross_max,
    product: Callable | None = averaged_product,
    elementwise: Sequence[Callable] = (),
) -> Inputs:
    """DeepLIFT (Rescale), (x_i - x0_i) d^g S/dx_i with g = (f(z) - f(z0)) / (z - z0).

    [gradient, Prop. 2] Complete; max-pooling and products by rules that keep it so: pass
    `max_pool=None` for the chapter's plain routing and `product=plain_product` for its footnote 3,
    and see what is lost with `axioms.completeness_gap`. One forward and one backward pass of the
    inputs and the baseline together: batch + 1 rows for one baseline, 2 batch for one each.
    """
    inputs, baseline = check_inputs(inputs, baseline)
    multipliers = modified_gradient(
        score,
        inputs,
        nonlinear=rescale,
        max_pool=max_pool,
        product=product,
        baseline=baseline,
        elementwise=elementwise,
    )
    return (inputs - baseline) * multipliers


def deeplift_reveal_cancel(
    score: Score, inputs: Inputs, baseline: Baseline | None = None
) -> Inputs:
    """DeepLIFT (RevealCancel); see `parts`. [gradient, Sec. 4.3] Passes of 3 batch rows."""
    return reveal_cancel(score, *check_inputs(inputs, baseline))


def deep_shap(
    score: Score,
    inputs: Inputs,
    baselines: Baselines,
    *,
    elementwise: Sequence[Callable] = (),
) -> Inputs:
    """Deep SHAP: DeepLIFT (Rescale) averaged over baselines. Lundberg & Lee 2017.

    The baselines are shared by all inputs: n_baselines * (batch + 1) rows forward and backward.
    """
    inputs, _ = check_inputs(inputs)
    total = torch.zeros_like(inputs)
    for part in baselines.split(at_once(inputs.numel())):
        repeated = inputs.repeat(len(part), *[1] * (inputs.dim() - 1))  # (part * batch, *features)
        multipliers = modified_gradient(
            score,
            repeated,
            nonlinear=rescale,
            max_pool=cross_max,
            product=averaged_product,
            baseline=part,
            elementwise=elementwise,
        )
        total += ((inputs - part[:, None]) * multipliers.unflatten(0, (len(part), -1))).sum(0)
    return total / len(baselines)


def integrated_gradients(
    score: Score,
    inputs: Inputs,
    baseline: Baseline | None = None,
    n_steps: int = 50,
    rule: Callable | None = None,
) -> Inputs:
    """Integrated Gradients on the straight path from the baseline. [gradient, Eq. 19, Table 1]

    Implementation invariant and complete. `n_steps` forward and backward passes; Gauss-Legendre
    nodes unless another `rule` of `paths` is passed.
    """
    path = straight(*check_inputs(inputs, baseline))
    return path_integral(score, path, n_steps=n_steps, rule=rule)


def expected_gradients(
    score: Score, inputs: Inputs, baselines: Baselines, n_steps: int = 20
) -> Inputs:
    """Integrated Gradients averaged over baselines, exact for a finite set of them.

    [integrated, Sec. 5] n_baselines * n_steps forward and backward passes. Baselines with unequal
    probabilities: `expected(integrated_gradients)` with a `Law`.
    """
    ones, total = [1] * (inputs.dim() - 1), 0
    for some in baselines.split(at_once(inputs.numel() * n_steps)):
        starts = some.repeat_interleave(len(inputs), 0)
        ig = integrated_gradients(score, inputs.repeat(len(some), *ones), starts, n_steps)
        total = total + ig.unflatten(0, (len(some), len(inputs))).sum(0)
    return total / len(baselines)


def expected(method: Callable[[Score, Tensor, Tensor], Tensor]) -> Callable:
    """The method averaged over a law of baselines, (score, inputs, law) -> attributions.

    E A(x, X', F) [integrated, Sec. 5]: as many passes as the method needs for each baseline.
    """

    def averaged(score: Score, inputs: Tensor, law: Law) -> Tensor:
        return law.mean(lambda point: method(score, inputs, point))

    return averaged


def occlusion(
    score: Score,
    inputs: Inputs,
    baseline: Baseline | None = None,
    groups: Int[Tensor, "..."] | None = None,
) -> Inputs:
    """S(x) - S(x without player i); a group's drop is shared by its features. [gradient, Sec. 4.3]

    One forward pass, and one more for each player.
    """
    game = MaskedGame(score, inputs, baseline, groups)
    return game.by_feature(_drops(game))


def occlusion_patch(
    score: Score,
    inputs: Inputs,
    groups: Int[Tensor, "..."],
    baseline: Baseline | None = None,
) -> Inputs:
    """S(x) - S(x without patch), the whole drop to each feature of the patch. [taylor, Eq. 18]

    One forward pass, and one more for each patch.
    """
    game = MaskedGame(score, inputs, baseline, groups)
    return _drops(game)[:, game.groups]


def occlusion_map(
    score: Score,
    images: Float[Tensor, "batch channel height width"],
    patch: int,
    stride: int,
    value: float = 0.0,
) -> Float[Tensor, "batch rows columns"]:
    """The score's drop when a square patch, centred on each grid cell, is set to `value`.

    Zeiler & Fergus 2014; [gradient, Fig. 4]. One forward pass, and one more for each cell.
    """
    height, width = images.shape[2:]
    masks = patch_masks(height, width, patch, grid_centres(height, width, stride))
    game = MaskedGame(score, images, torch.full_like(images[:1], value))
    whole = game.masked(torch.ones(1, 1, 1, 1, dtype=torch.bool))
    drops = whole - game.masked(masks[:, None])
    return drops.unflatten(1, (-(-(height - stride // 2) // stride), -1))


def prediction_difference(
    score: Score,
    inputs: Inputs,
    baselines: Baselines,
    groups: Int[Tensor, "..."] | None = None,
) -> Inputs:
    """Occlusion averaged over baselines drawn from the data. Zintgraf et al. 2017."""
    drops = [occlusion(score, inputs, baseline[None], groups) for baseline in baselines]
    return torch.stack(drops).mean(0)


def shapley(
    score: Score,
    inputs: Inputs,
    baseline: Baseline | None = None,
    groups: Int[Tensor, "..."] | None = None,
    n_permutations: int | None = None,
    generator: torch.Generator | None = None,
) -> Inputs:
    """Shapley values of the masked game: exact up to 16 players, else from sampled orders.

    2^players forward passes, or n_permutations * (players + 1); a group's value is shared equally.
    """
    game = MaskedGame(score, inputs, baseline, groups)
    if n_permutations is not None:
        generator = generator or torch.Generator().manual_seed(0)
        return game.by_feature(sampled_shapley_values(game, n_permutations, generator)[0])
    if game.n_players > 16:
        raise ValueError(
            f"exact Shapley values need at most 16 players, got {game.n_players};"
            " pass n_permutations= to sample, or coarser groups"
        )
    return game.by_feature(shapley_values(game))


def _drops(game: MaskedGame) -> Float[Tensor, "batch players"]:
    """The score's drop without each player."""
    players = torch.arange(game.n_players)
    whole = game(torch.ones(1, game.n_players, dtype=torch.bool))
    parts = players.split(at_once(max(game.n_players, game.inputs.numel())))
    return whole - torch.cat([game(players != some[:, None]) for some in parts], 1)


class Method(NamedTuple):
    """A row of the table of methods."""

    function: Callable[..., Tensor]  # (score, inputs, ...) -> attributions
    needs: frozenset[str]
    keeps: frozenset[str]
    source: str


def _method(function: Callable, needs: str, keeps: str, source: str) -> Method:
    return Method(function, frozenset(needs.split()), frozenset(keeps.split()), source)


# needs: gradient (a differentiable score), calls (a model whose nonlinearities can be seen), and the
# arguments that have no default. keeps: completeness (attributions add up to the change of the
# score from the baseline, or from the mean over baselines), implementation (invariance: functions
# that are equal have equal attributions).
METHODS: dict[str, Method] = {
    "Gradient": _method(gradient, "gradient", "implementation", "gradient, Eq. 4"),
    "Sensitivity analysis": _method(sensitivity, "gradient", "implementation", "gradient, Eq. 11"),
    "Gradient * Input": _method(gradient_x_input, "gradient", "implementation", "gradient, Eq. 12"),
    "SmoothGrad": _method(
        smooth_grad, "gradient generator", "implementation", "Smilkov et al. 2017"
    ),
    "Guided back-propagation": _method(
        guided_backprop, "gradient calls", "", "Springenberg et al. 2015"
    ),
    "Grad-CAM": _method(grad_cam, "gradient layer", "", "Selvaraju et al. 2017"),
    "epsilon-LRP": _method(lrp_epsilon, "gradient calls", "", "gradient, Prop. 1"),
    "alpha-beta-LRP": _method(lrp_alpha_beta, "gradient calls", "", "gradient, Sec. 4.3"),
    "DeepLIFT (Rescale)": _method(
        deeplift_rescale, "gradient calls", "completeness", "gradient, Prop. 2"
    ),
    "DeepLIFT (RevealCancel)": _method(
        deeplift_reveal_cancel, "gradient calls", "completeness", "gradient, Sec. 4.3"
    ),
    "Deep SHAP": _method(
        deep_shap, "gradient calls baselines", "completeness", "Lundberg & Lee 2017"
    ),
    "Integrated Gradients": _method(
        integrated_gradients,
        "gradient",
        "completeness implementation",
        "gradient, Eq. 19",
    ),
    "Expected Gradients": _method(
        expected_gradients,
        "gradient baselines",
        "completeness implementation",
        "integrated, Sec. 5",
    ),
    "Occlusion": _method(occlusion, "", "implementation", "gradient, Sec. 4.3"),
    "Occlusion by patches": _method(occlusion_patch, "groups", "implementation", "taylor, Eq. 18"),
    "Prediction difference": _method(
        prediction_difference, "baselines", "implementation", "Zintgraf et al. 2017"
    ),
    "Shapley values": _method(shapley, "", "completeness implementation", "gradient, Sec. 4.3"),
}

TABLE_1 = {
    name: METHODS[name].function
    for name in (
        "Sensitivity analysis",
        "Gradient * Input",
        "epsilon-LRP",
        "DeepLIFT (Rescale)",
        "Integrated Gradients",
    )
}  # the five rows of [gradient, Table 1], in its order
