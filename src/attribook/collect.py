"""The ledger brought together from executed notebooks, and compared with the committed one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import nbformat
import yaml

from attribook.ledger import Ledger, drift, load_claims, records_in
from attribook.run import PARAMETERS, Notebook, notebooks_of, read_statistics

RECORD = ("id", "checks", "in_kind", "reason", "verdict")
VERSIONS = ("python", "torch", "numpy")


def ledger_path(root: Path) -> Path:
    """Where the committed ledger lies."""
    return root / "book" / "ledger.json"


def collect(root: Path, *, sweeps: bool = True) -> Ledger:
    """The ledger of every current result: references first, then the rows of sweeps.

    A result counts while its source is the notebook's present text. Sweep rows come from the
    committed ledger and, unless `sweeps` is false, from runs/ on this machine.
    """
    notebooks = notebooks_of(root)
    ledger = Ledger(load_claims(root / "book" / "claims"))
    for notebook in notebooks.values():
        _add(ledger, notebook, notebook.reference)
    for row in _committed_rows(root):
        notebook = notebooks.get(row["notebook"])
        parameters = {key: row[key] for key in PARAMETERS}
        if notebook and row["source"] == notebook.digest and parameters != notebook.defaults:
            record = {key: row[key] for key in RECORD}
            ledger.add(record, notebook.slug, parameters, row["source"])
    for notebook in notebooks.values() if sweeps else ():
        for path in sorted((root / "runs" / notebook.slug).glob("*.ipynb")):
            _add(ledger, notebook, path)
    return ledger


def environment(root: Path) -> dict:
    """Versions the references ran with; nothing that names a machine."""
    rows = read_statistics(root).values()
    versions = {key: sorted({row[key] for row in rows if row[key]}) for key in VERSIONS}
    return {**{key: ", ".join(found) for key, found in versions.items()}, "device": "cpu"}


def problems(root: Path) -> list[str]:
    """Every way the committed ledger and the committed references disagree; empty when none."""
    lines = [line for nb in notebooks_of(root).values() for line in _unrecorded(root, nb)]
    if not ledger_path(root).exists():
        return [*lines, "book/ledger.json does not exist; write it with `attribook ledger`"]
    committed = json.loads(ledger_path(root).read_text(encoding="utf-8"))["claims"]
    old = {entry["id"]: entry for entry in committed}
    new = {entry["id"]: entry for entry in collect(root, sweeps=False).entries()}
    lines += [f"{key}: in the committed ledger only" for key in old if key not in new]
    lines += [f"{key}: not in the committed ledger" for key in new if key not in old]
    return lines + [line for key in old if key in new for line in _entry_drift(old[key], new[key])]


def _add(ledger: Ledger, notebook: Notebook, path: Path) -> None:
    """Add the claims of a finished notebook, unless its source has changed since."""
    if not path.exists() or path.name.endswith(".part.ipynb"):
        return
    executed = nbformat.read(path, as_version=4)
    made = executed.metadata.get("attribook", {})
    if made.get("source") != notebook.digest:
        return
    records = records_in(executed)
    ids = [record["id"] for record in records]
    if repeated := sorted({claim for claim in ids if ids.count(claim) > 1}):
        raise ValueError(f"{notebook.slug} records a claim twice: {', '.join(repeated)}")
    for record in records:
        ledger.add(record, notebook.slug, made["parameters"], notebook.digest)


def _committed_rows(root: Path) -> Iterable[dict]:
    """The runs in the committed ledger, each with its notebook."""
    if not ledger_path(root).exists():
        return
    for entry in json.loads(ledger_path(root).read_text(encoding="utf-8"))["claims"]:
        yield from ({**run, "notebook": entry["notebook"]} for run in entry["runs"])


def _unrecorded(root: Path, notebook: Notebook) -> list[str]:
    """Claims the paper's inventory lists for a notebook that its reference does not record."""
    if not notebook.reference.exists():
        return [f"{notebook.slug}: no reference; make it with `attribook run {notebook.slug}`"]
    executed = nbformat.read(notebook.reference, as_version=4)
    if executed.metadata.get("attribook", {}).get("source") != notebook.digest:
        return [
            f"{notebook.slug}: the reference is older than its source; "
            f"renew it with `attribook run {notebook.slug}`"
        ]
    recorded = {record["id"] for record in records_in(executed)}
    listed = _listed_claims(root, notebook)
    return [
        f"{claim}: listed for {notebook.slug}, which does not record it"
        for claim in listed
        if claim not in recorded
    ]


def _listed_claims(root: Path, notebook: Notebook) -> list[str]:
    """The claims of a notebook by its paper's inventory, which numbers notebooks its own way."""
    paper, _, name = notebook.slug.partition("/")
    tail = "-" + name.partition("-")[2]
    inventory = root / "book" / "claims" / f"{paper}.yml"
    if not inventory.exists():
        raise ValueError(f"{notebook.slug} has no inventory book/claims/{paper}.yml")
    entries = yaml.safe_load(inventory.read_text(encoding="utf-8")).get("notebooks", [])
    return [c for entry in entries if f"-{entry['slug']}".endswith(tail) for c in entry["claims"]]


def _entry_drift(old: dict, new: dict) -> list[str]:
    """What changed in one claim: its wording, its verdict over all runs, or one of its runs."""
    name = new["id"]
    lines = [
        f"{name}: {field} was {old[field]!r}, is {new[field]!r}"
        for field in ("paper", "kind", "where", "says", "verdict", "paper_value", "notebook")
        if old[field] != new[field]
    ]
    before, after = _by_parameters(old["runs"]), _by_parameters(new["runs"])
    for key in before | after:
        run = " ".join(map(str, key))
        if key not in after:
            lines.append(f"{name}: the run {run} is out of date; repeat it or renew the ledger")
        elif key not in before:
            lines.append(f"{name}: the run {run} is missing from the ledger")
        else:
            lines += drift(before[key], after[key])
    return list(dict.fromkeys(lines))


def _by_parameters(runs: list[dict]) -> dict[tuple, dict]:
    return {tuple(run[key] for key in PARAMETERS): run for run in runs}
