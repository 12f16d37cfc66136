import json
import math

import pytest

from attribook.report import verdicts
from attribook.report.claims import (
    at_least,
    at_most,
    close,
    holds,
    report,
)
from attribook.report.verdicts import (
    coverage,
    drift,
    is_met,
    judge,
    tally,
)


@pytest.mark.parametrize(
    ("value", "low", "high", "met"),
    [
        (1.0, None, 1.0, True),
        (1.1, None, 1.0, False),
        (1.0, 1.0, None, True),
        (0.9, 1.0, None, False),
        (2.0, 1.0, 3.0, True),
        (2.0, None, None, None),
    ],
)
def test_a_check_is_met_within_its_limits_both_ends_included(value, low, high, met):
    check = {"low": low, "high": high, "value": value, "measured": value}
    assert is_met(check) is met


def test_infinity_that_json_cannot_hold_is_judged_by_its_name():
    def check(measured, low=None, high=None):
        return {"low": low, "high": high, "value": None, "measured": measured}

    assert is_met(check("inf", low=1.0)) is True and is_met(check("inf", high=1.0)) is False
    assert is_met(check("nan", low=1.0)) is False and is_met(check(["inf", 1.0], high=2)) is False


def test_the_outcome_follows_from_the_checks(record):
    good, bad = at_most("good", 1, 2), at_most("bad", 3, 2)
    assert record("toy.a", good)["outcome"] == "reproduced"
    assert record("toy.a", good, in_kind="another model")["outcome"] == "reproduced"
    assert record("toy.a", good, bad)["outcome"] == "not reproduced"
    mended = [at_most("mended", 1, 2)]
    assert record("toy.a", bad, corrected=mended)["outcome"] == "corrected"
    assert record("toy.a", bad, counterexample=mended)["outcome"] == "refuted"
    assert record("toy.a", good, corrected=mended)["outcome"] == "reproduced"
    still = [at_most("still bad", 3, 2)]
    assert record("toy.a", bad, corrected=still)["outcome"] == "not reproduced"
    assert record("toy.a", bad, counterexample=still)["outcome"] == "not reproduced"
    both = {"corrected": still, "counterexample": mended}
    assert record("toy.a", bad, **both)["outcome"] == "not reproduced"


def test_an_illustration_counts_for_nothing_while_it_holds(record):
    good, bad = record("toy.a", at_most("x", 1, 2)), record("toy.a", at_most("x", 3, 2))
    assert judge([good], illustration=True) == "illustrated"
    assert judge([bad], illustration=True) == "not reproduced"
    mended = record("toy.a", at_most("x", 3, 2), corrected=[holds("y", True)])
    assert judge([mended], illustration=True) == "corrected"


def test_several_runs_are_judged_on_the_interval_for_their_median(record):
    def outcome(*values):
        runs = [record("toy.a", at_most("x", value, 1.0)) for value in values]
        return judge(runs)

    def spread(n, around):
        return [around + i / 1000 for i in range(n)]

    assert outcome(0.5, 0.01, 0.9) == "reproduced"
    assert outcome(1.5, 90, 1.1) == "not reproduced"
    assert outcome(0.9, 0.95, 1.2) == "inconclusive"
    assert outcome(*spread(7, 0.5), 1.2) == "inconclusive"  # eight: the whole range
    assert outcome(*spread(8, 0.5), 1.2) == "reproduced"  # nine: 96 % without the two ends
    assert outcome(*spread(7, 0.5), 1.2, 1.3) == "inconclusive"
    assert outcome(*spread(8, 1.2), 0.5) == "not reproduced"
    assert outcome(math.nan, 0.5) == "inconclusive"
    assert judge([]) == "not run"


def test_runs_that_repeat_one_another_are_one_run(record):
    same = [record("toy.a", at_most("x", 0.5, 1)) for _ in range(9)]
    other = record("toy.a", at_most("x", 1.5, 1))
    assert judge([*same, other]) == "inconclusive"  # one against one, not nine against one
    assert tally(same) == verdicts.Tally(9, 9, 1, None)
    assert tally([*same, other]) == verdicts.Tally(10, 9, 2, 0.5)


def test_a_run_that_fails_in_one_check_is_a_failed_run(record):
    """Nine runs, each failing another of nine checks: no check fails in more than one of them."""
    runs = [
        record("toy.a", *(at_most(f"{i}", 2 if i == seed else seed / 10, 1) for i in range(9)))
        for seed in range(9)
    ]
    assert {run["outcome"] for run in runs} == {"not reproduced"}
    assert judge(runs) == "not reproduced" and tally(runs).hold == 0


def test_a_correction_is_pooled_by_run_too(record):
    def one(value, mended):
        return record("toy.a", at_most("x", value, 1), corrected=[at_most("y", mended, 1)])

    assert judge([one(2, 0.1), one(3, 0.2)]) == "corrected"
    assert judge([one(2, 0.1), one(3, 2)]) == "inconclusive"
    assert judge([one(2, 1.1), one(3, 2)]) == "not reproduced"


