import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from attribook.report import claims
from attribook.report.claims import (
    at_least,
    at_most,
    between,
    close,
    holds,
    report,
)
from attribook.report.verdicts import show


@pytest.mark.parametrize(
    ("check", "met"),
    [
        (at_most("x", torch.tensor([0.1, 0.2]), 0.2 + 1e-6), True),
        (at_most("x", [0.1, 0.3], 0.2), False),
        (at_least("x", np.array([0.1, 0.3]), 0.1), True),
        (at_least("x", 0.0, 0.1), False),
        (between("x", 2, 1, 3), True),
        (between("x", 4, 1, 3), False),
        (close("x", [1.0, 2.0], [1.0, 2.05], 0.1), True),
        (close("x", 1.0, 2.0, 0.5), False),
        (close("x", [Fraction(1, 3)], [1 / 3], 1e-15), True),
        (holds("x", torch.tensor(True)), True),
        (holds("x", np.bool_(False)), False),
        (holds("x", np.array([True])), True),
        (report("x", 3.0), None),
        (at_most("x", math.nan, 1.0), False),
        (at_least("x", math.nan, 1.0), False),
        (close("x", math.nan, 1.0, 10.0), False),
        (at_most("x", math.inf, 1.0), False),
        (at_least("x", math.inf, 1.0), True),
    ],
)
def test_a_check_is_met_by_its_criterion_alone(check, met):
    assert check.met is met


def test_numbers_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match=r"measured shape \(2,\), expected shape \(3,\)"):
        close("x", [1, 2], [1, 2, 3], 0.1)
    with pytest.raises(ValueError, match="13 numbers are too many"):
        close("x", [0.0] * 13, [0.0] * 13, 0.1)
    with pytest.raises(ValueError, match="what is expected must be finite"):
        close("x", [1.0], [math.nan], 0.1)
    with pytest.raises(ValueError, match="nothing was measured"):
        at_most("x", torch.zeros(0), 1)


