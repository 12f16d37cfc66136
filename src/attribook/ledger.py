"""Claims, their checks and their verdicts; what a notebook records and what the book reports.

A check reduces a measurement to one number and the interval it must lie in. A claim is a group of
checks; its verdict follows from their outcomes and cannot be chosen. Over several runs a check is
judged on an interval for the median of the runs, never on one lucky seed.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import yaml
from scipy import stats

CLAIM_MIME = "application/vnd.attribook.claim+json"
TIMING_MIME = "application/vnd.attribook.timing+json"

REPRODUCED = "reproduced"
IN_KIND = "reproduced in kind"
CORRECTED = "reproduced after correction"
REFUTED = "refuted"
NOT_REPRODUCED = "not reproduced"
INCONCLUSIVE = "inconclusive"
NOT_RUN = "not run"
VERDICTS = (REPRODUCED, IN_KIND, CORRECTED, REFUTED, NOT_REPRODUCED, INCONCLUSIVE, NOT_RUN)

RELATIVE_TOLERANCE = 1e-3  # BLAS and thread counts move the fifth digit of float32 results
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Check:
    """One measurement against one criterion: `low <= value <= high`.

    `measured` is what a reader sees (a number, a list of them, yes or no), `value` what is judged.
    A check without limits only reports. A timing is judged but never stored: it differs every run.
    """

    name: str
    measured: float | bool | list[float]
    value: float
    low: float | None = None
    high: float | None = None
    expected: float | list[float] | None = None
    timing: bool = False

    @property
    def outcome(self) -> bool | None:
        """Whether the criterion is met; None when there is none. NaN never meets one."""
        if self.low is None and self.high is None:
            return None
        return bool(_low(self) <= self.value <= _high(self))


def at_most(name: str, measured, bound: float, *, timing: bool = False) -> Check:
    """Met when the measurement is no larger than the bound (the largest entry, for a tensor)."""
    value = float(np.max(_array(measured)))
    return Check(name, _rounded(value), value, high=float(bound), timing=timing)


def at_least(name: str, measured, bound: float, *, timing: bool = False) -> Check:
    """Met when the measurement is no smaller than the bound (the smallest entry, for a tensor)."""
    value = float(np.min(_array(measured)))
    return Check(name, _rounded(value), value, low=float(bound), timing=timing)


def between(name: str, measured: float, low: float, high: float, *, timing: bool = False) -> Check:
    """Met when one measured number lies in [low, high]."""
    value = float(measured)
    return Check(name, _rounded(value), value, low=float(low), high=float(high), timing=timing)


def close(name: str, measured, expected, tolerance: float) -> Check:
    """Met when every entry lies within `tolerance` (absolute) of the expected value."""
    got, want = np.atleast_1d(_array(measured)), np.atleast_1d(_array(expected))
    if got.shape != want.shape:
        raise ValueError(f"{name}: measured shape {got.shape}, expected shape {want.shape}")
    if got.size > 12:
        raise ValueError(f"{name}: {got.size} numbers are too many to record; use at_most on a gap")
    gap = float(np.abs(got - want).max())
    return Check(name, _listed(got), gap, high=float(tolerance), expected=_listed(want))


def holds(name: str, condition) -> Check:
    """Met when the condition is true. For orders, shapes and raised errors; numbers have bounds."""
    return Check(name, bool(condition), float(bool(condition)), low=1.0, high=1.0)


def report(name: str, measured, *, timing: bool = False) -> Check:
    """A number worth printing that no criterion judges."""
    values = np.atleast_1d(_array(measured))
    return Check(name, _listed(values), float(values.flat[0]), timing=timing)


def claim(
    claim_id: str,
    *printed: Check,
    corrected: Sequence[Check] = (),
    counterexample: Sequence[Check] = (),
    in_kind: str = "",
) -> None:
    """Record a claim: show its verdict in the notebook and emit the record the ledger collects.

    `printed` judge the statement as the paper prints it, `corrected` its corrected form, and
    `counterexample` the input that refutes it. `in_kind` says how the setting differs from the
    paper's (other model or data); a claim that is met is then reproduced in kind.
    """
    roles = {"printed": printed, "corrected": corrected, "counterexample": counterexample}
    checks = [_as_json(check, role) for role, group in roles.items() for check in group]
    if not any(check["outcome"] is not None for check in checks if check["role"] == "printed"):
        raise ValueError(f"{claim_id}: no check of the printed statement can fail; add a criterion")
    names = [check["name"] for check in checks]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{claim_id}: check names must differ, repeated: {sorted(repeated)}")
    _emit({"id": claim_id, "checks": checks, "in_kind": in_kind, "reason": ""})


def not_run(claim_id: str, reason: str) -> None:
    """Record that a claim was not run; the reason names the missing model or data."""
    if not reason.strip():
        raise ValueError(f"{claim_id}: a claim that was not run needs a reason")
    _emit({"id": claim_id, "checks": [], "in_kind": "", "reason": reason})


def judge(records: Sequence[dict]) -> str:
    """The verdict over one or several runs of a claim.

    The statement holds when all its checks are met, fails when one is not, and is undecided when an
    interval covers both sides. A failed statement is `reproduced after correction` when its
    corrected checks hold, `refuted` when only a counterexample does, else `not reproduced`.
    """
    if not any(record["checks"] for record in records):
        return NOT_RUN
    printed = _group_outcome(records, "printed")
    if printed is None:
        return INCONCLUSIVE
    if printed:
        return IN_KIND if any(record["in_kind"] for record in records) else REPRODUCED
    roles = {check["role"] for record in records for check in record["checks"]}
    if "corrected" in roles:
        corrected = _group_outcome(records, "corrected")
        return {True: CORRECTED, False: NOT_REPRODUCED, None: INCONCLUSIVE}[corrected]
    if "counterexample" in roles and _group_outcome(records, "counterexample"):
        return REFUTED
    return NOT_REPRODUCED


def drift(reference: dict, fresh: dict) -> list[str]:
    """What changed between two records of one claim: verdict and outcomes exactly, numbers closely.

    Numbers agree within 1e-3 of their size or of the criterion's, whichever is larger, so rounding
    noise far below a bound is no drift. Timings are compared by outcome only.
    """
    name = reference["id"]
    if reference["verdict"] != fresh["verdict"]:
        return [f"{name}: verdict was {reference['verdict']!r}, is {fresh['verdict']!r}"]
    old = {check["name"]: check for check in reference["checks"]}
    new = {check["name"]: check for check in fresh["checks"]}
    lines = [f"{name}: check {key!r} only in one of the runs" for key in sorted(old.keys() ^ new)]
    for key in [key for key in old if key in new]:
        before, after = old[key], new[key]
        criterion_moved = any(before[k] != after[k] for k in ("low", "high", "expected", "role"))
        if criterion_moved:
            lines.append(
                f"{name}: criterion of {key!r} was {criterion(before)}, is {criterion(after)}"
            )
        same = before["outcome"] == after["outcome"] and _agree(before, after)
        if not (criterion_moved or same):
            was, now = (_exactly(check["measured"]) for check in (before, after))
            lines.append(f"{name}: {key!r} was {was}, is {now}")
    for field in ("in_kind", "reason"):
        if reference[field] != fresh[field]:
            lines.append(f"{name}: {field} was {reference[field]!r}, is {fresh[field]!r}")
    return lines


def records_in(notebook) -> list[dict]:
    """The claim records among a notebook's outputs, in order."""
    outputs = (out for cell in notebook.cells for out in cell.get("outputs", []))
    return [out["data"][CLAIM_MIME] for out in outputs if CLAIM_MIME in out.get("data", {})]


