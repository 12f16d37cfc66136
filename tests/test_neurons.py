import copy
import math
from collections import OrderedDict
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import reference as ref
import torch
from networks import assert_same_state, lively, state_of
from torch import nn

from attribook import neurons, numerics, paths
from attribook.ablation import pruned, pruned_tail
from attribook.criteria import inside_outside
from attribook.methods import integrated_gradients
from attribook.neurons import (
    central_step,
    conductance,
    conductance_by_differences,
    neuron_flow,
    passage,
    patch_attributions,
    path_step,
    unit_step,
)
from attribook.papers.functions import toys
from attribook.score import Score, count_passes

PATCH = torch.tensor([True, False, True, False, False])


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    net = toys.random_mlp(nn.Tanh, generator, sizes=(5, 7, 6, 1))
    x, x0 = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    return Score(net, 0), x, x0


def eq8(score, inputs, baseline, patch, n_steps, back, ahead, gain):
    """Node by node and sample by sample, as Eq. 8 is printed; the step as a function of d."""
    head, tail = score.split("act2")
    rows = []
    for x, x0 in zip(inputs, baseline, strict=True):
        d, total = (x - x0) * patch, 0
        for k in range(1, n_steps + 1):
            point = x0 + k / n_steps * (x - x0)
            hidden = head(point[None]).detach().requires_grad_()
            (slope,) = torch.autograd.grad(tail(hidden).sum(), hidden)
            change = head((point + ahead(d))[None]) - head((point - back(d))[None])
            total = total + slope * change.detach()
        rows.append(total[0] * gain(d))
    return torch.stack(rows)


@pytest.mark.parametrize("at_once", [1, 40, 2**21])
@pytest.mark.parametrize(
    "step, back, ahead, gain",
    [
        (unit_step, lambda d: 0, lambda d: d / d.norm() / 7, lambda d: d.norm()),
        (path_step, lambda d: 0, lambda d: d / 7, lambda d: 1),
        (central_step, lambda d: d / 14, lambda d: d / 14, lambda d: 1),
    ],
)
def test_differences_equal_the_sum_node_by_node(
    case, step, back, ahead, gain, at_once, monkeypatch
):
    score, x, x0 = case
    monkeypatch.setattr(numerics, "NUMBERS_A_PASS", at_once)
    got = conductance_by_differences(score, x, "act2", x0, PATCH, n_steps=7, step=step)
    expected = eq8(score, x, x0, PATCH, 7, back, ahead, gain)
    torch.testing.assert_close(got, expected, atol=1e-14, rtol=0)


def test_a_node_of_the_printed_formula_costs_two_passes_of_the_head_and_one_of_the_tail(case):
    score, x, x0 = case

    def rows(stage, n_steps):
        with count_passes(stage) as passes:
            conductance_by_differences(score, x, "act2", x0, n_steps=n_steps)
        return torch.tensor([passes.forward_rows, passes.backward_rows])

    for stage, expected in {"dense1": [2, 0], "dense3": [1, 1]}.items():
        module = getattr(score.model, stage)
        per_node = (rows(module, 20) - rows(module, 10)) / (10 * len(x))
        assert per_node.tolist() == expected


def test_differences_of_an_empty_patch_are_zero(case):
    score, x, x0 = case
    nothing = torch.zeros(5, dtype=torch.bool)
    for step in (unit_step, path_step, central_step):
        got = conductance_by_differences(score, x, "act2", x0, nothing, n_steps=8, step=step)
        assert got.abs().max() == 0


def test_differences_approach_the_derivatives_at_first_order(case):
    score, x, x0 = case
    exact = conductance(score, x, "act2", x0, PATCH)
    errors = [
        (conductance_by_differences(score, x, "act2", x0, PATCH, n_steps=n) - exact).abs().max()
        for n in (256, 512)
    ]
    assert 1.9 < errors[0] / errors[1] < 2.1


def test_conductances_are_sums_of_the_flow_over_inputs_and_over_a_patch(case):  # Eq. 6, 7
    score, x, x0 = case
    flow = neuron_flow(score, x, "act2", x0)
    whole, part = conductance(score, x, "act2", x0), conductance(score, x, "act2", x0, PATCH)
    torch.testing.assert_close(flow.sum(1), whole, atol=1e-13, rtol=0)
    torch.testing.assert_close(flow[:, PATCH].sum(1), part, atol=1e-13, rtol=0)
    ig = paths.path_integral(score, paths.straight(x, x0))
    torch.testing.assert_close(flow.sum(2), ig, atol=1e-13, rtol=0)  # Eq. 5


