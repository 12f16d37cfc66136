"""The fourteen methods of [taylor, Table IV], each against its definition in plain loops."""

import itertools

import pytest
import torch
from torch import nn

from attribook.baselines import Law
from attribook.effects import degrees
from attribook.methods import METHODS
from attribook.papers.definitions import as_graph, deeplift_layerwise, lrp_layerwise
from attribook.papers.functions.toys import random_cnn, random_mlp
from attribook.papers.taylor.fourteen import FOURTEEN, Setting
from attribook.papers.taylor.layers import (
    alpha_beta,
    deep_taylor,
    module_shapley,
    propagate,
    reveal_cancel,
)
from attribook.papers.taylor.probes import probe
from attribook.score import Score

NAMES = tuple(FOURTEEN)
LAW_WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
PATCHES = torch.tensor([0, 0, 1, 1, 2, 2])


def draw(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def example():
    """A softplus network, three inputs with a target each, and a setting with everything in it."""
    generator = torch.Generator().manual_seed(4)
    net = random_mlp(nn.Softplus, generator, (6, 7, 5, 3))
    inputs, target = draw(generator, 3, 6), torch.tensor([2, 0, 1])
    setting = Setting(
        baseline=draw(generator, 1, 6),
        baselines=Law(draw(generator, 3, 1, 6), LAW_WEIGHTS),
        patches=PATCHES,
        n_steps=40,
    )
    return net, Score(net, target), inputs, target, setting


def run(name, score, inputs, setting):
    return FOURTEEN[name].run(score, inputs, setting)


def one_at_a_time(net, inputs, target, attribution):
    """The attribution of each sample by itself, from its own score function."""
    rows = []
    for x, t in zip(inputs, target, strict=True):
        rows.append(attribution(lambda u, t=t: net(u[None])[0, t], x))
    return torch.stack(rows)


def occluded(f, x, b, removed):
    y = x.clone()
    y[removed] = b[removed]
    return (f(x) - f(y)).detach()


def slope_by_differences(f, x, i, h=1e-5):
    step = torch.zeros_like(x)
    step[i] = h
    return ((f(x + step) - f(x - step)) / (2 * h)).detach()


def gradient_x_input(f, x, s):
    return torch.stack([x[i] * slope_by_differences(f, x, i) for i in range(len(x))])


def occlusion_1(f, x, s, b=None):
    b = s.baseline[0] if b is None else b
    return torch.stack([occluded(f, x, b, [i]) for i in range(len(x))])


def occlusion_patch(f, x, s):
    b = s.baseline[0]
    return torch.stack(
        [occluded(f, x, b, [j for j in range(len(x)) if PATCHES[j] == p]) for p in PATCHES]
    )


def prediction_difference(f, x, s):
    points = zip(s.baselines.weights, s.baselines.points, strict=True)
    return sum(w * occlusion_1(f, x, s, b[0]) for w, b in points)


def integrated(f, x, s, b=None, n=2000):
    b = s.baseline[0] if b is None else b
    total = torch.zeros_like(x)
    for k in range(n):
        point = (b + (k + 0.5) / n * (x - b)).requires_grad_()
        total += torch.autograd.grad(f(point), point)[0] / n
    return (x - b) * total


def expected_gradients(f, x, s):
    points = zip(s.baselines.weights, s.baselines.points, strict=True)
    return sum(w * integrated(f, x, s, b[0], n=700) for w, b in points)


def shapley(f, x, s):
    values, b = torch.zeros_like(x), s.baseline[0]
    orders = list(itertools.permutations(range(len(x))))
    seen = {}
    for order in orders:
        y = b.clone()
        for i in order:
            before = seen.setdefault(tuple(y.tolist()), f(y).detach())
            y[i] = x[i]
            after = seen.setdefault(tuple(y.tolist()), f(y).detach())
            values[i] += (after - before) / len(orders)
    return values


BY_DEFINITION = {
    "Grad x Input": (gradient_x_input, 1e-8),
    "Occlusion-1": (occlusion_1, 1e-12),
    "Occlusion-patch": (occlusion_patch, 1e-12),
    "Prediction Diff": (prediction_difference, 1e-12),
    "Integrated Grads": (integrated, 1e-6),
    "Expected Grads": (expected_gradients, 1e-5),
    "Shapley value": (shapley, 1e-12),
}


@pytest.mark.parametrize("name", BY_DEFINITION)
def test_a_method_on_the_input_is_its_definition(example, name):
    net, score, inputs, target, setting = example
    by_definition, tolerance = BY_DEFINITION[name]
    slow = one_at_a_time(net, inputs, target, lambda f, x: by_definition(f, x, setting))
    torch.testing.assert_close(run(name, score, inputs, setting), slow, rtol=0, atol=tolerance)


def test_lrp_epsilon_and_rescale_are_the_sums_over_units(example):
    net, score, inputs, target, setting = example
    graph = as_graph(net, (6,))
    samples = list(zip(inputs, target.tolist(), strict=True))
    lrp = [lrp_layerwise(graph, x, t, setting.epsilon) for x, t in samples]
    rescale = [deeplift_layerwise(graph, x, setting.baseline[0], t) for x, t in samples]
    for name, slow in {"LRP-epsilon": lrp, "DeepLIFT Rescale": rescale}.items():
        slow = torch.stack([torch.from_numpy(row) for row in slow])
        fast = run(name, score, inputs, setting)
        torch.testing.assert_close(
            fast, slow, rtol=1e-4, atol=1e-4
        )  # LRP: epsilon stands elsewhere


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("LRP-alpha-beta", alpha_beta(2, -1)),
        ("Deep Taylor", deep_taylor),
        ("DeepLIFT RevealCancel", reveal_cancel),
        ("Deep SHAP", module_shapley()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_rule_for_layers_is_the_rule_of_one_layer(example, name, rule):
    net, score, inputs, target, setting = example
    slow = propagate(rule, net, inputs, setting.baseline, target)
    fast = run(name, score, inputs, setting)
    torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-6)  # the chain divides by z + 1e-9


def test_grad_cam_is_the_rectified_sum_of_weighted_channels():
    generator = torch.Generator().manual_seed(1)
    net, images = random_cnn(nn.Tanh, generator), draw(generator, 2, 2, 8, 8)
    score = Score(net, 1)
    fast = run("Grad-CAM", score, images, Setting(layer="act1"))
    activations = net.act1(net.conv1(images)).detach().requires_grad_()
    outputs = net.dense(net.flat(net.act2(net.conv2(net.pool(activations)))))[:, 1]
    (slopes,) = torch.autograd.grad(outputs.sum(), activations)
    for image in range(2):
        cam = torch.zeros(activations.shape[2:], dtype=torch.float64)
        for channel in range(activations.shape[1]):
            weight = slopes[image, channel].mean()
            cam += (weight * activations[image, channel]).detach()
        cam = nn.functional.interpolate(cam.clamp(min=0)[None, None], (8, 8), mode="bilinear")
        torch.testing.assert_close(fast[image], cam[0].expand(2, 8, 8))
    assert fast.std() > 0


WHOLE = [n for n in NAMES if (FOURTEEN[n].scope, FOURTEEN[n].explains) == ("network", "series")]


@pytest.mark.parametrize("name", WHOLE)
def test_the_sharing_of_a_method_is_the_one_measured(example, name):
    method, *_, setting = FOURTEEN[name], *example
    generator = torch.Generator().manual_seed(0)
    inputs, start, kappa = draw(generator, 2, 6), draw(generator, 1, 6), degrees(6, 3)

    def at(score, points, baseline):
        law = Law(baseline[None], torch.ones(1, dtype=torch.float64))
        return method.run(score, points, Setting(baseline, law, PATCHES))

    found = probe(at, kappa, inputs, start)
    stated = method.sharing(setting, None)(kappa)
    torch.testing.assert_close(found, stated.expand_as(found), rtol=0, atol=1e-9)
    assert not torch.allclose(found, stated.roll(1, dims=1).expand_as(found), atol=0.1)


def test_there_are_fourteen_theorems_2_to_15():
    assert [method.theorem for method in FOURTEEN.values()] == list(range(2, 16))


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("Occlusion-patch", "patches"),
        ("Prediction Diff", "baselines"),
        ("Expected Grads", "baselines"),
        ("Grad-CAM", "layer"),
    ],
)
def test_a_missing_choice_is_named(example, name, field):
    _, score, inputs, _, _ = example
    with pytest.raises(ValueError, match=field):
        run(name, score, inputs, Setting())


def test_each_row_is_a_method_of_the_table_and_takes_what_that_needs():
    for name, row in FOURTEEN.items():
        method = METHODS[row.method]
        fields = {"layer": "layer", "baselines": "baselines", "groups": "patches"}
        wanted = {fields[need] for need in method.needs & fields.keys()} - (
            {"baselines"} if name == "Deep SHAP" else set()  # by modules: one baseline
        )
        for field in wanted:
            with pytest.raises(ValueError, match=f"needs Setting\\({field}="):
                row.run(Score(lambda x: x.sum(1)), torch.ones(1, 2), Setting())
