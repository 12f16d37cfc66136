import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import lively, points
from torch import nn
from torch.testing import assert_close

from attribook.effects import Effects, degrees, second_order
from attribook.methods import (
    integrated_gradients,
    occlusion,
    occlusion_patch,
    shapley,
)
from attribook.papers.functions.polynomials import Polynomial, monomial, random_polynomial
from attribook.papers.functions.series import PowerSum
from attribook.papers.integrated.rivals import RIVALS, gradient_times_difference
from attribook.papers.taylor.exact import (
    exact_effects,
    network_effects,
    neuron_effects,
    polynomial_effects,
)
from attribook.papers.taylor.layers import (
    Layer,
    alpha_beta,
    module_shapley,
    rescale,
    reveal_cancel,
)
from attribook.papers.taylor.probes import probe, probe_module
from attribook.paths import midpoint
from attribook.score import Score
from attribook.sharing import (
    Principles,
    allocate,
    allocate_second_order,
    by_degree,
    by_sign,
    equally,
    first_order,
    fitting_error,
    generic_ratios,
    principles,
    second_order_to_patches,
    times_degree,
    whole_to_members,
    whole_to_patches,
    within_signs,
)

# -- slowly: Table IV, one variable and one effect after another ---------------------------------

PATCHES = torch.tensor([0, 1, 1, 0])


def support(kappa):
    return {i for i, k in enumerate(kappa) if k > 0}


def share_of_tangent(i, kappa):
    return float(sum(kappa) == 1 and kappa[i] == 1)


def share_by_euler(i, kappa):
    return float(kappa[i])


def share_by_occlusion(i, kappa):
    return float(i in support(kappa))


def share_by_patch(i, kappa):
    patch = {j for j in range(len(kappa)) if PATCHES[j] == PATCHES[i]}
    return float(bool(patch & support(kappa)))


def share_by_ig(i, kappa):
    return kappa[i] / sum(kappa)


def share_by_shapley(i, kappa):
    return 1 / len(support(kappa)) if i in support(kappa) else 0.0


TABLE_IV = {
    "tangent": (first_order, share_of_tangent),
    "Euler": (times_degree, share_by_euler),
    "occlusion": (whole_to_members, share_by_occlusion),
    "patches": (whole_to_patches(PATCHES), share_by_patch),
    "IG": (by_degree, share_by_ig),
    "Shapley": (equally, share_by_shapley),
}


def lrp_share(i, kappa, z, alpha, beta, singletons=True):
    """Theorem 11, Eq. 34-35: alpha for N+, beta for N-, c_i inside, d_i from the other side."""
    positive = [j for j in range(len(z)) if z[j] > 0]
    side = positive if z[i] > 0 else [j for j in range(len(z)) if not z[j] > 0]
    factor = alpha if z[i] > 0 else beta
    if support(kappa) & set(side):
        return factor * kappa[i] / sum(kappa[j] for j in side)
    if len(support(kappa)) == 1 and not singletons:
        return 0.0
    total = sum(z[j] for j in side)
    return factor * z[i] / total if total else 0.0


def reveal_cancel_share(i, kappa, z):
    """Theorem 14, Eq. 41-42: c_i within a side, half of it where both sides take part."""
    if i not in support(kappa):
        return 0.0
    side = [j for j in range(len(z)) if (z[j] > 0) == (z[i] > 0)]
    mixed = support(kappa) - set(side)
    return kappa[i] / sum(kappa[j] for j in side) * (0.5 if mixed else 1)


def table(share, kappas):
    return [[share(i, kappa) for i in range(len(kappa))] for kappa in kappas.tolist()]


def exactly(found, expected):
    assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-15, rtol=1e-15)


@pytest.mark.parametrize("name", TABLE_IV)
def test_sharings_are_the_rows_of_table_four(name):
    sharing, share = TABLE_IV[name]
    kappas = degrees(4, 4)
    exactly(sharing(kappas), table(share, kappas))


