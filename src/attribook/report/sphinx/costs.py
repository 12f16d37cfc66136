"""Tables of what things cost: the notebooks' runs, and the benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from attribook.report.claims import show

from .markup import breakable, link, table
from .results import BENCHMARKS

VERSIONS = ("processor", "python", "torch", "numpy")


def run_statistics(
    statistics: dict[str, dict], environment: dict, page: Callable[[str], str]
) -> str:
    """Time, memory and passes of every reference run, what the notebooks timed, and versions."""
    rows = [
        (
            link(page(slug), slug),
            *(escape(str(run["parameters"][key])) for key in ("model", "seed", "device", "scale")),
            f"{run['wall_seconds']:.0f} s",
            f"{run['peak_memory_mb']:.0f} MB",
            f"{run['forward_passes']:,}",
            f"{run['forward_rows']:,}",
        )
        for slug, run in statistics.items()
    ]
    head = ("Notebook", "Model", "Seed", "Device", "Scale", "Time", "Memory",
            "Passes", "Samples")  # fmt: skip
    minutes = sum(run["wall_seconds"] for run in statistics.values()) / 60
    timed = [
        (f"<code>{breakable(claim)}</code>", escape(check), escape(show(value)))
        for run in statistics.values()
        for claim, checks in run["timings"].items()
        for check, value in checks.items()
    ]
    known = ((name, run.get(name)) for run in statistics.values() for name in VERSIONS)
    versions = sorted({(name, str(value)) for name, value in known if value})
    versions += [(str(key), str(value)) for key, value in environment.items()]
    machine = [(escape(key), escape(value)) for key, value in dict.fromkeys(versions)]
    total = f"The reference runs, {minutes:.1f} minutes in all."
    return (
        table(head, rows, total)
        + table(("Claim", "Timing", "Measured"), timed, "What the notebooks timed.")
        + table(("What", "Version"), machine, "What it ran on.")
    )


def benchmarks(recorded: dict | None) -> str:
    """The cost tables as recorded: {"environment", "tables": [{"caption", "columns", "rows"}]}."""
    if recorded is None:
        return f"<p>Not measured on this copy: it has no <code>{BENCHMARKS}</code>.</p>"
    found = [
        table(
            [escape(name) for name in each["columns"]],
            [[escape(_number(cell)) for cell in row] for row in each["rows"]],
            each["caption"],
        )
        for each in recorded["tables"]
    ]
    rows = [(escape(key), escape(str(value))) for key, value in recorded["environment"].items()]
    return "".join(found) + table(("What", "Version"), rows, "What it ran on.")


def _number(cell) -> str:
    return cell if isinstance(cell, str) else show(cell)
