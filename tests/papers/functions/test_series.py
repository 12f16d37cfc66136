import itertools
from fractions import Fraction as Fr
from math import comb, factorial, prod

import mpmath
import numpy as np
import pytest
import torch
from networks import dense, lively
from torch import nn
from torch.testing import assert_close

from attribook.effects import degrees
from attribook.papers.functions.series import PowerSum, activation_series, network_series

# -- slowly: degrees one by one, derivatives in sixty digits, products of dictionaries ----------


def all_degrees(n, order):
    """By order, then lexicographically descending."""
    found = [k for k in itertools.product(range(order + 1), repeat=n) if 1 <= sum(k) <= order]
    return sorted(found, key=lambda k: (sum(k), [-power for power in k]))


def derivatives(function, at, order):
    """f^(k)(at) / k! for k = 0..order, by differences in sixty digits."""
    with mpmath.workdps(60):
        return [float(c) for c in mpmath.taylor(function, mpmath.mpf(at), order)]


def times(p, q):
    found = {}
    for (k, a), (m, b) in itertools.product(p.items(), q.items()):
        key = tuple(i + j for i, j in zip(k, m, strict=True))
        found[key] = found.get(key, 0) + a * b
    return found


def plus(p, q):
    return {k: p.get(k, 0) + q.get(k, 0) for k in {**p, **q}}


def units_as_polynomials(network, start, moves):
    """Each output as {degree: term}, exactly: the inputs are start_i + moves_i e_i."""
    n = len(start)
    none = (0,) * n
    e = [tuple(int(i == j) for j in range(n)) for i in range(n)]
    units = [{none: Fr(s), e[i]: Fr(d)} for i, (s, d) in enumerate(zip(start, moves, strict=True))]
    for stage in network:
        if isinstance(stage, PowerSum):
            units = [applied(stage.coefficients, unit, none) for unit in units]
        else:
            rows = zip(stage.weight.tolist(), stage.bias.tolist(), strict=True)
            units = [weighted(weights, units, {none: Fr(bias)}) for weights, bias in rows]
    return units


def applied(coefficients, unit, none):
    total, power = {}, {none: Fr(1)}
    for a in coefficients:
        total = plus(total, times({none: Fr(a)}, power))
        power = times(power, unit)
    return total


def weighted(weights, units, total):
    for weight, unit in zip(weights, units, strict=True):
        total = plus(total, {k: Fr(weight) * c for k, c in unit.items()})
    return total


# -- degrees ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("order", [1, 2, 4, 6])
def test_degrees_are_all_there_are_and_in_order(n, order):
    found = degrees(n, order)
    assert [tuple(k) for k in found.tolist()] == all_degrees(n, order)
    assert len(found) == comb(n + order, order) - 1
    assert found.dtype == torch.long


def test_degrees_of_an_image_are_refused_from_the_second_order_on():
    assert len(degrees(784, 1)) == 784
    with pytest.raises(ValueError, match="784 features have 308504 degrees up to order 2"):
        degrees(784, 2)
    for n, order in ((0, 2), (3, 0), (3, -1)):
        with pytest.raises(ValueError, match="order >= 1, got"):
            degrees(n, order)


# -- activations --------------------------------------------------------------------------------

POINTS = [-30.0, -4.2, -0.5, 0.0, 1e-3, 0.9, 6.0, 30.0]


def sigmoid(z):
    return 1 / (1 + mpmath.exp(-z))


def softplus(beta):
    return lambda z: mpmath.log1p(mpmath.exp(beta * z)) / beta