SIGNS = torch.tensor(
    [[3.0, -1.0, 0.5, -2.0], [1.0, 2.0, 0.5, 3.0], [-1.0, 0.0, -0.5, -3.0], [1.0, 0.0, 0.0, 2.0]]
    + [[0.0, 0.0, 0.0, 0.0]],
    dtype=torch.float64,
)  # both signs; N- empty; N+ empty; N- of zeros only; nothing at all


@pytest.mark.parametrize("alpha, beta", [(2.0, -1.0), (1.0, 0.0), (0.5, 0.5), (2.0, 1.0)])
@pytest.mark.parametrize("singletons", [True, False])
def test_sharing_by_sign_is_theorem_eleven_also_where_a_side_is_empty(alpha, beta, singletons):
    kappas = degrees(4, 3)
    found = by_sign(alpha, beta, SIGNS, singletons=singletons)(kappas)
    for row, z in enumerate(SIGNS.tolist()):
        rules = (z, alpha, beta, singletons)
        exactly(found[row], table(lambda i, k, rules=rules: lrp_share(i, k, *rules), kappas))


def test_sharing_by_sign_hands_out_alpha_plus_beta_or_one_of_them():
    kappas = degrees(4, 3)
    for alpha, beta in ((2.0, -1.0), (1.0, 0.0), (2.0, 1.0)):
        sums = by_sign(alpha, beta, SIGNS)(kappas).sum(2)
        assert_close(sums[0], torch.full_like(sums[0], alpha + beta), atol=1e-14, rtol=0)
        assert_close(sums[1], torch.full_like(sums[1], alpha), atol=1e-14, rtol=0)
        assert_close(sums[2], torch.full_like(sums[2], beta), atol=1e-14, rtol=0)


def test_sharing_within_signs_is_theorem_fourteen_and_complete():
    kappas = degrees(4, 4)
    found = within_signs(SIGNS)(kappas)
    for row, z in enumerate(SIGNS.tolist()):
        exactly(found[row], table(lambda i, k, z=z: reveal_cancel_share(i, k, z), kappas))
    assert_close(found.sum(2), torch.ones_like(found[..., 0]), atol=1e-14, rtol=0)


def test_unusable_contributions_and_groups_are_refused():
    for sharing in (lambda z: by_sign(1, 0, z), within_signs):
        with pytest.raises(ValueError, match="contributions must be finite"):
            sharing(SIGNS * torch.nan)
    with pytest.raises(ValueError, match="degrees have 3 features and groups 4; pass"):
        whole_to_patches(PATCHES)(degrees(3, 2))


# -- allocation ---------------------------------------------------------------------------------


def test_attributions_are_sums_over_effects(generator):
    kappas = degrees(4, 3)
    values = torch.randn(5, len(kappas), generator=generator, dtype=torch.float64)
    effects = Effects(kappas, values)
    for sharing, share in (
        *TABLE_IV.values(),
        (by_sign(2, -1, SIGNS), lambda i, k: [lrp_share(i, k, z, 2, -1) for z in SIGNS.tolist()]),
    ):
        expected = torch.zeros(5, 4, dtype=torch.float64)
        for m, kappa in enumerate(kappas.tolist()):
            for i in range(4):
                expected[:, i] += values.new_tensor(share(i, kappa)) * values[:, m]
        assert_close(allocate(effects, sharing), expected, atol=1e-13, rtol=0)
    single = allocate(Effects(kappas, values.float()), by_degree)
    assert single.dtype == torch.float32


