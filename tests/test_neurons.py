import pytest
import torch
from torch import nn

from attribook import neurons, paths, toys
from attribook.criteria import count_passes
from attribook.methods import integrated_gradients
from attribook.neurons import (
    central_step,
    conductance,
    conductance_by_differences,
    inside_outside,
    neuron_flow,
    passage,
    patch_attributions,
    path_step,
    unit_step,
)
from attribook.pruning import pruned, pruned_tail
from attribook.score import Score

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
    monkeypatch.setattr(neurons, "ELEMENTS_A_PASS", at_once)
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
    monkeypatch.setattr(neurons, "ELEMENTS_A_PASS", at_once)
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
