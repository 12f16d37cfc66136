import json
import math

import numpy as np
import pytest
import torch

from attribook import ledger
from attribook.ledger import Ledger, at_least, at_most, between, close, drift, holds, report

DEFAULTS = {"model": "m", "seed": 0, "device": "cpu", "scale": "default"}
CLAIMS = {
    "toy.a": {"paper": "toy", "kind": "equation", "where": "Eq. 1", "says": "A."},
    "toy.b": {"paper": "toy", "kind": "figure", "where": "Fig. 1", "says": "B."},
}


@pytest.fixture
def record(monkeypatch):
    """Makes a claim and returns the record it emits."""
    bundles = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: bundles.append(data))

    def make(claim_id, *checks, **roles):
        ledger.claim(claim_id, *checks, **roles)
        return json.loads(json.dumps(bundles[-1][ledger.CLAIM_MIME], allow_nan=False))

    make.bundles = bundles
    return make


@pytest.mark.parametrize(
    ("check", "outcome"),
    [
        (at_most("x", torch.tensor([0.1, 0.2]), 0.2 + 1e-6), True),
        (at_most("x", [0.1, 0.3], 0.2), False),
        (at_least("x", np.array([0.1, 0.3]), 0.1), True),
        (at_least("x", 0.0, 0.1), False),
        (between("x", 2, 1, 3), True),
        (between("x", 4, 1, 3), False),
        (close("x", [1.0, 2.0], [1.0, 2.05], 0.1), True),
        (close("x", 1.0, 2.0, 0.5), False),
        (holds("x", torch.tensor(True)), True),
        (holds("x", 0), False),
        (report("x", 3.0), None),
        (at_most("x", math.nan, 1.0), False),
        (at_least("x", math.nan, 1.0), False),
        (close("x", math.nan, 1.0, 10.0), False),
        (at_most("x", math.inf, 1.0), False),
    ],
)
def test_a_check_is_met_by_its_criterion_alone(check, outcome):
    assert check.outcome is outcome


def test_numbers_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match=r"measured shape \(2,\), expected shape \(3,\)"):
        close("x", [1, 2], [1, 2, 3], 0.1)
    with pytest.raises(ValueError, match="13 numbers are too many"):
        close("x", [0.0] * 13, [0.0] * 13, 0.1)


def test_a_claim_needs_a_check_that_can_fail_and_distinct_names():
    with pytest.raises(ValueError, match="no check of the printed statement can fail"):
        ledger.claim("toy.a", report("x", 1.0))
    with pytest.raises(ValueError, match="no check of the printed statement can fail"):
        ledger.claim("toy.a", corrected=[at_most("x", 1, 2)])
    with pytest.raises(ValueError, match=r"repeated: \['x'\]"):
        ledger.claim("toy.a", at_most("x", 1, 2), at_least("x", 1, 0))
    with pytest.raises(ValueError, match="needs a reason"):
        ledger.not_run("toy.a", " ")


def test_the_verdict_follows_from_the_checks(record):
    good, bad = at_most("good", 1, 2), at_most("bad", 3, 2)
    assert record("toy.a", good)["verdict"] == "reproduced"
    assert record("toy.a", good, in_kind="another model")["verdict"] == "reproduced in kind"
    assert record("toy.a", good, bad)["verdict"] == "not reproduced"
    mended = [at_most("mended", 1, 2)]
    assert record("toy.a", bad, corrected=mended)["verdict"] == "reproduced after correction"
    assert record("toy.a", bad, counterexample=mended)["verdict"] == "refuted"
    assert record("toy.a", good, corrected=mended)["verdict"] == "reproduced"
    still = [at_most("still bad", 3, 2)]
    assert record("toy.a", bad, corrected=still)["verdict"] == "not reproduced"
    assert record("toy.a", bad, counterexample=still)["verdict"] == "not reproduced"


def test_several_runs_are_judged_on_the_interval_for_their_median(record):
    def verdict(*values):
        return ledger.judge([record("toy.a", at_most("x", value, 1.0)) for value in values])

    assert verdict(0.5, 0.01, 0.9) == "reproduced"
    assert verdict(1.5, 90, 1.1) == "not reproduced"
    assert verdict(0.9, 0.95, 1.2) == "inconclusive"
    assert verdict(*[0.5] * 7, 1.2) == "inconclusive"  # eight runs: the whole range is the interval
    assert verdict(*[0.5] * 8, 1.2) == "reproduced"  # nine runs: 96 % without the two ends
    assert verdict(*[0.5] * 7, 1.2, 1.2) == "inconclusive"
    assert verdict(*[1.2] * 8, 0.5) == "not reproduced"
    assert verdict(math.nan, 0.5) == "inconclusive"
    assert ledger.judge([record("toy.a", holds("x", value)) for value in (1, 0)]) == "inconclusive"
    assert ledger.judge([]) == "not run"


