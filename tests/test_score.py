import pytest
import torch
from torch import nn
from torch.testing import assert_close

from attribook.methods import (
    gradient,
    gradient_x_input,
    integrated_gradients,
    lrp_epsilon,
)
from attribook.papers.functions.toys import random_cnn, random_mlp
from attribook.score import Score, check_inputs


@pytest.fixture
def net(generator):
    return random_mlp(nn.Tanh, generator)


@pytest.fixture
def inputs(generator):
    return torch.randn(3, 6, generator=generator, dtype=torch.float64)


def test_a_target_for_each_sample_is_tiled_over_blocks_of_rows(net, inputs):
    score = Score(net, torch.tensor([2, 0, 1]))
    expected = net(inputs)[torch.arange(3), torch.tensor([2, 0, 1])]
    assert_close(score(inputs.repeat(4, 1)), expected.repeat(4))


def test_the_probability_is_the_softmax_of_the_logits(net, inputs):
    assert_close(Score(net, 1, "probability")(inputs), net(inputs).softmax(1)[:, 1])


def test_a_split_score_gives_the_same_number_and_any_method_applies_to_its_tail(generator):
    net = random_cnn(nn.Tanh, generator)
    score = Score(net, 1)
    x = torch.randn(2, 2, 8, 8, generator=generator, dtype=torch.float64)
    head, tail = score.split("act1")
    assert_close(tail(head(x)), score(x))
    assert gradient(tail, head(x).detach()).shape == head(x).shape


def test_a_split_reaches_stages_inside_stages(generator, inputs):
    net = nn.Sequential()
    net.add_module("body", random_mlp(nn.ReLU, generator, sizes=(6, 4, 4)))
    net.add_module("top", random_mlp(nn.ReLU, generator, sizes=(4, 2)))
    score = Score(net.eval(), 0)
    head, tail = score.split("body.act1")
    assert_close(tail(head(inputs)), score(inputs))


@pytest.mark.parametrize("layer", ["conv9", "dense1.inner"])
def test_an_unknown_layer_is_named_with_the_ones_that_exist(net, layer):
    with pytest.raises(ValueError, match=r"no layer .*(dense1|stages)"):
        Score(net, 0).split(layer)


def test_a_plain_function_does_not_split():
    with pytest.raises(ValueError, match="nn.Sequential"):
        Score(lambda x: x.sum(1)).split("conv")


def test_training_mode_is_refused_by_the_name_of_the_part(net):
    net.act1.train()
    with pytest.raises(ValueError, match=r"act1 is in training mode.*eval"):
        Score(net, 0)


@pytest.mark.parametrize("target", [3, -1, torch.tensor([0, 5, 0])])
def test_a_target_outside_the_classes_is_refused(net, inputs, target):
    with pytest.raises(ValueError, match="3 classes"):
        Score(net, target)(inputs)


def test_the_number_of_targets_must_fit_the_rows(net, inputs):
    with pytest.raises(ValueError, match="2 targets for 3 rows"):
        Score(net, torch.tensor([0, 1]))(inputs)


def test_a_missing_or_superfluous_target_is_explained(net, inputs):
    with pytest.raises(ValueError, match="pass target="):
        Score(net)(inputs)
    with pytest.raises(ValueError, match=r"\(rows, classes\)"):
        Score(lambda x: x.sum(1), 0)(inputs)
    with pytest.raises(ValueError, match="probability"):
        Score(net, 0, "softmax")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.full((1, 6), torch.nan), "NaN"),
        (torch.full((1, 6), torch.inf), "infinity"),
        (torch.zeros(6), "batch dimension"),
        (torch.zeros(0, 6), "batch >= 1"),
    ],
)
def test_unusable_inputs_are_refused_before_any_pass(bad, message):
    def never(x):
        raise AssertionError("the model was called")

    for method in (gradient, gradient_x_input, lrp_epsilon, integrated_gradients):
        with pytest.raises(ValueError, match=message):
            method(Score(never), bad)


def test_integers_are_refused_as_inputs():
    with pytest.raises(TypeError, match="floating-point"):
        check_inputs(torch.zeros(1, 6, dtype=torch.long))


def test_a_baseline_of_the_wrong_shape_is_refused_with_the_shape_wanted(net, inputs):
    for wrong in (torch.zeros(6), torch.zeros(2, 6), torch.zeros(1, 7)):
        with pytest.raises(ValueError, match=r"must be \(1, 6\)|batch dimension"):
            check_inputs(inputs, wrong.double())


def test_a_black_box_gets_an_error_from_gradient_methods_not_zeros(net, inputs):
    def black_box(x):
        with torch.no_grad():
            return net(x)

    for method in (gradient, integrated_gradients):
        with pytest.raises(ValueError, match="occlusion"):
            method(Score(black_box, 0), inputs)