@pytest.mark.parametrize(
    "method, sharing",
    [
        (gradient_times_difference, times_degree),
        (occlusion, whole_to_members),
        (lambda f, x, b: occlusion_patch(f, x, PATCHES, b), whole_to_patches(PATCHES)),
        (integrated_gradients, by_degree),
        (shapley, equally),
    ],
)
def test_methods_allocate_the_effects_of_polynomials(generator, method, sharing):
    polynomial = random_polynomial(generator, 4, 5, n_terms=20)
    inputs, start = points((4,)), points((4,), 1, 5)
    effects = polynomial_effects(polynomial, inputs, start)
    found = method(Score(polynomial), inputs, start)
    assert_close(found, allocate(effects, sharing), atol=1e-10, rtol=1e-10)
    for other in {by_degree, equally, whole_to_members, times_degree} - {sharing}:  # controls
        wrong = allocate(effects, other)
        assert (wrong - found).abs().max() > 0.01 * found.abs().max()


def test_the_study_room():  # [taylor, Sec. I]: 3 book + 2 desk lamp book
    room = monomial(1, 0, 0, coefficient=3.0) + monomial(1, 1, 1, coefficient=2.0)
    corners = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    effects = polynomial_effects(room, corners)
    book, all_three = corners[:, 0], corners.prod(1)
    for sharing, share in ((equally, 1 / 3), (whole_to_members, 1.0)):
        expected = torch.stack([3 * book + share * 2 * all_three] + [share * 2 * all_three] * 2, 1)
        assert_close(allocate(effects, sharing), expected, atol=1e-15, rtol=0)


def test_the_toy_of_section_four():  # x1^2 x2 x3^2: 2/5, 1/5, 2/5 and a third each
    inputs = points((3,), 20)
    toy = monomial(2, 1, 2)
    effects = polynomial_effects(toy, inputs)
    for sharing, shares in (
        (by_degree, [2 / 5, 1 / 5, 2 / 5]),
        (equally, [1 / 3] * 3),
        (whole_to_members, [1.0] * 3),
        (times_degree, [2.0, 1.0, 2.0]),
    ):
        expected = toy(inputs)[:, None] * inputs.new_tensor(shares)
        assert_close(allocate(effects, sharing), expected, atol=1e-12, rtol=1e-12)


# -- the second order of large inputs -------------------------------------------------------------


@pytest.fixture
def local():
    """A network's score, inputs, baselines, its gradient and Hessian, and its effects to order 2."""
    stages = [nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.Sigmoid(), nn.Linear(3, 1)]
    score = Score(lively(nn.Sequential(*stages)), 0)
    inputs, start = points((4,)), points((4,), 3, 6)
    effects = network_effects(score, inputs, start, order=2)
    return (*second_order(score, start), inputs - start), effects


@pytest.mark.parametrize("name", sorted(TABLE_IV.keys() - {"patches"}))
def test_second_order_allocation_is_that_of_the_listed_effects(local, name):
    derivatives, effects = local
    sharing, _ = TABLE_IV[name]
    found = allocate_second_order(*derivatives, sharing)
    assert_close(found, allocate(effects, sharing), atol=1e-13, rtol=1e-11)


@pytest.mark.parametrize("groups", [[0, 1, 1, 0], [0, 0, 0, 0], [3, 2, 1, 0], [0, 1, 1, 1]])
def test_second_order_allocation_to_groups_is_that_of_the_listed_effects(local, groups):
    derivatives, effects = local
    groups = torch.tensor(groups)
    found = second_order_to_patches(*derivatives, groups)
    expected = allocate(effects, whole_to_patches(groups))
    assert_close(found, expected, atol=1e-13, rtol=1e-11)


def test_second_order_allocation_of_one_variable_and_in_single_precision():
    one = torch.tensor([[2.0]]), torch.tensor([[[4.0]]]), torch.tensor([[0.5]])
    assert allocate_second_order(*one, by_degree).tolist() == [[1.5]]
    assert allocate_second_order(*one, times_degree).dtype == torch.float32