@pytest.mark.parametrize("at_once", [1, 2**21])
def test_one_passage_gives_the_attributions_to_each_of_its_patches(case, at_once, monkeypatch):
    score, x, x0 = case
    monkeypatch.setattr(numerics, "NUMBERS_A_PASS", at_once)
    head, tail = score.split("act2")
    patches = torch.stack([PATCH, ~PATCH, PATCH | True])
    followed = passage(head, x[1:2], patches, x0[1:2], n_steps=20, rule=paths.midpoint)
    got = patch_attributions(tail, followed)
    for attributions, patch in zip(got, patches, strict=True):
        expected = conductance(score, x, "act2", x0, patch, n_steps=20, rule=paths.midpoint)[1]
        torch.testing.assert_close(attributions, expected, atol=1e-14, rtol=0)


def test_a_pruned_tail_on_the_same_passage_gives_the_sums_of_the_pruned_network(case):
    score, x, x0 = case
    x, x0, keep = x[:1], x0[:1], torch.tensor([True, False, True, True, False, True])
    head, tail = score.split("act2")
    followed = passage(head, x, torch.stack([PATCH, ~PATCH]), x0, n_steps=10)
    got = patch_attributions(pruned_tail(tail, keep), followed)
    assert got[:, ~keep].abs().max() == 0
    ig = integrated_gradients(pruned(score, "act2", keep), x, x0, n_steps=10)
    expected = torch.cat(inside_outside(ig, PATCH))
    torch.testing.assert_close(got.sum(1), expected, atol=1e-13, rtol=0)


def test_a_passage_costs_the_head_a_pass_a_patch_and_each_tail_one_for_all_patches(case):
    score, x, x0 = case
    head, tail = score.split("act2")
    with count_passes(score.model.dense1) as of_head, count_passes(score.model.dense3) as of_tail:
        followed = passage(head, x[:1], torch.stack([PATCH, ~PATCH]), n_steps=10)
        rows = of_head.forward_rows
        for _ in range(3):
            patch_attributions(tail, followed)
    assert rows == of_head.forward_rows == 2 * 10 + 2  # the ends of the two paths, too
    assert (of_tail.forward_rows, of_tail.backward_rows) == (30, 30)


def test_a_passage_is_that_of_one_input(case):
    score, x, _ = case
    with pytest.raises(ValueError, match="one input, got 3"):
        passage(score.split("act2")[0], x, PATCH[None])


# -- conductances against their definition, and what must add up -----------------------------------

BOX = torch.zeros(8, 8, dtype=torch.bool)
BOX[2:5, 3:8] = True


def plain(function):
    """A torch function of a batch as a numpy function of one point."""

    def of(point):
        with torch.no_grad():
            return function(torch.as_tensor(point)[None])[0].flatten().numpy()

    return of


def test_the_flow_equals_its_definition_neuron_by_neuron(case):  # [integrated, Eq. 4, 6, 7]
    score, x, x0 = case
    head, tail = score.split("act2")
    flow = neuron_flow(score, x, "act2", x0, n_steps=12)
    whole, part = (conductance(score, x, "act2", x0, p, n_steps=12) for p in (None, PATCH))
    of_tail = plain(lambda h: tail(h)[:, None])
    for k in range(3):
        expected = ref.flow(plain(head), lambda h: of_tail(h)[0], x[k].numpy(), x0[k].numpy())
        np.testing.assert_allclose(flow[k], expected, atol=1e-10, rtol=0)
        np.testing.assert_allclose(whole[k], expected.sum(0), atol=1e-10, rtol=0)
        np.testing.assert_allclose(part[k], expected[PATCH.numpy()].sum(0), atol=1e-10, rtol=0)


@pytest.fixture
def images():
    """A network with max-pooling, a class for each of three images, a baseline for each."""
    generator = torch.Generator().manual_seed(0)
    net = toys.random_cnn(nn.ReLU, generator, nn.MaxPool2d)
    x, x0 = torch.randn(2, 3, 2, 8, 8, generator=generator, dtype=torch.float64)
    return Score(net, torch.tensor([2, 0, 1])), x, x0


