"""Committed results tried again: references, and rows of the ledger that are no references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attribook.papers.sources import sha256_of
from attribook.report import agreement, audit
from attribook.report.claims import records_in
from attribook.report.ledger import committed_rows, key_of
from attribook.report.notebooks import Notebook, executed, made_of
from attribook.report.progress import expected_seconds
from attribook.report.run import Run, planned, read_statistics
from attribook.report.verdicts import drift


@dataclass(frozen=True)
class Trial:
    """A committed result, and how a fresh run of it (a file) is compared with it."""

    run: Run
    differences: Callable[[Path], list[str]]
    older: bool = False  # the library changed since it was made

    def into(self, folder: Path) -> Run:
        """The same run, written into a folder."""
        notebook, parameters = self.run.notebook, self.run.parameters
        name = notebook.failed(parameters).name
        return Run(notebook, parameters, folder / notebook.slug / name)


def of_reference(notebook: Notebook) -> Trial:
    """The reference of a notebook; ValueError when it is missing, damaged or of other code."""
    made = made_of(notebook.reference)
    if made.get("code") != notebook.code or made.get("parameters") != notebook.defaults:
        state = "older than its source" if made else "missing"
        raise ValueError(
            f"{notebook.slug}: the reference is {state}; run `attribook run {notebook.slug}`"
        )

    def differences(fresh: Path) -> list[str]:
        return agreement.differences(executed(notebook.reference), executed(fresh))

    return Trial(planned(notebook, notebook.defaults), differences)


def rows_of(root: Path, slugs: Sequence[str]) -> list[Trial]:
    """The ledger's rows of these notebooks that are no references and that this machine can repeat.

    A stale row says nothing about the present notebook, and fails `ledger --check` as it is.
    """
    records = {key_of(run): rows for run, rows in committed_rows(root)}
    trials = []
    for row in audit.standing(root):
        run = planned(row.notebook, row.parameters)
        usable = row.state in (audit.FRESH, audit.OLDER) and row.parameters["device"] == "cpu"
        if usable and not run.is_reference and row.notebook.slug in slugs:
            trials.append(Trial(run, _compared_with(records[row.key]), row.state == audit.OLDER))
    return trials


def drawn(rows: Sequence[Trial], number: int, text: str, seconds: float, jobs: int) -> list[Trial]:
    """At most `number` rows: older ones first, else in an order that `text` decides alone.

    A row whose estimate does not fit into what is left of `seconds` is passed over.
    """
    left, chosen = seconds * jobs, []
    for row in sorted(rows, key=lambda row: (not row.older, _lot(text, row.run))):
        table = read_statistics(row.run.notebook.root)
        cost = expected_seconds(row.run, table) or 0.0
        if len(chosen) < number and cost <= min(left, seconds):
            chosen.append(row)
            left -= cost
    return chosen


def _compared_with(records: Sequence[dict]) -> Callable[[Path], list[str]]:
    old = {record["id"]: record for record in records}

    def differences(fresh: Path) -> list[str]:
        new = {record["id"]: record for record in records_in(executed(fresh))}
        lines = [f"{key}: recorded by the ledger's row only" for key in old if key not in new]
        lines += [f"{key}: not in the ledger's row" for key in new if key not in old]
        return lines + [line for key in old if key in new for line in drift(old[key], new[key])]

    return differences


def _lot(text: str, run: Run) -> str:
    key = key_of({"notebook": run.notebook.slug, **run.parameters})
    return sha256_of([text.encode(), key.encode()])
