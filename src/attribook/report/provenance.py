"""What made a result: the notebook's code, the library modules it imports, the files it read.

A row of the ledger is keyed by these, not by prose: a mended typo keeps it. It is *stale* when the
notebook's code or a file of weights or data changed since, and *older* when only library modules
or versions did.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from nbformat import NotebookNode

from attribook.papers.sources import sha256_of

PACKAGE = "attribook"
LIBRARY = Path(__file__).parents[1]
DECIDING_VERSIONS = ("torch", "numpy", "scipy")


def digest(text: str) -> str:
    """The first twelve hexadecimal digits of a text's sha256."""
    return sha256_of([text.encode()])[:12]


def code_of(notebook: NotebookNode) -> str:
    """A notebook's code without its prose; spaces at the ends of lines are none."""
    return "\n\n".join(code_cells(notebook.cells))


def code_cells(cells: Iterable[NotebookNode]) -> list[str]:
    """The code of each code cell; spaces at the ends of lines are none."""
    sources = (cell.source for cell in cells if cell.cell_type == "code")
    return ["\n".join(line.rstrip() for line in source.splitlines()) for source in sources]


def describe(text: str, notebook: NotebookNode) -> dict:
    """The digests of an authored notebook (`text`, and as parsed) and of the library under it."""
    code = code_of(notebook)
    return {"source": digest(text), "code": digest(code), "library": library_of(code)}


def library_of(code: str, library: Path = LIBRARY) -> dict[str, str]:
    """The modules of the library that a piece of code imports, directly or not: name -> digest."""
    found: dict[str, str] = {}
    waiting = set(_imported(code, library))
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        source = _file(module, library).read_text(encoding="utf-8")
        found[module] = digest(source)[:8]
        waiting |= _imported(source, library) - found.keys()
    return dict(sorted(found.items()))


def digest_of(name: str) -> str:
    """The digest that reading a weight file or a data set reports today; ValueError if none."""
    from attribook.papers import networks  # here: it brings torch

    return networks.digest_of(name)


def stale(run: dict, code: str) -> list[str]:
    """Why a run no longer says anything about its notebook: changed code, weights or data."""
    if not run.get("code"):
        return ["nobody knows what made it"]
    reasons = [] if run["code"] == code else ["the notebook's code changed"]
    for name, was in run["reads"].items():
        try:
            changed = not digest_of(name).startswith(was)
        except ValueError:
            reasons.append(f"{name} is no longer there")
            continue
        if changed:
            reasons.append(f"{name} changed")
    return reasons


def older(run: dict, library: dict[str, str], versions: dict[str, str]) -> list[str]:
    """What changed under a run that its notebook imports: modules of the library, and versions."""
    was = run["library"]
    modules = sorted(name for name in was.keys() | library if was.get(name) != library.get(name))
    reasons = [f"changed: {', '.join(modules)}"] if modules else []
    return reasons + [
        f"made with {name} {run['versions'].get(name)}, now {versions[name]}"
        for name in DECIDING_VERSIONS
        if name in versions and run["versions"].get(name) != versions[name]
    ]


@lru_cache(maxsize=1000)  # the library's modules are asked for by every notebook
def _imported(code: str, library: Path) -> frozenset[str]:
    """The library's modules among the imports of a piece of code, wherever they stand."""
    names = {name for node in ast.walk(ast.parse(code)) for name in _names(node)}
    homes = _public_names(library)
    inside = (homes.get(name, name).removeprefix(f"{PACKAGE}.")
              for name in names if name.startswith(f"{PACKAGE}."))  # fmt: skip
    return frozenset(module for name in inside for module in _modules(name, library))


@lru_cache
def _public_names(library: Path) -> dict[str, str]:
    """The module of each name that the package itself offers, as its stub lists them."""
    stub = library / "__init__.pyi"
    if not stub.exists():
        return {}
    listed = ast.parse(stub.read_text(encoding="utf-8")).body
    imports = (node for node in listed if isinstance(node, ast.ImportFrom))
    return {f"{PACKAGE}.{alias.name}": node.module for node in imports for alias in node.names}


def _names(node: ast.AST) -> Iterable[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _modules(name: str, library: Path) -> Iterable[str]:
    """The modules on the way to a dotted name: `a.b.f` is a module's function, or a module."""
    parts = name.split(".")
    heads = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
    return (head for head in heads if _file(head, library).exists())


def _file(module: str, library: Path) -> Path:
    path = library.joinpath(*module.split("."))
    package = path / "__init__.py"
    return package if package.exists() else path.with_suffix(".py")
