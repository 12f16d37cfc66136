import torch
from torch import nn
from torch.testing import assert_close

from attribook.axioms import completeness_gap
from attribook.methods import deeplift_rescale
from attribook.score import Score
from attribook.toys import clipped, deep_relu_mlp, random_lstm, random_mlp


def test_a_deep_relu_net_has_the_depth_asked_for_and_keeps_its_size(generator):
    net = deep_relu_mlp(16, generator)
    assert sum(isinstance(layer, nn.ReLU) for layer in net) == 16
    outputs = net(torch.randn(500, 32, generator=generator, dtype=torch.float64))
    assert outputs.shape == (500, 1)
    assert 0.1 < outputs.square().mean() < 100  # He's initialisation: neither dies nor explodes


def test_the_written_out_lstm_is_torchs_lstm(generator):
    score = random_lstm(generator)
    again = torch.Generator().manual_seed(0)
    weight, bias, readout = (
        torch.randn(*shape, generator=again, dtype=torch.float64)
        for shape in ((7, 16), (16,), (4,))
    )
    fused = nn.LSTM(3, 4, batch_first=True).double()
    order = torch.cat([torch.arange(4) + 4 * gate for gate in (0, 1, 3, 2)])  # torch: i f g o
    with torch.no_grad():
        fused.weight_ih_l0.copy_(weight[:3, order].T)
        fused.weight_hh_l0.copy_(weight[3:, order].T)
        fused.bias_ih_l0.copy_(bias[order])
        fused.bias_hh_l0.zero_()
    x = torch.randn(5, 6, 3, generator=generator, dtype=torch.float64)
    assert_close(score(x), fused(x)[0][:, -1] @ readout)


def test_deeplift_with_averaged_products_is_complete_on_the_lstm(generator):
    score = Score(random_lstm(generator))
    x = torch.randn(5, 4, 3, generator=generator, dtype=torch.float64)
    gap = completeness_gap(deeplift_rescale(score, x), score, x, torch.zeros_like(x[:1]))
    assert gap.abs().max() < 1e-12


def test_a_clipped_network_is_the_same_function_of_inputs_that_are_not_negative(generator):
    net = random_mlp(nn.ReLU, generator)
    x = torch.rand(50, 6, generator=generator, dtype=torch.float64)
    assert_close(clipped(net)(x), net(x), rtol=0, atol=1e-12)
    assert (clipped(net)(-x) - net(-x)).abs().max() > 1e-3  # and another one elsewhere
