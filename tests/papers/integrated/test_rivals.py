import copy
import math

import pytest
import torch
from networks import assert_same_state, state_of
from torch import nn
from torch.testing import assert_close

from attribook.axioms import completeness_gap, implementation_gap
from attribook.papers.functions.polynomials import SideBySide, monomial, random_polynomial
from attribook.papers.functions.toys import random_mlp
from attribook.papers.integrated.rivals import (
    AXIOMS,
    RIVALS,
    Trials,
    affine_gap,
    any_monotone,
    ensemble_method,
    five_segments,
    in_order,
    over_the_top,
    path_method,
    random_detour,
    random_ensemble,
    random_monotone,
    rounds,
)
from attribook.paths import is_monotone, length, path_integral
from attribook.score import Score

FAILS = {  # [integrated, Sec. 2.2, 3, App. C, E]: the axioms each rival breaks
    "Integrated Gradients": set(),
    "Shapley": set(),
    "axis order": {"symmetry"},
    "power path": {"ASI"},
    "detour over the top": {"sensitivity(a)", "symmetry", "ASI", "NDP"},
    "five segments": {"symmetry", "NDP"},
    "gradient * difference": {"sensitivity(a)", "completeness"},
    "occlusion": {"completeness"},
    "IG + mixed derivative": {"symmetry", "NDP"},
    "proportional share": {"dummy", "ASI"},
}


def trials(polynomials, inputs):
    inputs = torch.tensor(inputs, dtype=torch.float64)
    others = Score(SideBySide([*polynomials[1:], polynomials[0]]))
    return Trials(Score(SideBySide(polynomials)), others, inputs, torch.zeros_like(inputs))


@pytest.fixture
def witnesses():
    rising = [monomial(1, 1), monomial(1, 2), monomial(2, 1)]
    rising += [monomial(1, 0) - monomial(2, 0, coefficient=0.5)]
    every = [*rising, monomial(1, 0) - monomial(1, 1)]
    return {
        name: trials(some * 2, [(1, 1)] * len(some) + [(1, 0)] * len(some))
        for name in AXIOMS
        for some in [rising if name == "NDP" else every]
    }


@pytest.mark.parametrize("name", RIVALS)
def test_every_rival_breaks_its_own_axioms_and_no_other(name, witnesses):
    worst = {axiom: float(AXIOMS[axiom](RIVALS[name], witnesses[axiom]).max()) for axiom in AXIOMS}
    assert {axiom for axiom, gap in worst.items() if gap > 1e-9} == FAILS[name]
    assert min((worst[axiom] for axiom in FAILS[name]), default=1) >= 0.05


def test_the_violations_of_a_batch_are_those_of_its_samples(generator):
    polynomials = [random_polynomial(generator, 3, 3) for _ in range(3)]
    inputs, baseline = torch.rand(2, 3, 3, generator=generator, dtype=torch.float64)
    together = trials(polynomials, inputs.tolist())._replace(baseline=baseline)
    for axiom, violation in AXIOMS.items():
        found = violation(RIVALS["proportional share"], together)
        for k, p in enumerate(polynomials):
            score, other = Score(p), Score(polynomials[(k + 1) % 3])
            alone = Trials(score, other, inputs[k : k + 1], baseline[k : k + 1])
            one = violation(RIVALS["proportional share"], alone)
            assert_close(found[k : k + 1], one, atol=1e-13, rtol=0, msg=axiom)


def test_a_large_scale_keeps_both_sides_in_the_box(witnesses):
    seen = []

    def method(score, inputs, baseline):
        seen.extend([inputs, baseline])
        return RIVALS["Integrated Gradients"](score, inputs, baseline)

    for c, d in ((2.0, -0.5), (-2.0, 1.5), (0.5, 0.5)):
        affine_gap(method, witnesses["ASI"], 1, c, d)
    assert len(seen) == 12
    assert all(point.min() >= 0 and point.max() <= 1 for point in seen)


def test_random_monotone_paths_are_monotone_and_lead_from_baseline_to_inputs(generator):
    inputs, baseline = torch.rand(2, 4, 3, generator=generator, dtype=torch.float64)
    for _ in range(20):
        path = any_monotone(generator, 3)(inputs, baseline)
        assert is_monotone(path).all()
        ends = path.at(torch.tensor([0.0, 1.0], dtype=torch.float64))[0]
        assert_close(ends, torch.stack([baseline, inputs]), atol=1e-14, rtol=0)