def load_claims(folder: Path) -> dict[str, dict]:
    """The claim inventories of a folder: claim id -> entry, with its paper's key added."""
    claims = {}
    for path in sorted(Path(folder).glob("*.yml")):
        inventory = yaml.safe_load(path.read_text(encoding="utf-8"))
        for entry in inventory["claims"]:
            claims[entry["id"]] = {**entry, "paper": inventory["key"]}
    if not claims:
        raise ValueError(f"no claims in {folder}; expected files like gradient.yml there")
    return claims


class Ledger:
    """Every claim with its runs and its verdict, as kept in book/ledger.json."""

    def __init__(self, claims: dict[str, dict]):
        self._claims = claims
        self._runs: dict[str, list[dict]] = {}
        self._notebooks: dict[str, str] = {}

    def add(self, record: dict, notebook: str, parameters: dict, source: str) -> None:
        """Add one run of one claim; a run with the same parameters replaces the earlier one."""
        claim_id = record["id"]
        if claim_id not in self._claims:
            near = [
                known for known in self._claims if known.split(".")[0] == claim_id.split(".")[0]
            ]
            raise ValueError(f"{notebook} records unknown claim {claim_id!r}; known: {near}")
        if self._notebooks.setdefault(claim_id, notebook) != notebook:
            other = self._notebooks[claim_id]
            raise ValueError(f"{claim_id} is recorded by both {other} and {notebook}; keep one")
        run = {key: parameters[key] for key in ("model", "seed", "device", "scale")}
        keys = tuple(run.values())
        runs = self._runs.setdefault(claim_id, [])
        runs[:] = [old for old in runs if tuple(old[k] for k in run) != keys]
        measured = {check["name"]: check["measured"] for check in record["checks"]}
        runs.append({**run, "source": source, "measured": measured, **record})

    def entries(self) -> list[dict]:
        """The ledger's rows, in the inventories' order; a claim nobody recorded is `not run`."""
        return [self._entry(claim_id) for claim_id in self._claims]

    def _entry(self, claim_id: str) -> dict:
        claim = self._claims[claim_id]
        runs = self._runs.get(claim_id, [])
        first = runs[0] if runs else {"checks": [], "reason": "no notebook records it yet"}
        alike = [run for run in runs if _same_setting(run, first)]
        judged = {check["name"]: criterion(check) for check in first["checks"]}
        return {
            "id": claim_id,
            "paper": claim["paper"],
            "kind": claim["kind"],
            "where": claim["where"],
            "says": claim["says"],
            "verdict": judge(alike) if alike else NOT_RUN,
            "reason": first["reason"],
            "paper_value": claim.get("values", {}),
            "measured": first.get("measured", {}),
            "criterion": judged,
            "notebook": self._notebooks.get(claim_id, ""),
            "runs": sorted(runs, key=lambda run: (not _same_setting(run, first), str(run["seed"]))),
        }

    def save(self, path: Path, environment: dict) -> None:
        """Write the ledger as sorted, indented JSON."""
        text = json.dumps({"claims": self.entries(), "environment": environment}, indent=1)
        Path(path).write_text(text + "\n", encoding="utf-8")


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


