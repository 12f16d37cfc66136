"""What a notebook calls to record a claim: checks, and the record that the ledger collects.

A check reduces a measurement to one number and the interval it must lie in. A claim is a group of
checks; what follows from them is computed by `attribook.report.verdicts` and cannot be chosen.
"""

from __future__ import annotations

import html
import math
import numbers
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from attribook.report.verdicts import (
    criterion,
    in_role_order,
    judge,
    show,
)

CLAIM_MIME = "application/vnd.attribook.claim+json"
TIMING_MIME = "application/vnd.attribook.timing+json"

ROUNDING = 1e-5  # a bound this small asks for zero up to rounding ...
HEADROOM = 10  # ... and leaves the rounding of other processors this much room


@dataclass(frozen=True)
class Check:
    """One measurement against one criterion: `low <= value <= high`.

    `measured` is what a reader sees (a number, a list of them, yes or no), `value` what is judged.
    A check without limits only reports. What lies below `floor` is rounding, another one on another
    processor. A timing is judged but never stored: it differs every run.
    """

    name: str
    measured: float | bool | list[float]
    value: float
    low: float | None = None
    high: float | None = None
    expected: float | list[float] | None = None
    floor: float = 0.0
    timing: bool = False

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name.strip():
            raise ValueError(f"a check needs a name in words, got {self.name!r}")
        for bound in (self.low, self.high):
            if bound is not None and not math.isfinite(bound):
                raise ValueError(f"{self.name}: a bound of {bound} is no criterion; give a number")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(
                f"{self.name}: nothing lies between {self.low} and {self.high}; swap the bounds"
            )
        if not 0 <= self.floor < math.inf:
            raise ValueError(
                f"{self.name}: noise must be a size, 0 or a positive number, got {self.floor}"
            )

    @property
    def met(self) -> bool | None:
        """Whether the criterion is met; None when there is none. NaN never meets one."""
        if self.low is None and self.high is None:
            return None
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        return bool(low <= self.value <= high)


def at_most(
    name: str, measured, bound, *, noise: float | None = None, timing: bool = False
) -> Check:
    """Met when the measurement is no larger than the bound (the largest entry, for a tensor).

    `noise` is the size below which the number is rounding; a tenth of a bound of 1e-5 or less
    unless given, else nothing. The same for the other checks.
    """
    value, high = float(np.max(_array(name, measured))), _number(name, bound)
    floor = _floor(name, noise, high)
    return Check(name, _rounded(value), value, high=high, floor=floor, timing=timing)


def at_least(
    name: str, measured, bound, *, noise: float | None = None, timing: bool = False
) -> Check:
    """Met when the measurement is no smaller than the bound (the smallest entry, for a tensor)."""
    value, low = float(np.min(_array(name, measured))), _number(name, bound)
    floor = _floor(name, noise, -low)
    return Check(name, _rounded(value), value, low=low, floor=floor, timing=timing)


def between(
    name: str, measured, low, high, *, noise: float | None = None, timing: bool = False
) -> Check:
    """Met when one measured number lies in [low, high]."""
    value, low, high = (_number(name, number) for number in (measured, low, high))
    floor = _floor(name, noise, max(-low, high))
    return Check(name, _rounded(value), value, low=low, high=high, floor=floor, timing=timing)


def close(name: str, measured, expected, tolerance, *, noise: float | None = None) -> Check:
    """Met when every entry lies within `tolerance` (absolute) of the expected value."""
    got, want = (np.atleast_1d(_array(name, entries)) for entries in (measured, expected))
    if got.shape != want.shape:
        raise ValueError(f"{name}: measured shape {got.shape}, expected shape {want.shape}")
    if got.size > 12:
        raise ValueError(f"{name}: {got.size} numbers are too many to record; use at_most on a gap")
    if not np.isfinite(want).all():
        raise ValueError(f"{name}: what is expected must be finite, got {want.tolist()}")
    gap, high = float(np.abs(got - want).max()), _number(name, tolerance)
    floor = _floor(name, noise, high)
    return Check(name, _listed(got), gap, high=high, expected=_listed(want), floor=floor)


