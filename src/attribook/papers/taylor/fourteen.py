"""The fourteen methods of [taylor, Table IV]: how each is computed, and what it allocates to whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attribook import sharing as to
from attribook.baselines import Law
from attribook.methods import (
    deeplift_rescale,
    deeplift_reveal_cancel,
    expected,
    grad_cam,
    gradient_x_input,
    integrated_gradients,
    lrp_alpha_beta,
    lrp_epsilon,
    occlusion,
    occlusion_patch,
    shapley,
)
from attribook.papers.taylor.layers import deep_shap_by_modules
from attribook.score import Score
from attribook.sharing import Sharing


@dataclass(frozen=True)
class Setting:
    """What the methods take beside a score and inputs; the paper leaves most of it open."""

    baseline: Float[Tensor, "#batch *features"] | None = None  # None: zeros
    baselines: Law | None = None  # of Prediction Difference and Expected Gradients
    patches: Int[Tensor, "..."] | None = None  # of Occlusion-patch: each feature's number
    players: Int[Tensor, "..."] | None = None  # of the other perturbations; None: each feature
    layer: str | None = None  # of Grad-CAM
    alpha: float = 2.0  # of LRP-alpha-beta; beta = 1 - alpha
    epsilon: float = 1e-6  # of LRP-epsilon
    n_steps: int = 50  # of the integrals
    n_permutations: int | None = None  # of Shapley values; None: exact
    n_pairs: int = 10  # permutations and their reverses in each module of Deep SHAP
    seed: int = 0
    elementwise: tuple[Callable, ...] = ()

    def generator(self) -> torch.Generator:
        """A fresh one, so that methods do not depend on their order."""
        return torch.Generator().manual_seed(self.seed)

    def needs(self, name: str):
        """The value of a field without which a method cannot run."""
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"this method needs Setting({name}=...)")
        return value


Run = Callable[[Score, Tensor, Setting], Tensor]


class Row(NamedTuple):
    """One row of Table IV."""

    method: str  # its name in `methods.METHODS`, which tells what it needs and keeps
    run: Run
    theorem: int
    explains: str  # "tangent" or "pooled" model: first order only; "series": all effects at b
    scope: str  # "network", or one "module" at a time, or the channels of a "feature map"
    sharing: Callable[
        [Setting, Tensor], Sharing
    ]  # in a module with contributions (batch, features)


def _always(sharing: Sharing) -> Callable[[Setting, Tensor], Sharing]:
    return lambda s, z: sharing


def _predicted_difference(score: Score, inputs: Tensor, s: Setting) -> Tensor:
    return expected(partial(occlusion, groups=s.players))(score, inputs, s.needs("baselines"))


def _expected_gradients(score: Score, inputs: Tensor, s: Setting) -> Tensor:
    average = expected(partial(integrated_gradients, n_steps=s.n_steps))
    return average(score, inputs, s.needs("baselines"))


FOURTEEN: dict[str, Row] = {
    "Grad x Input": Row(
        "Gradient * Input",
        lambda f, x, s: gradient_x_input(f, x),
        theorem=2,
        explains="tangent",
        scope="network",
        sharing=_always(to.first_order),
    ),
    "Occlusion-1": Row(
        "Occlusion",
        lambda f, x, s: occlusion(f, x, s.baseline, s.players),
        theorem=3,
        explains="series",
        scope="network",
        sharing=_always(to.whole_to_members),
    ),
    "Occlusion-patch": Row(
        "Occlusion by patches",
        lambda f, x, s: occlusion_patch(f, x, s.needs("patches"), s.baseline),
        theorem=4,
        explains="series",
        scope="network",
        sharing=lambda s, z: to.whole_to_patches(s.needs("patches")),
    ),
    "Prediction Diff": Row(
        "Prediction difference",
        _predicted_difference,
        theorem=5,
        explains="series",
        scope="network",
        sharing=_always(to.whole_to_members),
    ),
    "Grad-CAM": Row(
        "Grad-CAM",
        lambda f, x, s: grad_cam(f, x, s.needs("layer")),
        theorem=6,
        explains="pooled",
        scope="feature map",
        sharing=_always(to.first_order),
    ),
    "Integrated Grads": Row(
        "Integrated Gradients",
        lambda f, x, s: integrated_gradients(f, x, s.baseline, s.n_steps),
        theorem=7,
        explains="series",
        scope="network",
        sharing=_always(to.by_degree),
    ),
    "Expected Grads": Row(
        "Expected Gradients",
        _expected_gradients,
        theorem=8,
        explains="series",
        scope="network",
        sharing=_always(to.by_degree),
    ),
    "Shapley value": Row(
        "Shapley values",
        lambda f, x, s: shapley(f, x, s.baseline, s.players, s.n_permutations, s.generator()),
        theorem=9,
        explains="series",
        scope="network",
        sharing=_always(to.equally),
    ),
    "LRP-epsilon": Row(
        "epsilon-LRP",
        lambda f, x, s: lrp_epsilon(f, x, s.epsilon, s.elementwise),
        theorem=10,
        explains="tangent",
        scope="network",
        sharing=_always(to.first_order),
    ),
    "LRP-alpha-beta": Row(
        "alpha-beta-LRP",
        lambda f, x, s: lrp_alpha_beta(f, x, s.alpha, s.alpha - 1, s.elementwise),
        theorem=11,
        explains="series",
        scope="module",
        sharing=lambda s, z: to.by_sign(s.alpha, 1 - s.alpha, z),
    ),
    "Deep Taylor": Row(
        "alpha-beta-LRP",
        lambda f, x, s: lrp_alpha_beta(f, x, 1, 0, s.elementwise),
        theorem=12,
        explains="series",
        scope="module",
        sharing=lambda s, z: to.by_sign(1, 0, z),
    ),
    "DeepLIFT Rescale": Row(
        "DeepLIFT (Rescale)",
        lambda f, x, s: deeplift_rescale(f, x, s.baseline, elementwise=s.elementwise),
        theorem=13,
        explains="series",
        scope="module",
        sharing=_always(to.by_degree),
    ),
    "DeepLIFT RevealCancel": Row(
        "DeepLIFT (RevealCancel)",
        lambda f, x, s: deeplift_reveal_cancel(f, x, s.baseline),
        theorem=14,
        explains="series",
        scope="module",
        sharing=lambda s, z: to.within_signs(z),
    ),
    "Deep SHAP": Row(
        "Deep SHAP",
        lambda f, x, s: deep_shap_by_modules(f, x, s.baseline, s.n_pairs, s.generator()),
        theorem=15,
        explains="series",
        scope="module",
        sharing=_always(to.equally),
    ),
}