LAYERS = ["conv1", "act1", "pool", "conv2", "act2", "flat", "dense"]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rule", [paths.gauss_legendre, paths.right])
def test_a_patch_and_the_rest_make_the_whole_and_neurons_the_gradients(images, layer, rule):
    score, x, x0 = images
    options = {"baseline": x0, "n_steps": 5, "rule": rule}
    whole = conductance(score, x, layer, **options)
    inside = conductance(score, x, layer, patch=BOX, **options)
    outside = conductance(score, x, layer, patch=~BOX, **options)
    close(inside + outside, whole)
    ig = integrated_gradients(score, x, **options)  # by the same nodes, so that no error is left
    expected = inside_outside(ig, BOX)
    for found, total in zip((inside, outside), expected, strict=True):
        close(found.flatten(1).sum(1), total)
    close(whole.flatten(1).sum(1), ig.flatten(1).sum(1))
    assert inside.abs().max() > 1e-3 and outside.abs().max() > 1e-3


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=0)


METHODS = {
    "derivatives": conductance,
    "differences": partial(conductance_by_differences, n_steps=20),
    "central": partial(conductance_by_differences, n_steps=20, step=central_step),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@every_method
def test_a_mask_broadcasts_over_channels_and_over_the_batch(images, method):
    score, x, x0 = images
    expected = method(score, x, "pool", x0, BOX.expand(3, 2, 8, 8).clone())
    for mask in (BOX, BOX[None], BOX.expand(2, 8, 8), BOX[None, None]):
        close(method(score, x, "pool", x0, mask), expected)
    close(method(score, x, "pool", x0, torch.tensor(True)), method(score, x, "pool", x0))


@every_method
def test_a_mask_can_be_another_one_for_each_sample_and_channel(images, method):
    score, x, x0 = images
    masks = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.5
    together = method(score, x, "pool", x0, masks)
    for k, target in enumerate(score.target):
        one = Score(score.model, int(target))
        alone = method(one, x[k : k + 1], "pool", x0[k : k + 1], masks[k])
        close(together[k : k + 1], alone)


@every_method
def test_nothing_moved_gives_exact_zeros(images, method):
    score, x, x0 = images
    x0[:, :, 2:5, 3:8] = x[:, :, 2:5, 3:8]  # the box does not differ from the baseline
    for nothing in (BOX, BOX & False):
        found = method(score, x, "pool", x0, nothing)
        assert found.shape == (3, 3, 3, 3) and found.abs().max() == 0
    close(method(score, x, "pool", x0, ~BOX), method(score, x, "pool", x0))
    assert method(score, x, "pool", x).abs().max() == 0  # at its baseline


@every_method
def test_a_mask_that_does_not_fit_or_is_no_mask_is_refused(images, method):
    score, x, x0 = images
    for shape in ((8, 7), (3, 8, 8), (4, 2, 8, 8), (1, 3, 2, 8, 8)):
        with pytest.raises(ValueError, match="does not fit inputs of shape"):
            method(score, x, "pool", x0, torch.ones(shape, dtype=torch.bool))
    for wrong in (BOX.double(), BOX.int()):
        with pytest.raises(TypeError):
            method(score, x, "pool", x0, wrong)
        with pytest.raises(TypeError, match="boolean mask, got torch"):
            paths.check_mask(wrong, x)


@every_method
def test_attributions_of_neurons_keep_type_and_leave_model_and_inputs_alone(images, method):
    score, x, x0 = images
    expected = method(score, x, "pool", x0, BOX)
    net = copy.deepcopy(score.model).float()
    list(net.parameters())[0].requires_grad_(False)
    before, inputs = state_of(net), x.float().requires_grad_()
    kept = inputs.detach().clone()
    found = method(Score(net, score.target), inputs, "pool", x0.float(), BOX)
    assert found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(found, expected.float(), atol=1e-4, rtol=0)  # float32 differences
    assert_same_state(before, state_of(net))
    assert torch.equal(inputs, kept) and inputs.grad is None


@every_method
@pytest.mark.parametrize("switched_off", [torch.no_grad, torch.inference_mode])
def test_neurons_are_explained_where_gradients_are_switched_off(images, method, switched_off):
    score, x, x0 = images
    expected = method(score, x, "pool", x0, BOX)
    with switched_off():
        close(method(score, x.clone(), "pool", x0.clone(), BOX), expected)
        close(neuron_flow(score, x, "act2", x0, 2), neuron_flow(score, x.clone(), "act2", x0, 2))


def test_the_first_layers_conductance_is_the_gradients_and_the_last_ones_the_change(images):
    score, x, x0 = images
    net = nn.Sequential(OrderedDict(start=nn.Identity(), **dict(score.model.named_children())))
    found = conductance(Score(net.eval(), score.target), x, "start", x0, n_steps=4)
    close(found, integrated_gradients(score, x, x0, n_steps=4))
    last = conductance(score, x, "dense", x0, n_steps=400, rule=paths.midpoint)
    change = torch.zeros_like(last).scatter(
        1, score.target[:, None], (score(x) - score(x0))[:, None]
    )
    torch.testing.assert_close(last, change, atol=1e-2, rtol=0)  # the path has some 50 kinks
    assert (last[change == 0] == 0).all()


@pytest.mark.parametrize("channels", [1, 9])  # less than the input's numbers, and more
def test_images_of_paths_run_in_batches_bounded_by_the_larger_layer(images, channels, monkeypatch):
    score, x, x0 = images
    stages = nn.Conv2d(2, channels, 1), nn.Tanh(), nn.Flatten(), nn.Linear(64 * channels, 3)
    score = Score(lively(nn.Sequential(*stages)), score.target)
    expected = conductance(score, x, "0", x0, BOX, n_steps=11)
    largest = 3 * 64 * max(2, channels)
    monkeypatch.setattr(numerics, "NUMBERS_A_PASS", 3 * largest + 1)
    with count_rows(score.model) as rows:
        found = conductance(score, x, "0", x0, BOX, n_steps=11)
    close(found, expected)
    assert max(rows) == 3 * 3 and sum(rows) == 4 * (3 * 11) + 3  # and the end of the path


@contextmanager
def count_rows(stages):
    """The rows of every call of every stage."""
    rows = []
    hooks = [m.register_forward_hook(lambda m, a, y: rows.append(len(y))) for m in stages]
    yield rows
    for hook in hooks:
        hook.remove()


# -- what a head may be made of --------------------------------------------------------------------

ACTIVATIONS = {
    "ReLU in place": nn.ReLU(inplace=True),
    "ReLU6 in place": nn.ReLU6(inplace=True),
    "hardtanh": nn.Hardtanh(-0.5, 0.7),
    "SiLU": nn.SiLU(),
    "SiLU in place": nn.SiLU(inplace=True),
    "GELU": nn.GELU(),
    "ELU in place": nn.ELU(inplace=True),
    "leaky ReLU": nn.LeakyReLU(),
    "hardswish": nn.Hardswish(),
    "softplus": nn.Softplus(),
    "dropout": nn.Dropout(),
    "group norm": nn.GroupNorm(2, 4),
    "layer norm": nn.LayerNorm((4, 8, 8)),
}
POOLS = {
    "max": nn.MaxPool2d(2),
    "overlapping max": nn.MaxPool2d(3, 2, 1),
    "average": nn.AvgPool2d(2),
    "adaptive": nn.AdaptiveAvgPool2d(3),
    "adaptive max": nn.AdaptiveMaxPool2d(3),
}


def of_stages(*stages, first=None):
    names = ["norm", "act", "pool"]
    named = OrderedDict(conv=nn.Conv2d(2, 4, 3, padding=1)) if first is None else first
    named.update(zip(names, stages, strict=False), flat=nn.Flatten(), top=nn.LazyLinear(3))
    net = nn.Sequential(named).double().eval()
    with torch.no_grad():
        net(torch.zeros(1, 2, 8, 8, dtype=torch.float64))
    return Score(lively(net, gain=3.0), torch.tensor([2, 0, 1]))


def agrees_both_ways(score, x, x0):
    """Forward mode, reverse mode and small differences of the head give the same patch's part."""
    options = {"n_steps": 3, "rule": paths.right}
    found = conductance(score, x, "pool", x0, BOX, **options).flatten(1)
    flow = neuron_flow(score, x, "pool", x0, **options)
    close(found, flow[:, BOX.expand(2, 8, 8).flatten()].sum(1))

    def tiny(direction, n_steps):  # by the nodes of the right rule, but with a step of its own
        small = 1e-6 * direction / n_steps
        return -small, small, direction.new_full((len(direction),), 0.5e6)

    differences = conductance_by_differences(score, x, "pool", x0, BOX, n_steps=3, step=tiny)
    torch.testing.assert_close(found, differences.flatten(1), atol=1e-7, rtol=0)
    assert found.abs().max() > 1e-3


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_derivatives_run_forwards_through_any_activation(activation, images):
    score = of_stages(nn.BatchNorm2d(4), activation, nn.MaxPool2d(2))
    agrees_both_ways(score, *images[1:])


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_derivatives_run_forwards_through_any_pooling(pool, images):
    agrees_both_ways(of_stages(nn.BatchNorm2d(4), nn.Tanh(), pool), *images[1:])


@pytest.mark.parametrize("first", [nn.ReLU(inplace=True), nn.SiLU(inplace=True)])
def test_a_head_that_begins_in_place_leaves_the_inputs_alone(first, images):
    _, x, x0 = images
    score = of_stages(
        nn.Conv2d(2, 4, 3), nn.Tanh(), nn.MaxPool2d(2), first=OrderedDict(start=first)
    )
    outside = copy.deepcopy(score.model)
    outside.start = type(first)().eval()
    expected = conductance(Score(outside, score.target), x.clone(), "pool", x0, BOX)
    kept = x.clone(), x0.clone()
    for method in (
        *METHODS.values(),
        lambda s, *rest: neuron_flow(s, *rest[:3]),
        lambda s, a, *rest: passage(s.split("pool")[0], a[:1], BOX[None], rest[1][:1]),
    ):
        method(score, x, "pool", x0, BOX)
        assert torch.equal(x, kept[0]) and torch.equal(x0, kept[1])
    close(conductance(score, x, "pool", x0, BOX), expected)
    agrees_both_ways(score, x, x0)


class Reversed(torch.autograd.Function):
    """tanh with a derivative for reverse mode only."""

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z.tanh())
        return z.tanh()

    @staticmethod
    def backward(ctx, gradient):
        (y,) = ctx.saved_tensors
        return gradient * (1 - y**2)


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, z):
        return self.function(z)


