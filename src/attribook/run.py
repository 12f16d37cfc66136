"""Notebooks found, run and compared: MyST source -> jupytext -> papermill -> normalise.

A run with the default parameters on a CPU is the notebook's reference: it is written beside the
source and committed. Any other run lands in runs/. A result replaces the old one in one step, so a
run that was stopped leaves nothing that counts.
"""

from __future__ import annotations

import ast
import hashlib
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from attribook.ledger import drift, records_in
from attribook.normalise import HIDDEN, normalise, text_of

PARAMETERS = ("model", "seed", "device", "scale")
SCALES = ("default", "paper")
KERNEL_THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class FailedRun(Exception):
    """A notebook that did not run to its end, with the cell and the error in its message."""


@dataclass(frozen=True)
class Notebook:
    """An authored notebook: where it lies, what it may be swept over, its default parameters."""

    root: Path
    slug: str
    models: list[str]
    seeds: list[int]
    defaults: dict
    digest: str

    @property
    def source(self) -> Path:
        """The MyST text."""
        return self.root / "notebooks" / f"{self.slug}.md"

    @property
    def reference(self) -> Path:
        """The committed, executed notebook beside the source."""
        return self.source.with_suffix(".ipynb")

    def output(self, parameters: dict) -> Path:
        """Where a run with these parameters is written: the reference, or a file in runs/."""
        if parameters == self.defaults:
            return self.reference
        name = "{model}-seed{seed}-{device}-{scale}.ipynb".format(**parameters)
        return self.root / "runs" / self.slug / name


@dataclass(frozen=True)
class Run:
    """One notebook with the parameters to run it with and the file to write."""

    notebook: Notebook
    parameters: dict
    output: Path


def find_root(start: Path) -> Path:
    """The project's folder: the nearest one upwards that has _toc.yml and notebooks/."""
    for folder in (start, *start.parents):
        if (folder / "_toc.yml").is_file() and (folder / "notebooks").is_dir():
            return folder
    raise ValueError(
        f"no attribook project in {start} or above (a folder with _toc.yml and notebooks/); "
        "change to your clone of the project first"
    )


def notebooks_of(root: Path) -> dict[str, Notebook]:
    """Every authored notebook of the project, by its slug (`gradient/01-linear-model`)."""
    sources = sorted((root / "notebooks").glob("*/[0-9]*.md"))
    return {slug: _read(root, slug) for slug in (f"{s.parent.name}/{s.stem}" for s in sources)}


def select(notebooks: dict[str, Notebook], names: Sequence[str]) -> list[Notebook]:
    """The named notebooks; a name is a slug or a tail of it that only one notebook has."""
    return [_named(notebooks, name) for name in names]


def parameters_of(notebook: Notebook, given: dict[str, str]) -> dict:
    """The notebook's defaults with the given values in place, each checked.

    The reference always runs on the CPU; any other run takes the GPU when there is one.
    """
    if unknown := sorted(given.keys() - set(PARAMETERS)):
        raise ValueError(f"unknown parameter {unknown[0]!r}; there are: {', '.join(PARAMETERS)}")
    values = {**notebook.defaults, **given}
    device = given.get("device", "auto" if given else "cpu")
    if values["model"] not in notebook.models:
        raise ValueError(
            f"{notebook.slug} has no model {values['model']!r}; "
            f"its front matter lists: {', '.join(notebook.models)}"
        )
    if values["scale"] not in SCALES:
        raise ValueError(f"unknown scale {values['scale']!r}; there are: {', '.join(SCALES)}")
    if not str(values["seed"]).isdecimal():
        raise ValueError(f"seed must be an integer from 0 on, got {values['seed']!r}")
    return {**values, "seed": int(values["seed"]), "device": _device(device)}


def is_current(run: Run) -> bool:
    """Whether the output exists, from this very source with these very parameters."""
    return _provenance(run.output) == (run.notebook.digest, run.parameters)


def execute(run: Run, bar: int = 0) -> dict:
    """The statistics of a run, whose normalised notebook replaces `run.output` when it succeeds.

    `bar` is the line of its progress bar. Raises FailedRun and keeps the notebook in runs/failed.
    """
    notebook, part = run.notebook, run.output.with_suffix(".part.ipynb")
    part.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "parameters": run.parameters,
        "source": notebook.digest,
        "models": notebook.models,
        "seeds": notebook.seeds,
    }
    try:
        executed = _papermill(run, part, bar)
        clean, statistics = normalise(executed, notebook.slug, record)
        part.write_text(text_of(clean), encoding="utf-8")
        os.replace(part, run.output)
    except (ValueError, FailedRun) as error:
        kept = notebook.root / "runs" / "failed" / f"{notebook.slug}.ipynb"
        kept.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part, kept)
        where = kept.relative_to(notebook.root)
        raise FailedRun(f"{notebook.slug}: {error}\n  kept for inspection: {where}") from error
    finally:
        part.unlink(missing_ok=True)
    return {"source": notebook.digest, "parameters": run.parameters, **statistics}


def execute_all(runs: Sequence[Run], jobs: int = 1) -> Iterator[tuple[Run, dict | FailedRun]]:
    """Each run with its statistics, or with the failure, as they come in; `jobs` side by side."""
    if jobs == 1 or len(runs) == 1:
        yield from ((run, _outcome(run)) for run in runs)
        return
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_follow_parent)
    try:
        pending = {pool.submit(_outcome, run): run for run in runs}
        for done in as_completed(pending):
            yield pending[done], done.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    finally:
        pool.shutdown()


