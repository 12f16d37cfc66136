"""A notebook's run: its parameters and place, whether it is up to date, and what it cost.

A run with the default parameters on a CPU is the notebook's reference: it is written beside the
source and committed. Any other run lands in runs/. `attribook.report.execute` makes them.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from nbformat import NotebookNode

from attribook.report import provenance
from attribook.report.agreement import authored
from attribook.report.kernel import versions
from attribook.report.normalise import reweave, text_of
from attribook.report.notebooks import (
    PARAMETERS,
    Notebook,
    authored_text,
    executed,
    made_of,
    write,
)


class FailedRun(Exception):
    """A notebook that did not run to its end, with the cell and the error in its message."""


@dataclass(frozen=True, eq=False)
class Run:
    """One notebook with the parameters to run it with and the file to write."""

    notebook: Notebook
    parameters: dict
    output: Path

    @property
    def is_reference(self) -> bool:
        """Whether it makes the committed run beside the source."""
        return self.output == self.notebook.reference

    @property
    def label(self) -> str:
        """The run for people: its notebook, and the parameters that are not the notebook's own."""
        own = self.notebook.defaults
        given = [f"{key} {self.parameters[key]}" for key in PARAMETERS
                 if self.parameters[key] != own[key]]  # fmt: skip
        return ", ".join([self.notebook.slug, *given])


@dataclass(frozen=True)
class Done:
    """A finished run: its statistics, and how it stands to the reference that it repeats."""

    statistics: dict
    agrees: bool = False  # with the committed reference, which stays as it is
    drift: list[str] = field(default_factory=list)  # from the reference, which it replaced


def planned(notebook: Notebook, parameters: dict) -> Run:
    """The run of a notebook with these parameters, written where such a run belongs."""
    return Run(notebook, parameters, notebook.output(parameters))


def outdated(run: Run) -> list[str]:
    """Why a run has to be made (again); empty when its output says what it would say now.

    A reference is out of date when the notebook's code or what it read changed; the tests re-run
    it whatever the library does. Any other run also when the library or the versions changed.
    """
    try:
        made = made_of(run.output)
    except ValueError as error:
        return [str(error)]
    if made.get("parameters") != run.parameters:
        return ["there is no such run yet"]
    if not all(name in made for name in ("code", "library", "reads", "versions")):
        return ["nobody knows what made it"]
    reasons = provenance.stale(made, run.notebook.code)
    if not run.is_reference:
        reasons += provenance.older(made, run.notebook.made_from["library"], versions())
    elif not reasons and _cut_otherwise(run, made):
        reasons = ["the notebook's code is cut into other cells"]
    return reasons


def _cut_otherwise(run: Run, made: dict) -> bool:
    """Whether the same code stands in other cells than when it ran, so that outputs have no place."""
    if not has_other_prose(run.notebook, made):
        return False
    _, source = authored_text(run.notebook)
    before = provenance.code_cells(authored(executed(run.output)))
    return before != provenance.code_cells(source.cells)


def weave(run: Run) -> bool:
    """Put changed prose into an up-to-date reference, without a run; whether there was any.

    The file keeps its time: it was not run again.
    """
    notebook, made = run.notebook, made_of(run.output)
    if not run.is_reference or not has_other_prose(notebook, made):
        return False
    times = run.output.stat()
    rewrite(notebook, executed(run.output))
    os.utime(run.output, ns=(times.st_atime_ns, times.st_mtime_ns))
    return True


def save_statistics(run: Run, done: Done) -> None:
    """Store a run's statistics: references in book/run_statistics.json, others beside the run.

    A reference that stays keeps its row too.
    """
    if not run.is_reference:
        write(run.output.with_suffix(".json"), json.dumps(done.statistics, indent=1) + "\n")
        return
    slug, table = run.notebook.slug, read_statistics(run.notebook.root)
    if done.agrees and slug in table:
        return
    table[slug] = done.statistics
    text = json.dumps(dict(sorted(table.items())), indent=1) + "\n"
    write(statistics_path(run.notebook.root), text)


def statistics_path(root: Path) -> Path:
    """Where the statistics of the references lie."""
    return root / "book" / "run_statistics.json"


def read_statistics(root: Path) -> dict[str, dict]:
    """The statistics of the reference runs, by notebook; none when the file is missing or damaged.

    They are only shown and used to estimate, so a damaged file is in nobody's way: it fills again
    as the notebooks run.
    """
    try:
        table = json.loads(statistics_path(root).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def has_other_prose(notebook: Notebook, made: dict) -> bool:
    """Whether the source tells more or less in words, or is swept otherwise, than when it ran."""
    told_now = {"source": notebook.digest, "models": notebook.models, "seeds": notebook.seeds}
    return any(made.get(name) != now for name, now in told_now.items())


def rewrite(notebook: Notebook, reference: NotebookNode) -> None:
    """Write the reference with the notebook's present prose; what was run stays."""
    text, source = authored_text(notebook)
    reweave(reference, source)
    reference.metadata["attribook"].update(
        source=provenance.digest(text), models=notebook.models, seeds=notebook.seeds
    )
    write(notebook.reference, text_of(reference))