NOT_FORWARDS = {
    "reverse only": Reversed.apply,
    "no formula": lambda z: torch.cdist(z.flatten(2), z.new_ones(1, 1, 64)),
    "detached": lambda z: z.detach().tanh(),
    "a constant": lambda z: z.new_ones(len(z), 5),
}


@pytest.mark.parametrize("function", NOT_FORWARDS.values(), ids=NOT_FORWARDS)
def test_a_head_without_forward_derivatives_is_named_with_the_way_out(function, images):
    score = of_stages(nn.BatchNorm2d(4), nn.Tanh(), Calls(function))
    with pytest.raises(ValueError, match="forward-mode .*conductance_by_differences"):
        conductance(score, *images[1:2], "pool", images[2])
    differences = conductance_by_differences(score, images[1], "pool", images[2], n_steps=4)
    assert torch.isfinite(differences).all()


def test_a_head_of_infinite_slope_is_reported_with_its_node(case):
    _, x, _ = case
    net = nn.Sequential(OrderedDict(root=Calls(torch.sqrt), top=nn.Linear(5, 1).double())).eval()
    with pytest.raises(paths.NonFiniteGradient, match="alpha = 0 "):
        conductance(Score(net, 0), x.abs(), "root", rule=paths.left)
    assert torch.isfinite(conductance(Score(net, 0), x.abs(), "root")).all()


