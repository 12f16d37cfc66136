import pytest
import torch
from torch.testing import assert_close

from attribook.axioms import completeness_gap
from attribook.paths import is_monotone
from attribook.polynomials import SideBySide, monomial, random_polynomial
from attribook.rivals import (
    AXIOMS,
    RIVALS,
    Trials,
    affine_gap,
    any_monotone,
    ensemble_method,
    random_ensemble,
)
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
