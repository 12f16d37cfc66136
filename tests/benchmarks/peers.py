"""The same methods in other libraries: captum, zennit (LRP) and shap (DeepExplainer).

Each function gives the calls to time, by library; a library that has no such rule for a network, or
is not installed, is left out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import captum.attr
import torch
from torch import Tensor, nn

NAMES = ("captum", "zennit", "shap")
Calls = dict[str, Callable[[], Tensor]]

_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):  # torchvision, which zennit imports, looks for them on a CPU as well
    if not hasattr(torch.ops.torchvision, _name):
        _OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import shap  # noqa: E402
import zennit.attribution  # noqa: E402
import zennit.composites  # noqa: E402
import zennit.rules  # noqa: E402
import zennit.types  # noqa: E402


class Flattening(nn.Module):
    """The same network, flattening by a function: captum's LRP cannot pass a Flatten module."""

    def __init__(self, model: nn.Sequential):
        super().__init__()
        self.stages = nn.ModuleList(stage for stage in model if not isinstance(stage, nn.Flatten))

    def forward(self, x: Tensor) -> Tensor:
        """The stages in order."""
        for stage in self.stages:
            x = stage(x.flatten(1) if isinstance(stage, nn.Linear) else x)
        return x


def epsilon_lrp(model: nn.Sequential, x: Tensor) -> Calls:
    """epsilon-LRP of class 0."""
    calls = {"zennit": lambda: _zennit(model, x, lambda: zennit.rules.Epsilon(1e-9))}
    known = (nn.Conv2d, nn.Linear, nn.ReLU, nn.MaxPool2d, nn.Flatten)
    if all(type(stage) in known for stage in model):
        found = captum.attr.LRP(Flattening(model).eval())
        calls["captum"] = lambda: found.attribute(x, 0)
    return calls


def alpha_beta_lrp(model: nn.Sequential, x: Tensor) -> Calls:
    """alpha2-beta1-LRP of class 0; zennit's shares out to the biases, too."""
    return {"zennit": lambda: _zennit(model, x, lambda: zennit.rules.AlphaBeta(2, 1))}


def deeplift(model: nn.Sequential, x: Tensor, baseline: Tensor) -> Calls:
    """DeepLIFT (Rescale) of class 0."""
    return {
        "captum": lambda: captum.attr.DeepLift(model).attribute(x, baseline, 0),
        "shap": _deep_explainer(model, x, baseline),
    }


def deep_shap(model: nn.Sequential, x: Tensor, baselines: Tensor) -> Calls:
    """DeepLIFT averaged over baselines."""
    return {
        "captum": lambda: captum.attr.DeepLiftShap(model).attribute(x, baselines, 0),
        "shap": _deep_explainer(model, x, baselines),
    }


def integrated_gradients(model, x: Tensor, baseline: Tensor, n: int, together: int) -> Calls:
    """Integrated Gradients with n nodes, `together` rows a pass."""
    found = captum.attr.IntegratedGradients(model)
    how = {"n_steps": n, "internal_batch_size": together}
    return {"captum": lambda: found.attribute(x, baseline, 0, **how)}


def occlusion(model: nn.Sequential, x: Tensor, baseline: Tensor, groups: Tensor) -> Calls:
    """The drop when a group of features is replaced, shared out equally over its features."""
    found, players = captum.attr.FeatureAblation(model), int(groups.max()) + 1
    how = {"feature_mask": groups[None], "perturbations_per_eval": players}
    sizes = torch.bincount(groups.flatten())[groups]
    return {"captum": lambda: found.attribute(x, baseline, 0, **how) / sizes}


def conductance(model, module: nn.Module, x: Tensor, baseline: Tensor, n: int) -> Calls:
    """The conductance of every neuron of a layer, by differences between neighbouring nodes."""
    found = captum.attr.LayerConductance(model, module)
    how = {"target": 0, "n_steps": n, "method": "gausslegendre"}
    return {"captum": lambda: found.attribute(x, baseline, **how)}


def conductance_of_one(model, module, neuron: tuple, x: Tensor, baseline: Tensor, n: int) -> Calls:
    """What flows from each input through one neuron."""
    found = captum.attr.NeuronConductance(model, module)
    how = {"target": 0, "n_steps": n, "method": "gausslegendre", "baselines": baseline}
    return {"captum": lambda: found.attribute(x, neuron_selector=neuron, **how)}


def _zennit(model: nn.Sequential, x: Tensor, rule: Callable) -> Tensor:
    """Relevance by one rule for all layers; a fresh composite a call, as its hooks keep state."""
    rules = [
        (zennit.types.Activation, zennit.rules.Pass()),
        (zennit.types.Linear, rule()),
        (zennit.types.AvgPool, zennit.rules.Norm()),
    ]
    composite = zennit.composites.LayerMapComposite(rules)
    with zennit.attribution.Gradient(model, composite) as attribute:
        first = torch.zeros(model[-1].out_features).to(x)
        first[0] = 1
        return attribute(x, lambda outputs: outputs * first)[1]


def _deep_explainer(model: nn.Sequential, x: Tensor, baselines: Tensor) -> Callable[[], Tensor]:
    """shap's explainer of a network that ends in class 0 alone; it would explain every class."""
    alone, last = copy.deepcopy(model), model[-1]
    alone[-1] = nn.Linear(last.in_features, 1).to(x)
    alone[-1].load_state_dict({"weight": last.weight[:1], "bias": last.bias[:1]})

    def run() -> Tensor:
        explainer = shap.DeepExplainer(alone, baselines)
        return torch.from_numpy(explainer.shap_values(x, check_additivity=False)[..., 0])

    return run
