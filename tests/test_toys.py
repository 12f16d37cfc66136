"""The papers' small networks compute what they say."""

import torch
from torch import nn
from torch.testing import assert_close

from attribook.toys import GatedRecurrent, clipped, random_mlp, randomised


def generator():
    return torch.Generator().manual_seed(0)


def test_a_clipped_network_is_the_same_function_of_inputs_that_are_not_negative():
    net = random_mlp(nn.ReLU, generator())
    x = torch.rand(50, 6, generator=generator(), dtype=torch.float64)
    assert_close(clipped(net)(x), net(x), rtol=0, atol=1e-12)
    assert (clipped(net)(-x) - net(-x)).abs().max() > 1e-3  # and another one elsewhere


def test_the_gated_cell_is_its_definition_at_two_steps():
    cell = randomised(GatedRecurrent(2, 3), generator())
    x = torch.randn(1, 2, 2, generator=generator(), dtype=torch.float64)

    def step(x_t, h):
        both = torch.cat([x_t, h])
        u = torch.sigmoid(cell.gate.weight @ both + cell.gate.bias)
        return u * h + (1 - u) * torch.tanh(cell.update.weight @ both + cell.update.bias)

    h = step(x[0, 1], step(x[0, 0], torch.zeros(3, dtype=torch.float64)))
    assert_close(cell(x)[0], h, rtol=0, atol=1e-12)