def test_sharings_that_do_not_treat_variables_alike_are_refused(local):
    derivatives, _ = local
    one_by_one = torch.arange(1.0, 5.0, dtype=torch.float64)
    for sharing in (
        by_sign(1, 0, SIGNS[:3]),
        within_signs(SIGNS[:1]),
        whole_to_patches(PATCHES),
        whole_to_patches(torch.tensor([0, 1, 2, 2])),  # the first two are alone
        lambda kappas: (kappas > 0) * one_by_one,
        lambda kappas: equally(kappas).roll(1, 1),
    ):
        with pytest.raises(ValueError, match="list the effects and use allocate"):
            allocate_second_order(*derivatives, sharing)


# -- probing --------------------------------------------------------------------------------------

PROBED = {
    "Integrated Gradients": by_degree,
    "Shapley": equally,
    "occlusion": whole_to_members,
    "gradient * difference": times_degree,
}


@pytest.mark.parametrize("name", PROBED)
def test_a_probe_measures_the_sharing_of_a_method(name):
    kappas = degrees(3, 4)
    inputs, start = points((3,), 2), points((3,), 1, 3)
    found = probe(RIVALS[name], kappas, inputs, start)
    assert_close(found, PROBED[name](kappas).expand_as(found), atol=1e-9, rtol=0)


def test_a_probe_measures_methods_of_the_library():
    groups, kappas = torch.tensor([0, 1, 1]), degrees(3, 3)
    inputs, start = points((3,), 2), points((3,), 2, 3)
    for method, sharing in (
        (lambda f, x, b: occlusion_patch(f, x, groups, b), whole_to_patches(groups)),
        (lambda f, x, b: integrated_gradients(f, x, b, 3, midpoint), None),
        (lambda f, x, b: occlusion(f, x, b) / 2, lambda k: whole_to_members(k) / 2),
    ):
        found = probe(method, kappas, inputs, start)
        if sharing is None:  # three midpoints: exact to second order only
            low = kappas.sum(1) <= 2
            gap = (found - by_degree(kappas)).abs().amax((0, 2))
            assert gap[low].max() <= 1e-12 and gap[~low].min() > 1e-3
        else:
            assert_close(found, sharing(kappas).expand_as(found), atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ["axis order", "power path", "detour over the top"])
def test_probed_weights_are_those_of_every_function(generator, name):  # [taylor, Eq. 12]
    n = 2 if name == "detour over the top" else 3
    inputs, start = points((n,), 2), points((n,), 1, 3)
    polynomial = random_polynomial(generator, n, 4, n_terms=12)
    effects = polynomial_effects(polynomial, inputs, start)
    found = RIVALS[name](Score(polynomial), inputs, start)
    weights = probe(RIVALS[name], effects.degrees, inputs, start)
    expected = allocate(effects, lambda kappas: weights)
    assert_close(found, expected, atol=1e-9, rtol=1e-9)
    assert (expected - allocate(effects, by_degree)).abs().max() > 0.01  # and no IG


def test_probes_that_cannot_tell_are_refused():
    inputs = points((3,), 2)
    for start in (inputs * torch.tensor([0.0, 1.0, 0.0]), inputs):
        with pytest.raises(ValueError, match="differ from the baseline in every feature"):
            probe(occlusion, degrees(3, 2), inputs, start)
    with pytest.raises(ValueError, match="finite"):
        probe(occlusion, degrees(3, 2), inputs * torch.nan, 0 * inputs)


MIXED = torch.tensor([s for s in itertools.product((1.0, -1.0), repeat=3) if abs(sum(s)) < 3])


def contributions(draws, patterns=MIXED):
    sizes = 0.2 + points((draws, patterns.shape[1]), len(patterns)).abs()
    return sizes * patterns[:, None].double()


def handed_out_by(rule):
    """What a rule gives of (z - z_b)^k, by a layer of one unit; the rules of LRP need b = s = 0."""
    w, s, b = torch.tensor([0.5, -2.0, 1.5]).double(), 0.0, torch.zeros(1, 3).double()
    if rule.compares:
        s, b = 0.3, torch.tensor([[0.2, 0.4, -1.0]]).double()
    start = s + (b @ w).item()

    def handed_out(order, z):
        layer = Layer(w[None], w.new_tensor([s]), lambda at: (at - start) ** order)
        change = z.sum(1, keepdim=True) ** order
        return rule(layer, b + z / w, b, change, torch.ones_like(change)).received

    return handed_out