# -- differences, flows, patches -------------------------------------------------------------------


def test_the_printed_step_is_the_paths_step_where_the_direction_has_length_one(case):
    score, x, x0 = case
    x = x0 + (x - x0) / (x - x0).norm(dim=1, keepdim=True)
    one, other = (
        conductance_by_differences(score, x, "act2", x0, n_steps=16, step=step)
        for step in (unit_step, path_step)
    )
    close(one, other)


@pytest.mark.parametrize(("step", "order"), [(unit_step, 1), (path_step, 1), (central_step, 2)])
def test_differences_approach_the_derivatives_at_the_same_nodes_by_their_own_order(
    case, step, order
):
    score, x, x0 = case

    def error(n):
        differences = conductance_by_differences(score, x, "act2", x0, PATCH, n_steps=n, step=step)
        exact = conductance(score, x, "act2", x0, PATCH, n_steps=n, rule=paths.right)
        return float((differences - exact).abs().max())

    assert abs(math.log2(error(128) / error(256)) - order) < 0.1


def test_the_flow_sums_to_the_gradients_and_to_the_conductances_in_a_network_with_pools(images):
    score, x, x0 = images
    flow = neuron_flow(score, x, "pool", x0, n_steps=3)
    assert flow.shape == (3, 128, 27)
    ig = integrated_gradients(score, x, x0, n_steps=3)
    close(flow.sum(2), ig.flatten(1))  # Eq. 5
    close(flow.sum(1), conductance(score, x, "pool", x0, n_steps=3).flatten(1))  # Eq. 6
    for k, target in enumerate(score.target):
        alone = neuron_flow(Score(score.model, int(target)), x[k : k + 1], "pool", x0[k : k + 1], 3)
        close(flow[k : k + 1], alone)
    assert neuron_flow(score, x, "pool", x, n_steps=2).abs().max() == 0
    close(neuron_flow(score, x, "pool", n_steps=2), neuron_flow(score, x, "pool", 0 * x, 2))


