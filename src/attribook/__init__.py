"""Attribution methods: which inputs or neurons made a network decide, and how far to believe it.

    from attribook import Score, integrated_gradients
    attributions = integrated_gradients(Score(model, target=3), inputs)

Every method takes a score and inputs and returns a tensor shaped like the inputs. The public names
are listed in `__init__.pyi` and found in their modules when they are first used, so that a command
which needs none of them brings no torch. `papers` and `report`, the laboratory and the book's
machinery, are rooms of their own and bring what the extras of these names install.
"""

import ast
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

__version__ = version("attribook")


def _homes() -> dict[str, str]:
    """The module of each public name."""
    listed = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    imports = (node for node in listed if isinstance(node, ast.ImportFrom))
    return {alias.name: node.module for node in imports for alias in node.names}


_HOMES = _homes()
__all__ = ["__version__", *_HOMES]  # noqa: PLE0604


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'attribook' has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
