"""How `pytest --nbval notebooks` compares a notebook with its committed reference.

Cell by cell, as `attribook.report.agreement` does for whole notebooks: claims by their outcomes and
numbers, text and captions word by word, figures by how alike they look.
`ATTRIBOOK_PROCESSOR=default` (or another of `attribook.report.processors`) runs the kernels as on an
older processor.
"""

import os

import nbformat
import pytest
from nbval.plugin import IPyNbCell, IPyNbFile

from attribook.report.agreement import cell_differences
from attribook.report.processors import apply

apply(os.environ.get("ATTRIBOOK_PROCESSOR", "native"))


class Cell(IPyNbCell):
    """A code cell whose outputs are compared with the tolerances of the ledger."""

    def runtest(self):
        """Run the cell and compare; a reference that was never run compares nothing, so fails."""
        if self.cell.execution_count is None:
            self.raise_cell_error("this cell of the reference was never run: attribook run it")
        super().runtest()

    def compare_outputs(self, test, ref, skip_compare=None):
        """Whether the outputs agree; what differs goes into the failure's message."""
        fresh = nbformat.from_dict({**self.cell, "outputs": test, "metadata": {}})
        lines = cell_differences(nbformat.from_dict({**self.cell, "outputs": ref}), fresh)
        self.comparison_traceback = [f"drift: {line}" for line in lines]
        return not lines


class File(IPyNbFile):
    """A reference notebook."""

    def collect(self):
        """Its code cells."""
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
