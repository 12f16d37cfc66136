"""What follows from recorded checks: the outcome of a claim, and what drifted between two runs.

Pure functions of records, the JSON that `attribook.report.claims` emits. An outcome follows from the
checks and cannot be chosen. Over several runs every run is judged by itself first, and the
statement on an interval for the median of the runs, never on one lucky seed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr  # scipy.stats takes a second to load

REPRODUCED = "reproduced"
CORRECTED = "corrected"
REFUTED = "refuted"
NOT_REPRODUCED = "not reproduced"
INCONCLUSIVE = "inconclusive"
NOT_RUN = "not run"
ILLUSTRATED = "illustrated"
OUTCOMES = (
    REPRODUCED, CORRECTED, REFUTED, NOT_REPRODUCED, INCONCLUSIVE, NOT_RUN, ILLUSTRATED,
)  # fmt: skip
ROLES = ("printed", "corrected", "counterexample")
CRITERION = ("role", "low", "high", "expected", "floor", "timing")

RELATIVE_TOLERANCE = 1e-3  # BLAS and thread counts move the fifth digit of float32 results
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Tally:
    """How many runs a verdict rests on; a run that repeats another to the last digit is none."""

    runs: int
    hold: int  # in how many the statement holds as printed
    distinct: int  # 1 where several runs agree to the last digit: nothing was drawn
    coverage: float | None  # of the interval for the median over runs; None for a single one


def is_met(check: dict) -> bool | None:
    """Whether a check's value lies within its limits; None when it has none. NaN never does."""
    low, high, value = check["low"], check["high"], check["value"]
    if low is None and high is None:
        return None
    if value is None:  # neither infinity nor NaN has a place in JSON; `measured` names them
        value = float(check["measured"]) if isinstance(check["measured"], str) else math.nan
    return bool((low is None or low <= value) and (high is None or value <= high))


def judge(records: Sequence[dict], illustration: bool = False) -> str:
    """The outcome over one or several runs of a claim.

    The statement holds when it holds in the runs, fails when it fails in them, and is undecided
    when the interval over runs covers both. A failed statement is `corrected` when its corrected
    checks are met, `refuted` when only a counterexample's are, else `not reproduced`. What is
    shown and asserts nothing (`illustration`) is `illustrated` while all its checks are met.
    Raises ValueError when the runs were judged by different criteria.
    """
    records = distinct(records)
    if not any(record["checks"] for record in records):
        return NOT_RUN
    require_one_criterion(records)
    printed = _pooled([_holds(record, "printed") for record in records])
    if printed is None:
        return INCONCLUSIVE
    if printed:
        return ILLUSTRATED if illustration else REPRODUCED
    roles = {check["role"] for record in records for check in record["checks"]}
    if "corrected" in roles:
        corrected = _pooled([_holds(record, "corrected") for record in records])
        return {True: CORRECTED, False: NOT_REPRODUCED, None: INCONCLUSIVE}[corrected]
    if "counterexample" in roles and _pooled([_holds(r, "counterexample") for r in records]):
        return REFUTED
    return NOT_REPRODUCED


def tally(records: Sequence[dict]) -> Tally:
    """How many runs there are, how many meet the printed statement, and what they can tell."""
    run = [record for record in records if record["checks"]]
    different = len(distinct(run))
    held = sum(_holds(record, "printed") for record in run)
    return Tally(len(run), held, different, coverage(different) if different > 1 else None)


def coverage(runs: int) -> float:
    """The chance that the interval over this many runs covers their median, whatever the law."""
    return float(1 - 2 * bdtr(_left_out(runs), runs, 0.5))


def distinct(records: Sequence[dict]) -> list[dict]:
    """The records without those that repeat another to the last digit."""
    told = {json.dumps(record["checks"], sort_keys=True): record for record in reversed(records)}
    return list(told.values())[::-1]


def require_one_criterion(records: Sequence[dict]) -> None:
    """ValueError when a check has another criterion, or is missing, in one of the runs."""
    first = {check["name"]: check for check in records[0]["checks"]}
    for record in records[1:]:
        other = {check["name"]: check for check in record["checks"]}
        if lines := _criteria_moved(first, other, record["id"]):
            raise ValueError(
                f"{lines[0]}; runs are judged together only by one criterion: make it "
                "independent of what is drawn, or run the older ones again"
            )


