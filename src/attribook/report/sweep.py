"""Sweeps: which runs are wanted beside the references, and making them, with Snakemake or without.

What is up to date is decided by what made a run (code, library, files read, versions), never by
the times of files, so both ways make the same runs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path

from attribook.report import audit
from attribook.report.execute import FOLLOWED, execute_all
from attribook.report.notebooks import (
    Notebook,
    notebooks_of,
    parameters_of,
    select,
    write,
)
from attribook.report.run import (
    Done,
    FailedRun,
    Run,
    outdated,
    planned,
    save_statistics,
)

STALE, OLDER, MISSING = audit.STALE, audit.OLDER, audit.MISSING
USUAL = (STALE, MISSING)
LOG = "runs/sweep.log"
LOCAL = "local"
EXECUTORS = (LOCAL, "slurm", "kubernetes")


@dataclass(frozen=True)
class Wanted:
    """A run of a sweep, and why it has to be made."""

    run: Run
    reasons: list[str]


def of_ledger(root: Path, names: Sequence[str], states: Sequence[str]) -> list[Wanted]:
    """The ledger's rows in these states, of the named notebooks or of all, unless made already."""
    slugs = {notebook.slug for notebook in select(root, names)} or notebooks_of(root)
    rows = [row for row in audit.standing(root)
            if row.state in states and row.notebook.slug in slugs]  # fmt: skip
    wanted = [Wanted(planned(row.notebook, row.parameters), row.reasons or [row.state])
              for row in rows]  # fmt: skip
    return [entry for entry in wanted if outdated(entry.run)]


def of_grid(
    root: Path, names: Sequence[str], models: list[str], seeds: list[str], fixed: dict[str, str]
) -> list[Wanted]:
    """Notebooks x models x seeds, without the references and what is up to date.

    Empty `models` or `seeds`: those of each notebook's front matter. Of all notebooks (no names)
    only those are taken that have one of the models.
    """
    runs = []
    notebooks = select(root, names) or _having(root, models)
    for notebook in notebooks:
        for model, seed in product(models or notebook.models, seeds or notebook.seeds):
            if names or model in notebook.models:
                given = {"model": model, "seed": str(seed), **fixed}
                runs.append(planned(notebook, parameters_of(notebook, given)))
    reasons = {run.output: outdated(run) for run in runs if not run.is_reference}
    return [Wanted(run, why) for run in runs if (why := reasons.pop(run.output, None))]


def make(runs: Sequence[Run], jobs: int, executor: str) -> Iterator[tuple[Run, Done | FailedRun]]:
    """Each run with its result as they come in, its log beside its output.

    References are made here and first; the others by Snakemake where it is installed.
    """
    here = [run for run in runs if run.is_reference]
    away = [run for run in runs if not run.is_reference]
    if find_spec("snakemake") is None:
        here, away = [*here, *away], []
    with closing(_here(here, jobs)) as results:
        yield from results
    if away:
        with closing(_with_snakemake(away, jobs, executor)) as results:
            yield from results


def require_executor(executor: str) -> None:
    """ValueError unless Snakemake can send runs to this kind of cluster."""
    if executor not in EXECUTORS:
        raise ValueError(f"unknown executor {executor!r}; there are: {', '.join(EXECUTORS)}")
    plugin = f"snakemake_executor_plugin_{executor}"
    if executor != LOCAL and (find_spec("snakemake") is None or find_spec(plugin) is None):
        raise ValueError(
            f"the executor {executor} needs Snakemake and its plugin, which are not installed; "
            f"get them with `pip install 'attribook[sweep,cluster]'`"
        )


def _having(root: Path, models: list[str]) -> list[Notebook]:
    """The notebooks that have one of the models; ValueError when none has."""
    notebooks = list(notebooks_of(root).values())
    found = [nb for nb in notebooks if not models or set(models) & set(nb.models)]
    known = dict.fromkeys(model for notebook in notebooks for model in notebook.models)
    if unknown := [model for model in models if model not in known]:
        raise ValueError(
            f"no notebook has a model {unknown[0]!r}; their front matter lists: {', '.join(known)}"
        )
    return found