def test_a_flow_too_large_is_refused_before_it_is_computed(images, monkeypatch):
    score, x, _ = images
    monkeypatch.setattr(neurons, "MOST_FLOWS", 128 * 27 - 1)
    with pytest.raises(ValueError, match=r"128 inputs times 27 neurons are 3456 .*conductance"):
        neuron_flow(score, x, "pool")


def test_sums_inside_and_outside_run_over_all_channels(images):
    _, x, _ = images
    inside, outside = inside_outside(x, BOX)
    for k in range(3):
        sums = {True: 0.0, False: 0.0}
        for channel in range(2):
            for i in range(8):
                for j in range(8):
                    sums[bool(BOX[i, j])] += float(x[k, channel, i, j])
        assert float(inside[k]) == pytest.approx(sums[True], abs=1e-13)
        assert float(outside[k]) == pytest.approx(sums[False], abs=1e-13)
    assert inside_outside(x, BOX & False)[0].abs().max() == 0
    assert inside_outside(x, BOX | True)[1].abs().max() == 0


@pytest.mark.parametrize("n_patches", [1, 2, 3])
def test_the_patches_of_a_passage_broadcast_over_channels_however_many_they_are(images, n_patches):
    score, x, x0 = images
    head, tail = Score(score.model, 2).split("pool")
    patches = torch.stack([BOX, ~BOX, BOX.T])[:n_patches]
    for form in (patches, patches[:, None], patches[:, None].expand(-1, 2, 8, 8)):
        found = patch_attributions(tail, passage(head, x[:1], form, x0[:1], n_steps=4))
        for attributions, patch in zip(found, patches, strict=True):
            expected = conductance(score, x, "pool", x0, patch, n_steps=4)[0]
            close(attributions, expected)


# -- images of other paths -------------------------------------------------------------------------


def test_the_image_of_any_path_is_one_of_the_layer(images):
    score, x, x0 = images
    head, tail = score.split("pool")
    middle = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    for path in (
        paths.polyline([x0, middle, x]),
        paths.backwards(paths.polyline([x, middle, x0])),
        paths.reclocked(paths.straight(x, x0), lambda t: t**2),
        paths.joined(paths.straight(middle, x0), paths.power(x, middle, 2 + 0 * x)),
    ):
        hidden = paths.image(head, path)
        assert hidden.corners == path.corners
        points, velocities = hidden.at(torch.tensor([0.0, 0.2, 0.9, 1.0]).double())
        assert velocities.shape == points.shape == (4, 3, 3, 3, 3)
        close(points[0], head(x0).detach())
        close(points[-1], head(x).detach())
        close(hidden.end, head(x).detach())
        ig = paths.path_integral(score, path, n_steps=3)
        found = paths.path_integral(tail, hidden, n_steps=3)
        close(found.flatten(1).sum(1), ig.flatten(1).sum(1))
        inside = paths.path_integral(tail, paths.image(head, path, BOX), n_steps=3)
        close(inside.flatten(1).sum(1), inside_outside(ig, BOX)[0])


def test_the_image_of_a_straight_path_need_not_be_monotone(case):  # [integrated, Sec. 6.1]
    score, x, x0 = case
    head, _ = score.split("act2")
    hidden = paths.image(head, paths.straight(x, x0))
    monotone, far = paths.is_monotone(hidden), paths.length(hidden)
    for k in range(3):
        of = plain(head)
        expected, one_way = ref.chords(
            lambda t, f=of, k=k: f(x0[k].numpy() + t * (x - x0)[k].numpy()), 500
        )
        assert bool(monotone[k]) == one_way
        assert float(far[k]) == pytest.approx(expected, rel=1e-4)
    assert not monotone.all()