@pytest.mark.parametrize("name", ["rescale", "reveal_cancel", "module_shapley"])
def test_a_probe_of_a_module_measures_the_sharing_of_a_rule(name):
    rule, sharing = {
        "rescale": (rescale, by_degree),
        "reveal_cancel": (reveal_cancel, within_signs(MIXED)),
        "module_shapley": (module_shapley(), equally),
    }[name]
    weights, misfit = probe_module(handed_out_by(rule), 4, contributions(40))
    assert_close(weights, sharing(degrees(3, 4)).expand_as(weights), atol=1e-10, rtol=0)
    assert misfit.max() <= 1e-12


def test_shares_that_depend_on_the_contributions_fit_no_weights_and_their_sums_by_sign_do():
    rule = handed_out_by(alpha_beta(2, -1))

    def by_side(order, z):
        received = rule(order, z)
        return torch.stack([(received * side).sum(1) for side in (z > 0, z < 0)], 1)

    assert probe_module(rule, 3, contributions(40)).misfit.min() > 0.01
    weights, misfit = probe_module(by_side, 3, contributions(40))
    assert_close(weights, weights.new_tensor([2, -1]).expand_as(weights), atol=1e-10, rtol=0)
    assert misfit.max() <= 1e-12


def test_a_probe_of_a_module_needs_one_sign_pattern_at_a_time():
    rule, mixed = handed_out_by(reveal_cancel), contributions(40).flatten(0, 1)[None]
    assert probe_module(rule, 3, mixed).misfit.item() > 0.01


def test_a_probe_of_a_module_that_hands_out_nothing_or_half():
    nothing = probe_module(lambda k, z: 0 * z, 2, contributions(20))
    assert nothing.weights.abs().max() == nothing.misfit.max() == 0
    weights, _ = probe_module(
        lambda k, z: z * z.sum(1, keepdim=True) ** (k - 1) / 2, 2, contributions(20)
    )
    assert_close(weights, (by_degree(degrees(3, 2)) / 2).expand_as(weights), atol=1e-12, rtol=0)


def test_probes_of_a_module_that_cannot_tell_are_refused():
    rule = handed_out_by(rescale)
    with pytest.raises(ValueError, match="10 degrees of order 3 need twice as many draws, got 19"):
        probe_module(rule, 3, contributions(19))
    with pytest.raises(ValueError, match="other than 0"):
        probe_module(rule, 2, contributions(20) * torch.tensor([1.0, 0.0, 1.0]))


# -- one module of a back-propagation rule --------------------------------------------------------

MODULES = {
    "z^3 + z": (PowerSum(0, 1, 0, 1), 3),
    "sigmoid": (nn.Sigmoid(), 20),
    "softplus": (nn.Softplus(), 20),
    "tanh": (nn.Tanh(), 20),
}


def modules(activation, order):
    """Twenty modules with both signs: s, z_i = w_i d_i with sum |z_i| = 0.5, and their effects."""
    z = points((3,), 20, 9)
    z[:, 0], z[:, 1] = z[:, 0].abs() + 0.1, -z[:, 1].abs() - 0.1
    z *= 0.5 / z.abs().sum(1, keepdim=True)
    s = torch.tensor([0.0, 0.1, -0.1, 0.5], dtype=torch.float64).repeat(5)
    return s, z, neuron_effects(activation, s, z, order)


def lrp_module(f, s, z, alpha, beta):
    """Eq. 33 with the relevance f(x) - f(0), one input after another."""
    relevance = f(s + sum(z)) - f(s)
    plus, minus = sum(v for v in z if v > 0), sum(v for v in z if not v > 0)
    shares = [alpha * v / plus if v > 0 else beta * v / minus if minus else 0.0 for v in z]
    return [share * relevance for share in shares]