def _emit(record: dict) -> None:
    from IPython.display import display

    record["verdict"] = judge([record])
    timings = {c["name"]: c["measured"] for c in record["checks"] if c["timing"]}
    for check in record["checks"]:
        if check["timing"]:
            check["measured"] = check["value"] = None
    bundle = {
        "text/plain": f"{record['id']}: {record['verdict']}",
        "text/html": _render(record),
        CLAIM_MIME: record,
    }
    if timings:
        bundle[TIMING_MIME] = {"id": record["id"], "timings": timings}
    display(bundle, raw=True)


def _render(record: dict) -> str:
    """A claim as the notebook and the book show it; the id is the anchor the ledger links to."""
    verdict = record["verdict"]
    rows = "".join(
        f'<tr class="{check["role"]}"><td>{html.escape(check["name"])}</td>'
        f"<td>{show(check['measured'])}</td><td>{criterion(check)}</td>"
        f"<td>{_MARK[check['outcome']]}</td></tr>"
        for check in _in_role_order(record["checks"])
    )
    head = "<thead><tr><th>check</th><th>measured</th><th>criterion</th><th>met</th></tr></thead>"
    table = f"<table>{head}<tbody>{rows}</tbody></table>" if rows else ""
    remarks = [record["in_kind"] and f"In kind: {record['in_kind']}", record["reason"]]
    notes = "".join(f"<p>{html.escape(text)}</p>" for text in remarks if text)
    return (
        f'<div class="claim" id="{record["id"]}" data-verdict="{verdict}">'
        f'<p><code>{record["id"]}</code> <span class="verdict">{verdict}</span></p>'
        f"{table}{notes}</div>"
    )


