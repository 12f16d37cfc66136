import pytest
import torch
from torch import nn

from attribook import neurons, paths, toys
from attribook.criteria import count_passes
from attribook.neurons import (
    central_step,
    conductance,
    conductance_by_differences,
    neuron_flow,
    path_step,
    unit_step,
)
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