def holds(name: str, condition) -> Check:
    """Met when the condition is true. For orders, shapes and raised errors; numbers have bounds."""
    if hasattr(condition, "detach"):
        condition = condition.detach().cpu().numpy()
    if not isinstance(condition, bool | np.bool_):
        entries = getattr(condition, "size", None)
        if getattr(condition, "dtype", None) != np.bool_ or entries != 1:
            raise TypeError(
                f"{name}: a condition is True or False, got {_described(condition)}; compare it "
                "with something, or reduce it by all() or any()"
            )
        condition = condition.item()
    return Check(name, bool(condition), float(bool(condition)), low=1.0, high=1.0)


def report(name: str, measured, *, noise: float | None = None, timing: bool = False) -> Check:
    """A number worth printing that no criterion judges."""
    values = np.atleast_1d(_array(name, measured))
    floor = _floor(name, noise)
    return Check(name, _listed(values), float(values.flat[0]), floor=floor, timing=timing)


def claim(
    claim_id: str,
    *printed,
    corrected: Sequence = (),
    counterexample: Sequence = (),
    in_kind: str = "",
) -> None:
    """Record a claim: show its outcome in the notebook and emit the record the ledger collects.

    `printed` judge the statement as the paper prints it, `corrected` its corrected form, and
    `counterexample` the input that refutes it. `in_kind` says how the setting differs from the
    paper's (other model or data), whatever the outcome. Each group needs a check that can fail.
    """
    roles = {"printed": printed, "corrected": corrected, "counterexample": counterexample}
    for role, group in roles.items():
        if strangers := [check for check in group if not isinstance(check, Check)]:
            raise TypeError(
                f"{claim_id}: {role} wants checks (at_most, holds, ...), got {strangers[0]!r}"
            )
        if (group or role == "printed") and all(check.met is None for check in group):
            raise ValueError(
                f"{claim_id}: no check of the {role} statement can fail; add a criterion"
            )
    checks = [_as_json(check, role) for role, group in roles.items() for check in group]
    names = [check["name"] for check in checks]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{claim_id}: check names must differ, repeated: {sorted(repeated)}")
    _emit({"id": claim_id, "checks": checks, "in_kind": in_kind, "reason": ""})


def not_run(claim_id: str, reason: str) -> None:
    """Record that a claim was not run; the reason names the missing model or data."""
    if not reason.strip():
        raise ValueError(f"{claim_id}: a claim that was not run needs a reason")
    _emit({"id": claim_id, "checks": [], "in_kind": "", "reason": reason})


def records_in(notebook) -> list[dict]:
    """The claim records among a notebook's outputs, in order."""
    outputs = (out for cell in notebook.cells for out in cell.get("outputs", []))
    return [out["data"][CLAIM_MIME] for out in outputs if CLAIM_MIME in out.get("data", {})]


def shown_as(record: dict) -> dict[str, str]:
    """What a reader of the notebook sees of a record: its text and its HTML."""
    return {"text/plain": f"{record['id']}: {record['outcome']}", "text/html": _render(record)}


def _emit(record: dict) -> None:
    from IPython.display import display

    record["outcome"] = judge([record])
    timings = {c["name"]: c["measured"] for c in record["checks"] if c["timing"]}
    for check in record["checks"]:
        if check["timing"]:
            check["measured"] = check["value"] = None
    bundle = {**shown_as(record), CLAIM_MIME: record}
    if timings:
        bundle[TIMING_MIME] = {"id": record["id"], "timings": timings}
    display(bundle, raw=True)


