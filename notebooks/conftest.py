"""How `pytest --nbval notebooks` compares a notebook with its committed reference.

Cell by cell: printed text exactly, claims by `ledger.drift` (verdicts exactly, numbers to 1e-3),
figures by their alternative text. What is rendered from a claim, and what is timed, is left out.
"""

import os

import pytest
from nbval.plugin import IPyNbCell, IPyNbFile

from attribook.ledger import CLAIM_MIME, TIMING_MIME, drift

NOT_COMPARED = (CLAIM_MIME, TIMING_MIME, "text/html", "stderr")

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")


class Cell(IPyNbCell):
    """A code cell whose claims are compared with a tolerance."""

    def runtest(self):
        """Run the cell and compare; a reference that was never run compares nothing, so fails."""
        if self.cell.execution_count is None:
            self.raise_cell_error("this cell of the reference was never run: attribook run it")
        super().runtest()

    def compare_outputs(self, test, ref, skip_compare=None):
        """Whether the outputs agree; what differs goes into the failure's message."""
        fresh, old = _claims(test), _claims(ref)
        lines = [f"{key}: only in one of the runs" for key in sorted(fresh.keys() ^ old.keys())]
        lines += [line for key in old if key in fresh for line in drift(old[key], fresh[key])]
        self.comparison_traceback = [f"drift: {line}" for line in lines]
        return not lines and super().compare_outputs(test, ref, skip_compare)


class File(IPyNbFile):
    """A reference notebook."""

    def collect(self):
        """Its code cells."""
        self.skip_compare += NOT_COMPARED
        for cell in super().collect():
            yield Cell.from_parent(
                self, name=cell.name, cell_num=cell.cell_num, cell=cell.cell, options=cell.options
            )


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path, parent):
    """What is collected, with nbval's collector replaced by the tolerant one."""
    found = yield
    return [_tolerant(collector, parent, file_path) for collector in found]


def _tolerant(collector, parent, file_path):
    if not isinstance(collector, IPyNbFile):
        return collector
    return File.from_parent(parent, path=file_path)


def _claims(outputs) -> dict[str, dict]:
    data = (output.get("data", {}) for output in outputs)
    return {entry[CLAIM_MIME]["id"]: entry[CLAIM_MIME] for entry in data if CLAIM_MIME in entry}
