"""Known answers for what `papers.definitions` adds to the definitions that test_reference checks."""

import numpy as np
import torch
from numpy.testing import assert_allclose
from torch import nn

from attribook.papers.definitions import as_graph, path_sum, slopes_along
from attribook.papers.functions.toys import Recurrent, randomised

EXACT = 1e-12


def test_the_paths_through_a_chain_of_layers_sum_to_autograd():
    generator = torch.Generator().manual_seed(0)
    stages = (nn.Conv1d(1, 2, 3), nn.Tanh(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(6, 3))
    net = randomised(nn.Sequential(*stages), generator)
    x = torch.randn(1, 1, 8, generator=generator, dtype=torch.float64)
    graph = as_graph(net, (1, 8))
    paths = path_sum(*slopes_along(graph, x, x, lambda node, z, zb: node.derivative(z)))
    jacobian = torch.func.jacrev(net)(x).detach().reshape(3, 8)
    assert_allclose(paths, jacobian, rtol=0, atol=EXACT)


def test_the_written_out_recurrent_cell_is_the_fused_one():
    cell = randomised(Recurrent(2, 3, 2), torch.Generator().manual_seed(0))
    fused = nn.RNN(2, 3, batch_first=True).double()
    state = {
        "weight_ih_l0": cell.enter.weight,
        "weight_hh_l0": cell.recur.weight,
        "bias_ih_l0": cell.enter.bias,
        "bias_hh_l0": torch.zeros(3),
    }
    fused.load_state_dict(state)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 4, 2)))
    with torch.no_grad():
        assert_allclose(cell(x), cell.leave(fused(x)[0][:, -1]), rtol=0, atol=EXACT)
