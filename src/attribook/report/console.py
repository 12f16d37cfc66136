"""What the commands tell people: runs as they end, what drifted, what went wrong."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path

import click

from attribook.report import processors
from attribook.report import run as running
from attribook.report.execute import execute_all
from attribook.report.progress import Progress, duration
from attribook.report.run import Done, FailedRun, Run

Results = Iterator[tuple[Run, Done | FailedRun]]


@dataclass(frozen=True)
class Words:
    """How the outcome of trying results again is told: one agrees, several agree, some differ."""

    agrees: str
    agree: str
    differ: str


NOTEBOOKS = Words(
    "notebook agrees with its reference",
    "notebooks agree with their references",
    "notebooks differ from their references",
)
ROWS = Words(
    "row agrees with the ledger", "rows agree with the ledger", "rows differ from the ledger"
)


@contextmanager
def _told_as(kind: type[click.ClickException]) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise kind(str(error)) from error


bad_input = partial(_told_as, click.UsageError)  # a ValueError about what was typed: exit code 2
problem = partial(_told_as, click.ClickException)  # about what the project holds: exit code 1


def report(lines: Sequence[str], kind: str = "") -> bool:
    """Print lines about what went wrong, each after a word for its kind; whether there were any."""
    for line in lines:
        click.echo(f"{kind}: {line}" if kind else line, err=True)
    return bool(lines)


def refuse(lines: Sequence[str], kind: str) -> None:
    """Print what stands in the way and end with exit code 1; go on where there is nothing."""
    if report(lines, kind):
        sys.exit(1)


def foretell(runs: Sequence[Run], jobs: int, reasons: Sequence[str] = ()) -> None:
    """Say what would run, why where there are reasons, and about how long it would take."""
    if not runs:
        click.echo("nothing to run")
        return
    for run, why in zip_longest(runs, reasons):
        click.echo(f"would run {run.label}" + (f" ({why})" if why else ""))
    table = running.read_statistics(runs[0].notebook.root)
    seconds = Progress(runs, jobs, table).seconds_left()
    about = f", about {duration(seconds)}" if seconds is not None else ""
    number = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    click.echo(f"{number}{about} with {jobs} side by side")


def execute(
    runs: Sequence[Run],
    jobs: int,
    results: Results | None = None,
    keep: bool = True,
) -> list[str]:
    """Make the runs, telling of each as it ends; what drifted. Exit 1 at the end if one failed."""
    if not runs:
        return []
    progress = Progress(runs, jobs, running.read_statistics(runs[0].notebook.root))
    failures, drift = 0, []
    with closing(results or execute_all(runs, jobs)) as results:
        for run, result in results:
            if isinstance(result, FailedRun):
                failures += 1
                click.echo(progress.failed(run))
                click.echo(f"FAILED {result}", err=True)
                continue
            if keep:
                running.save_statistics(run, result)
            click.echo(progress.done(run, result))
            drift += result.drift
    if failures:
        report(drift, "drift")
        sys.exit(1)
    return drift


def try_again(trials: Sequence, jobs: int, processor: str | None, words: Words) -> bool:
    """Run committed results again in a temporary folder; whether all agree, telling of each."""
    under, sign = (f" under {processor}", f"{processor} ") if processor else ("", "")
    bad, total = [], len(trials)
    with tempfile.TemporaryDirectory() as folder, processors.simulated(processor):
        fresh = {trial.into(Path(folder)): trial for trial in trials}
        progress = Progress(list(fresh), jobs, _statistics(trials))
        with closing(execute_all(list(fresh), jobs)) as results:
            for run, result in results:
                if isinstance(result, FailedRun):
                    click.echo(sign + progress.failed(run))
                    lines = [f"FAILED{under} {result}"]
                else:
                    click.echo(sign + progress.done(run, result))
                    told = fresh[run].differences(run.output)
                    lines = [f"drift{under}: {run.label}: {line}" for line in told]
                report(lines)
                bad += [run.label] if lines else []
    if bad:
        click.echo(f"{len(bad)} of {total} {words.differ}{under}: {', '.join(bad)}", err=True)
    elif trials:
        agree = words.agrees if total == 1 else words.agree
        click.echo(f"{total} {agree}{under}")
    return not bad


def _statistics(trials: Sequence) -> dict[str, dict]:
    return running.read_statistics(trials[0].run.notebook.root) if trials else {}
