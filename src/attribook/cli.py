"""The `attribook` command: run, verify, ledger, sweep, build, data, info."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import click

from attribook import collect as collecting
from attribook import run as running
from attribook.run import FailedRun, Notebook, Run


class Interruptible(click.Group):
    """A group of commands that says what Ctrl-C left behind: nothing half-written, exit 130."""

    def invoke(self, ctx: click.Context):
        """The command's result, or exit 130 after Ctrl-C."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("\nstopped; no result is half-written, run again to go on", err=True)
            ctx.exit(130)


@click.group(cls=Interruptible)
def main():
    """Run the notebooks of attribook, check their claims, build the book."""


@main.command()
@click.argument("names", nargs=-1, metavar="NOTEBOOK...")
@click.option("--all", "everything", is_flag=True, help="Run every notebook.")
@click.option("-p", "given", nargs=2, multiple=True, metavar="NAME VALUE", help="A parameter.")
@click.option("--force", is_flag=True, help="Run again what is up to date.")
@click.option(
    "--since", type=click.Path(path_type=Path), help="Run again what is older than this file."
)
@click.option("-j", "jobs", default=1, type=click.IntRange(1), help="Notebooks side by side.")
def run(names, everything, given, force, since, jobs):
    """Execute notebooks; with no -p this renews their committed references.

    \b
    attribook run linear-model
    attribook run gradient/05-integrated-gradients -p model lite1 -p seed 3
    attribook run --all -j 2
    """
    with _bad_input():
        notebooks = _selected(names, everything)
        runs = [_planned(notebook, dict(given)) for notebook in notebooks]
    _execute([run for run in runs if _wanted(run, force, since)], jobs)


@main.command()
@click.argument("names", nargs=-1, metavar="[NOTEBOOK...]")
@click.option("-j", "jobs", default=1, type=click.IntRange(1), help="Notebooks side by side.")
def verify(names, jobs):
    """Re-run references in a temporary folder and compare every claim (all, if none is named).

    \b
    attribook verify linear-model
    """
    with _bad_input():
        notebooks = _selected(names, not names)
    with tempfile.TemporaryDirectory() as folder:
        fresh = [
            Run(notebook, notebook.defaults, Path(folder) / f"{notebook.slug}.ipynb")
            for notebook in notebooks
        ]
        _execute(fresh, jobs, keep=False)
        _report_drift([line for run in fresh for line in running.compare(run.notebook, run.output)])
    click.echo(f"{len(fresh)} notebooks agree with their references")


@main.command()
@click.option("--check", is_flag=True, help="Compare only; exit 1 when the ledger drifted.")
def ledger(check):
    """Collect the claims of all executed notebooks into book/ledger.json.

    \b
    attribook ledger
    attribook ledger --check
    """
    with _bad_input():
        root = _root()
    try:
        if check:
            _report_drift(collecting.problems(root))
            click.echo("book/ledger.json agrees with the references")
            return
        collected = collecting.collect(root)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    collected.save(collecting.ledger_path(root), collecting.environment(root))
    verdicts = [entry["verdict"] for entry in collected.entries()]
    for verdict in dict.fromkeys(verdicts):
        click.echo(f"{verdicts.count(verdict):4} {verdict}")
    click.echo(f"wrote {collecting.ledger_path(root)}")


@main.command()
@click.argument("names", nargs=-1, metavar="[NOTEBOOK...]")
@click.option("--models", help="Comma separated; default: those of each notebook's front matter.")
@click.option("--seeds", help="Comma separated; default: those of each notebook's front matter.")
@click.option("--device", default="auto", help="auto, cpu or cuda.")
@click.option("--scale", default="default", help="default or paper.")
@click.option("-j", "jobs", default=1, type=click.IntRange(1), help="Notebooks side by side.")
def sweep(names, models, seeds, device, scale, jobs):
    """Run notebooks over their models and seeds, with Snakemake where it is installed.

    \b
    attribook sweep linear-model --models lite0,lite1 --seeds 0,1,2 -j 2
    attribook ledger     (then collects the runs)
    """
    with _bad_input():
        runs = [
            _planned(notebook, {"model": m, "seed": s, "device": device, "scale": scale})
            for notebook in _selected(names, not names)
            for m in (models.split(",") if models else notebook.models)
            for s in (seeds.split(",") if seeds else map(str, notebook.seeds))
        ]
    runs = [run for run in runs if run.output != run.notebook.reference]
    if find_spec("snakemake") is None:
        _execute([run for run in runs if _wanted(run, False, None)], jobs)
    elif runs:
        root = runs[0].notebook.root
        outputs = [run.output.relative_to(root) for run in runs]
        _call(root, "snakemake", "--cores", jobs, "--rerun-incomplete", "--", *outputs)
    click.echo(f"{len(runs)} runs in runs/; `attribook ledger` collects them")


@main.command()
def build():
    """Build the book from the executed notebooks, with every warning an error.

    \b
    attribook build
    """
    with _bad_input():
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
    from attribook import sources

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
    from importlib.metadata import version

    import torch

    from attribook.sources import cache_folder

    with _bad_input():
        root = _root()
        notebooks = running.notebooks_of(root)
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
    for notebook in notebooks.values():
        state = "" if running.is_current(_planned(notebook, {})) else "  (reference out of date)"
        click.echo(f"\n{notebook.slug}{state}")
        click.echo(f"  models {', '.join(notebook.models)}; seeds {notebook.seeds}")
        click.echo(f"  defaults {notebook.defaults}")


@contextmanager
def _bad_input():
    """Turn a ValueError about what the user typed into a message and exit code 2."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _root() -> Path:
    return running.find_root(Path.cwd())


def _selected(names, everything: bool) -> list[Notebook]:
    notebooks = running.notebooks_of(_root())
    if not names and not everything:
        raise ValueError(f"name a notebook or pass --all; there are: {', '.join(notebooks)}")
    if names and everything:
        raise ValueError("--all already runs every notebook; leave out their names")
    return list(notebooks.values()) if everything else running.select(notebooks, names)


def _planned(notebook: Notebook, given: dict[str, str]) -> Run:
    parameters = running.parameters_of(notebook, given)
    return Run(notebook, parameters, notebook.output(parameters))


def _wanted(run: Run, force: bool, since: Path | None) -> bool:
    """Whether a run has to be made; says so when it has not."""
    old = since is not None and since.exists()
    if force or not running.is_current(run):
        return True
    if old and run.output.stat().st_mtime_ns < since.stat().st_mtime_ns:
        return True
    shown = run.output.relative_to(run.notebook.root)
    click.echo(f"{shown} is up to date (same text, same parameters); --force runs it again")
    return False


def _execute(runs: list[Run], jobs: int, keep: bool = True) -> None:
    """Make the runs, reporting each as it ends; exit 1 at the end if one failed."""
    failures = 0
    try:
        for run, result in running.execute_all(runs, jobs):
            if isinstance(result, FailedRun):
                failures += 1
                click.echo(f"FAILED {result}", err=True)
                continue
            spent = f"{result['wall_seconds']:.0f} s, {result['peak_memory_mb']} MB"
            if keep:
                running.save_statistics(run, result)
                click.echo(f"{run.output.relative_to(run.notebook.root)}: {spent}")
            else:
                click.echo(f"{run.notebook.slug}: re-run in {spent}")
    except BrokenProcessPool as error:
        raise click.ClickException("a worker was killed; was there too little memory?") from error
    if failures:
        sys.exit(1)


def _report_drift(lines: list[str]) -> None:
    for line in lines:
        click.echo(f"drift: {line}", err=True)
    if lines:
        sys.exit(1)


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
