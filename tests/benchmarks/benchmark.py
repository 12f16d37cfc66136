"""What the methods cost, in units of the bare passes through the network that they need.

    pip install -c constraints.txt '.[book,test,peers]'
    python tests/benchmarks/benchmark.py            # writes book/benchmarks.json

Each repeat times the bare passes, the method and its counterparts in other libraries in turn in one
process, so a busy machine slows all alike; reported are the median of the ratios and their range.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import click
import peers
import torch
from torch import Tensor, nn
from tqdm import tqdm

from attribook import methods
from attribook.coalitions import MaskedGame, all_coalitions, dividends
from attribook.criteria import correlation
from attribook.neurons import conductance
from attribook.numerics import at_once
from attribook.papers.architectures import stages
from attribook.papers.data import fashion_mnist, mnist5k, photos20
from attribook.papers.networks import load_model, resolve_device
from attribook.score import Score

RESULT = Path(__file__).parents[2] / "book" / "benchmarks.json"
COLUMNS = ("network", "method", "bare, ms", "ratio", "range", "target", *peers.NAMES)
NETWORKS = ("mlp-relu", "cnn-relu", "fashion-tanh", "vgg-small", "lite0")
GAMES = ("mlp-sigmoid", "lite0-game")
PLAYERS, BASELINES = 6, 4
SHORTEST = 0.05  # seconds of bare passes in one timing


@dataclass(frozen=True)
class Setting:
    """A network with the inputs to explain, or with one input and the sizes of games played on it."""

    name: str
    model: nn.Sequential
    inputs: Tensor
    n_steps: int
    layers: tuple[str, ...] = ()  # whose neurons are explained
    games: tuple[tuple[int, int], ...] = ()  # players and coalitions of each

    @property
    def score(self) -> Score:
        """The score of class 0, the same for everybody."""
        return Score(self.model, 0)

    def players(self, n: int = PLAYERS) -> Tensor:
        """Group 0 to n - 1 of every feature, in order of the features."""
        features = self.inputs[0].numel()
        numbers = torch.arange(features, device=self.inputs.device) * n // features
        return numbers.view_as(self.inputs[0])


@dataclass(frozen=True)
class Case:
    """One method: how to call it, the passes it cannot do without, and who else has it.

    `target` is the ratio aimed at in the design, None where none was set. With a `layer`, the bare
    passes are two forward through the part below and one forward and backward through the rest.
    """

    method: str
    ours: Callable[[], Tensor]
    rows: int
    backward: bool
    target: float | None = None
    peers: dict[str, Callable[[], Tensor]] = field(default_factory=dict)
    layer: str | None = None


def cases(at: Setting) -> list[Case]:
    """The methods compared on one network, or the games played on it."""
    if at.games:
        return [game_case(at, n, first) for n, first in at.games]
    score, x, n = at.score, at.inputs, at.n_steps
    batch, one, k, groups = len(x), torch.zeros_like(x[:1]), BASELINES, at.players()
    greys = torch.linspace(0, 0.3, k, device=x.device).view(-1, *[1] * (x.dim() - 1))
    many = greys.expand(k, *x.shape[1:]).contiguous()
    together, model = at_once(x.numel()) * batch, at.model

    return [
        Case("gradient", lambda: methods.gradient(score, x), batch, True),
        Case(
            "epsilon-LRP",
            lambda: methods.lrp_epsilon(score, x),
            batch,
            True,
            1.5,
            peers.epsilon_lrp(model, x),
        ),
        Case(
            "alpha-beta-LRP",
            lambda: methods.lrp_alpha_beta(score, x),
            batch,
            True,
            3.5,
            peers.alpha_beta_lrp(model, x),
        ),
        Case(
            "DeepLIFT (Rescale)",
            lambda: methods.deeplift_rescale(score, x, one),
            batch + 1,
            True,
            1.6,
            peers.deeplift(model, x, one),
        ),
        Case(
            f"Deep SHAP, {k} shared baselines",
            lambda: methods.deep_shap(score, x, many),
            k * (batch + 1),
            True,
            2.5,
            peers.deep_shap(model, x, many),
        ),
        Case(
            f"Integrated Gradients, {n} nodes",
            lambda: methods.integrated_gradients(score, x, one, n),
            n * batch,
            True,
            1.1,
            peers.integrated_gradients(model, x, one, n, together),
        ),
        Case(
            f"Expected Gradients, {k} x {n // k} nodes",
            lambda: methods.expected_gradients(score, x, many, n // k),
            n // k * k * batch,
            True,
            1.1,
        ),
        Case(
            f"occlusion, {PLAYERS} players",
            lambda: methods.occlusion(score, x, one, groups),
            (PLAYERS + 1) * batch,
            False,
            None,
            peers.occlusion(model, x, one, groups),
        ),
        Case(
            f"exact Shapley, {PLAYERS} players",
            lambda: methods.shapley(score, x, one, groups),
            2**PLAYERS * batch,
            False,
            1.2,
        ),
        Case(
            f"Harsanyi dividends, {PLAYERS} players",
            lambda: dividends(MaskedGame(score, x, one, groups)),
            2**PLAYERS * batch,
            False,
            1.2,
        ),
        *(case for layer in at.layers for case in neuron_cases(at, layer)),
    ]


def game_case(at: Setting, n: int, first: int) -> Case:
    """The values of the first of all 2^n coalitions in the game of n players."""
    score, groups = at.score, at.players(n)
    return Case(
        f"all 2^{n} values" if first == 2**n else f"{first} of all 2^{n} values",
        lambda: MaskedGame(score, at.inputs, None, groups)(all_coalitions(n)[:first]),
        first,
        False,
        1.2,
    )


def neuron_cases(at: Setting, layer: str) -> list[Case]:
    """All neurons of a layer at once; captum has the conductance, and for a patch one neuron."""
    score, x, n = at.score, at.inputs, at.n_steps
    black, module = torch.zeros_like(x[:1]), at.model.get_submodule(layer)
    patch = torch.zeros(x.shape[2:], dtype=torch.bool, device=x.device)
    patch[patch.shape[0] // 3 : 2 * patch.shape[0] // 3] = True
    neurons = score.split(layer)[0](x[:1])[0]
    first = (0,) * neurons.dim()
    size, rows = f"{neurons.numel():,} neurons", n * len(x)
    return [
        Case(
            f"conductance, {size}",
            lambda: conductance(score, x, layer, black, n_steps=n),
            rows,
            True,
            1.5,
            peers.conductance(at.model, module, x, black, n),
            layer,
        ),
        Case(
            f"one patch to {size}",
            lambda: conductance(score, x, layer, black, patch, n_steps=n),
            rows,
            True,
            1.5,
            peers.conductance_of_one(at.model, module, first, x, black, n),
            layer,
        ),
    ]


def bare(at: Setting, case: Case) -> Callable[[], None]:
    """Exactly the passes of `case`, on prepared rows, in the batch sizes the library uses."""
    x = at.inputs
    rows = x.repeat(-(-case.rows // len(x)), *[1] * (x.dim() - 1))[: case.rows].contiguous()
    chunks = rows.split(at_once(x.numel()) * len(x))
    if case.rows <= len(x) + 1:
        chunks = [rows]

    def forward_only() -> None:
        with torch.no_grad():
            for chunk in chunks:
                at.score(chunk)

    def forward_and_backward() -> None:
        for chunk in chunks:
            leaf = chunk.detach().requires_grad_()
            torch.autograd.grad(at.score(leaf).sum(), leaf)

    def through_a_layer() -> None:
        head, tail = at.score.split(case.layer)
        for chunk in chunks:
            with torch.no_grad():
                head(chunk)
                leaf = head(chunk)
            leaf = leaf.detach().requires_grad_()
            torch.autograd.grad(tail(leaf).sum(), leaf)

    if case.layer:
        return through_a_layer
    return forward_and_backward if case.backward else forward_only


def measure(at: Setting, case: Case, repeats: int) -> list:
    """One row of the table; calls much shorter than a tick of the scheduler are timed together."""
    runs = [bare(at, case), case.ours, *case.peers.values()]
    results = [run() for run in runs]  # a warm-up
    device = at.inputs.device
    number = max(1, round(SHORTEST / _seconds(runs[0], 1, device)))
    times = [[_seconds(run, number, device) for run in runs] for _ in range(repeats)]
    ratios = list(zip(*([time / row[0] for time in row[1:]] for row in times), strict=True))
    least, ratio, most = min(ratios[0]), statistics.median(ratios[0]), max(ratios[0])
    milliseconds = statistics.median(row[0] for row in times) / number * 1e3
    others = dict.fromkeys(peers.NAMES, "–")
    for name, theirs, found in zip(case.peers, ratios[1:], results[2:], strict=True):
        others[name] = f"{statistics.median(theirs):.2f}"
        if found.shape == results[1].shape:
            alike = correlation(results[1], found.detach().to(results[1])).median().item()
            others[name] += f" ({alike:.2f})"
    cost = [f"{milliseconds:.1f}", f"{ratio:.2f}", f"{least:.2f}–{most:.2f}"]
    return [at.name, case.method, *cost, case.target or "–", *others.values()]


def settings(names: tuple[str, ...], device: torch.device) -> Iterator[Setting]:
    """The networks, with weights and inputs on the device."""
    digits = mnist5k().test_images[:64].to(device)
    photos = photos20().images[:2].to(device)
    small = torch.nn.functional.interpolate(photos, 64, mode="area").repeat(4, 1, 1, 1)
    clothes = fashion_mnist().test_images[:64].to(device) if "fashion-tanh" in names else None
    inputs = {
        "mlp-relu": digits,
        "cnn-relu": digits,
        "fashion-tanh": clothes,
        "vgg-small": small,
        "lite0": photos,
        "mlp-sigmoid": digits[:1],
        "lite0-game": photos[:1],
    }
    layers = {"fashion-tanh": ("act4", "pool1"), "lite0": ("group3.1",)}
    games = {"mlp-sigmoid": ((12, 2**12), (16, 2**16)), "lite0-game": ((12, 130),)}
    for name in names:
        model = vgg_small() if name == "vgg-small" else load_model(name.removesuffix("-game"))
        of = {"layers": layers.get(name, ()), "games": games.get(name, ())}
        yield Setting(name, model.to(device), inputs[name], 20, **of)


def vgg_small() -> nn.Sequential:
    """Six convolutions with max-pooling, 3 x 64 x 64 to ten classes, made of modules only."""
    parts, channels = {}, 3
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        for i, out in enumerate((32, 32, 64, 64, 128, 128), start=1):
            parts[f"conv{i}"] = nn.Conv2d(channels, out, 3, padding=1)
            parts[f"act{i}"] = nn.ReLU()
            if i % 2 == 0:
                parts[f"pool{i}"] = nn.MaxPool2d(2)
            channels = out
        parts["flatten"] = nn.Flatten()
        parts["logits"] = nn.Linear(128 * 8 * 8, 10)
    return stages(**parts).eval()


def _seconds(run: Callable, number: int, device: torch.device) -> float:
    """Wall time of `number` calls, with the device's queue empty before and after."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(number):
        run()
    wait()
    return time.perf_counter() - start


