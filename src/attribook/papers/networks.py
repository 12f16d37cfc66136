"""The networks by name: what each is built by, how it is trained, and where its weights come from.

`lite0`, `lite1`, `lite2` are EfficientNet-Lite with ImageNet weights. The others are small and
exactly reproducible from their seed. Trained on 4,000 MNIST digits: `mlp-*` and `cnn-*` with four
activations, and for [taylor] `mlp3-*`, `conv-*` and the polynomial `mnist-quadratic`. Trained on
Fashion-MNIST: `fashion-tanh` and `fashion-relu`, the network of [integrated, App. M],
`fashion-conv-relu`, and `clutter-relu`, which finds the clothes on larger canvases with clutter.
"""

from __future__ import annotations

import json
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import fuse_conv_bn_eval
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from attribook.papers import sources, weightfiles
from attribook.papers.architectures import (
    cnn,
    efficientnet_lite,
    mlp,
    padded_cnn,
    pooled_cnn,
    quadratic,
    searching_cnn,
    stages,
)
from attribook.papers.data import (
    SOURCE_OF,
    Pictures,
    cluttered,
    fashion_mnist,
    mnist5k,
)
from attribook.papers.second_order import PACKED, on_grid
from attribook.papers.sources import READ, cache_folder, locate, sha256_of
from attribook.papers.weightfiles import AS_IT_IS, Packing

PACKAGED_SEEDS = range(6)  # weights that come with the package, so that no run trains them