_MARK = {True: "✓", False: "✗", None: "–"}


def _in_role_order(checks: Iterable[dict]) -> list[dict]:
    order = ["printed", "corrected", "counterexample"]
    return sorted(checks, key=lambda check: order.index(check["role"]))


def _as_json(check: Check, role: str) -> dict:
    """The check as plain JSON, which has no numbers for infinity and NaN: `measured` names them."""
    record = asdict(check) | {"role": role, "outcome": check.outcome}
    if not math.isfinite(check.value):
        return record | {"value": None, "measured": _named(check.measured)}
    return record | {"value": _rounded(check.value)}


def _group_outcome(records: Sequence[dict], role: str) -> bool | None:
    """True when every check of the role is met over the runs, False when one is not, else None."""
    names = dict.fromkeys(
        c["name"]
        for record in records
        for c in record["checks"]
        if c["role"] == role and c["outcome"] is not None
    )
    outcomes = [
        _outcome_over_runs([c for r in records for c in r["checks"] if c["name"] == name])
        for name in names
    ]
    if any(outcome is False for outcome in outcomes):
        return False
    return None if any(outcome is None for outcome in outcomes) else True


def _outcome_over_runs(checks: Sequence[dict]) -> bool | None:
    """Whether the interval for the median over runs lies on one side of the criterion, and which.

    The interval leaves out the k smallest and k largest of n runs: distribution-free, 95 % from six
    runs on, the whole range below. So it is inside when at most k runs miss the criterion.
    """
    runs, met = len(checks), sum(bool(check["outcome"]) for check in checks)
    left_out = max(0, int(stats.binom.ppf((1 - CONFIDENCE) / 2, runs, 0.5)) - 1)
    if runs - met <= left_out:
        return True
    return False if met <= left_out else None


def _same_setting(run: dict, first: dict) -> bool:
    """Whether two runs differ by seed only, so that their spread means something."""
    return all(run[key] == first[key] for key in ("model", "device", "scale"))


def _agree(before: dict, after: dict) -> bool:
    if before["timing"] or isinstance(before["measured"], bool):
        return before["measured"] == after["measured"] or before["timing"]
    limits = [abs(x) for x in (before["low"], before["high"]) if x is not None]
    old, new = np.atleast_1d(before["measured"]), np.atleast_1d(after["measured"])
    if old.shape != new.shape:
        return False
    return np.allclose(
        new.astype(float),
        old.astype(float),
        rtol=RELATIVE_TOLERANCE,
        atol=RELATIVE_TOLERANCE * max(limits, default=0.0),
        equal_nan=True,
    )


def _exactly(measured) -> str:
    return json.dumps(measured)


def _low(check: Check) -> float:
    return -math.inf if check.low is None else check.low


def _high(check: Check) -> float:
    return math.inf if check.high is None else check.high


def _array(measured) -> np.ndarray:
    """A number, list, array or tensor (on any device) as a float64 array."""
    if hasattr(measured, "detach"):
        measured = measured.detach().cpu().numpy()
    return np.asarray(measured, dtype=np.float64)


def _named(measured):
    if isinstance(measured, list):
        return [_named(entry) for entry in measured]
    return measured if math.isfinite(measured) else str(measured)


def _rounded(value: float) -> float:
    return float(f"{float(value):.6g}")


def _listed(values: np.ndarray) -> float | list[float]:
    rounded = [_rounded(value) for value in np.ravel(values)]
    return rounded[0] if len(rounded) == 1 else rounded
