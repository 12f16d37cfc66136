"""The command `attribook`, where the packages that it needs may be missing."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; without the extra `book`, say how to get it, with exit code 2."""
    try:
        from attribook.report.cli import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("attribook"):
            raise
        print(
            f"attribook: the command needs {error.name}, which the library alone does not bring;"
            " pip install 'attribook[book]'",
            file=sys.stderr,
        )
        sys.exit(2)
    run()