def as_they_are(images: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """The images of these rows: what most networks are shown."""
    return images[rows]


def among_clutter(images: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """The objects of these rows at new places among new clutter, so that no two epochs are alike."""
    return cluttered(images, rows, generator)[0]


def constant(progress: float) -> float:
    """1: the learning rate at any moment of the training, in shares of the one given."""
    return 1.0


def up_and_down(progress: float) -> float:
    """The share of the learning rate, rising from 0 to 1 in 30 % of the training, then falling."""
    return min(progress / 0.3, (1 - progress) / 0.7)


def unchanged(model: nn.Sequential) -> nn.Sequential:
    """The model: how most trainings end."""
    return model


@dataclass(frozen=True)
class Training:
    """How a small network is trained: Adam on the cross-entropy, over all training images.

    Cached weights are known by the values of all fields and the names of their functions, so a
    function that comes to do something else gets another name.
    """

    learning_rate: float = 3e-3
    batch_size: int = 64
    epochs: int = 12
    data: Callable[[], Pictures] = mnist5k
    min_accuracy: float = 0.90  # below it, not worth explaining
    show: Callable[[Tensor, Tensor, torch.Generator], Tensor] = as_they_are
    schedule: Callable[[float], float] = constant
    batch_norm: bool = False  # after convolutions; folded in at the end
    finish: Callable[[nn.Sequential], nn.Sequential] = unchanged


@dataclass(frozen=True)
class Recipe:
    """How to build a network, and where its weights come from: training, or a checkpoint."""

    build: Callable[[], nn.Sequential]
    training: Training | None = None
    packing: Packing = AS_IT_IS  # of its files


def load_model(name: str, seed: int = 0) -> nn.Sequential:
    """The trained network, in evaluation mode, on the CPU; what its file says, to the last bit.

    Small networks: seeds 0 to 5 come with the package; another one is trained on first use (a few
    seconds, half a minute for `fashion-*`, three minutes for `clutter-relu`) and cached.
    EfficientNet-Lite has one set of weights, so there `seed` changes nothing; its batch norms are
    folded into the convolutions, and these keep their channels last, which a CPU takes faster.
    """
    recipe = _recipe(name)
    model = _initialised(recipe, seed)
    if recipe.training is None:
        model = _without_batch_norm(_with_checkpoint(model, *locate(name)))
        return model.to(memory_format=torch.channels_last)
    if seed in PACKAGED_SEEDS:
        return _filled(model, name, seed, packaged(name, seed))
    return _cached(model, name, seed)


def digest_of(name: str) -> str:
    """The sha256 that reading it would report, known without reading it; ValueError if none is.

    Of weights in the package ("cnn-tanh-seed1"), or of a data set or checkpoint ("mnist5k").
    """
    found = re.fullmatch(r"(.+)-seed(\d+)", name)
    if found is None:
        return sources.digest_of(name)
    network, seed = found[1], int(found[2])
    path = packaged(network, seed)
    if network not in RECIPES or not path.exists():
        raise ValueError(
            f"the package has no weights of {network} with seed {seed}, only {_held()}"
        )
    return weightfiles.stored_digest(path)


def untrained(name: str, seed: int = 0) -> nn.Sequential:
    """The same architecture with random weights, in evaluation mode: the control of an experiment.

    Leaves the global random state alone. Batch norm, the identity here, is folded in as in the
    trained one; the convolutions of EfficientNet-Lite are scaled so that activations keep their
    size through all 50 layers.
    """
    return _without_batch_norm(_initialised(_recipe(name), seed))


def accuracy(model: nn.Module, images: Float[Tensor, "n ..."], labels: Int[Tensor, " n"]) -> float:
    """The share of images whose largest logit is at their label."""
    device = next(model.parameters()).device
    hits = 0
    with torch.no_grad():
        for image, label in zip(images.split(100), labels.split(100), strict=True):
            hits += (model(image.to(device)).argmax(1).cpu() == label.cpu()).sum().item()
    return hits / len(labels)


def resolve_device(device: str) -> torch.device:
    """The device that a notebook's `device` parameter names; "auto": CUDA where there is one.

    The one place where "auto" has a meaning: notebooks ask, nothing else in the package picks one.
    """
    cuda = torch.cuda.is_available()
    if device == "auto":
        return torch.device("cuda" if cuda else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f'device "{device}" is none; use "auto", "cpu" or "cuda"') from error
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise ValueError(f'device "{device}" is not there; use "auto", which takes what there is')
    return resolved


ACTIVATIONS = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
}
SLOWER_TO_LEARN = {"sigmoid": Training(learning_rate=5e-3)}
ON_PAIRS = Training(1e-4, batch_size=100, epochs=4, finish=on_grid)
ON_FASHION = Training(1e-3, batch_size=128, epochs=5, data=fashion_mnist, min_accuracy=0.80)
# Chosen on accuracy alone, before any attribution: a net of this kind without batch norm reached
# 0.76 in three epochs; with it, 0.858 in three (16 channels in `conv1`) and 0.870 in four, as here.
AMONG_CLUTTER = Training(
    1e-2,
    batch_size=128,
    epochs=4,
    data=fashion_mnist,
    min_accuracy=0.85,
    show=among_clutter,
    schedule=up_and_down,
    batch_norm=True,
)

RECIPES: dict[str, Recipe] = {
    "lite0": Recipe(partial(efficientnet_lite, width=1.0, depth=1.0)),
    "lite1": Recipe(partial(efficientnet_lite, width=1.0, depth=1.1)),
    "lite2": Recipe(partial(efficientnet_lite, width=1.1, depth=1.2)),
    **{
        f"{family}-{name}": Recipe(partial(build, act), SLOWER_TO_LEARN.get(name, Training()))
        for family, build in {"mlp": mlp, "cnn": cnn}.items()
        for name, act in ACTIVATIONS.items()
    },
    "fashion-tanh": Recipe(partial(pooled_cnn, nn.Tanh), ON_FASHION),
    "fashion-relu": Recipe(partial(pooled_cnn, nn.ReLU), ON_FASHION),
    # of [taylor]: Table V, Fig. 5(a), Fig. 3, Fig. 5(b), where it leaves widths and training open
    "mnist-quadratic": Recipe(quadratic, ON_PAIRS, PACKED),
    "mlp3-sigmoid": Recipe(partial(mlp, nn.Sigmoid, width=64), Training(3e-3, epochs=30)),
    "mlp3-softplus": Recipe(partial(mlp, nn.Softplus, width=64), Training(1e-3, epochs=15)),
    "conv-sigmoid": Recipe(partial(padded_cnn, nn.Sigmoid), SLOWER_TO_LEARN["sigmoid"]),
    "conv-softplus": Recipe(partial(padded_cnn, nn.Softplus), Training()),
    "fashion-conv-relu": Recipe(partial(padded_cnn, nn.ReLU), ON_FASHION),
    "clutter-relu": Recipe(partial(searching_cnn, nn.ReLU), AMONG_CLUTTER),
}
MODELS = tuple(RECIPES)


# -- weights -----------------------------------------------------------------------------------


def train(name: str, seed: int = 0) -> nn.Sequential:
    """The network trained from scratch; the same seed gives the same bits on one machine."""
    recipe = _recipe(name)
    if recipe.training is None:
        raise ValueError(f"{name} comes from a checkpoint and has no training recipe here")
    how, data = recipe.training, recipe.training.data()
    model = _initialised(recipe, seed)
    model = (_with_batch_norm(model) if how.batch_norm else model).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=how.learning_rate)
    steps = how.epochs * math.ceil(len(data.train_labels) / how.batch_size)
    rate = LambdaLR(optimiser, lambda step: how.schedule(step / steps))
    generator = torch.Generator().manual_seed(seed)
    label = f"training {name}, seed {seed}"
    with _one_thread():
        # disable=None: a bar in a terminal, none in the outputs of a notebook that is compared
        for _ in tqdm(range(how.epochs), desc=label, unit="epoch", disable=None):
            order = torch.randperm(len(data.train_labels), generator=generator)
            for rows in order.split(how.batch_size):
                logits = model(how.show(data.train_images, rows, generator))
                optimiser.zero_grad()
                F.cross_entropy(logits, data.train_labels[rows]).backward()
                optimiser.step()
                rate.step()
    optimiser.zero_grad()
    model = how.finish(_without_batch_norm(model))
    rows, generator = torch.arange(len(data.test_labels)), torch.Generator().manual_seed(0)
    reached = accuracy(model, how.show(data.test_images, rows, generator), data.test_labels)
    if reached <= how.min_accuracy:
        raise ValueError(
            f"{name} with seed {seed} reached a test accuracy of {reached:.3f}, "
            f"wanted more than {how.min_accuracy}; choose another seed"
        )
    return model


