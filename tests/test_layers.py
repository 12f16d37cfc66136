"""A module imports only from the layers above it."""

import ast
from pathlib import Path

import pytest

import attribook

SOURCES = sorted(Path(attribook.__file__).parent.glob("*.py"))
CHAIN = {"score", "calls", "chain", "parts"}  # one mechanism in three files
LIBRARY = CHAIN | {"paths", "coalitions"}
RECORDS = {"verdicts", "claims", "inventory"}
COMMANDS = {"audit", "history", "ledger", "processors", "run", "sweep", "verify"}
MAY_IMPORT = {
    "score": set(),
    "calls": {"score"},
    "chain": {"score", "calls"},
    "parts": {"score", "calls", "chain"},
    "paths": {"score"},
    "ensembles": {"score", "paths"},
    "coalitions": {"score"},
    "polynomials": set(),
    "series": set(),
    "taylor": {"score", "series", "polynomials"},
    "allocation": {"score", "series", "taylor", "polynomials", "baselines"},
    "onelayer": {"score"},
    "fourteen": LIBRARY | {"baselines", "methods", "taylor", "allocation", "onelayer"},
    "baselines": LIBRARY,
    "methods": LIBRARY | {"baselines"},
    "axioms": LIBRARY | {"baselines", "methods"},
    "criteria": LIBRARY | {"baselines", "methods"},
    "pruning": {"score"},
    "rivals": LIBRARY | {"baselines", "methods", "axioms"},
    "neurons": LIBRARY | {"baselines", "methods"},
    "lipschitz": LIBRARY,
    "toys": set(),
    "layerwise": {"toys"},  # the papers' definitions, apart from the library they judge
    "sources": set(),
    "data": {"sources"},
    "weightfiles": set(),
    "second_order": {"weightfiles"},
    "models": {"data", "sources", "second_order", "weightfiles"},
    "plots": {"data"},
    "verdicts": set(),
    "claims": {"verdicts"},
    "inventory": {"verdicts"},
    "provenance": {"models"},
    "notebooks": {"provenance"},
    "agreement": {"claims", "provenance", "verdicts"},
    "ledger": {"claims", "inventory", "notebooks", "provenance", "verdicts"},
    "git": set(),
    "audit": RECORDS | {"agreement", "git", "ledger", "notebooks", "provenance"},
    "processors": set(),
    "kernel": {"sources"},
    "kernels": set(),
    "normalise": {"agreement", "claims"},
    "run": {"agreement", "kernel", "normalise", "notebooks", "provenance"},
    "execute": {"agreement", "kernels", "normalise", "notebooks", "processors", "run"},
    "progress": {"run"},
    "console": {"execute", "processors", "progress", "run"},
    "verify": RECORDS | {"agreement", "audit", "ledger", "notebooks", "progress", "run"},
    "sweep": {"audit", "execute", "notebooks", "run"},
    "history": RECORDS | {"audit", "execute", "git", "ledger", "notebooks", "run"},
    "cli": COMMANDS | {"console", "execute", "inventory", "kernels", "notebooks", "sources"},
}


def imported(source: str) -> set[str]:
    """The attribook modules a source imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        if isinstance(node, ast.ImportFrom) and node.module == "attribook":
            found |= {f"attribook.{name.name}" for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            found.add(f"attribook.{node.module}")
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return {name.split(".")[1] for name in found if name.startswith("attribook.")}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_module_imports_only_from_the_layers_above_it(path):
    if path.stem == "__init__":
        return
    assert path.stem in MAY_IMPORT, f"give {path.stem} its place in the layers"
    assert imported(path.read_text()) <= MAY_IMPORT[path.stem]


def test_imports_are_found_in_every_spelling():
    source = "import attribook.run\nfrom attribook import cli\nfrom attribook.data import x\n"
    source += "def f():\n    from .paths import y\n"
    assert imported(source) == {"run", "cli", "data", "paths"}
