"""The `attribook` command: run, verify, ledger, sweep, build, data, info, diff, bisect."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import click

from attribook.report import notebooks as finding
from attribook.report import processors
from attribook.report import run as running
from attribook.report.console import (
    NOTEBOOKS,
    ROWS,
    bad_input,
    execute,
    foretell,
    problem,
    refuse,
    report,
    try_again,
)
from attribook.report.execute import told
from attribook.report.kernels import Stopped
from attribook.report.notebooks import Notebook
from attribook.report.run import Run

DRIFTED = 3  # exit code of `run`: every notebook ran, and references moved


class Interruptible(click.Group):
    """A group of commands that ends in one sentence whatever stops it, with nothing half-written."""

    def invoke(self, ctx: click.Context):
        """The command's result; exit 130 after Ctrl-C, 143 after SIGTERM, 1 when a file refuses."""
        before = signal.signal(signal.SIGTERM, _terminate)
        code = 130
        try:
            return super().invoke(ctx)
        except Stopped:
            code = 143
        except KeyboardInterrupt:
            pass
        except BrokenPipeError:  # of `| head`; click ends quietly
            raise
        except OSError as error:
            raise click.ClickException(told(error)) from error
        finally:
            signal.signal(signal.SIGTERM, before)
        click.echo("\nstopped; no result is half-written, run again to go on", err=True)
        ctx.exit(code)


@click.group(cls=Interruptible, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("attribook"), prog_name="attribook")
def main():
    """Run the notebooks of attribook, check their claims, build the book.

    ATTRIBOOK_PROCESSOR=default in the environment (or another name that `verify --processor`
    takes) makes every command compute as on that processor.
    """
    with bad_input():
        processors.apply_asked()


JOBS = click.option("-j", "jobs", default=1, type=click.IntRange(1), help="Notebooks side by side.")
DRY_RUN = click.option(
    "--dry-run", is_flag=True, help="Say what would run and about how long it takes."
)
NAMES = click.argument("names", nargs=-1, metavar="[NOTEBOOK...]")
KNOWN = f"One of {', '.join(processors.PROCESSORS)}."


@main.command()
@click.argument("names", nargs=-1, metavar="NOTEBOOK...")
@click.option("--all", "everything", is_flag=True, help="Run every notebook.")
@click.option("-p", "given", nargs=2, multiple=True, metavar="NAME VALUE", help="A parameter.")
@click.option("--force", is_flag=True, help="Run again what is up to date.")
@click.option(
    "--since", type=click.Path(path_type=Path), help="Run again what is older than this file."
)
@click.option("--processor", help=f"Compute as on another processor. {KNOWN}")
@JOBS
@DRY_RUN
def run(names, everything, given, force, since, processor, jobs, dry_run):
    """Execute notebooks; with no -p this renews their committed references.

    A reference that a fresh run agrees with stays as it is. One that moved is replaced, what moved
    is named, and the exit code is 3. Changed prose is put into a reference without a run.

    \b
    attribook run linear-model
    attribook run gradient/05-integrated-gradients -p model lite1 -p seed 3
    attribook run --all -j 2
    """
    with bad_input():
        notebooks = _selected(names, everything)
        runs = [running.planned(nb, finding.parameters_of(nb, dict(given))) for nb in notebooks]
        runs = [run for run in runs if _wanted(run, force, since, dry_run)]
        if dry_run:
            return foretell(runs, jobs)
        with processors.simulated(processor):
            drift = execute(runs, jobs)
    if report(drift, "drift"):
        sys.exit(DRIFTED)


@main.command()
@NAMES
@click.option("--processor", "simulated", multiple=True,
              help=f"Compute as on another processor; may be given several times. {KNOWN}")  # fmt: skip
@click.option("--rows", type=click.IntRange(0), help="Instead: this many committed other rows.")
@click.option("--drawn-from", default="", metavar="TEXT", help="What decides which rows.")
@click.option("--seconds", default=240.0, help="About how long the rows may take.")
@JOBS
def verify(names, simulated, rows, drawn_from, seconds, jobs):
    """Run references again in a temporary folder and compare all they show (all, if none is named).

    With --rows it runs other committed rows of the ledger again, older ones first, and compares
    their claims.

    \b
    attribook verify linear-model
    attribook verify --processor default --processor avx2 -j 2
    attribook verify --rows 5 --drawn-from "$(git rev-parse HEAD)" --seconds 240
    """
    with bad_input():
        chosen = _selected(names, not names)
        for name in simulated:
            processors.environment(name)
    if rows is None:
        trials, problems = _references(chosen)
    else:
        trials, problems = _rows(chosen, rows, drawn_from, seconds, jobs), []
        if not trials:
            click.echo("there are no rows to run again but the references")
            return
    report(problems, "problem")
    words = NOTEBOOKS if rows is None else ROWS
    results = [try_again(trials, jobs, name, words) for name in simulated or [None]]
    if problems or not all(results):
        sys.exit(1)


