"""What the pages are built from: the ledger, the claim inventories and the run statistics."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sphinx.errors import ExtensionError

from attribook.report import audit
from attribook.report.claims import show
from attribook.report.inventory import load_claims
from attribook.report.ledger import FORMAT, LEDGER

CLAIMS = "book/claims"
STATISTICS = "book/run_statistics.json"
BENCHMARKS = "book/benchmarks.json"


@dataclass(frozen=True)
class Results:
    """The ledger's entries by claim id, in the inventories' order, and the measurements beside."""

    entries: dict[str, dict]
    environment: dict
    statistics: dict[str, dict]
    benchmarks: dict | None
    standing: dict[str, list[str]]  # stale, older, missing -> one line a run
    files: list[Path]

    @classmethod
    def load(cls, root: Path) -> Results:
        """Everything recorded under the project root; a missing or stale ledger is an error."""
        root = Path(root)
        claims = _claims(root)
        ledger = _required(root, LEDGER)
        if ledger.get("format") != FORMAT:
            raise ExtensionError(
                f"{LEDGER} has format {ledger.get('format', 1)}, the book reads format {FORMAT}; "
                "write it again with `attribook ledger`"
            )
        recorded = {entry["id"]: entry for entry in ledger["claims"]}
        if recorded.keys() != claims.keys():
            odd = sorted(recorded.keys() ^ claims.keys())
            raise ExtensionError(f"{LEDGER} and {CLAIMS} differ in {odd}; run `attribook ledger`")
        benchmarks = root / BENCHMARKS
        files = [root / LEDGER, root / STATISTICS, *sorted((root / CLAIMS).glob("*.yml"))]
        return cls(
            {key: _with_parameters(recorded[key], ledger["runs"]) for key in claims},
            ledger["environment"],
            _required(root, STATISTICS),
            _required(root, BENCHMARKS) if benchmarks.exists() else None,
            standing(root),
            [*files, benchmarks] if benchmarks.exists() else files,
        )


def standing(root: Path) -> dict[str, list[str]]:
    """The runs that are not fresh by the ledger's own account: stale, older, missing."""
    found: dict[str, list[str]] = {}
    try:
        rows = audit.standing(root)
    except ValueError as error:
        raise ExtensionError(str(error)) from error
    for row in rows:
        found.setdefault(row.state, []).append(row.told.partition(": ")[2])
    found.pop(audit.FRESH, None)
    return found


def _claims(root: Path) -> dict[str, dict]:
    try:
        return load_claims(root / CLAIMS)
    except ValueError as error:
        raise ExtensionError(f"{CLAIMS}: {error}") from error


def _with_parameters(entry: dict, runs: dict[str, dict]) -> dict:
    """A claim whose runs carry the model, seed, device and scale that the ledger keeps beside."""
    unknown = [run["run"] for run in entry["runs"] if run["run"] not in runs]
    if unknown:
        raise ExtensionError(
            f"{LEDGER} has {entry['id']} of a run that it does not describe: {unknown[0]!r}; "
            "write it again with `attribook ledger`"
        )
    return {**entry, "runs": [{**runs[run["run"]], **run} for run in entry["runs"]]}


def _required(root: Path, name: str) -> dict:
    try:
        return json.loads((root / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExtensionError(
            f"{name} is missing under {root}: run `make book`, or `attribook ledger` when the "
            "notebooks are already executed"
        ) from None
    except json.JSONDecodeError as error:
        raise ExtensionError(
            f"{name} is no JSON ({error}): write it again with `attribook ledger`"
        ) from None


def alike(entry: dict) -> list[dict]:
    """The runs that differ from the claim's first one by seed only."""
    runs = [run for run in entry["runs"] if run["checks"]]
    return [run for run in runs if all(run[k] == runs[0][k] for k in ("model", "device", "scale"))]


def checks_over_runs(entry: dict, name: str) -> list[dict]:
    """A check as the alike runs recorded it."""
    return [check for run in alike(entry) for check in run["checks"] if check["name"] == name]


def value_over_runs(entry: dict, name: str) -> str:
    """A check's measured value as every page prints it: the median over runs, with its range."""
    values = [check["measured"] for check in checks_over_runs(entry, name)]
    if len(values) == 1 or values[0] is None:
        return show(values[0])
    if isinstance(values[0], bool):
        yes = sum(values)
        return show(yes > 0) if yes in (0, len(values)) else f"yes in {yes} of {len(values)} runs"
    if isinstance(values[0], list):
        if len({len(value) for value in values}) > 1:
            return f"{show(values[0])} in the first of {len(values)} runs"
        spread = (_spread(column, "{} [{} to {}]") for column in zip(*values, strict=True))
        return "(" + ", ".join(spread) + ")"
    return _spread(values, "{} ({} to {})")


def _spread(values, form: str) -> str:
    numbers = np.array(values, dtype=float)  # "nan" and "inf", too
    middle, low, high = (show(f(numbers)) for f in (np.median, np.min, np.max))
    return middle if low == high else form.format(middle, low, high)
