"""The built book needs no network: MathJax and its fonts come from an installed package."""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from sphinx.errors import ExtensionError

PACKAGE = "sphinx-mathjax-offline"
MATHJAX = "static/mathjax/"


def copy_mathjax(app, failure) -> None:
    """Copy MathJax's one script and its fonts from the package into the build's _static."""
    if failure or app.builder.format != "html":
        return
    target = Path(app.outdir) / "_static" / "mathjax"
    for name, source in _mathjax_files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target / name)


def _mathjax_files() -> list[tuple[str, Path]]:
    try:
        recorded = files(PACKAGE) or []
    except PackageNotFoundError:
        raise ExtensionError(
            f"formulas need the package {PACKAGE}: pip install {PACKAGE}"
        ) from None
    found = [(path.as_posix().partition(MATHJAX)[2], path.locate()) for path in recorded]
    wanted = [pair for pair in found if pair[0] == "tex-chtml.js" or pair[0].endswith(".woff")]
    if "tex-chtml.js" not in dict(wanted):
        raise ExtensionError(
            f"{PACKAGE} holds no {MATHJAX}tex-chtml.js; pip install {PACKAGE}==0.0.2"
        )
    return wanted
