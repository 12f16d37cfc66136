import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import assert_same_state, lively, state_of
from torch import nn
from torch.testing import assert_close

from attribook import numerics
from attribook.ablation import (
    Kept,
    accuracy,
    confusion,
    keep_masks,
    layer_outputs,
    precision,
    predicted_classes,
    prune_order,
    pruned,
    pruned_tail,
    random_orders,
    recall,
)
from attribook.methods import integrated_gradients, lrp_epsilon
from attribook.papers.functions.toys import random_cnn, random_mlp
from attribook.score import Score, plain_gradient

NAN = float("nan")


@pytest.fixture
def net(generator):
    return lively(random_cnn(nn.Tanh, generator), gain=3.0)  # predicts all three classes


@pytest.fixture
def inputs(generator):
    return torch.randn(5, 2, 8, 8, generator=generator, dtype=torch.float64)


@pytest.fixture
def keep(generator):
    """Half of the neurons of the pooling layer."""
    return torch.rand(3, 3, 3, generator=generator) < 0.5


# -- orders and masks --------------------------------------------------------------------------


def test_an_order_goes_by_value_and_then_by_index():
    ranking = torch.tensor([[0.5, -1.0, 2.0], [2.0, 0.5, -1.0]])
    assert prune_order(ranking).tolist() == [2, 3, 0, 4, 1, 5]
    assert prune_order(ranking, descending=False).tolist() == [1, 5, 0, 4, 2, 3]
    ties = torch.tensor([0.0, -0.0]).repeat(500)
    assert prune_order(ties).tolist() == prune_order(ties, descending=False).tolist()
    assert prune_order(ties).tolist() == list(range(1000))


def test_an_order_has_no_place_for_nan_but_for_infinity():
    assert prune_order(torch.tensor([1.0, math.inf, -math.inf])).tolist() == [1, 0, 2]
    with pytest.raises(ValueError, match="ranking has 2 NaN"):
        prune_order(torch.tensor([NAN, 1.0, NAN]))


def test_random_orders_are_permutations_that_their_generator_decides():
    orders = random_orders(20, 4, torch.Generator().manual_seed(3))
    assert orders.shape == (4, 20)
    assert (orders.sort(1).values == torch.arange(20)).all()
    assert len(orders.unique(dim=0)) == 4
    assert torch.equal(orders, random_orders(20, 4, torch.Generator().manual_seed(3)))
    assert not torch.equal(orders, random_orders(20, 4, torch.Generator().manual_seed(4)))


def test_a_mask_turns_off_the_first_neurons_of_the_order():
    order = torch.tensor([4, 0, 5, 1, 2, 3])
    masks = keep_masks(order, [0, 0.5, 1], (2, 3))
    assert masks.dtype == torch.bool
    assert masks.tolist() == [
        [[True, True, True], [True, True, True]],
        [[False, True, True], [True, False, False]],
        [[False, False, False], [False, False, False]],
    ]


@pytest.mark.parametrize(
    "fraction, n, expected",
    [(0.3, 10, 3), (0.29, 100, 29), (0.57, 100, 57), (0.01, 64, 0), (0.03, 64, 1), (0.999, 64, 63)],
)
def test_the_number_pruned_is_the_floor_whatever_rounding_does(fraction, n, expected):
    (mask,) = keep_masks(torch.arange(n), [fraction], (n,))
    assert int((~mask).sum()) == expected


@given(n=st.integers(1, 40_000), data=st.data())
def test_k_of_n_neurons_are_k(n, data):
    k = data.draw(st.integers(0, n))
    (mask,) = keep_masks(torch.arange(n), [k / n], (n,))
    assert int((~mask).sum()) == k


def test_masks_of_growing_fractions_are_nested(generator):
    (order,) = random_orders(27, 1, generator)
    masks = keep_masks(order, [0.1, 0.4, 0.7], (3, 3, 3))
    assert (masks[:-1] >= masks[1:]).all()


@pytest.mark.parametrize("order", [[0, 0, 1], [1, 2, 3], [0, 1, -1]])
def test_an_order_that_is_no_permutation_is_refused(order):
    with pytest.raises(ValueError, match=r"each of the 3 neurons 0..2 once"):
        keep_masks(torch.tensor(order), [0.5], (3,))