@main.command()
@click.option("--check", is_flag=True, help="Compare only; exit 1 when the ledger drifted.")
def ledger(check):
    """Collect the claims of all executed notebooks into book/ledger.json.

    \b
    attribook ledger
    attribook ledger --check
    """
    from attribook.report import audit
    from attribook.report import ledger as collecting
    from attribook.report.inventory import load_claims

    with bad_input():
        root = _root()
        load_claims(root / "book" / "claims")
    with problem():
        if check:
            refuse(audit.problems(root), "wrong")
            for line in audit.notes(root):
                click.echo(f"note: {line}")
            click.echo("book/ledger.json agrees with the references")
            return
        refuse(audit.unready(root), "not ready")
        collected = collecting.collect(root)
        made_with = collecting.environment(root)
        fresh = collected.as_json(made_with)
        refuse(audit.unexplained_since(root, fresh), "not told")
        for line in collected.dropped:
            click.echo(f"dropped: {line}", err=True)
        collected.save(collecting.ledger_path(root), made_with)
    outcomes = [entry["outcome"] for entry in fresh["claims"]]
    for outcome in dict.fromkeys(outcomes):
        click.echo(f"{outcomes.count(outcome):4} {outcome}")
    click.echo(f"wrote {collecting.ledger_path(root)}")


@main.command()
@NAMES
@click.option("--models", help="Comma separated; default: those of each notebook's front matter.")
@click.option("--seeds", help="Comma separated; default: those of each notebook's front matter.")
@click.option("--device", help="auto, cpu or cuda.")
@click.option("--scale", help="default or paper.")
@click.option("--stale", is_flag=True, help="Rows whose code, weights or data changed since.")
@click.option("--older", is_flag=True, help="Rows under which only the library changed.")
@click.option("--missing", is_flag=True, help="Rows that the front matter lists and nobody made.")
@click.option(
    "--executor", default="local", show_default=True, help="Or a cluster: slurm, kubernetes."
)
@JOBS
@DRY_RUN
def sweep(names, models, seeds, device, scale, stale, older, missing, executor, jobs, dry_run):
    """Make the ledger's rows that are stale or missing, with Snakemake where it is installed.

    Rows can be asked for by their state: --stale, --older, --missing. With --models, --seeds,
    --device or --scale every combination is made instead that is not up to date. Logs lie beside
    the runs in runs/. For a cluster, set Snakemake's options in a profile (SNAKEMAKE_PROFILE).

    \b
    attribook sweep --dry-run
    attribook sweep --older -j 2
    attribook sweep integrated-gradients --models lite0,lite1 --seeds 0,1,2
    attribook sweep --executor slurm -j 100 --device cuda --scale paper
    attribook ledger     (then collects the runs)
    """
    from attribook.report import sweep as sweeping

    given = {key: value for key, value in (("device", device), ("scale", scale)) if value}
    asked = {sweeping.STALE: stale, sweeping.OLDER: older, sweeping.MISSING: missing}
    states = [state for state, wanted in asked.items() if wanted]
    with bad_input():
        root = _root()
        if states and (models or seeds or given):
            raise ValueError("rows are asked for by their state or by their parameters, not both")
        sweeping.require_executor(executor)
        if models or seeds or given:
            grid = _listed(models), _listed(seeds), {"device": "auto", **given}
            wanted = sweeping.of_grid(root, names, *grid)
        else:
            wanted = sweeping.of_ledger(root, names, states or sweeping.USUAL)
    runs = [entry.run for entry in wanted]
    if not runs:
        click.echo("nothing to run: every row asked for is up to date")
        return
    if dry_run:
        foretell(runs, jobs, ["; ".join(entry.reasons) for entry in wanted])
        return
    with bad_input():
        drift = execute(runs, jobs, sweeping.make(runs, jobs, executor), keep=False)
    click.echo(f"{len(runs)} runs made; `attribook ledger` collects them")
    if report(drift, "drift"):
        sys.exit(DRIFTED)


@main.command()
@click.argument("revision")
@click.argument("other", required=False)
def diff(revision, other):
    """Say what moved in the ledger since a commit, or between two: claims, outcomes, numbers.

    \b
    attribook diff HEAD~3
    attribook diff v0.1 main
    """
    from attribook.report import history

    with bad_input():
        lines = history.moved_between(_root(), revision, other)
    for line in lines:
        click.echo(line)
    click.echo(f"{len(lines)} changes" if lines else "nothing moved")


@main.command()
@click.argument("claim")
@click.option("--good", help="A commit where it was well; default: the reference's last one.")
@click.option("--bad", default="HEAD", show_default=True, help="A commit where it has moved.")
def bisect(claim, good, bad):
    """Find the commit that moved a claim, by running its notebook at commits in between.

    Each commit is tried in a temporary folder, with its own library, against the reference of the
    good one.

    \b
    attribook bisect gradient.prop1
    attribook bisect gradient.prop1 --good v0.1
    """
    from attribook.report import history

    with bad_input():
        click.echo(history.bisect(_root(), claim, good, bad))