ACTIVATIONS = {
    "sigmoid": (nn.Sigmoid(), sigmoid),
    "tanh": (nn.Tanh(), mpmath.tanh),
    "softplus": (nn.Softplus(), softplus(1)),
    "flat softplus": (nn.Softplus(beta=0.5), softplus(0.5)),
    "sharp softplus": (nn.Softplus(beta=16.0), softplus(16)),
    "identity": (nn.Identity(), lambda z: z),
    "power sum": (PowerSum(2, -1, 0, 0.5, 0.25), lambda z: 2 - z + z**3 / 2 + z**4 / 4),
    "constant": (PowerSum(3), lambda z: 3 + 0 * z),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_series_of_activations_are_their_derivatives_in_sixty_digits(name):
    # relative to each coefficient, in saturated units too; near a zero of one, to its neighbours
    activation, function = ACTIVATIONS[name]
    order = 12
    expected = np.array([derivatives(function, z, order) for z in POINTS]).T
    found = activation_series(activation, torch.tensor(POINTS, dtype=torch.float64), order)
    neighbours = np.maximum(abs(expected), 1e-3 * np.roll(abs(expected), 1, 0))
    assert (abs(found.numpy() - expected) <= 2e-12 * neighbours + 1e-40).all()


@pytest.mark.parametrize("activation", [nn.Softplus(256), nn.Tanh()])
def test_series_reach_orders_whose_whole_powers_leave_int64(activation):
    z = torch.tensor([0.001], dtype=torch.float64)
    found = activation_series(activation, z, 70)
    assert found.isfinite().all()
    assert_close(found[:13], activation_series(activation, z, 12))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_series_of_activations_begin_with_their_value_and_keep_shape_and_precision(name):
    activation, _ = ACTIVATIONS[name]
    z = torch.linspace(-1, 1, 6).view(2, 3)
    for order in range(4):
        found = activation_series(activation, z, order)
        assert found.shape == (order + 1, 2, 3) and found.dtype == torch.float32
        assert_close(found[0], activation(z))
    with pytest.raises(ValueError, match="order >= 0, got -1"):
        activation_series(activation, z, -1)


def test_power_sums_are_sums_of_powers():
    z = torch.tensor([-1.5, 0.0, 2.0], dtype=torch.float64)
    assert_close(PowerSum(0, 1, 0, 1)(z), z + z**3)
    assert_close(PowerSum()(z), 0 * z)
    assert not list(PowerSum(1, 2).parameters())


def test_what_has_no_series_at_every_point_is_refused():
    class Odd(nn.Tanh):
        def forward(self, z):
            return super().forward(z) ** 3

    for kind in (nn.ReLU, nn.ReLU6, nn.GELU, nn.MaxPool1d, Odd):
        activation = kind(2) if kind is nn.MaxPool1d else kind()
        with pytest.raises(ValueError, match=f"no Taylor series of {kind.__name__} .*Sigmoid"):
            activation_series(activation, torch.zeros(1), 2)


# -- networks -----------------------------------------------------------------------------------


def exact_terms(network, start, moves, order):
    """(units, 1 + terms) in fractions, rounded once."""
    kappa = [(0,) * len(start), *all_degrees(len(start), order)]
    units = units_as_polynomials(network, start.tolist(), moves.tolist())
    return torch.tensor([[float(u.get(k, 0)) for k in kappa] for u in units], dtype=torch.float64)


@pytest.mark.parametrize("order", [1, 2, 4, 6, 7])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_networks_of_powers_have_the_series_of_their_polynomial(generator, n, order):
    stages = (nn.Linear(n, 3), PowerSum(0.5, 1, -1, 0.25), nn.Linear(3, 2), PowerSum(0, 1, 0.5))
    network = lively(nn.Sequential(nn.Flatten(), *stages, nn.Linear(2, 2)), seed=n)
    start, moves = torch.randn(2, 2, n, generator=generator, dtype=torch.float64)
    found = network_series(network, start, moves, order)
    for row in range(2):
        expected = exact_terms(network[1:], start[row], moves[row], order)  # degree 6
        assert_close(found[row], expected, atol=1e-12, rtol=1e-12)
    assert_close(found[:, :, 0], network(start), atol=1e-12, rtol=1e-12)
    if order >= 6:  # and then there is no remainder
        assert_close(found.sum(2), network(start + moves), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("n, order", [(33, 3), (70, 1), (70, 2), (784, 1), (2, 40)])
def test_many_variables_and_high_orders_keep_their_terms_apart(generator, n, order):
    # one neuron z^3 + z: the term of kappa is |kappa|! / kappa! c_|kappa| prod (w d)^kappa
    network = lively(nn.Sequential(nn.Linear(n, 1), PowerSum(0, 1, 0, 1)), gain=0.5)
    start, moves = torch.randn(2, 1, n, generator=generator, dtype=torch.float64)
    found = network_series(network, start, moves, order)[0, 0]
    z = network[0](start).item()
    c = [z + z**3, 1 + 3 * z**2, 3 * z, 1.0, *[0.0] * order]
    steps = (network[0].weight[0] * moves[0]).tolist()
    expected = [c[0]]
    for kappa in degrees(n, order).tolist():
        taking_part = [(steps[i], k) for i, k in enumerate(kappa) if k]
        orders = factorial(sum(kappa)) / prod(factorial(k) for _, k in taking_part)
        expected.append(orders * c[sum(kappa)] * prod(s**k for s, k in taking_part))
    assert_close(found, found.new_tensor(expected), atol=1e-12, rtol=1e-10)


def test_layers_without_bias_and_the_identity_have_their_series():
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Identity(), dense([[1.0, 2.0]], [3.0]))
    network = lively(network)
    start, moves = torch.tensor([[[1.0, 2.0]], [[0.5, -1.0]]], dtype=torch.float64)
    weight = (network[2].weight @ network[0].weight)[0].detach()
    found = network_series(network, start, moves, 2)[0, 0]
    assert_close(found[:3], torch.cat([network(start)[0], weight * moves[0]]).detach())
    assert found[3:].abs().max() == 0


def test_terms_of_an_analytic_network_are_its_derivatives_along_the_move():
    # t -> f(b + t d): the terms of order k add up to its k-th Taylor coefficient
    stages = [nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3), nn.Softplus(2.0), nn.Linear(3, 1)]
    network = lively(nn.Sequential(*stages), gain=0.8)
    start, moves = torch.tensor([[[0.2, -0.4, 0.1]], [[0.3, 0.2, -0.5]]], dtype=torch.float64)
    found = network_series(network, start, moves, 7)[0, 0]

    def along(t):
        z = [s + t * d for s, d in zip(start[0].tolist(), moves[0].tolist(), strict=True)]
        for stage in network:
            match stage:
                case nn.Linear():
                    rows = zip(stage.weight.tolist(), stage.bias.tolist(), strict=True)
                    z = [sum(w * a for w, a in zip(ws, z, strict=True)) + b for ws, b in rows]
                case nn.Tanh():
                    z = [mpmath.tanh(a) for a in z]
                case _:
                    z = [softplus(2)(a) for a in z]
        return z[0]

    size = degrees(3, 7).sum(1)
    by_order = [found[0], *(found[1:][size == k].sum() for k in range(1, 8))]
    expected = found.new_tensor(derivatives(along, 0, 7))
    assert_close(torch.stack(by_order), expected, atol=1e-13, rtol=1e-11)


def test_networks_beyond_dense_layers_and_series_beyond_memory_are_refused():
    start = torch.zeros(1, 3, dtype=torch.float64)
    network = lively(nn.Sequential(nn.Linear(3, 2), nn.ReLU()))
    with pytest.raises(ValueError, match="no Taylor series of ReLU"):
        network_series(network, start, start, 2)
    many = torch.zeros(1, 8, dtype=torch.float64)
    network = lively(nn.Sequential(nn.Linear(8, 2), nn.Tanh()))
    with pytest.raises(ValueError, match="to order 10 need 5311735 products; lower the order"):
        network_series(network, many, many, 10)