def reveal_cancel_module(f, s, z):
    """Eq. 40: Dy+ and Dy- as averages of the two orders of adding, shared by z_i within a side."""
    plus, minus = sum(v for v in z if v > 0), sum(v for v in z if not v > 0)
    up = (f(s + plus) - f(s) + f(s + plus + minus) - f(s + minus)) / 2
    down = (f(s + minus) - f(s) + f(s + plus + minus) - f(s + plus)) / 2
    return [up * v / plus if v > 0 else down * v / minus if minus else 0.0 for v in z]


def by_module(rule, activation, s, z, *rest):
    def f(at):
        return activation(torch.tensor(at, dtype=torch.float64)).item()

    pairs = zip(s.tolist(), z.tolist(), strict=True)
    return torch.tensor([rule(f, *pair, *rest) for pair in pairs], dtype=torch.float64)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("alpha, beta", [(2.0, -1.0), (1.0, 0.0), (0.5, 0.5)])
def test_lrp_of_a_module_is_the_sharing_by_sign_with_single_effects_counted(name, alpha, beta):
    activation, order = MODULES[name]
    s, z, effects = modules(activation, order)
    expected = by_module(lrp_module, activation, s, z, alpha, beta)
    gap = (allocate(effects, by_sign(alpha, beta, z)) - expected).abs().amax(1)
    assert gap.max() <= 1e-8
    printed = by_sign(alpha, beta, z, singletons=False)  # the theorem as printed
    missed = (allocate(effects, printed) - expected).abs().amax(1)
    assert (missed > 1e-6).all() and (missed > 1000 * gap).all()


@pytest.mark.parametrize("name", MODULES)
def test_reveal_cancel_of_a_module_is_the_sharing_within_signs(name):
    activation, order = MODULES[name]
    s, z, effects = modules(activation, order)
    expected = by_module(reveal_cancel_module, activation, s, z)
    gap = (allocate(effects, within_signs(z)) - expected).abs().amax(1)
    assert gap.max() <= 1e-8
    for other in (by_degree, equally):
        missed = (allocate(effects, other) - expected).abs().amax(1)
        assert missed.median() > 1e-5


def test_modules_with_one_sign_or_with_zeros_are_shared_as_their_rules_say():
    s = torch.tensor([0.3], dtype=torch.float64)
    activation, order = MODULES["z^3 + z"]
    for z in ([[0.3, 0.5, 0.1]], [[-0.3, -0.5, -0.1]], [[0.3, 0.0, -0.1]], [[0.3, 0.0, 0.2]]):
        z = torch.tensor(z, dtype=torch.float64)
        effects = neuron_effects(activation, s, z, order)
        expected = by_module(lrp_module, activation, s, z, 2.0, -1.0)
        found = allocate(effects, by_sign(2, -1, z))
        assert_close(found, expected, atol=1e-14, rtol=0)
        expected = by_module(reveal_cancel_module, activation, s, z)
        assert_close(allocate(effects, within_signs(z)), expected, atol=1e-14, rtol=0)
    nothing = torch.zeros(1, 3, dtype=torch.float64)
    effects = neuron_effects(activation, s, nothing, order)
    for sharing in (by_sign(2, -1, nothing), within_signs(nothing)):
        assert allocate(effects, sharing).abs().max() == 0


# -- ratios, errors -------------------------------------------------------------------------------