def test_runs_judged_by_different_criteria_are_an_error(record):
    strict, loose = (record("toy.a", at_most("x", 0.5, bound)) for bound in (1, 2))
    with pytest.raises(ValueError, match="toy.a: criterion of 'x' was ≤ 1 .*is ≤ 2"):
        judge([strict, loose])
    with pytest.raises(ValueError, match="check 'y' only in one of the runs"):
        judge([strict, record("toy.a", at_most("x", 0.5, 1), holds("y", True))])


@pytest.mark.parametrize(("runs", "covered"), [(2, 0.5), (3, 0.75), (5, 0.9375), (6, 0.96875)])
def test_the_interval_over_runs_tells_its_coverage(runs, covered):
    assert coverage(runs) == covered


def test_coverage_stays_above_95_percent_when_ends_are_left_out():
    assert all(coverage(runs) >= 0.95 for runs in range(6, 60))


def test_numbers_agree_within_a_thousandth_of_their_size_however_far_below_the_bound(record):
    def one(value, bound=1.0, **options):
        return record("toy.a", at_most("x", value, bound), **options)

    assert drift(one(0.5), one(0.5004)) == []
    assert drift(one(0.5), one(0.5006)) == ["toy.a: 'x' was 0.5, is 0.5006"]
    assert drift(one(1e-4), one(2e-4)) == ["toy.a: 'x' was 0.0001, is 0.0002"]
    assert drift(one(0.0), one(1e-9)) != []


def test_rounding_below_the_floor_is_no_drift(record):
    def one(value, bound=1e-9, **options):
        return record("toy.a", at_most("x", value, bound, **options))

    assert drift(one(1e-15), one(9e-11)) == []  # a tenth of the bound is its floor
    assert drift(one(1e-15), one(2e-10)) == ["toy.a: 'x' was 1e-15, is 2e-10"]
    assert drift(one(1e-15, noise=1e-13), one(9e-14, noise=1e-13)) == []
    assert drift(one(1e-15, noise=1e-13), one(2e-13, noise=1e-13)) != []
    assert drift(one(0.1, 0.5, noise=1e-3), one(0.1009, 0.5, noise=1e-3)) == []
    told = record("toy.a", holds("y", True), report("x", [1e-16, 0.5], noise=1e-12))
    moved = record("toy.a", holds("y", True), report("x", [5e-13, 0.5], noise=1e-12))
    assert drift(told, moved) == []
    loud = record("toy.a", holds("y", True), report("x", [5e-13, 0.6], noise=1e-12))
    assert "'x' was [1e-16, 0.5], is [5e-13, 0.6]" in drift(told, loud)[0]


def test_drift_names_the_claim_the_old_and_the_new(record):
    def one(value, bound=1.0, **options):
        return record("toy.a", at_most("x", value, bound), **options)

    assert drift(one(0.5), one(1.5)) == ["toy.a: outcome was 'reproduced', is 'not reproduced'"]
    moved = ["toy.a: criterion of 'x' was ≤ 1 (printed), is ≤ 2 (printed)"]
    assert drift(one(0.5), one(0.5, 2.0)) == moved
    assert "only in one of the runs" in drift(one(0.5), record("toy.a", at_most("y", 0.5, 1)))[0]
    kind = drift(one(0.5, in_kind="a"), one(0.5, in_kind="b"))
    assert kind == ["toy.a: in_kind was 'a', is 'b'"]
    bad = [record("toy.a", at_most("x", 2, 1), at_least(n, 2, 1)) for n in ("y", "z")]
    assert len(drift(*bad)) == 2
    floors = (record("toy.a", at_most("x", 0.5, 1, noise=noise)) for noise in (0.0, 0.1))
    assert drift(*floors) == ["toy.a: noise floor of 'x' was 0, is 0.1"]


def test_a_check_that_turns_is_drift_however_little_it_moved(record):
    def one(value):  # not reproduced either way
        checks = [at_most("y", value, 1), at_most("z", 5, 1)]
        return record("toy.a", at_most("x", 2, 1), corrected=checks)

    assert drift(one(0.9999), one(1.0001)) == ["toy.a: 'y' was 0.9999, is 1.0001"]


def test_infinity_and_nan_agree_with_themselves_only(record):
    made = record("toy.a", at_most("a", math.nan, 1), close("b", [math.inf, 1], [1, 1], 2))
    other = record("toy.a", at_most("a", math.nan, 1), close("b", [math.nan, 1], [1, 1], 2))
    assert drift(made, made) == [] and drift(made, other) != []
    json.dumps(made, allow_nan=False)


def test_a_timing_is_compared_by_its_outcome(record):
    fast, other, slow = (
        record("toy.a", at_most("s", seconds, 1, timing=True)) for seconds in (0.5, 0.7, 2)
    )
    assert drift(fast, other) == [] and "outcome was" in drift(fast, slow)[0]