def drift(reference: dict, fresh: dict) -> list[str]:
    """What changed between two records of one claim: outcomes and criteria exactly, numbers closely.

    Numbers agree within 1e-3 of the reference's size, or within the check's floor, below which
    they are rounding. Timings are compared by whether they meet their criterion.
    """
    name = reference["id"]
    if reference["outcome"] != fresh["outcome"]:
        return [f"{name}: outcome was {reference['outcome']!r}, is {fresh['outcome']!r}"]
    old = {check["name"]: check for check in reference["checks"]}
    new = {check["name"]: check for check in fresh["checks"]}
    lines = _criteria_moved(old, new, name)
    for key in [key for key in old if key in new]:
        before, after = old[key], new[key]
        if before["met"] != after["met"] or not _agree(before, after):
            was, now = (json.dumps(check["measured"]) for check in (before, after))
            lines.append(f"{name}: {key!r} was {was}, is {now}")
    for field in ("in_kind", "reason"):
        if reference[field] != fresh[field]:
            lines.append(f"{name}: {field} was {reference[field]!r}, is {fresh[field]!r}")
    return lines


def criterion(check: dict) -> str:
    """A check's criterion in words a table can hold."""
    low, high = check["low"], check["high"]
    if check["expected"] is not None:
        return f"{show(check['expected'])} ± {show(high)}"
    if isinstance(check["measured"], bool):
        return "yes"
    if low is None and high is None:
        return "reported"
    if low is None:
        return f"≤ {show(high)}"
    return f"≥ {show(low)}" if high is None else f"{show(low)} to {show(high)}"


def show(value) -> str:
    """A measured value as the book prints it: three significant digits, yes or no."""
    if value is None:
        return "in the run statistics"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "(" + ", ".join(show(entry) for entry in value) + ")"
    number = float(value)
    return str(int(number)) if number.is_integer() and abs(number) < 1e6 else f"{number:.3g}"


def in_role_order(checks: Iterable[dict]) -> list[dict]:
    """The checks of the printed statement first, then the corrected one's, then counterexamples."""
    return sorted(checks, key=lambda check: ROLES.index(check["role"]))


def _criteria_moved(old: dict[str, dict], new: dict[str, dict], claim: str) -> list[str]:
    lines = [f"{claim}: check {key!r} only in one of the runs" for key in sorted(old.keys() ^ new)]
    for key in [key for key in old if key in new]:
        moved = [k for k in CRITERION if old[key][k] != new[key][k]]
        if moved == ["floor"]:
            was, now = (show(check[key]["floor"]) for check in (old, new))
            lines.append(f"{claim}: noise floor of {key!r} was {was}, is {now}")
        elif moved:
            was, now = (f"{criterion(c[key])} ({c[key]['role']})" for c in (old, new))
            lines.append(f"{claim}: criterion of {key!r} was {was}, is {now}")
    return lines


def _holds(record: dict, role: str) -> bool:
    """Whether one run meets every check of a role that has a criterion, and there is one."""
    met = [check["met"] for check in record["checks"] if check["role"] == role]
    judged = [outcome for outcome in met if outcome is not None]
    return bool(judged) and all(judged)


def _pooled(held: Sequence[bool]) -> bool | None:
    """Whether the runs hold or fail; None when the interval for their median covers both.

    The interval leaves out the k smallest and k largest of n runs (distribution-free), so it lies
    on the side of the criterion when at most k runs miss it.
    """
    met, missed = sum(held), len(held) - sum(held)
    if missed <= _left_out(len(held)):
        return True
    return False if met <= _left_out(len(held)) else None


def _left_out(runs: int) -> int:
    """How many runs an interval of 95 % leaves out at each end; none below nine runs."""
    quantile = next(k for k in range(runs + 1) if bdtr(k, runs, 0.5) >= (1 - CONFIDENCE) / 2)
    return max(0, quantile - 1)


def _agree(before: dict, after: dict) -> bool:
    if before["timing"] or isinstance(before["measured"], bool):
        return before["measured"] == after["measured"] or before["timing"]
    old, new = (np.atleast_1d(c["measured"]).astype(float) for c in (before, after))
    if old.shape != new.shape:
        return False
    return np.allclose(new, old, rtol=RELATIVE_TOLERANCE, atol=before["floor"], equal_nan=True)
