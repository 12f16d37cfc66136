"""Negative controls for the committed ledger: no outcome in it survives a wrong measurement."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from attribook.report.inventory import load_claims
from attribook.report.verdicts import (
    CORRECTED,
    ILLUSTRATED,
    INCONCLUSIVE,
    NOT_REPRODUCED,
    NOT_RUN,
    REFUTED,
    REPRODUCED,
    is_met,
    judge,
    tally,
)

BOOK = Path(__file__).parents[2] / "book"
LEDGER = json.loads((BOOK / "ledger.json").read_text(encoding="utf-8"))
ENTRIES = LEDGER["claims"]
RECORDED = [entry for entry in ENTRIES if entry["runs"]]
DECIDES = {"printed": REPRODUCED, "corrected": CORRECTED, "counterexample": REFUTED}


def record_of(entry, run):
    return {"id": entry["id"], **run}


def decisive_checks():
    return list(_decisive_checks())


def _decisive_checks():
    for entry in RECORDED:
        run = record_of(entry, entry["runs"][0])
        for check in run["checks"]:
            if check["met"] and run["outcome"] == DECIDES[check["role"]]:
                yield pytest.param(run, check, id=f"{entry['id']}: {check['name']}")


def with_value(check, value):
    changed = {**check, "value": value, "measured": value}  # a timing has none in the ledger
    return {**changed, "met": is_met(changed)}


def wrong_value(check):
    """The nearest number that misses the criterion."""
    if check["high"] is not None:
        return math.nextafter(check["high"], math.inf)
    return math.nextafter(check["low"], -math.inf)


@pytest.mark.parametrize(("run", "check"), decisive_checks())
def test_a_wrong_measurement_turns_the_outcome(run, check):
    broken = with_value(check, wrong_value(check))
    checks = [broken if c["name"] == check["name"] else c for c in run["checks"]]
    assert judge([run]) == run["outcome"]
    outcome = judge([{**run, "checks": checks}])
    assert outcome in (NOT_REPRODUCED, CORRECTED, REFUTED)
    assert outcome != DECIDES[check["role"]]


def test_nan_turns_an_outcome_too():
    for param in decisive_checks():
        run, check = param.values
        checks = [with_value(c, math.nan) if c is check else c for c in run["checks"]]
        assert judge([{**run, "checks": checks}]) != run["outcome"]


def test_every_claim_of_a_paper_is_in_the_ledger_and_few_were_not_run():
    claims = load_claims(BOOK / "claims")
    assert [entry["id"] for entry in ENTRIES] == list(claims)
    missing = [entry for entry in ENTRIES if entry["outcome"] == NOT_RUN]
    assert all(entry["reason"] for entry in missing)
    assert max(Counter(entry["paper"] for entry in missing).values(), default=0) <= 3


def test_every_group_of_checks_has_one_that_could_have_failed():
    for entry in RECORDED:
        checks = entry["runs"][0]["checks"]
        for role in {check["role"] for check in checks}:
            judged = [c for c in checks if c["role"] == role and c["met"] is not None]
            assert judged, (entry["id"], role)


def test_a_failed_statement_is_not_called_reproduced():
    for entry in RECORDED:
        for run in entry["runs"]:
            failed = False in [c["met"] for c in run["checks"] if c["role"] == "printed"]
            assert failed == (run["outcome"] in (NOT_REPRODUCED, CORRECTED, REFUTED)), entry["id"]
            assert run["outcome"] != INCONCLUSIVE  # one run alone decides


def test_definitions_and_drawings_that_hold_are_illustrated_and_nothing_else_is():
    claims = load_claims(BOOK / "claims")
    for entry in RECORDED:
        expected = claims[entry["id"]].get("outcome")
        assert (entry["outcome"] == ILLUSTRATED) <= (expected == ILLUSTRATED), entry["id"]
        if expected == ILLUSTRATED and entry["tally"]["hold"] == entry["tally"]["runs"]:
            assert entry["outcome"] == ILLUSTRATED, entry["id"]


def test_the_tally_counts_the_runs_that_differ_by_seed():
    for entry in RECORDED:
        first = LEDGER["runs"][entry["runs"][0]["run"]]
        alike = [
            record_of(entry, run)
            for run in entry["runs"]
            if all(LEDGER["runs"][run["run"]][k] == first[k] for k in ("model", "device", "scale"))
        ]
        found = tally(alike)
        assert entry["tally"]["runs"] == found.runs == len(alike)
        assert entry["tally"]["hold"] == found.hold