def test_infinity_and_nan_survive_as_valid_json(record):
    made = record("toy.a", at_most("a", math.nan, 1), close("b", [math.inf, 1], [1, 1], 2))
    assert [check["measured"] for check in made["checks"]] == ["nan", ["inf", 1.0]]
    assert made["verdict"] == "not reproduced" and drift(made, made) == []
    assert ledger.show("nan") == "nan" and ledger.show(["inf", 1.0]) == "(inf, 1)"


def test_a_timing_is_judged_but_kept_out_of_the_record(record):
    fast = record("toy.a", at_most("seconds", 0.5, 1, timing=True))
    assert record.bundles[-1][ledger.TIMING_MIME]["timings"] == {"seconds": 0.5}
    assert fast["checks"][0]["measured"] is None and fast["verdict"] == "reproduced"
    assert drift(fast, record("toy.a", at_most("seconds", 0.7, 1, timing=True))) == []


def test_drift_names_the_claim_the_old_and_the_new(record):
    def one(value, bound=1.0, **options):
        return record("toy.a", at_most("x", value, bound), **options)

    assert drift(one(0.5), one(0.50001)) == []
    assert drift(one(1e-12), one(9e-12)) == []  # far below the bound: rounding noise
    assert drift(one(0.5), one(0.51)) == ["toy.a: 'x' was 0.5, is 0.51"]
    assert drift(one(0.5), one(1.5)) == ["toy.a: verdict was 'reproduced', is 'not reproduced'"]
    assert drift(one(0.5), one(0.5, 2.0)) == ["toy.a: criterion of 'x' was ≤ 1, is ≤ 2"]
    assert "only in one of the runs" in drift(one(0.5), record("toy.a", at_most("y", 0.5, 1)))[0]
    kind = drift(one(0.5, in_kind="a"), one(0.5, in_kind="b"))
    assert kind == ["toy.a: in_kind was 'a', is 'b'"]


def test_the_page_escapes_what_a_check_is_called(record):
    record("toy.a", at_most("<script>", 1, 2), in_kind="a < b")
    page = record.bundles[-1]["text/html"]
    assert "<script>" not in page and "&lt;script&gt;" in page and "a &lt; b" in page
    assert 'id="toy.a" data-verdict="reproduced in kind"' in page


def test_the_ledger_holds_every_claim_and_replaces_a_repeated_run(record):
    book = Ledger(CLAIMS)
    book.add(record("toy.a", at_most("x", 0.5, 1)), "toy/01-x", DEFAULTS, "abc")
    book.add(record("toy.a", at_most("x", 0.6, 1)), "toy/01-x", DEFAULTS, "abc")
    first, second = book.entries()
    assert first["measured"] == {"x": 0.6} and len(first["runs"]) == 1
    assert first["criterion"] == {"x": "≤ 1"} and first["notebook"] == "toy/01-x"
    assert second["verdict"] == "not run" and second["reason"]


def test_the_ledger_judges_runs_that_differ_by_seed_only(record):
    book = Ledger(CLAIMS)
    for seed, value in enumerate((0.5, 0.51, 0.52)):
        made = record("toy.a", at_most("x", value, 1))
        book.add(made, "toy/01-x", {**DEFAULTS, "seed": seed}, "abc")
    other = record("toy.a", at_most("x", 99, 1))
    book.add(other, "toy/01-x", {**DEFAULTS, "model": "other"}, "abc")
    entry = book.entries()[0]
    assert entry["verdict"] == "reproduced"
    assert [run["model"] for run in entry["runs"]] == ["m", "m", "m", "other"]


def test_the_ledger_refuses_unknown_claims_and_two_notebooks_for_one(record):
    book = Ledger(CLAIMS)
    with pytest.raises(ValueError, match=r"unknown claim 'toy.z'; known: \['toy.a', 'toy.b'\]"):
        book.add(record("toy.z", holds("x", True)), "toy/01-x", DEFAULTS, "abc")
    book.add(record("toy.a", holds("x", True)), "toy/01-x", DEFAULTS, "abc")
    with pytest.raises(ValueError, match="recorded by both toy/01-x and toy/02-y"):
        book.add(record("toy.a", holds("x", True)), "toy/02-y", DEFAULTS, "abc")


def test_claims_are_read_with_their_paper(tmp_path):
    (tmp_path / "toy.yml").write_text("key: toy\nclaims:\n  - {id: toy.a, says: A.}\n")
    assert ledger.load_claims(tmp_path) == {"toy.a": {"id": "toy.a", "says": "A.", "paper": "toy"}}
    with pytest.raises(ValueError, match="no claims in"):
        ledger.load_claims(tmp_path / "empty")
