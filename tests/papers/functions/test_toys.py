import pytest
import torch
from torch import nn
from torch.testing import assert_close

from attribook.axioms import completeness_gap
from attribook.methods import deeplift_rescale
from attribook.papers.functions.toys import (
    clipped,
    deep_relu_mlp,
    each,
    growing_mlp,
    kink_distances,
    random_lstm,
    random_maxout,
    random_mlp,
    switches,
)
from attribook.score import Score, plain_gradient


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


def test_each_row_has_its_own_function_and_its_own_gradient(generator):
    x = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    both = each([lambda y: y[:, 0] ** 2, lambda y: y[:, 1:] * 3])
    assert_close(both(x)[::2], x[::2, 0] ** 2)
    assert_close(both(x)[1::2], x[1::2, 1] * 3)
    slopes = plain_gradient(Score(both), x)
    assert_close(slopes[1::2], x.new_tensor([[0.0, 3.0]]).expand(3, 2))


def max_net(generator):
    return random_maxout(generator, (3, 4, 4, 1))


def test_a_maxout_unit_is_the_larger_of_two_linear_functions(generator):
    net = random_maxout(generator, (3, 4, 1))
    x = torch.rand(5, 3, generator=generator, dtype=torch.float64)
    z = net.dense1(x)
    assert_close(net(x), net.dense2(torch.maximum(z[:, ::2], z[:, 1::2])))


@pytest.mark.parametrize("make", [max_net, lambda g: random_mlp(nn.ReLU, g, (3, 16, 16, 1))])
def test_the_nearest_kink_is_where_the_gradient_first_changes(make, generator):
    net = make(generator)
    score = Score(net, 0)
    x = torch.rand(200, 3, generator=generator, dtype=torch.float64)
    away = kink_distances(net, x)[:, None]
    around = torch.randn(100, *x.shape, generator=generator, dtype=torch.float64)
    around = around / around.norm(dim=2, keepdim=True)
    slope = plain_gradient(score, x)
    near = plain_gradient(score, (x + 0.999 * away * around).flatten(0, 1)).view_as(around)
    assert (near - slope).abs().max() < 1e-12
    far = plain_gradient(score, (x + 2 * away * around).flatten(0, 1)).view_as(around)
    assert ((far - slope).abs().amax((0, 2)) > 1e-12).double().mean() > 0.9


def test_a_network_has_a_switch_for_each_relu_and_each_pair(generator):
    x = torch.rand(5, 3, generator=generator, dtype=torch.float64)
    assert switches(max_net(generator))(x).shape == (5, 8)
    assert switches(random_mlp(nn.ReLU, generator, (3, 16, 16, 1)))(x).shape == (5, 32)


def test_a_growing_network_grows_in_the_features_listed_only(generator):
    net = growing_mlp(nn.Tanh, generator, (3, 8, 8, 1), growing_in=[0, 2])
    x = torch.randn(500, 3, generator=generator, dtype=torch.float64)
    slopes = plain_gradient(Score(net, 0), x)
    assert slopes[:, [0, 2]].min() >= 0 and slopes[:, 1].min() < -1e-3