def test_ratios_give_back_the_attributions_where_no_set_cancels(generator):
    polynomial = random_polynomial(generator, 3, 4, n_terms=15)
    effects = polynomial_effects(polynomial, points((3,)), points((3,), 1, 3))
    for sharing in (
        by_degree,
        equally,
        whole_to_members,
        first_order,
        by_sign(2, -1, SIGNS[:3, :3]),
    ):
        ratios = generic_ratios(effects, sharing)
        assert ratios.shape == (3, 3, 8) and ratios[:, :, 0].isnan().all()
        total = (ratios * effects.generic()[:, None])[:, :, 1:].nansum(2)
        assert_close(total, allocate(effects, sharing), atol=1e-12, rtol=1e-10)
    ratios = generic_ratios(effects, equally)[:, :, 1:]
    for number in range(1, 8):
        members = [number >> i & 1 for i in range(3)]
        expected = ratios.new_tensor(members) / sum(members)
        assert_close(ratios[:, :, number - 1], expected.expand(3, 3), atol=1e-9, rtol=0)


def test_a_set_that_cancels_has_no_ratio_and_its_parts_stay():  # [taylor, Eq. 13]
    f = Polynomial({(1, 2): 1, (2, 1): -1})  # x1 x2^2 - x1^2 x2
    assert sum(exact_effects(f, (1, 1), (0, 0)).values()) == 0
    effects = polynomial_effects(f, torch.ones(1, 2, dtype=torch.float64))
    assert effects.generic()[0, 3] == 0
    assert generic_ratios(effects, by_degree)[0, :, 3].isnan().all()
    parts = allocate(effects, by_degree)  # all effects are of the one set
    assert_close(parts, parts.new_tensor([[-1 / 3, 1 / 3]]), atol=1e-15, rtol=0)
    moved = f.composed([1, 1], [-0.3, 0.7])  # the same at another place, and not without rounding
    start = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    rounded = polynomial_effects(moved, start + 1.1, start)
    assert 0 < rounded.generic()[0, 3].abs() < 1e-14
    assert generic_ratios(rounded, by_degree)[0, :, 3].isnan().all()
    parts = allocate(rounded, by_degree)
    assert_close(parts, parts.new_tensor([[-(1.1**3) / 3, 1.1**3 / 3]]), atol=1e-14, rtol=0)
    near = polynomial_effects(f, torch.tensor([[1.0, 1.01]], dtype=torch.float64))
    assert generic_ratios(near, by_degree)[0, :, 3].abs().max() > 10  # no share in [0, 1]


