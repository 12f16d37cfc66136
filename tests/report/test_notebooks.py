"""The notebooks keep the house style that a reader relies on."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

from attribook.report.ledger import records_in

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "notebooks").glob("*/[0-9]*.md"))
MOST_LINES, MOST_COLUMNS, MOST_BYTES = 15, 88, 1_000_000


@pytest.fixture(params=SOURCES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def source(request):
    return request.param


@pytest.fixture
def cells(source):
    return jupytext.read(source, fmt="md:myst").cells


@pytest.fixture
def reference(source):
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def code_of(cells):
    return [cell for cell in cells if cell.cell_type == "code"]


def test_there_are_notebooks_to_look_at():
    assert len(SOURCES) >= 8


def test_the_first_code_cell_imports_and_the_second_sets_the_parameters(cells):
    first, second = code_of(cells)[:2]
    assert re.match(r"(import|from) ", first.source)
    assert second.metadata["tags"] == ["parameters"]


def test_every_name_of_the_package_that_is_used_is_there(cells):
    tree, modules, uses = ast.parse("\n".join(cell.source for cell in code_of(cells))), {}, 0
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("attribook"):
            for name in node.names:
                path = f"{node.module}.{name.name}"
                if is_module(path):
                    modules[name.asname or name.name] = importlib.import_module(path)
                else:
                    assert hasattr(importlib.import_module(node.module), name.name), path
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if module := modules.get(node.value.id):
                uses += 1
                assert hasattr(module, node.attr), ast.unparse(node)
    assert not modules or uses


def is_module(path):
    try:
        return importlib.util.find_spec(path) is not None
    except ModuleNotFoundError:  # its parent is a module, not a package
        return False


def test_the_title_asks_a_question(cells):
    title = cells[0].source.partition("\n")[0]
    assert title.startswith("# ") and title.endswith("?")


def test_code_cells_are_short_and_narrow(cells):
    for cell in code_of(cells)[1:]:
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= MOST_LINES, cell.source
        assert max(map(len, lines)) <= MOST_COLUMNS, cell.source


def test_words_introduce_the_code(cells):
    kinds = [cell.cell_type for cell in cells[3:]]
    for i in range(len(kinds) - 2):  # two in a row: one prepares, the next shows or records
        assert kinds[i : i + 3] != ["code"] * 3, cells[3 + i].source


def test_the_code_passes_the_linter(cells, tmp_path):
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join(cell.source for cell in code_of(cells)) + "\n")
    rules = "E,F,I,B,UP"
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", rules]
    ignored = "E402,E501,B018,B905,B023,I001"  # loops over cells' own variables, imports by cell
    done = subprocess.run(
        [*command, "--ignore", ignored, "--target-version", "py311", script],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_no_address_and_no_absolute_path_in_the_code(cells):
    for cell in code_of(cells):
        assert not re.search(r"https?://|[\"']/(home|root|work|tmp|Users)/", cell.source)


def test_every_figure_has_a_caption_and_words_for_who_cannot_see_it(reference):
    figures = 0
    for cell in code_of(reference.cells):
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            figures += 1
            assert len(cell.metadata.mystnb.figure.caption) > 20
            assert len(cell.metadata.mystnb.image.alt) > 20
    assert figures >= 2


def test_references_are_light_and_made_on_a_cpu_from_the_default_parameters(source, reference):
    assert source.with_suffix(".ipynb").stat().st_size < MOST_BYTES
    parameters = reference.metadata.attribook.parameters
    assert (parameters.device, parameters.scale, parameters.seed) == ("cpu", "default", 0)
    assert parameters.model == reference.metadata.attribook.models[0]


def test_numbers_in_prose_name_claims_the_notebook_or_the_book_records(cells):
    ledger = json.loads((ROOT / "book" / "ledger.json").read_text(encoding="utf-8"))
    checks = {
        entry["id"]: {check["name"] for run in entry["runs"][:1] for check in run["checks"]}
        for entry in ledger["claims"]
    }
    for cell in cells:
        if cell.cell_type == "markdown":
            for words in re.findall(r"\{claimval\}`([^`]+)`", cell.source):
                claim, _, check = words.partition(":")
                assert claim in checks, words
                assert not check or check in checks[claim], words


def test_every_claim_is_recorded_in_the_cell_a_reader_sees(reference):
    for record in records_in(reference):
        assert any(record["id"] in cell.source for cell in code_of(reference.cells)), record["id"]
