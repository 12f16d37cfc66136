"""The small networks that the tests take apart, all in float64 and evaluation mode."""

from functools import cache

import numpy as np
import reference as ref
import torch
from torch import nn


def dense(weight, bias=None):
    """nn.Linear with these weights."""
    weight = torch.tensor(weight, dtype=torch.float64)
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.zeros(len(weight)) if bias is None else torch.tensor(bias))
    return layer


def sqrt_of_softplus():
    """Two nonlinearities in a row, the second defined on positive numbers only."""
    return nn.Sequential(
        nn.Softplus(), ref.Apply(torch.sqrt, np.sqrt, lambda z: 1 / (2 * np.sqrt(z)))
    )


def clamped():
    low, high = -0.7, 1.5
    return ref.Apply(lambda z: torch.clamp(z, low, high), *ref.clamp(low, high))


ACTIVATIONS = {
    "ReLU": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "ReLU6": nn.ReLU6,
    "leaky ReLU": nn.LeakyReLU,
    "ELU": nn.ELU,
    "SiLU": nn.SiLU,
    "GELU": nn.GELU,
    "sqrt of softplus": sqrt_of_softplus,
    "clamp": clamped,
}


def mlp(activation):
    return [
        nn.Linear(5, 6),
        activation(),
        nn.Linear(6, 5),
        activation(),
        nn.Linear(5, 3),
    ]


def cnn_average(activation):
    return [
        nn.Conv2d(2, 3, 3, padding=1),
        activation(),
        nn.AvgPool2d(2),
        nn.Conv2d(3, 4, 2, bias=False),
        activation(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    ]


def cnn_residual(activation):
    body = (nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), activation(), nn.Conv2d(3, 3, 1))
    shortcut = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3))
    branches = (nn.Conv2d(3, 2, 1), nn.Sequential(nn.Conv2d(3, 1, 3, padding=1), activation()))
    return [
        nn.Conv2d(2, 3, 3, padding=1, stride=2),
        nn.BatchNorm2d(3),
        activation(),
        ref.Residual(nn.Sequential(*body)),
        activation(),
        ref.Residual(nn.Conv2d(3, 3, 1), shortcut),
        ref.Concat(*branches),
        nn.AvgPool2d(3),
        nn.Flatten(),
        nn.Linear(3, 3),
    ]


def cnn_max(activation):
    return [
        nn.Conv2d(2, 3, 2),
        activation(),
        nn.MaxPool2d(3, stride=2, padding=1),  # windows overlap
        nn.Conv2d(3, 4, 2),
        activation(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4, 3),
    ]


NETWORKS = {
    "MLP": (mlp, (5,)),
    "CNN with average pooling": (cnn_average, (2, 6, 6)),
    "residual CNN with batch-norm": (cnn_residual, (2, 6, 6)),
    "CNN with max-pooling": (cnn_max, (2, 6, 6)),
}


@cache
def network(name: str, activation: str) -> tuple[nn.Sequential, tuple[int, ...]]:
    """A network of NETWORKS with an activation of ACTIVATIONS, and the shape of one input."""
    stages, shape = NETWORKS[name]
    gain = 5.0 if activation == "ReLU6" else 1.5  # enough for some units to pass 6
    return lively(nn.Sequential(*stages(ACTIVATIONS[activation])), gain=gain), shape


def lively(model: nn.Module, seed: int = 0, gain: float = 1.5) -> nn.Module:
    """The model with random weights, biases away from zero and batch-norm statistics."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor, low, high):
        return tensor.uniform_(low, high, generator=generator)

    with torch.no_grad():
        for module in model.double().modules():
            weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
            if isinstance(module, nn.BatchNorm2d):
                uniform(weight, 0.5, 2)
                module.running_mean.normal_(generator=generator)
                uniform(module.running_var, 0.5, 2)
            elif weight is not None:
                weight.normal_(0, gain / weight[0].numel() ** 0.5, generator=generator)
            if bias is not None:
                uniform(bias, 0.2, 1).mul_(uniform(torch.empty_like(bias), -1, 1).sign())
    return model.eval()


def points(shape: tuple[int, ...], n: int = 3, seed: int = 1) -> torch.Tensor:
    """n standard normal inputs."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *shape, dtype=torch.float64, generator=generator)


def state_of(model):
    """Everything about a model that a method could leave changed."""
    return {
        "parameters": {k: v.clone() for k, v in model.state_dict().items()},
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [p.grad for p in model.parameters()],
        "training": [m.training for m in model.modules()],
        "hooks": [
            len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
            for m in model.modules()
        ],
        "attributes": [sorted(vars(m)) for m in model.modules()],
    }


def assert_same_state(before, after):
    parameters = before.pop("parameters"), after.pop("parameters")
    assert before == after
    assert all(torch.equal(parameters[0][k], parameters[1][k]) for k in parameters[0])
