"""RevealCancel against its definition, contribution by contribution, and against Shapley values.

1e-9 relative is the claims' bound for a method against its layer-by-layer form; 1e-12 is rounding.
"""

import numpy as np
import pytest
import reference as ref
import torch
import torch.nn.functional as F
from networks import ACTIVATIONS, dense, lively, network, points
from torch import nn

from attribook.calls import UnsupportedOperation
from attribook.parts import reveal_cancel
from attribook.score import Score

ZERO = [0.0, 0.0]
# two nonlinearities in a row are no chain of layers as the reference understands it
SIMPLE = [activation for activation in ACTIVATIONS if activation != "sqrt of softplus"]


def at(values):
    return torch.tensor([values], dtype=torch.float64)


def max_by_three_relus():
    first = dense([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
    return nn.Sequential(first, nn.ReLU(), dense([[0.5, 0.5, 0.5]])).eval()


@pytest.mark.parametrize("activation", SIMPLE)
@pytest.mark.parametrize("name", ["MLP", "CNN with average pooling"])
def test_reveal_cancel_is_its_definition_layer_by_layer(name, activation):
    model, shape = network(name, activation)
    x, xb, graph = points(shape), points(shape, seed=9), ref.as_graph(model, shape)
    actual = reveal_cancel(Score(model, 1), x, xb).flatten(1).numpy()
    rows = zip(x, xb, strict=True)
    expected = np.stack([ref.reveal_cancel_dense(graph, *pair, 1) for pair in rows])
    assert abs(actual - expected).max() <= 1e-9 * abs(expected).max()


@pytest.mark.parametrize("activation", SIMPLE)
@pytest.mark.parametrize(
    "name", ["MLP", "CNN with average pooling", "residual CNN with batch-norm"]
)
def test_reveal_cancel_is_complete(name, activation):
    model, shape = network(name, activation)
    score, x, xb = Score(model, torch.tensor([0, 2, 1])), points(shape), points(shape, seed=9)
    drop = (score(x) - score(xb)).detach()
    total = reveal_cancel(score, x, xb).flatten(1).sum(1)
    assert (total - drop).abs().max() <= 1e-9 * drop.abs().max()


@pytest.mark.parametrize(
    ("x", "xb", "expected"),
    [
        ([2.0, 2.1], ZERO, [1.0, 1.1]),
        ([2.0, 1.9], ZERO, [1.05, 0.95]),
        ([2.0, 2.0], ZERO, [1.0, 1.0]),
        ([2.0, 3.0], [1.0, 0.0], [0.5, 1.5]),
    ],
)
def test_on_three_relus_reveal_cancel_gives_the_shapley_values_of_max(x, xb, expected):
    actual = reveal_cancel(Score(max_by_three_relus(), 0), at(x), at(xb))
    assert actual[0].tolist() == pytest.approx(expected, abs=1e-12)
    assert ref.shapley_by_permutations(max, x, xb).tolist() == pytest.approx(expected, abs=1e-12)


def test_reveal_cancel_halves_a_minimum():  # [DeepLIFT, Sec. 3.5.3]
    first = dense([[1.0, -1.0], [1.0, 0.0]])
    model = nn.Sequential(first, nn.ReLU(), dense([[-1.0, 1.0]])).eval()
    for x in ([3.0, 2.0], [2.0, 3.0]):
        actual = reveal_cancel(Score(model, 0), at(x), at(ZERO))
        assert actual[0].tolist() == pytest.approx([1.0, 1.0], abs=1e-12)


def test_a_hidden_unit_whose_parts_cancel_passes_half_of_each():
    # h1 = ReLU(x1 - x2) stands still at 0 while its parts are +1 and -1; then a second layer
    first, second = dense([[1.0, -1.0], [0.0, 1.0]]), dense([[1.0, 2.0], [-1.0, 1.0]], [0.5, -0.5])
    model = nn.Sequential(first, nn.ReLU(), second, nn.Tanh(), dense([[1.0, 1.0]])).eval()
    x, xb, graph = at([1.0, 1.5]), at(ZERO), ref.as_graph(model, (2,))
    expected = ref.reveal_cancel_dense(graph, x[0], xb[0], 0)
    apart = ref.reveal_cancel_dense(graph, x[0], xb[0], 0, sort=ref.part_by_part)
    actual = reveal_cancel(Score(model, 0), x, xb)[0].tolist()
    assert actual == pytest.approx(expected.tolist(), abs=1e-12)
    assert abs(expected - apart).max() > 1e-3  # so the test can tell the two rules apart


def test_batch_norm_keeps_the_parts_apart():
    norm = nn.BatchNorm1d(6)
    stages = nn.Linear(5, 6), norm, nn.ReLU(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)
    model = lively(nn.Sequential(*stages))
    with torch.no_grad():
        norm.weight.uniform_(-2, 2, generator=torch.Generator().manual_seed(0))
    x, xb, graph = points((5,)), points((5,), seed=9), ref.as_graph(model, (5,))
    actual = reveal_cancel(Score(model, 1), x, xb).numpy()
    rows = zip(x, xb, strict=True)
    expected = np.stack([ref.reveal_cancel_dense(graph, *pair, 1) for pair in rows])
    assert abs(actual - expected).max() <= 1e-9 * abs(expected).max()


def test_values_outside_the_domain_of_a_nonlinearity_are_an_error_and_not_a_nan():
    model, shape = network("MLP", "sqrt of softplus")  # a part may carry below the root's zero
    with pytest.raises(ValueError, match="infinite or NaN"):
        reveal_cancel(Score(model, 0), points(shape), points(shape, seed=9))


SPELLINGS = {
    "modules": nn.ReLU(),
    "functional": F.relu,
    "in place": lambda h: h.relu_(),
    "clamp": lambda h: torch.clamp(h, min=0),
}


@pytest.mark.parametrize("relu", SPELLINGS.values(), ids=SPELLINGS)
def test_every_spelling_of_the_network_gives_the_same_result(relu):
    layers = lively(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 4), nn.Linear(4, 1)))
    usual = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    x, xb = points((4,)), points((4,), n=1, seed=2)

    def spelled(x):
        h = relu(x @ layers[0].weight.T + layers[0].bias)
        h = relu(layers[1].bias + F.linear(h, layers[1].weight))
        return layers[2](h)

    actual = reveal_cancel(Score(spelled, 0), x, xb)
    expected = reveal_cancel(Score(usual.eval(), 0), x, xb)
    assert (actual - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: F.max_pool1d(x[:, None], 2).flatten(1), "max-pooling; use deeplift_rescale"),
        (lambda x: x * torch.tanh(x), "products; use deeplift_rescale"),
        (torch.exp, "no rule for exp"),
        (lambda x: torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1), "constant"),
    ],
    ids=["max-pooling", "product", "exp", "constant column"],
)
def test_what_reveal_cancel_is_not_defined_for_is_refused(function, words):
    with pytest.raises((ValueError, UnsupportedOperation), match=words):
        reveal_cancel(Score(function, 0), points((4,)), points((4,), n=1, seed=2))