def test_masks_refuse_other_shapes_and_fractions():
    with pytest.raises(ValueError, match=r"6 neurons, features \(2, 2\) are 4"):
        keep_masks(torch.arange(6), [0.5], (2, 2))
    with pytest.raises(ValueError, match=r"\[0, 1\], got \[-0.1, 1.5, nan\]"):
        keep_masks(torch.arange(6), [-0.1, 0.0, 1.0, 1.5, NAN], (6,))


# -- pruned models -----------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["logit", "probability"])
@pytest.mark.parametrize("target", [2, torch.tensor([0, 1, 2, 0, 1])])
def test_a_model_with_all_its_neurons_is_bit_for_bit_the_same(net, inputs, target, output):
    score = Score(net, target, output)
    whole = pruned(score, "pool", torch.ones(3, 3, 3, dtype=torch.bool))
    assert torch.equal(whole(inputs), score(inputs))
    assert torch.equal(plain_gradient(whole, inputs), plain_gradient(score, inputs))


def test_a_model_without_neurons_is_constant(net, inputs):
    score = pruned(Score(net, 1), "pool", torch.zeros(3, 3, 3, dtype=torch.bool))
    _, tail = Score(net, 1).split("pool")
    assert torch.equal(score(inputs), tail(torch.zeros(5, 3, 3, 3).double()))
    assert not plain_gradient(score, inputs).any()
    assert not integrated_gradients(score, inputs).any()


def test_pruning_sets_the_neurons_to_zero_before_the_tail(net, inputs, keep):
    head, tail = Score(net, 1).split("pool")
    activations = head(inputs).detach()
    zeroed = activations.clone()
    for place in (~keep).nonzero().tolist():
        zeroed[:, place[0], place[1], place[2]] = 0
    assert torch.equal(pruned(Score(net, 1), "pool", keep)(inputs), tail(zeroed))
    assert torch.equal(pruned_tail(tail, keep)(activations), tail(zeroed))
    assert not torch.equal(tail(zeroed), tail(activations))


def test_every_method_explains_a_pruned_model(net, inputs, keep):
    score = pruned(Score(net, 1), "pool", keep)
    change = score(inputs) - score(torch.zeros_like(inputs))
    assert_close(integrated_gradients(score, inputs).flatten(1).sum(1), change)
    assert lrp_epsilon(score, inputs).shape == inputs.shape
    head, tail = score.split("kept")
    at_layer = plain_gradient(pruned_tail(tail, keep), head(inputs).detach())
    assert not at_layer[:, ~keep].any() and at_layer[:, keep].any()


def test_pruning_twice_keeps_what_both_masks_keep(net, inputs, keep):
    half = torch.arange(27).view(3, 3, 3) % 2 == 0
    twice = pruned(pruned(Score(net, 1), "pool", keep), "kept", half)
    assert torch.equal(twice(inputs), pruned(Score(net, 1), "pool", keep & half)(inputs))


def test_a_stage_inside_a_stage_is_pruned_by_its_dotted_name(generator):
    net = nn.Sequential()
    net.add_module("body", random_mlp(nn.ReLU, generator, sizes=(6, 4, 4)))
    net.add_module("top", random_mlp(nn.ReLU, generator, sizes=(4, 4, 3)))
    x = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    net.eval()
    keep = torch.tensor([True, False, False, True])
    hidden = net.body[:2](x) * torch.tensor([1.0, 0, 0, 1])
    expected = net.top(net.body[2:](hidden))[:, 0]
    assert torch.equal(pruned(Score(net, 0), "body.act1", keep)(x), expected)


def test_pruning_leaves_the_model_alone(net, inputs, keep):
    before = state_of(net)
    score = Score(net, 1)
    pruned(score, "pool", keep)(inputs)
    head, tail = score.split("pool")
    predicted_classes(tail, layer_outputs(head, inputs), keep[None])
    assert_same_state(before, state_of(net))


def test_a_mask_that_does_not_fit_the_layer_is_explained(net, inputs, keep):
    with pytest.raises(ValueError, match=r"keep has shape \(27,\), the layer puts out \(3, 3, 3\)"):
        pruned(Score(net, 1), "pool", keep.flatten())(inputs)
    with pytest.raises(TypeError, match=r"mask \(torch.bool.*got torch.float32"):
        Kept(keep.float())
    with pytest.raises(ValueError, match="no layer 'pool9'"):
        pruned(Score(net, 1), "pool9", keep)


def test_a_tail_in_training_mode_is_refused_not_switched(net, keep):
    _, tail = Score(net, 1).split("pool")
    tail.model.train()
    with pytest.raises(ValueError, match="training mode"):
        pruned_tail(tail, keep)
    assert tail.model.training


