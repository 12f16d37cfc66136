"""Negative controls for the committed ledger: no verdict in it survives a wrong measurement."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from attribook.ledger import (
    CORRECTED,
    IN_KIND,
    INCONCLUSIVE,
    NOT_REPRODUCED,
    NOT_RUN,
    REFUTED,
    REPRODUCED,
    Check,
    judge,
    load_claims,
)

BOOK = Path(__file__).parent.parent / "book"
ENTRIES = json.loads((BOOK / "ledger.json").read_text(encoding="utf-8"))["claims"]
RECORDED = [entry for entry in ENTRIES if entry["runs"]]
DECIDES = {
    "printed": (REPRODUCED, IN_KIND),
    "corrected": (CORRECTED,),
    "counterexample": (REFUTED,),
}
LIMITS = ("name", "measured", "value", "low", "high", "expected", "timing")


def decisive_checks():
    for entry in RECORDED:
        for check in entry["runs"][0]["checks"]:
            if check["outcome"] and entry["runs"][0]["verdict"] in DECIDES[check["role"]]:
                yield pytest.param(entry, check, id=f"{entry['id']}: {check['name']}")


def with_value(check, value):
    changed = {**check, "value": value, "measured": value}  # a timing has none in the ledger
    outcome = Check(**{key: changed[key] for key in LIMITS}).outcome
    return {**changed, "outcome": outcome}


def wrong_value(check):
    """The nearest number that misses the criterion."""
    if check["high"] is not None:
        return math.nextafter(check["high"], math.inf)
    return math.nextafter(check["low"], -math.inf)


@pytest.mark.parametrize(("entry", "check"), decisive_checks())
def test_a_wrong_measurement_turns_the_verdict(entry, check):
    run = entry["runs"][0]
    broken = with_value(check, wrong_value(check))
    checks = [broken if c["name"] == check["name"] else c for c in run["checks"]]
    assert judge([run]) == run["verdict"]
    verdict = judge([{**run, "checks": checks}])
    assert verdict in (NOT_REPRODUCED, CORRECTED, REFUTED)
    assert verdict not in DECIDES[check["role"]]


def test_nan_turns_a_verdict_too():
    judged = next(
        (entry["runs"][0], check)
        for entry in RECORDED
        for check in entry["runs"][0]["checks"]
        if check["outcome"] and entry["verdict"] == REPRODUCED
    )
    run, check = judged
    checks = [with_value(c, math.nan) if c is check else c for c in run["checks"]]
    assert judge([{**run, "checks": checks}]) == NOT_REPRODUCED


def test_every_claim_of_a_paper_is_in_the_ledger_and_few_were_not_run():
    claims = load_claims(BOOK / "claims")
    assert [entry["id"] for entry in ENTRIES] == list(claims)
    missing = [entry for entry in ENTRIES if entry["verdict"] == NOT_RUN]
    assert all(entry["reason"] for entry in missing)
    assert max(Counter(entry["paper"] for entry in missing).values(), default=0) <= 3


def test_every_measured_claim_has_a_check_that_could_have_failed():
    for entry in RECORDED:
        judged = [c for c in entry["runs"][0]["checks"] if c["outcome"] is not None]
        assert judged or entry["verdict"] == NOT_RUN, entry["id"]


def test_a_failed_statement_is_not_called_reproduced():
    for entry in RECORDED:
        for run in entry["runs"]:
            printed = [c["outcome"] for c in run["checks"] if c["role"] == "printed"]
            failed = False in printed
            assert failed == (run["verdict"] in (NOT_REPRODUCED, CORRECTED, REFUTED)), entry["id"]
            assert run["verdict"] != INCONCLUSIVE  # one run alone decides