def test_fitting_errors_are_ratios_of_lengths():
    reference = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 0.0], [0.0, 0.0], [2.0, 2.0]])
    found = torch.tensor([[1.0, 1.0], [3.0, 3.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    expected = [1.0, 0.2, 0.0, math.inf, 1.0]
    assert fitting_error(found, reference).tolist() == pytest.approx(expected)
    shape = (5, 1, 1, 2)
    assert fitting_error(found.view(shape), reference.view(shape)).tolist() == pytest.approx(
        expected
    )
    assert_close(fitting_error(-7 * found, -7 * reference)[:2], torch.tensor([1.0, 0.2]))
    for a, b in ((torch.nan * found, reference), (found, torch.nan * reference)):
        assert fitting_error(a, b).isnan().all()


# -- principles -----------------------------------------------------------------------------------

NO_RESIDUAL = torch.zeros(5, dtype=torch.float64)
KAPPAS = degrees(3, 4)


def by_squared_degree(kappas):
    return kappas**2 / (kappas**2).sum(1, keepdim=True).double()


@pytest.mark.parametrize(
    "weights, ticks",
    [
        (by_degree(KAPPAS), (True, True, True)),
        (equally(KAPPAS), (True, True, True)),
        (by_squared_degree(KAPPAS), (True, True, True)),  # the principles single out no method
        (whole_to_members(KAPPAS), (True, True, False)),
        (times_degree(KAPPAS), (True, True, False)),
        (whole_to_patches(torch.tensor([0, 1, 1]))(KAPPAS), (True, False, False)),
        (by_sign(2, -1, SIGNS[:1, :3])(KAPPAS), (True, False, True)),
        (by_sign(1, 0, SIGNS[:1, :3])(KAPPAS), (True, False, True)),
        (within_signs(SIGNS[:, :3])(KAPPAS), (True, True, True)),
        (equally(KAPPAS).roll(1, 1), (True, False, True)),
        (0.9 * by_degree(KAPPAS), (True, True, False)),
    ],
)
def test_principles_tell_sharings_apart(weights, ticks):
    kept = principles(NO_RESIDUAL, weights, KAPPAS)
    assert kept.ticks == ticks
    slow_outside = [
        abs(w)
        for sample in weights.view(-1, *KAPPAS.shape).tolist()
        for shares, kappa in zip(sample, KAPPAS.tolist(), strict=True)
        for w, k in zip(shares, kappa, strict=True)
        if not k
    ]
    slow_missing = [abs(sum(w) - 1) for w in weights.view(-1, 3).tolist()]
    assert kept.unrelated == max(slow_outside)
    assert kept.incomplete == pytest.approx(max(slow_missing), abs=1e-15)


def test_principles_of_measured_weights():
    inputs, start = points((3,), 2), points((3,), 1, 3)

    def rolled(score, x, b):
        return shapley(score, x, b).roll(1, 1)

    def smaller(score, x, b):
        return 0.9 * integrated_gradients(score, x, b)

    for method, ticks in (
        (shapley, (True, True, True)),
        (integrated_gradients, (True, True, True)),
        (rolled, (True, False, True)),
        (smaller, (True, True, False)),
        (occlusion, (True, True, False)),
    ):
        weights = probe(method, KAPPAS, inputs, start)
        assert principles(NO_RESIDUAL, weights, KAPPAS).ticks == ticks


def test_the_tangent_keeps_the_last_two_principles_of_what_it_explains():
    explained = degrees(3, 1)
    residuals = torch.tensor([0.3, 0.0, 0.2], dtype=torch.float64)
    kept = principles(residuals, first_order(explained), explained)
    assert kept == Principles(residual=0.2, unrelated=0.0, incomplete=0.0)
    assert kept.ticks == (False, True, True)
    every = principles(residuals, first_order(KAPPAS), KAPPAS)  # asked about all effects
    assert every.ticks == (False, True, False)


def test_half_of_the_functions_are_not_enough():
    half = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    assert principles(half, by_degree(KAPPAS), KAPPAS).residual == 0.5
    small = torch.tensor([9e-9, 9e-9, 1.0], dtype=torch.float64)
    assert principles(small, by_degree(KAPPAS), KAPPAS).ticks[0]


def test_a_principle_is_kept_up_to_rounding_and_no_further():
    assert Principles(1e-8, 1e-9, 1e-9).ticks == (True, True, True)
    assert Principles(1e-7, 1e-8, 1e-8).ticks == (False, False, False)


def test_nan_keeps_no_principle():
    weights = by_degree(KAPPAS)
    weights[3, 1] = torch.nan
    assert principles(NO_RESIDUAL, weights, KAPPAS).ticks == (True, False, False)
    residuals = torch.tensor([0.0, 0.0, torch.nan], dtype=torch.float64)
    assert principles(residuals, by_degree(KAPPAS), KAPPAS).ticks == (False, True, True)


finite = st.floats(-2, 2, allow_nan=False).map(lambda v: round(v, 3))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(finite, min_size=3, max_size=3), st.lists(st.integers(0, 3), min_size=3, max_size=3)
)
def test_sharings_by_sign_are_the_theorems_on_any_module(z, kappa):
    kappas = torch.tensor([kappa if any(kappa) else [1, 0, 0]])
    contributions = torch.tensor([z], dtype=torch.float64)
    expected = table(lambda i, k: lrp_share(i, k, z, 2, -1), kappas)
    found = by_sign(2, -1, contributions)(kappas)[0]
    assert_close(found, found.new_tensor(expected), atol=1e-12, rtol=1e-12)
    expected = table(lambda i, k: reveal_cancel_share(i, k, z), kappas)
    exactly(within_signs(contributions)(kappas)[0], expected)