def _here(runs: Sequence[Run], jobs: int) -> Iterator[tuple[Run, Done | FailedRun]]:
    """The runs made by this process."""
    if not runs:
        return
    with closing(execute_all(runs, jobs)) as results:
        for run, result in results:
            if isinstance(result, Done):
                save_statistics(run, result)
            if not run.is_reference:
                told = f"FAILED {result}" if isinstance(result, FailedRun) else f"{run.label}: done"
                write(run.output.with_suffix(".log"), f"{told}\n")
            yield run, result


def _with_snakemake(
    runs: Sequence[Run], jobs: int, executor: str
) -> Iterator[tuple[Run, Done | FailedRun]]:
    """The runs made by Snakemake's jobs, seen by the statistics that each leaves at its end."""
    root = runs[0].notebook.root
    _unlock(root)
    waiting = {run: _statistics_time(run) for run in runs}
    process = _start(root, runs, jobs, executor)
    try:
        ended = False
        while not ended and waiting:
            ended = process.poll() is not None
            for run in [run for run, before in waiting.items() if _has_ended(run, before)]:
                del waiting[run]
                text = run.output.with_suffix(".json").read_text(encoding="utf-8")
                yield run, Done(json.loads(text))
            time.sleep(0.2)
        process.wait()
    finally:
        _end(process)
    if executor != LOCAL and process.returncode == 0:
        return  # what is not here lies in the storage that Snakemake's profile names
    for run in waiting:
        yield run, FailedRun(_why(run))


def _start(root: Path, runs: Sequence[Run], jobs: int, executor: str) -> subprocess.Popen:
    command = [*_snakemake(), "--keep-going", "--rerun-incomplete", "--force"]
    if executor == LOCAL:
        command += ["--cores", str(jobs)]
    else:
        command += ["--executor", executor, "--jobs", str(jobs), "--retries", "1"]
    targets = [str(run.output.relative_to(root)) for run in runs]
    (root / LOG).parent.mkdir(exist_ok=True)
    with (root / LOG).open("w", encoding="utf-8") as log:
        return subprocess.Popen(
            [*command, "--", *targets],
            cwd=root,
            env=_environment(executor),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours: one signal ends Snakemake and its jobs
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )


def _environment(executor: str) -> dict[str, str]:
    """What Snakemake and its jobs need: the commands of this environment, and whom to follow."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    followed = {FOLLOWED: str(os.getpid())} if executor == LOCAL else {}
    return {**os.environ, "PATH": path, **followed}


def _end(process: subprocess.Popen) -> None:
    """End Snakemake and its jobs, if they are still there."""
    if process.poll() is not None:
        return
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.terminate()
    process.wait()


def _end_with_parent() -> None:
    """In Snakemake, before it starts: end when the sweep is killed (Linux; elsewhere jobs do)."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _unlock(root: Path) -> None:
    """Remove the lock of a Snakemake that was killed; ValueError when one is at work here."""
    if not any((root / ".snakemake" / "locks").glob("*")):
        return
    if (pid := _at_work(root)) is not None:
        raise ValueError(
            f"another sweep of {root} is running (process {pid}); wait for it or stop it"
        )
    subprocess.run([*_snakemake(), "--unlock"], cwd=root, env=_environment(LOCAL),
                   check=True, capture_output=True)  # fmt: skip


def _at_work(root: Path) -> int | None:
    """The process of a Snakemake that works in this folder."""
    import psutil

    for process in psutil.process_iter():
        try:
            words = [Path(word).name for word in process.cmdline()[:4]]
            ours = "snakemake" in words and Path(process.cwd()) == root
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                return process.pid
        except (psutil.Error, OSError):  # it ended meanwhile, or is somebody else's
            continue
    return None


def _snakemake() -> list[str]:
    return [sys.executable, "-m", "snakemake"]


def _statistics_time(run: Run) -> int | None:
    path = run.output.with_suffix(".json")
    return path.stat().st_mtime_ns if path.exists() else None


def _has_ended(run: Run, before: int | None) -> bool:
    """Whether a job has left its statistics since; Snakemake deletes the old ones before it starts."""
    return _statistics_time(run) not in (None, before)


def _why(run: Run) -> str:
    """Why a run of Snakemake has no result: the last words of its log, or where to look."""
    root, log = run.notebook.root, run.output.with_suffix(".log")
    words = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    failure = words.rpartition("FAILED ")[2].strip() if "FAILED " in words else ""
    where = f"log: {log.relative_to(root)}" if words else f"it was not started; see {LOG}"
    return f"{failure}\n  {where}" if failure else f"{run.label}: no result; {where}"