def _write(path: Path, device: torch.device, rows: list[list], repeats: int) -> None:
    """Replace this device's table and environment, keep the other device's."""
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    tables = [t for t in old.get("tables", []) if t["device"] != device.type]
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else ""
    caption = (
        f"Time over the time of the bare passes, on {gpu or 'CPU'}: median and range of {repeats}"
        " pairs. Other libraries: their ratio and, in brackets, the median correlation of their map"
        " with ours."
    )
    tables.append(
        {"device": device.type, "caption": caption, "columns": list(COLUMNS), "rows": rows}
    )
    environment = {
        **old.get("environment", {}),
        f"{device.type}: device": gpu or f"{platform.machine()} CPU",
        f"{device.type}: threads": torch.get_num_threads(),
        f"{device.type}: torch": version("torch"),
        **{f"{device.type}: {name}": version(name) for name in peers.NAMES},
        f"{device.type}: python": platform.python_version(),
        f"{device.type}: repeats": repeats,
    }
    text = json.dumps({"tables": tables, "environment": environment}, indent=1, ensure_ascii=False)
    partial = path.with_name(path.name + ".part")
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, path)


@click.command()
@click.option("--device", default="auto", help="auto, cpu or cuda.")
@click.option("--repeats", default=5, type=click.IntRange(5), help="Timed rounds, at least 5.")
@click.option(
    "--network",
    "names",
    multiple=True,
    type=click.Choice(NETWORKS + GAMES),
    help="Only these networks; nothing is written then.",
)
def main(device: str, repeats: int, names: tuple[str, ...]) -> None:
    """Measure every method on every network and write book/benchmarks.json."""
    warnings.filterwarnings("ignore", module="captum|shap|zennit|torch.nn.modules.module")
    place = resolve_device(device)
    rows = []
    for at in settings(names or NETWORKS + GAMES, place):
        for case in tqdm(cases(at), desc=at.name, leave=False):
            rows.append(measure(at, case, repeats))
            tqdm.write("  ".join(str(cell) for cell in rows[-1]))
    if not names:
        _write(RESULT, place, rows, repeats)
        click.echo(RESULT)


if __name__ == "__main__":
    main()
