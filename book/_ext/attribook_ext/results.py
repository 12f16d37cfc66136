"""What the pages are built from: the ledger, the claim inventories and the run statistics."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sphinx.errors import ExtensionError

from attribook.ledger import load_claims

LEDGER = "book/ledger.json"
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
    files: list[Path]

    @classmethod
    def load(cls, root: Path) -> Results:
        """Everything recorded under the project root; a missing or stale ledger is an error."""
        root = Path(root)
        claims = load_claims(root / CLAIMS)
        ledger = _required(root, LEDGER)
        recorded = {entry["id"]: entry for entry in ledger["claims"]}
        if recorded.keys() != claims.keys():
            odd = sorted(recorded.keys() ^ claims.keys())
            raise ExtensionError(f"{LEDGER} and {CLAIMS} differ in {odd}; run `attribook ledger`")
        entries = {
            key: {**recorded[key], "errata": claims[key].get("errata", "")} for key in claims
        }
        benchmarks = root / BENCHMARKS
        files = [root / LEDGER, root / STATISTICS, *sorted((root / CLAIMS).glob("*.yml"))]
        if benchmarks.exists():
            files.append(benchmarks)
        return cls(
            entries,
            ledger["environment"],
            _required(root, STATISTICS),
            _required(root, BENCHMARKS) if benchmarks.exists() else None,
            files,
        )


def _required(root: Path, name: str) -> dict:
    try:
        return json.loads((root / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExtensionError(
            f"{name} is missing under {root}: run `make book`, or `attribook ledger` when the "
            "notebooks are already executed"
        ) from None


def alike(entry: dict) -> list[dict]:
    """The runs that differ from the claim's first one by seed only."""
    runs = entry["runs"]
    return [run for run in runs if all(run[k] == runs[0][k] for k in ("model", "device", "scale"))]


def values_over_runs(entry: dict, check: str) -> list:
    """What the alike runs measured for a check."""
    return [run["measured"][check] for run in alike(entry) if check in run["measured"]]


def over_runs(entry: dict, check: str):
    """A check's measured value over the alike runs: the median; yes where more than half say so."""
    values = values_over_runs(entry, check)
    if len(values) == 1 or None in values:
        return values[0]
    if isinstance(values[0], bool):
        return sum(values) > len(values) / 2
    return np.median(np.array(values, dtype=float), axis=0).tolist()  # "nan" and "inf", too