def _render(record: dict) -> str:
    """A claim as the notebook and the book show it; the id is the anchor the ledger links to."""
    told = {key: html.escape(str(record[key])) for key in ("id", "outcome", "in_kind", "reason")}
    rows = "".join(
        f'<tr class="{html.escape(check["role"])}"><td>{html.escape(check["name"])}</td>'
        f"<td>{html.escape(show(check['measured']))}</td><td>{html.escape(criterion(check))}</td>"
        f"<td>{_MARK[check['met']]}</td></tr>"
        for check in in_role_order(record["checks"])
    )
    head = "<thead><tr><th>check</th><th>measured</th><th>criterion</th><th>met</th></tr></thead>"
    table = f"<table>{head}<tbody>{rows}</tbody></table>" if rows else ""
    remarks = [told["in_kind"] and f"In kind: {told['in_kind']}", told["reason"]]
    notes = "".join(f"<p>{text}</p>" for text in remarks if text)
    setting = ' <span class="setting">in kind</span>' if told["in_kind"] else ""
    return (
        f'<div class="claim" id="{told["id"]}" data-outcome="{told["outcome"]}">'
        f'<p><code>{told["id"]}</code> <span class="verdict">{told["outcome"]}</span>{setting}</p>'
        f"{table}{notes}</div>"
    )


_MARK = {True: "✓", False: "✗", None: "–"}


def _as_json(check: Check, role: str) -> dict:
    """The check as plain JSON, which has no numbers for infinity and NaN: `measured` names them."""
    record = asdict(check) | {"role": role, "met": check.met}
    if not math.isfinite(check.value):
        return record | {"value": None, "measured": _named(check.measured)}
    return record | {"value": _rounded(check.value)}


def usual_floor(check: dict) -> float:
    """The floor that a recorded check has when its notebook gives none."""
    low, high = check["low"], check["high"]
    bounds = [bound for bound in (low and -low, high) if bound is not None]
    return _usual_floor(max(bounds, default=math.inf))


def _usual_floor(bound: float) -> float:
    """A tenth of a bound on rounding, nothing for others."""
    return bound / HEADROOM if 0 < bound <= ROUNDING else 0.0


def _floor(name: str, noise: float | None, bound: float = math.inf) -> float:
    """The size below which a number is rounding: as given, else by what its bound asks for."""
    if noise is None:
        return _usual_floor(bound)
    floor = _number(name, noise)
    if 0 < bound < floor < math.inf:
        raise ValueError(
            f"{name}: a noise of {floor:g} would hide what the bound {bound:g} judges; give less"
        )
    return floor


def _array(name: str, measured) -> np.ndarray:
    """A number, list, array or tensor (on any device) as a float64 array with at least one entry."""
    if hasattr(measured, "detach"):
        measured = measured.detach().cpu().numpy()
    try:
        found = np.asarray(measured)
    except ValueError as error:  # rows of unequal lengths
        raise TypeError(f"{name}: wants numbers, got {_described(measured)}") from error
    if found.dtype.kind not in "iuf" and not (found.dtype.kind == "O" and _numeric(found)):
        raise TypeError(f"{name}: wants real numbers, got {_described(measured)}")
    if found.size == 0:
        raise ValueError(f"{name}: nothing was measured, got {_described(measured)}")
    return found.astype(np.float64)


def _numeric(found: np.ndarray) -> bool:
    """Whether every entry is a number of Python's own, such as a fraction."""
    return all(isinstance(entry, numbers.Real) for entry in found.flat)


def _number(name: str, value) -> float:
    found = _array(name, value)
    if found.size != 1:
        raise TypeError(f"{name}: wants one number, got {_described(value)}")
    return float(found.flat[0])


def _described(value) -> str:
    shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else f" {value!r}"
    return f"a {type(value).__name__}{shape}"


def _named(measured):
    if isinstance(measured, list):
        return [_named(entry) for entry in measured]
    return measured if math.isfinite(measured) else str(measured)


def _rounded(value: float) -> float:
    return float(f"{float(value):.6g}")


def _listed(values: np.ndarray) -> float | list[float]:
    rounded = [_rounded(value) for value in np.ravel(values)]
    return rounded[0] if len(rounded) == 1 else rounded