def test_random_ensembles_are_complete(generator):
    weights, paths = random_ensemble(generator, 3)
    assert len(weights) == len(paths) and abs(sum(weights) - 1) < 1e-12 and min(weights) > 0
    inputs, baseline = torch.rand(2, 4, 3, generator=generator, dtype=torch.float64)
    score = Score(random_polynomial(generator, 3, 4))
    attributions = ensemble_method(weights, paths, n_steps=32)(score, inputs, baseline)
    assert completeness_gap(attributions, score, inputs, baseline).abs().max() < 1e-12


# -- what holds for every rival --------------------------------------------------------------------

every_rival = pytest.mark.parametrize("method", RIVALS.values(), ids=RIVALS)


@pytest.fixture
def problem(generator):
    """A network of two features with a class, an input and a baseline for each of three samples."""
    score = Score(random_mlp(nn.Tanh, generator, (2, 8, 3)), torch.tensor([2, 0, 1]))
    return score, *torch.rand(2, 3, 2, generator=generator, dtype=torch.float64)


@every_rival
def test_three_samples_are_three_times_one(method, problem):
    score, x, x0 = problem
    together = method(score, x, x0)
    for k, target in enumerate(score.target):
        alone = method(Score(score.model, int(target)), x[k : k + 1], x0[k : k + 1])
        assert_close(together[k : k + 1], alone, atol=1e-13, rtol=0)
    one = x0[:1]
    assert_close(method(score, x, one), method(score, x, one.expand_as(x)), atol=1e-13, rtol=0)


@every_rival
def test_shape_type_model_and_inputs_are_kept(method, problem):
    score, x, x0 = problem
    exact = method(score, x, x0)
    net = copy.deepcopy(score.model).float()
    before, inputs = state_of(net), x.float().requires_grad_()
    found = method(Score(net, score.target), inputs, x0.float())
    assert (found.shape, found.dtype, found.requires_grad) == (x.shape, torch.float32, False)
    assert_close(found, exact.float(), atol=1e-5, rtol=0)
    assert_same_state(before, state_of(net))
    assert torch.equal(inputs, x.float()) and inputs.grad is None


@every_rival
@pytest.mark.parametrize("switched_off", [torch.no_grad, torch.inference_mode])
def test_rivals_work_where_gradients_are_switched_off(method, switched_off, problem):
    score, x, x0 = problem
    expected = method(score, x, x0)
    with switched_off():
        assert_close(method(score, x.clone(), x0.clone()), expected, atol=1e-14, rtol=0)


@pytest.mark.parametrize("name", [name for name in RIVALS if name != "detour over the top"])
def test_an_input_that_is_its_baseline_gets_exact_zeros(name, problem):
    score, x, _ = problem
    assert RIVALS[name](score, x, x).abs().max() == 0


@every_rival
def test_two_codings_of_a_function_get_the_same(method, generator):  # [integrated, Def. 1]
    x, x0 = torch.rand(2, 50, 2, generator=generator, dtype=torch.float64)
    one, other = random_polynomial(generator, 2, 2), random_polynomial(generator, 2, 2)
    factored, expanded = Score(lambda y: one(y) * other(y)), Score(one * other)
    gap = implementation_gap(lambda score, a: method(score, a, x0), factored, expanded, x)
    assert gap.max() < 1e-12


@every_rival
def test_a_constant_gets_nothing(method, generator):
    x, x0 = torch.rand(2, 5, 2, generator=generator, dtype=torch.float64)
    assert method(Score(monomial(0, 0, coefficient=3)), x, x0).abs().max() == 0


def test_methods_that_follow_no_path_on_a_closed_form():
    # F = y1^2 y2 from (1, 1) to (2, 3): the change is 11, the gradient at the input (12, 4)
    score, x = Score(monomial(2, 1)), torch.tensor([[2.0, 3.0]], dtype=torch.float64)
    x0 = torch.ones_like(x)
    for name, expected in {
        "gradient * difference": (12, 8),
        "occlusion": (12 - 3, 12 - 4),
        "proportional share": (11 / 3, 22 / 3),
        "Shapley": ((3 + 9) / 2, (2 + 8) / 2),
        "Integrated Gradients": (19 / 3, 14 / 3),
        "IG + mixed derivative": (19 / 3 + 2 * 3, 14 / 3 - 2 * 3),  # d2F/dy1dy2 = 2 y1, at 3/2
        "axis order": (3, 8),
    }.items():
        found = RIVALS[name](score, x, x0)
        assert_close(found, x.new_tensor([expected]), atol=1e-13, rtol=0, msg=name)