def save(model: nn.Module, path: Path) -> None:
    """Write the weights with their digest; the file appears whole or not at all."""
    weightfiles.write(model, path)


def renew(name: str, seed: int = 0) -> Path:
    """The package's file of these weights, trained anew: for a network whose recipe changed.

    Every row of the ledger that read it is stale then. For all seeds of a network, in Python:
    `for seed in PACKAGED_SEEDS: renew("cnn-tanh", seed)`.
    """
    path = packaged(name, seed)
    weightfiles.write(train(name, seed), path, _recipe(name).packing)
    return path


def packaged(name: str, seed: int = 0) -> Path:
    """Where the package keeps weights, there or not."""
    file = f"{name}-seed{seed}.safetensors" if seed else f"{name}.safetensors"
    return Path(str(files("attribook.papers") / "weights" / file))


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise ValueError(f'no model "{name}"; there are {", ".join(MODELS)}')
    return RECIPES[name]


def _initialised(recipe: Recipe, seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone; manual_seed reaches the GPUs
        return recipe.build()


def _with_batch_norm(model: nn.Sequential) -> nn.Sequential:
    """The model with a batch norm after each convolution, in a stage of its own."""
    parts = {}
    for key, stage in model.named_children():
        parts[key] = stage
        if isinstance(stage, nn.Conv2d):
            parts[f"{key}_norm"] = nn.BatchNorm2d(stage.out_channels)
    return stages(**parts)


def _without_batch_norm(model: nn.Sequential) -> nn.Sequential:
    """The same function, with each batch norm folded into the convolution before it.

    In place; the model is in evaluation mode from here on, for there batch norm is affine.
    """
    for part in list(model.eval().modules()):
        if isinstance(part, nn.Sequential):
            for (name, conv), (after, norm) in pairwise(list(part.named_children())):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    setattr(part, name, fuse_conv_bn_eval(conv, norm))
                    delattr(part, after)
    return model


def _with_checkpoint(model: nn.Sequential, path: Path) -> nn.Sequential:
    """The model with a checkpoint's weights, matched by order: both list layers as data flows."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    state = dict(zip(model.state_dict(), checkpoint.values(), strict=True))
    model.load_state_dict(state)
    return model


def _cached(model: nn.Sequential, name: str, seed: int) -> nn.Sequential:
    """The model with its weights from the cache; trained anew where none are, or damaged ones."""
    path = cache_folder() / "models" / f"{name}-seed{seed}-{_key(name)}.safetensors"
    if path.exists():
        try:
            return _filled(model, name, seed, path)
        except ValueError as error:
            warnings.warn(f"{error}; training it again", stacklevel=3)
    weightfiles.write(train(name, seed), path, RECIPES[name].packing)
    return _filled(model, name, seed, path)


def _filled(model: nn.Sequential, name: str, seed: int, path: Path) -> nn.Sequential:
    """The model with the weights of a file, which the run's record gets to know of."""
    digest = weightfiles.fill(model, path, RECIPES[name].packing)
    sys.audit(READ, f"{name}-seed{seed}", digest)
    return model.eval()


def _key(name: str) -> str:
    """A digest of all that decides what training gives: architecture, data, recipe, torch."""
    recipe = RECIPES[name]
    model, how = _initialised(recipe, 0), recipe.training
    source = SOURCE_OF.get(how.data)
    made_from = {
        "modules": [f"{_named(type(module))} {module!r}" for module in model.modules()],
        "tensors": weightfiles.shapes(model.state_dict()),
        "data": sources.digest_of(source) if source else "",
        "file": recipe.packing.form,
        "training": {field.name: _named(getattr(how, field.name)) for field in fields(how)},
        "torch": torch.__version__,
    }
    return sha256_of([json.dumps(made_from, sort_keys=True).encode()])[:12]


def _named(value: object) -> str:
    """A number as it is; a function or a class by where it stands, for its repr has an address."""
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else repr(value)


def _held() -> str:
    trained = [name for name, recipe in RECIPES.items() if recipe.training]
    return f"seeds {PACKAGED_SEEDS[0]} to {PACKAGED_SEEDS[-1]} of {', '.join(trained)}"


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums do not depend on how many cores the machine has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
