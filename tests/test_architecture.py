"""The library knows neither its laboratory nor the book; a module imports from the layers above it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import attribook

PACKAGE = Path(attribook.__file__).parent
CHAIN = {"score", "calls", "chain", "parts"}  # one mechanism in three files
MECHANISMS = CHAIN | {"paths", "coalitions"}
LIBRARY = {
    "numerics": set(),
    "score": set(),
    "calls": {"score"},
    "chain": {"score", "calls"},
    "parts": {"score", "calls", "chain"},
    "paths": {"score"},
    "coalitions": {"score"},
    "effects": {"score"},
    "sharing": {"score", "effects"},
    "baselines": MECHANISMS,
    "methods": MECHANISMS | {"baselines"},
    "neurons": MECHANISMS | {"baselines", "methods"},
    "ablation": {"score"},
    "axioms": MECHANISMS | {"baselines", "methods"},
    "criteria": MECHANISMS | {"baselines", "methods"},
}
PAPERS = {  # beside the library
    "sources": set(),
    "data": {"sources"},
    "weightfiles": {"sources"},
    "second_order": {"weightfiles"},
    "architectures": {"second_order"},
    "networks": {"architectures", "data", "sources", "second_order", "weightfiles"},
    "figures": {"data"},
    "functions.polynomials": set(),
    "functions.series": set(),
    "functions.toys": {"architectures"},
    "definitions": {"architectures"},  # apart from the library they judge
    "integrated.ensembles": set(),
    "integrated.lipschitz": set(),
    "integrated.rivals": set(),
    "taylor.exact": {"functions.polynomials", "functions.series"},
    "taylor.probes": {"functions.polynomials", "functions.series", "taylor.exact"},
    "taylor.layers": {"architectures"},
    "taylor.fourteen": {"taylor.layers"},
}
RECORDS = {"verdicts", "claims", "inventory"}
COMMANDS = {"audit", "history", "ledger", "processors", "run", "sweep", "verify"}
REPORT = {  # beside papers
    "verdicts": set(),
    "claims": {"verdicts"},
    "inventory": {"verdicts"},
    "provenance": set(),
    "notebooks": {"provenance"},
    "agreement": {"claims", "provenance", "verdicts"},
    "ledger": {"claims", "inventory", "notebooks", "provenance", "verdicts"},
    "git": set(),
    "audit": RECORDS | {"agreement", "git", "ledger", "notebooks", "provenance"},
    "processors": set(),
    "kernel": set(),
    "kernels": set(),
    "normalise": {"agreement", "claims"},
    "run": {"agreement", "kernel", "normalise", "notebooks", "provenance"},
    "execute": {"agreement", "kernels", "normalise", "notebooks", "processors", "run"},
    "progress": {"run"},
    "console": {"execute", "processors", "progress", "run"},
    "verify": RECORDS | {"agreement", "audit", "ledger", "notebooks", "progress", "run"},
    "sweep": {"audit", "execute", "notebooks", "run"},
    "history": RECORDS | {"audit", "execute", "git", "ledger", "notebooks", "run"},
    "cli": COMMANDS | {"console", "execute", "inventory", "kernels", "notebooks"},
    "command": {"cli"},
    "sphinx": RECORDS | {"audit", "ledger", "sphinx"},
}
NEEDS = {"torch", "jaxtyping", "numpy", "scipy"}  # what the library installs


def may_import() -> dict[str, set[str]]:
    """For each module the modules it may import."""
    library = {f"attribook.{name}": {f"attribook.{one}" for one in above | {"numerics"}}
               for name, above in LIBRARY.items()}  # fmt: skip
    papers = {f"attribook.papers.{name}": {f"attribook.papers.{one}" for one in above} | set(library)
              for name, above in PAPERS.items()}  # fmt: skip
    below = set(library) | set(papers)
    report = {f"attribook.report.{name}": {f"attribook.report.{one}" for one in above} | below
              for name, above in REPORT.items()}  # fmt: skip
    return library | papers | report


def module_of(path: Path) -> str:
    return ".".join(["attribook", *path.relative_to(PACKAGE).with_suffix("").parts])


def imported(source: str, module: str, known: set[str]) -> set[str]:
    """The attribook modules that a module's source imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        if isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            within = {f"{origin}.{name.name}" for name in node.names}
            found |= within & known or {origin}
    return {name for name in found if name.split(".")[0] == "attribook"}


SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"]


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_a_module_imports_only_from_the_layers_above_it(path):
    rules, module = may_import(), module_of(path)
    if module.startswith("attribook.report.sphinx."):
        module = "attribook.report.sphinx"
    assert module in rules, f"give {module} its place in the layers"
    found = imported(path.read_text(encoding="utf-8"), module_of(path), set(rules))
    assert {name for name in found if not name.startswith(module)} <= rules[module]


def test_imports_are_found_in_every_spelling():
    source = "import attribook.report.run\nfrom attribook.report import cli\n"
    source += "from attribook.papers.data import x\ndef f():\n    from .paths import y\n"
    known = {f"attribook.{name}" for name in ("report.run", "report.cli", "papers.data", "paths")}
    assert imported(source, "attribook.chain", known) == known


@pytest.mark.parametrize("name", LIBRARY)
def test_the_library_needs_nothing_but_torch_jaxtyping_numpy_and_scipy(name):
    allowed = NEEDS | {"attribook"} | sys.stdlib_module_names
    tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
             for alias in node.names}  # fmt: skip
    found |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {one.split(".")[0] for one in found} <= allowed


def test_the_public_names_import_neither_papers_nor_report():
    script = (
        "import sys, attribook; [getattr(attribook, name) for name in attribook.__all__];"
        "print([m for m in sys.modules if m.startswith(('attribook.papers', 'attribook.report'))])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Scores'"):
        _ = attribook.Scores
    with pytest.raises(ImportError, match="Scores"):
        exec("from attribook import Scores")


def test_the_public_names_are_listed_and_are_there():
    assert set(attribook.__all__) <= set(dir(attribook))
    assert all(getattr(attribook, name) is not None for name in attribook.__all__)