def test_integrated_gradients_and_shapley_agree_on_multilinear_functions_only():
    x = torch.ones(1, 2, dtype=torch.float64)  # [integrated, Sec. 2.2]
    ig, shapley = RIVALS["Integrated Gradients"], RIVALS["Shapley"]
    multilinear = Score(monomial(1, 1) - monomial(0, 1, coefficient=3))
    assert_close(ig(multilinear, x, 0 * x), shapley(multilinear, x, 0 * x))
    for method, share in ((ig, 1 / 3), (shapley, 1 / 2)):
        found = method(Score(monomial(1, 2)), x, 0 * x)
        assert_close(found, x.new_tensor([[share, 1 - share]]), atol=1e-14, rtol=0)


# -- path functions --------------------------------------------------------------------------------


def test_a_stretched_path_commutes_with_every_change_of_scale(generator):  # [App. E.1]
    x, x0 = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    x[:, 1] = x0[:, 1]
    scale, shift = x.new_tensor([-2.0, 0.5, 3.0]), x.new_tensor([1.0, 0.0, -1.0])
    t = torch.linspace(0, 1, 50, dtype=torch.float64)
    for make_path in (random_monotone(generator, 3), random_detour(generator, 3)):
        here = make_path(x, x0).at(t)[0]
        there = make_path(scale * x + shift, scale * x0 + shift).at(t)[0]
        assert_close(there, scale * here + shift, atol=1e-14, rtol=0)
        assert torch.equal(make_path(x, x0).at(t)[0], here)  # the same path at every call


def test_the_counterexamples_are_not_monotone_and_as_long_as_drawn():
    x = torch.ones(1, 2, dtype=torch.float64)
    paths = {five_segments: 4 + math.sqrt(2), rounds(3): 12 + math.sqrt(2), over_the_top: 2}
    for make_path, expected in paths.items():
        path = make_path(x, 0 * x)
        assert bool(is_monotone(path)) == (make_path is over_the_top)  # up, then right: there it is
        assert_close(length(path), x.new_tensor([expected]))
    bottom = x.new_tensor([[1.0, 0.0]])
    assert not is_monotone(over_the_top(bottom, 0 * x)).any()
    attributions = path_integral(Score(monomial(1, 1)), over_the_top(bottom, 0 * x))
    assert_close(attributions, x.new_tensor([[1.0, -1.0]]), atol=1e-14, rtol=0)  # [App. C]


def test_every_monotone_path_along_the_bottom_gives_nothing(generator):  # [Claim 1]
    bottom, origin = (torch.tensor([[k, 0.0]], dtype=torch.float64) for k in (1.0, 0.0))
    for _ in range(30):
        method = path_method(any_monotone(generator, 2), 8)
        assert method(Score(monomial(1, 1)), bottom, origin).abs().max() == 0


def test_random_paths_repeat_from_their_generator(generator):
    x, x0 = torch.rand(2, 2, 3, generator=generator, dtype=torch.float64)
    for make in (random_monotone, random_detour, any_monotone):
        one, other = (make(torch.Generator().manual_seed(4), 3)(x, x0) for _ in range(2))
        t = torch.linspace(0, 1, 9, dtype=torch.float64)
        assert torch.equal(one.at(t)[0], other.at(t)[0])
        assert one.at(t)[0].amin() >= torch.minimum(x, x0).amin() or make is random_detour


@pytest.mark.parametrize("n_features", [1, 3])
def test_paths_of_two_features_are_refused_for_others(n_features):
    x = torch.ones(1, n_features, dtype=torch.float64)
    score = Score(lambda y: y.sum(1))
    for name in ("detour over the top", "five segments", "IG + mixed derivative"):
        with pytest.raises(ValueError, match=f"2 features, got {n_features}"):
            RIVALS[name](score, x, 0 * x)
    with pytest.raises(ValueError, match="each of"):
        path_method(in_order([0, 1]))(score, x, 0 * x)