@pytest.mark.parametrize("bound", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("check", [at_most, at_least])
def test_a_bound_that_nothing_or_everything_meets_is_refused(check, bound):
    with pytest.raises(ValueError, match="is no criterion; give a number"):
        check("x", 1.0, bound)


def test_bounds_and_tolerances_that_decide_nothing_are_refused():
    with pytest.raises(ValueError, match="is no criterion"):
        between("x", 1.0, 0.0, math.inf)
    with pytest.raises(ValueError, match="is no criterion"):
        close("x", 1.0, 1.0, math.inf)
    with pytest.raises(ValueError, match="swap the bounds"):
        between("x", 1.0, 3.0, 2.0)
    with pytest.raises(ValueError, match="noise must be a size"):
        at_most("x", 1.0, 2.0, noise=math.inf)
    with pytest.raises(ValueError, match="noise must be a size"):
        report("x", 1.0, noise=-1.0)
    with pytest.raises(ValueError, match="a noise of 3 would hide what the bound 2 judges"):
        at_most("x", 1.0, 2.0, noise=3.0)


@pytest.mark.parametrize(
    "condition",
    [
        math.nan,
        1.0,
        1,
        "False",
        "",
        None,
        (value for value in [False]),
        [False],
        [],
        np.array([True, True]),
        torch.tensor([True, False]),
        torch.tensor(1.0),
    ],
    ids=lambda given: type(given).__name__,
)
def test_a_condition_is_true_or_false_and_nothing_else(condition):
    with pytest.raises(TypeError, match="a condition is True or False, got"):
        holds("x", condition)


@pytest.mark.parametrize(
    "measured",
    ["3", 1 + 2j, np.array([1j]), torch.tensor(1j), None, (x for x in [1.0]), True, [True], {1: 2}],
    ids=lambda given: type(given).__name__,
)
@pytest.mark.parametrize("check", [lambda m: at_most("x", m, 9), lambda m: at_least("x", m, 0),
                                   lambda m: between("x", m, 0, 9), lambda m: report("x", m),
                                   lambda m: close("x", m, 1.0, 9)])  # fmt: skip
def test_a_measurement_is_made_of_real_numbers(check, measured):
    with pytest.raises(TypeError, match="x: wants real numbers, got"):
        check(measured)


def test_rows_of_unequal_lengths_are_no_measurement():
    with pytest.raises(TypeError, match="wants numbers"):
        at_most("x", [[1.0], [1.0, 2.0]], 3)


def test_one_number_is_wanted_where_one_is_judged():
    with pytest.raises(TypeError, match="wants one number, got a Tensor of shape"):
        between("x", torch.ones(2), 0, 2)
    with pytest.raises(TypeError, match="wants one number"):
        at_most("x", 1.0, [1.0, 2.0])


def test_a_bound_on_rounding_has_a_floor_of_a_tenth_and_others_have_none():
    assert at_most("x", 0, 1e-12).floor == 1e-13 and close("x", 1, 1, 1e-9).floor == 1e-10
    assert at_least("x", 0, -1e-8).floor == pytest.approx(1e-9)
    assert between("x", 0, -1e-8, 2e-8).floor == pytest.approx(2e-9)
    for check in (at_most("x", 0, 0.1), at_least("x", 1, 1e-8), between("x", 0, -1, 1),
                  close("x", 1, 1, 0), holds("x", True), report("x", 1e-17)):  # fmt: skip
        assert check.floor == 0
    assert at_most("x", 0, 1e-12, noise=0).floor == 0
    assert report("x", 1, noise=1e-6).floor == 1e-6


def test_every_group_needs_a_check_that_can_fail(record):
    silent, judged = report("x", 1.0), at_most("y", 1, 2)
    for printed, groups in (
        ((silent,), {}),
        ((), {"corrected": [judged]}),
        ((judged,), {"corrected": [silent]}),
        ((judged,), {"counterexample": [silent]}),
    ):
        with pytest.raises(ValueError, match="statement can fail; add a criterion"):
            record("toy.a", *printed, **groups)
    with pytest.raises(ValueError, match=r"repeated: \['x'\]"):
        record("toy.a", at_most("x", 1, 2), at_least("x", 1, 0))
    with pytest.raises(TypeError, match="printed wants checks"):
        record("toy.a", True)
    with pytest.raises(ValueError, match="a check needs a name"):
        at_most(" ", 1, 2)
    with pytest.raises(ValueError, match="needs a reason"):
        claims.not_run("toy.a", " ")


def test_infinity_and_nan_survive_as_valid_json(record):
    made = record("toy.a", at_most("a", math.nan, 1), close("b", [math.inf, 1], [1, 1], 2))
    assert [check["measured"] for check in made["checks"]] == ["nan", ["inf", 1.0]]
    assert made["outcome"] == "not reproduced"
    assert show("nan") == "nan" and show(["inf", 1.0]) == "(inf, 1)"


def test_a_timing_is_judged_but_kept_out_of_the_record(record):
    fast = record("toy.a", at_most("seconds", 0.5, 1, timing=True))
    assert record.bundles[-1][claims.TIMING_MIME]["timings"] == {"seconds": 0.5}
    assert fast["checks"][0]["measured"] is None and fast["outcome"] == "reproduced"


def test_the_page_escapes_every_word_it_is_given(record):
    hostile = "<script>\"&'"
    made = record(f"toy.{hostile}", at_most(hostile, 1, 2), in_kind=f"{hostile} a < b")
    page = record.bundles[-1]["text/html"]
    assert "<script>" not in page and "&lt;script&gt;" in page and "a &lt; b" in page
    assert 'data-outcome="reproduced"' in page and "in kind" in page
    made["checks"][0]["role"] = made["outcome"] = made["reason"] = hostile
    made["checks"][0]["role"] = "printed"
    assert "<script>" not in claims.shown_as(made)["text/html"]


def test_what_is_shown_follows_from_the_record_alone(record):
    made = record("toy.a", at_most("x", 1, 2), report("y", 3.0))
    shown = {key: record.bundles[-1][key] for key in ("text/plain", "text/html")}
    assert claims.shown_as(made) == shown
    made["checks"][0]["measured"] = 1.5
    assert claims.shown_as(made) != shown
