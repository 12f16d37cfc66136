"""Known answers for the slow definitions in reference.py: the second opinion is itself checked.

Exact arithmetic on a handful of units: 1e-12 leaves room for rounding and for nothing else.
"""

import numpy as np
import pytest
import reference as ref
import torch
from networks import ACTIVATIONS, NETWORKS, dense, lively, network, points
from numpy.testing import assert_allclose
from torch import nn

EXACT = 1e-12


def close(actual, expected, atol=EXACT):
    assert_allclose(actual, expected, rtol=0, atol=atol)


# max(x1, x2) for x1 + x2 >= 0, the formula of footnote 4
THREE_RELUS = ([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]], [[0.5, 0.5, 0.5]])


def max_of_three_relus():
    return ref.as_graph(
        nn.Sequential(dense(THREE_RELUS[0]), nn.ReLU(), dense(THREE_RELUS[1])), (2,)
    )


def max_primitive():
    pool = nn.Sequential(nn.Unflatten(1, (1, 2)), nn.MaxPool1d(2), nn.Flatten())
    return ref.as_graph(pool, (2,))


def max_score(x):
    return max(x)


def four_to_three(*activations, seed):
    """A dense network 4-5-...-5-3 with an activation between any two layers."""
    stages = [nn.Linear(4, 5), activations[0]]
    for activation in activations[1:]:
        stages += [nn.Linear(5, 5), activation]
    stages += [nn.Linear(5, 3)]
    return lively(nn.Sequential(*stages), seed, gain=1.0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_graph_computes_what_its_torch_network_computes(name, activation):
    model, shape = network(name, activation)
    x = points(shape)
    outputs = [ref.forward(ref.as_graph(model, shape), row)[-1] for row in x]
    close(outputs, model(x).detach(), atol=1e-11)  # sums of a few hundred terms of size 10


@pytest.mark.parametrize("kind", ref.ELEMENTWISE, ids=lambda kind: kind.__name__)
def test_elementwise_functions_match_torch_and_their_derivatives_match_finite_differences(kind):
    module, step = kind(), 1e-6
    f, derivative = ref.ELEMENTWISE[kind](module)
    z = np.linspace(-4.05, 8.05, 122)  # no point on a kink
    close(f(z), module(torch.from_numpy(z)))
    # central differences: error step^2 from curvature and 1e-16 / step from rounding
    close(derivative(z), (f(z + step) - f(z - step)) / (2 * step), atol=1e-8)


def test_as_graph_refuses_a_layer_it_cannot_read_off():
    with pytest.raises(TypeError, match="Softmax"):
        ref.as_graph(nn.Sequential(nn.Linear(3, 3), nn.Softmax(1)).double(), (3,))


def test_max_pool_windows_may_overlap_and_the_first_of_equals_wins():
    graph = ref.as_graph(nn.Sequential(nn.MaxPool1d(3, stride=1, padding=1)), (1, 4))
    expected = [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
    assert graph[0].windows.tolist() == [[bool(x) for x in row] for row in expected]
    assert graph[0].winners(np.array([2.0, 2.0, 1.0, 3.0])).tolist() == [0, 0, 3, 3]


def test_every_method_gives_weight_times_input_difference_on_a_linear_model():
    weight, bias = [[1.05, 1.5]], [0.0]
    graph = ref.as_graph(nn.Sequential(dense(weight, bias)), (2,))
    x, xb = np.array([1e5, 1e4]), np.array([1e3, -2e3])
    close(ref.gradient_layerwise(graph, x, 0), [1.05, 1.5])
    close(ref.lrp_layerwise(graph, x, 0), [105_000, 15_000], atol=1e-9)  # 1e5 units of rounding
    expected = [1.05 * 99_000, 1.5 * 12_000]
    close(ref.deeplift_layerwise(graph, x, xb, 0), expected, atol=1e-9)
    close(ref.reveal_cancel_dense(graph, x, xb, 0), expected, atol=1e-9)
    close(
        ref.shapley_by_permutations(lambda p: np.array(weight[0]) @ p, x, xb), expected, atol=1e-9
    )


def test_deeplift_depends_on_how_max_is_written():  # [gradient, footnote 4]
    x, xb = [2.0, 3.0], [1.0, 0.0]
    close(ref.deeplift_layerwise(max_of_three_relus(), x, xb, 0), [0.5, 1.5])
    close(ref.deeplift_layerwise(max_primitive(), x, xb, 0, cross_max=False), [0, 3])
    close(ref.deeplift_layerwise(max_of_three_relus(), x, [0.0, 0.0], 0), [0, 3])


def test_cross_max_makes_deeplift_complete_on_the_max_primitive():
    close(ref.deeplift_layerwise(max_primitive(), [2.0, 3.0], [1.0, 0.0], 0), [0, 2])
    # the output falls from 5, which x2's baseline held, to 2: the fall goes to x2
    close(ref.deeplift_layerwise(max_primitive(), [2.0, 1.0], [1.0, 5.0], 0), [0, -3])


@pytest.mark.parametrize(
    ("x", "xb", "expected"),
    [
        ([2.0, 2.1], [0.0, 0.0], [1.0, 1.1]),
        ([2.0, 1.9], [0.0, 0.0], [1.05, 0.95]),
        ([2.0, 3.0], [1.0, 0.0], [0.5, 1.5]),
    ],
)
def test_reveal_cancel_on_three_relus_gives_the_shapley_values_of_max(x, xb, expected):
    close(ref.reveal_cancel_dense(max_of_three_relus(), x, xb, 0), expected)
    close(ref.shapley_by_permutations(max_score, x, xb), expected)


def test_reveal_cancel_of_min_is_the_example_of_its_paper():
    # o = i1 - ReLU(i1 - i2): Shrikumar et al., Sec. 3.5.3, give half of the output to each input
    first, second = dense([[1.0, -1.0], [1.0, 0.0]]), dense([[-1.0, 1.0]])
    graph = ref.as_graph(nn.Sequential(first, nn.ReLU(), second), (2,))
    for x in ([3.0, 2.0], [2.0, 3.0]):
        close(ref.reveal_cancel_dense(graph, x, [0.0, 0.0], 0), [min(x) / 2, min(x) / 2])


def test_reveal_cancel_and_rescale_are_complete_on_random_networks():
    for seed in range(5):
        model = four_to_three(nn.Tanh(), nn.Sigmoid(), seed=seed)
        graph = ref.as_graph(model, (4,))
        x, xb = np.random.default_rng(seed).normal(size=(2, 4))
        drop = ref.forward(graph, x)[-1][1] - ref.forward(graph, xb)[-1][1]
        close(ref.deeplift_layerwise(graph, x, xb, 1).sum(), drop)
        close(ref.reveal_cancel_dense(graph, x, xb, 1).sum(), drop)


def implementations_of_one_function():
    """ReLU(ReLU(x1) - 1 - ReLU(x2)) and ReLU(ReLU(x1 - 1) - ReLU(x2)): equal everywhere."""
    first = (dense([[1.0, 0.0], [0.0, 1.0]]), nn.ReLU(), dense([[1.0, -1.0]], [-1.0]), nn.ReLU())
    second = (
        dense([[1.0, 0.0], [0.0, 1.0]], [-1.0, 0.0]),
        nn.ReLU(),
        dense([[1.0, -1.0]]),
        nn.ReLU(),
    )
    return ref.as_graph(nn.Sequential(*first), (2,)), ref.as_graph(nn.Sequential(*second), (2,))


@pytest.mark.parametrize(
    ("x", "deeplift_f", "deeplift_g"),
    [([3.0, 1.0], [1.5, -0.5], [2.0, -1.0]), ([5.0, 2.0], [10 / 3, -4 / 3], [4.0, -2.0])],
)
def test_deeplift_differs_between_implementations_where_lrp_does_not(x, deeplift_f, deeplift_g):
    f, g = implementations_of_one_function()
    close(ref.deeplift_layerwise(f, x, [0.0, 0.0], 0), deeplift_f)
    close(ref.deeplift_layerwise(g, x, [0.0, 0.0], 0), deeplift_g)
    close(ref.lrp_layerwise(f, x, 0), [x[0], -x[1]])  # ReLU only: gradient times input
    close(ref.lrp_layerwise(g, x, 0), [x[0], -x[1]])


def test_lrp_differs_between_tanh_and_its_sigmoid_form():
    f = ref.as_graph(nn.Sequential(dense([[1.0]]), nn.Tanh(), dense([[1.0]])), (1,))
    g = ref.as_graph(nn.Sequential(dense([[2.0]]), nn.Sigmoid(), dense([[2.0]], [-1.0])), (1,))
    for x in (1.0, -2.0):
        close(ref.lrp_layerwise(f, [x], 0), [np.tanh(x)])
        close(ref.lrp_layerwise(g, [x], 0), [np.tanh(x) + 1])


def test_the_lrp_stabiliser_switches_continuously_between_the_two_inputs_of_max():
    # eps = 0.01 at (2, 2 + e): values of the claim gradient.lrp-stabiliser, printed to 5 digits
    expected = {
        0.1: [0.08806, 1.9925],
        0.01: [0.49505, 1.49755],
        0.0: [0.99254, 0.99254],
        -0.01: [1.49005, 0.49255],
    }
    for e, values in expected.items():
        close(
            ref.lrp_layerwise(max_of_three_relus(), [2.0, 2.0 + e], 0, eps=0.01), values, atol=1e-5
        )


def test_product_of_relus_doubles_under_the_plain_rule_and_not_under_the_averaged_one():
    first = nn.Sequential(dense([[1.0, 0.0]], [-1.0]), nn.ReLU())
    second = nn.Sequential(dense([[0.0, 1.0]]), nn.ReLU())
    graph = ref.as_graph(nn.Sequential(ref.Gate(first, second)), (2,))
    x, xb = [3.0, 2.0], [0.0, 0.0]
    close(ref.deeplift_layerwise(graph, x, xb, 0, averaged=False), [4, 4])
    close(ref.deeplift_layerwise(graph, x, xb, 0, averaged=True), [2, 2])
    close(ref.gradient_layerwise(graph, x, 0), [2, 2])


@pytest.mark.parametrize(
    ("x", "alpha", "beta", "expected"),
    [
        ([2.0, 2.1], 1, 0, [1.0, 1.1]),
        ([2.0, 1.9], 1, 0, [1.05, 0.95]),
        ([2.0, 2.0], 1, 0, [1.0, 1.0]),
        ([2.0, 2.1], 2, 1, [3.9, 4.4]),
    ],
)
def test_alpha_beta_on_three_relus(x, alpha, beta, expected):
    close(ref.alpha_beta_layerwise(max_of_three_relus(), x, 0, alpha, beta), expected)


def test_fusing_affine_maps_changes_lrp_only_through_epsilon():
    model, shape = network("residual CNN with batch-norm", "tanh")
    graph, x = ref.as_graph(model, shape), points(shape)[0]
    fused = ref.fuse_affine(graph)
    assert len(fused) < len(graph)
    close(ref.forward(fused, x)[-1], ref.forward(graph, x)[-1])
    exact = ref.lrp_layerwise(graph, x, 0)
    close(ref.lrp_layerwise(fused, x, 0) / abs(exact).max(), exact / abs(exact).max(), atol=1e-9)
    apart = ref.lrp_layerwise(fused, x, 0, 0.1) - ref.lrp_layerwise(graph, x, 0, 0.1)
    assert np.abs(apart).max() > 1e-3


def test_epsilon_only_before_nonlinearities_differs_by_the_output_factor_on_an_mlp():
    graph, eps = ref.as_graph(four_to_three(nn.Tanh(), seed=2), (4,)), 0.1
    x = np.random.default_rng(2).normal(size=4)
    score = ref.forward(graph, x)[-1][0]
    bare = ref.lrp_layerwise(ref.stabilised_only_before_nonlinearities(graph), x, 0, eps)
    close(ref.lrp_layerwise(graph, x, 0, eps), bare * score / (score + eps * ref.sign(score)))


def test_path_enumeration_with_hand_computed_products():
    weights = [np.array([[2.0, 3.0]]), np.array([[5.0], [7.0]])]
    gs = [np.array([0.5]), np.array([1.0, 0.1])]
    close(ref.path_sum(weights, gs), [[5.0, 7.5], [0.7, 1.05]])


def test_the_layerwise_gradient_is_the_path_sum_and_the_finite_difference():
    graph = ref.as_graph(four_to_three(nn.Tanh(), nn.Softplus(), seed=3), (4,))
    x, step = np.random.default_rng(3).normal(size=4), 1e-6
    values = ref.forward(graph, x)
    weights = [node.matrices[0] for node in graph[::2]]
    gs = [graph[1].derivative(values[1]), graph[3].derivative(values[3]), np.ones(3)]
    gradient = ref.gradient_layerwise(graph, x, 2)
    close(ref.path_sum(weights, gs)[2], gradient)
    differences = [
        (ref.forward(graph, x + step * e)[-1][2] - ref.forward(graph, x - step * e)[-1][2])
        / (2 * step)
        for e in np.eye(4)
    ]
    close(gradient, differences, atol=1e-8)  # central differences, see above


def test_guided_backpropagation_stops_negative_derivatives_at_the_relu():
    graph = ref.as_graph(
        nn.Sequential(dense([[1.0], [1.0]]), nn.ReLU(), dense([[1.0, -3.0]])), (1,)
    )
    close(ref.gradient_layerwise(graph, [1.0], 0), [-2.0])
    close(ref.gradient_layerwise(graph, [1.0], 0, guided=True), [1.0])


def test_shapley_values_of_the_glove_game():
    # one left glove (player 1), two right gloves: 2/3, 1/6, 1/6
    values = ref.shapley_by_permutations(
        lambda p: min(p[0], p[1] + p[2], 1.0), np.ones(3), np.zeros(3)
    )
    close(values, [2 / 3, 1 / 6, 1 / 6])


def test_sensitivity_n_violations_of_max_of_three_at_ones():  # [gradient, Sec. 2.4]
    x, xb, nothing = np.ones(3), np.zeros(3), np.zeros(3)
    violations = [ref.sensitivity_n_brute(max, x, xb, nothing, n) for n in (1, 2, 3)]
    close(violations, [0, 0, 1])


def test_deep_shap_is_linear_in_the_distribution_of_baselines():
    graph = ref.as_graph(four_to_three(nn.Sigmoid(), seed=4), (4,))
    x, *baselines = np.random.default_rng(4).normal(size=(4, 4))
    drops = [ref.forward(graph, x)[-1][0] - ref.forward(graph, b)[-1][0] for b in baselines]
    close(ref.deep_shap(graph, x, baselines, 0).sum(), np.mean(drops))
    close(ref.deep_shap(graph, x, [x, x], 0), np.zeros(4))