# -- predictions and what they are worth -------------------------------------------------------


def test_predictions_are_those_of_the_pruned_models(net, inputs, generator, monkeypatch):
    monkeypatch.setattr(numerics, "NUMBERS_A_PASS", 60)  # two samples of 27 neurons a pass
    score = Score(net, 0)
    head, tail = score.split("pool")
    orders = random_orders(27, 3, generator)
    masks = torch.cat([keep_masks(order, [0, 0.2, 0.6, 1], (3, 3, 3)) for order in orders])
    found = predicted_classes(tail, layer_outputs(head, inputs), masks)
    assert found.shape == (12, 5) and found.dtype == torch.long
    for row, keep in zip(found, masks, strict=True):
        assert torch.equal(row, pruned(score, "pool", keep).model(inputs).argmax(1))
    assert torch.equal(found[0], net(inputs).argmax(1))
    assert (found[3] == found[3, 0]).all()
    assert len(found.unique(dim=0)) > 2  # pruning changes something here


def test_the_outputs_of_a_layer_are_the_same_in_parts_and_without_a_graph(net, inputs, monkeypatch):
    head, _ = Score(net, 0).split("pool")
    monkeypatch.setattr(numerics, "NUMBERS_A_PASS", 1)
    parts = layer_outputs(head, inputs)
    assert_close(parts, head(inputs), atol=1e-14, rtol=0)
    assert not parts.requires_grad


def test_predictions_need_classes(generator):
    net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0)).eval()
    head, tail = Score(net).split("1")
    x = torch.randn(3, 6, generator=generator)
    with pytest.raises(
        ValueError, match=r"need outputs \(rows, classes\), the model puts out \(3,\)"
    ):
        predicted_classes(tail, layer_outputs(head, x), torch.ones(1, 4, dtype=torch.bool))


def test_progress_sees_every_mask(generator):
    net = random_mlp(nn.Tanh, generator, sizes=(20, 64, 10)).float()
    head, tail = Score(net, 0).split("act1")
    activations = layer_outputs(head, torch.randn(6, 20, generator=generator))
    masks = keep_masks(torch.arange(64), [0, 0.1, 0.5], (64,))
    seen = []

    def watched(masks):
        for mask in masks:
            seen.append(mask)
            yield mask

    found = predicted_classes(tail, activations, masks, progress=watched)
    assert torch.equal(found, predicted_classes(tail, activations, masks))
    assert len(seen) == 3


LABELS = torch.tensor([0, 0, 0, 1, 1, 2])
PREDICTIONS = torch.tensor([[0, 0, 1, 1, 1, 2], [0, 0, 0, 0, 0, 0]])


def test_confusion_counts_true_classes_in_rows():
    counts = confusion(PREDICTIONS, LABELS, 4)
    assert counts[0].tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert counts[1].tolist() == [[3, 0, 0, 0], [2, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_recall_precision_and_accuracy_on_a_known_table():
    def equal(actual, expected):
        expected = torch.tensor(expected, dtype=torch.float64)
        assert_close(actual, expected, atol=1e-15, rtol=0, equal_nan=True)

    equal(accuracy(PREDICTIONS, LABELS), [5 / 6, 1 / 2])
    equal(recall(PREDICTIONS, LABELS, 4), [[2 / 3, 1, 1, NAN], [1, 0, 0, NAN]])
    equal(precision(PREDICTIONS, LABELS, 4), [[1, 2 / 3, 1, NAN], [1 / 2, NAN, NAN, NAN]])


def test_recall_and_precision_agree_with_counting_one_by_one(generator):
    labels = torch.randint(5, (200,), generator=generator)
    predictions = torch.randint(5, (3, 200), generator=generator)
    found, exact = recall(predictions, labels, 5), precision(predictions, labels, 5)
    for mask in range(3):
        for c in range(5):
            hits = sum(
                int(p) == c == int(t) for p, t in zip(predictions[mask], labels, strict=True)
            )
            assert found[mask, c] == hits / labels.tolist().count(c)
            assert exact[mask, c] == hits / predictions[mask].tolist().count(c)


def test_classes_beyond_the_last_are_refused():
    with pytest.raises(ValueError, match=r"labels must be classes 0..1, got 0 to 2"):
        recall(PREDICTIONS, LABELS, 2)
    with pytest.raises(ValueError, match=r"predictions must be classes 0..2, got 0 to 3"):
        precision(torch.tensor([[0, 3]]), torch.tensor([0, 1]), 3)