def save_statistics(run: Run, statistics: dict) -> None:
    """Store a run's statistics: references in book/run_statistics.json, others beside the run."""
    if run.output != run.notebook.reference:
        write(run.output.with_suffix(".json"), json.dumps(statistics, indent=1) + "\n")
        return
    path = run.notebook.root / "book" / "run_statistics.json"
    table = read_statistics(run.notebook.root)
    table[run.notebook.slug] = statistics
    write(path, json.dumps(dict(sorted(table.items())), indent=1) + "\n")


def read_statistics(root: Path) -> dict[str, dict]:
    """The statistics of the reference runs, by notebook."""
    path = root / "book" / "run_statistics.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def compare(notebook: Notebook, fresh: Path) -> list[str]:
    """What a fresh run's claims say differently from the committed reference; empty if nothing."""
    if _provenance(notebook.reference) != (notebook.digest, notebook.defaults):
        return [f"{notebook.slug}: the reference is older than its source; run `attribook run`"]
    old, new = ({r["id"]: r for r in records_in(_load(p))} for p in (notebook.reference, fresh))
    lines = [f"{key}: recorded by the reference only" for key in old if key not in new]
    lines += [f"{key}: not recorded by the reference" for key in new if key not in old]
    return lines + [line for key in old if key in new for line in drift(old[key], new[key])]


def write(path: Path, text: str) -> None:
    """Write a file in one step: a reader sees the old text or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _read(root: Path, slug: str) -> Notebook:
    text = (root / "notebooks" / f"{slug}.md").read_text(encoding="utf-8")
    parsed = jupytext.reads(text, fmt="md:myst")
    swept = parsed.metadata.get("attribook", {})
    defaults = _default_parameters(parsed)
    if set(defaults) != set(PARAMETERS) or not {"models", "seeds"} <= set(swept):
        raise ValueError(
            f"{slug}: wants a cell tagged `parameters` that sets {', '.join(PARAMETERS)}, and "
            "`attribook: {models: [...], seeds: [...]}` in its front matter"
        )
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    models, seeds = list(swept["models"]), list(swept["seeds"])
    reference = {**defaults, "device": "cpu"}
    return Notebook(root, slug, models, seeds, reference, digest)


def _default_parameters(notebook: NotebookNode) -> dict:
    """The assignments in the cell tagged `parameters`."""
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            lines = [line for line in ast.parse(cell.source).body if isinstance(line, ast.Assign)]
            return {line.targets[0].id: ast.literal_eval(line.value) for line in lines}
    return {}


def _named(notebooks: dict[str, Notebook], name: str) -> Notebook:
    tails = (f"/{name}", f"-{name}")
    found = [slug for slug in notebooks if slug == name or slug.endswith(tails)]
    if len(found) == 1:
        return notebooks[found[0]]
    problem = f"several notebooks end in {name!r}" if found else f"there is no notebook {name!r}"
    raise ValueError(f"{problem}; choose from: {', '.join(found or notebooks)}")


def _device(wanted: str) -> str:
    """The device a run is labelled with; "auto" takes the GPU when there is one."""
    if wanted == "cpu":
        return wanted
    import torch

    if wanted not in ("auto", "cuda"):
        raise ValueError(f"unknown device {wanted!r}; there are: auto, cpu, cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but PyTorch finds no GPU; use auto or cpu")
    return "cuda" if torch.cuda.is_available() else "cpu"


def _executable(notebook: Notebook) -> NotebookNode:
    """The notebook with the hidden cells that watch its run."""
    parsed = jupytext.read(notebook.source, fmt="md:myst")
    parsed.metadata["language_info"] = {"name": "python"}
    imports = next(i for i, cell in enumerate(parsed.cells) if cell.cell_type == "code")
    for position, call in ((imports + 1, "watch"), (len(parsed.cells) + 1, "report")):
        code = f"__import__('attribook.kernel').kernel.{call}()"
        hidden = nbformat.v4.new_code_cell(code, metadata={"tags": [HIDDEN]})
        parsed.cells.insert(position, hidden)
    return parsed


def _provenance(path: Path) -> tuple[str, dict] | None:
    """Source digest and parameters of a finished run; None when there is no such notebook."""
    if not path.exists():
        return None
    made = _load(path).metadata.get("attribook", {})
    return made.get("source"), made.get("parameters")


def _load(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def _papermill(run: Run, part: Path, bar: int) -> NotebookNode:
    """The executed notebook; FailedRun names the cell that failed and its error."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    for name, value in KERNEL_THREADS.items():
        os.environ.setdefault(name, value)
    every = 0.1 if sys.stderr.isatty() else 10
    try:
        return papermill.execute_notebook(
            _executable(run.notebook),
            part,
            run.parameters,
            kernel_name="python3",
            cwd=run.notebook.source.parent,
            progress_bar={"desc": run.notebook.slug, "position": bar, "mininterval": every},
            extra_arguments=["--log-level=CRITICAL"],  # not its transport, not Ctrl-C
        )
    except papermill.PapermillExecutionError as error:
        first = error.source.strip().partition("\n")[0]
        reason = f"cell [{error.exec_count}] `{first}` failed with {error.ename}: {error.evalue}"
        raise FailedRun(reason) from error
    except DeadKernelError as error:
        raise FailedRun("its kernel died; was there too little memory?") from error


def _outcome(run: Run) -> dict | FailedRun:
    worker = multiprocessing.current_process().name.rpartition("-")[2]  # "SpawnProcess-2"
    try:
        return execute(run, int(worker) - 1 if worker.isdecimal() else 0)
    except FailedRun as failure:
        return failure


def _follow_parent() -> None:
    """In a worker: Ctrl-C reaches the parent, which then asks each worker to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)


def _stop(number, frame) -> None:
    raise KeyboardInterrupt