@main.command()
def build():
    """Build the book from the executed notebooks, with every warning an error.

    \b
    attribook build
    """
    with bad_input():
        root = _root()
    _call(root, "jupyter-book", "build", root, "-W", "-n", "--keep-going", "--all")
    click.echo(f"the book: {root / '_build' / 'html' / 'index.html'}")


@main.command()
@click.option("--fetch", "fetching", is_flag=True, help="Get what is missing, without root.")
def data(fetching):
    """List data sets and models: there or not, and where from; exit 1 when one is missing.

    \b
    attribook data
    attribook data --fetch
    """
    from attribook.papers import sources

    rows = sources.inventory()
    if fetching and (missing := [row.name for row in rows if not row.present]):
        for name in missing:
            click.echo(f"fetching {name} into {sources.cache_folder()}")
            try:
                sources.fetch(name)
            except ValueError as error:
                raise click.ClickException(str(error)) from error
        rows = sources.inventory()
    for row in rows:
        state = "present" if row.present else "missing"
        click.echo(f"{row.name:16} {state:8} {row.size / 1e6:7.1f} MB  {row.where}")
    if missing := [row.name for row in rows if not row.present]:
        raise click.ClickException(f"missing: {', '.join(missing)}")


@main.command()
def info():
    """Show versions, devices, the cache folder, and the notebooks with their parameters.

    \b
    attribook info
    """
    import platform

    import torch

    from attribook.papers.sources import cache_folder

    with bad_input():
        root = _root()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines = {
        "attribook": f"{version('attribook')} in {root}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "jupyter-book", "papermill")},
        "devices": ", ".join(["cpu", *(f"cuda ({gpu})" for gpu in gpus)]),
        "cache": str(cache_folder()),
    }
    for name, value in lines.items():
        click.echo(f"{name:13} {value}")
    for notebook in finding.notebooks_of(root).values():
        stale = running.outdated(running.planned(notebook, notebook.defaults))
        state = f"  (reference out of date: {'; '.join(stale)})" if stale else ""
        click.echo(f"\n{notebook.slug}{state}")
        click.echo(f"  models {', '.join(notebook.models)}; seeds {notebook.seeds}")
        click.echo(f"  defaults {notebook.defaults}")
    for slug, lacks in finding.drafts_of(root).items():
        click.echo(f"\n{slug}  (draft: {lacks})")


def _terminate(number, frame) -> None:
    raise Stopped


def _root() -> Path:
    return finding.find_root(Path.cwd())


def _listed(text: str | None) -> list[str]:
    return [part.strip() for part in text.split(",")] if text else []


def _selected(names: Sequence[str], everything: bool) -> list[Notebook]:
    root = _root()
    if names and everything:
        raise ValueError("--all already runs every notebook; leave out their names")
    if names:
        return finding.select(root, names)
    notebooks = finding.notebooks_of(root)
    if not everything:
        raise ValueError(f"name a notebook or pass --all; there are: {', '.join(notebooks)}")
    for slug, lacks in finding.drafts_of(root).items():
        click.echo(f"left out: {slug} is a draft: {lacks}", err=True)
    return list(notebooks.values())


def _wanted(run: Run, force: bool, since: Path | None, dry_run: bool) -> bool:
    """Whether a run has to be made; says so when it has not."""
    shown = run.output.relative_to(run.notebook.root)
    if force:
        return True
    reasons = running.outdated(run)
    if reasons and run.output.exists():
        click.echo(f"{shown} is out of date: {'; '.join(reasons)}")
    if not reasons and since is not None and since.exists():
        old = run.output.stat().st_mtime_ns < since.stat().st_mtime_ns
        reasons = [f"older than {since}"] if old else []
    if reasons:
        return True
    if not dry_run and running.weave(run):
        click.echo(f"{shown}: its new prose is in place; nothing to run, its code is the same")
    else:
        click.echo(f"{shown} is up to date (same code, same parameters); --force runs it again")
    return False


def _references(notebooks: Sequence[Notebook]) -> tuple[list, list[str]]:
    """The references to try again, and what is wrong with the others."""
    from attribook.report import verify as verifying

    trials, problems = [], []
    for notebook in notebooks:
        try:
            trials.append(verifying.of_reference(notebook))
        except ValueError as error:
            problems.append(str(error))
    return trials, problems


def _rows(notebooks: Sequence[Notebook], number: int, text: str, seconds: float, jobs: int) -> list:
    """The rows to try again."""
    from attribook.report import verify as verifying

    slugs = [notebook.slug for notebook in notebooks]
    with problem():
        rows = verifying.rows_of(_root(), slugs)
        return verifying.drawn(rows, number, text, seconds, jobs)


def _call(root: Path, tool: str, *arguments) -> None:
    """Run a tool of this Python environment in the project's folder; exit 1 when it fails."""
    tools = Path(sys.executable).parent
    path = os.pathsep.join([str(tools), os.environ.get("PATH", "")])
    command = [tools / tool, *map(str, arguments)]
    done = subprocess.run(command, cwd=root, env={**os.environ, "PATH": path})
    if done.returncode:
        raise click.ClickException(f"{tool} ended with exit code {done.returncode}")


if __name__ == "__main__":
    main()
