"""Notebooks executed: MyST source -> jupytext -> papermill -> normalise.

A result replaces the old one in one step, so a run that was stopped leaves nothing that counts. A
fresh run that agrees with a committed reference leaves the file as it is.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from attribook.report import agreement, processors
from attribook.report.kernels import KEEPS_MEMORY, Kernels, Stopped, alive
from attribook.report.normalise import HIDDEN, normalise, text_of
from attribook.report.notebooks import authored_text, executed
from attribook.report.run import (
    Done,
    FailedRun,
    Run,
    has_other_prose,
    outdated,
    rewrite,
)

FOLLOWED = "ATTRIBOOK_FOLLOW"  # a process; when it is gone, nobody waits for these runs any more


@dataclass(frozen=True)
class Attempt:
    """A run under way: the source as it was read, what made it, the file that papermill writes."""

    run: Run
    source: NotebookNode
    record: dict
    part: Path

    @classmethod
    def begin(cls, run: Run) -> Attempt:
        """An attempt at a run; what killed ones left behind is removed. Raises FailedRun."""
        notebook = run.notebook
        try:
            run.output.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(run.output)
            _, source = authored_text(notebook)
            record = {
                "parameters": run.parameters,
                "models": notebook.models,
                "seeds": notebook.seeds,
                **notebook.made_from,
            }
        except (OSError, ValueError) as error:
            raise FailedRun(f"{notebook.slug}: {told(error)}") from error
        part = run.output.with_name(f"{run.output.stem}.{os.getpid()}.part.ipynb")
        return cls(run, source, record, part)

    def perform(self, bar: int, kernels: Kernels) -> NotebookNode | Exception:
        """The executed notebook, or why there is none; `bar` is the line of its progress bar."""
        import papermill
        from nbclient.exceptions import DeadKernelError

        logging.getLogger("papermill").setLevel(logging.CRITICAL)  # the reason below says it all
        try:
            return papermill.execute_notebook(
                _executable(self.source),
                self.part,
                self.run.parameters,
                kernel_name="python3",
                progress_bar={
                    "desc": self.run.label,
                    "position": bar,
                    "mininterval": 0.1 if sys.stderr.isatty() else 10,
                },
                extra_arguments=["--log-level=CRITICAL"],  # not its transport, not Ctrl-C
                kernel_manager_class=kernels.manager(),
                resources={"metadata": {"path": str(self.run.notebook.source.parent)}},
            )
        except papermill.PapermillExecutionError as error:
            first = error.source.strip().partition("\n")[0]
            cell = f"cell [{error.exec_count}] `{first}`"
            return FailedRun(f"{cell} failed with {error.ename}: {error.evalue}")
        except (DeadKernelError, RuntimeError) as error:
            return FailedRun(f"its kernel died ({error}); was there too little memory?")
        except (OSError, ValueError) as error:
            return error
        except Exception as error:  # whatever ends one run must not end the others
            return FailedRun(f"{type(error).__name__}: {error}")

    def settle(self, raw: NotebookNode | Exception) -> Done:
        """The result of what was performed, put in its place.

        Raises FailedRun when there is none, and keeps the notebook in runs/failed.
        """
        slug, kept = self.run.notebook.slug, self.run.notebook.failed(self.run.parameters)
        try:
            if isinstance(raw, Exception):
                raise raw
            done = self._settled(raw)
            kept.unlink(missing_ok=True)
            return done
        except (ValueError, FailedRun) as error:
            if not self.part.exists():
                raise FailedRun(f"{slug}: {error}") from error
            kept.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.part, kept)
            where = kept.relative_to(self.run.notebook.root)
            raise FailedRun(f"{slug}: {error}\n  kept for inspection: {where}") from error
        except OSError as error:
            raise FailedRun(f"{slug}: {told(error)}") from error
        finally:
            self.drop()

    def drop(self) -> None:
        """Remove what papermill wrote."""
        _remove(self.part)

    def _settled(self, raw: NotebookNode) -> Done:
        """The normalised notebook in its place, unless it agrees with the reference there."""
        run, notebook = self.run, self.run.notebook
        fresh, statistics = normalise(raw, notebook.slug, self.record)
        statistics = {"parameters": run.parameters, **statistics}
        reference = _comparable(run, fresh)
        drift = [] if reference is None else agreement.differences(reference, fresh)
        if reference is not None and not drift:
            if has_other_prose(notebook, reference.metadata["attribook"]):
                rewrite(notebook, reference)
            os.utime(run.output)  # done, for `--since`
            return Done(statistics, agrees=True)
        self.part.write_text(text_of(fresh), encoding="utf-8")
        os.replace(self.part, run.output)
        return Done(statistics, drift=[f"{notebook.slug}: {line}" for line in drift])


def execute(run: Run) -> Done:
    """A run made: its notebook replaces `run.output` unless that agrees with it. Raises FailedRun."""
    ((_, result),) = execute_all([run])
    if isinstance(result, FailedRun):
        raise result
    return result


def execute_all(runs: Sequence[Run], jobs: int = 1) -> Iterator[tuple[Run, Done | FailedRun]]:
    """Each run with its result, or with its failure, as they come in; `jobs` side by side.

    Close the iterator (`contextlib.closing`) to stop: kernels end and nothing more starts. Threads
    wait for kernels and do nothing else: `ast.parse` is not safe in several.
    """
    import papermill  # noqa: F401  # before there are threads

    for name, value in (processors.ONE_THREAD | KEEPS_MEMORY).items():
        os.environ.setdefault(name, value)
    waiting, bars = deque(runs), list(range(jobs))
    begun: list[Attempt] = []
    under_way: dict[Future, tuple[Attempt, int]] = {}
    kernels, pool = Kernels(), ThreadPoolExecutor(jobs)
    try:
        while waiting or under_way:
            _require_followed()
            come_in = _come_in(under_way, bars)
            while waiting and bars:  # the next ones start before the last ones are settled
                run = waiting.popleft()
                try:
                    begun.append(Attempt.begin(run))
                except FailedRun as failure:
                    yield run, failure
                    continue
                bar = bars.pop(0)
                under_way[pool.submit(begun[-1].perform, bar, kernels)] = begun[-1], bar
            yield from ((attempt.run, _result(attempt, raw)) for attempt, raw in come_in)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        kernels.stop()
        pool.shutdown()
        for attempt in begun:
            attempt.drop()


def remove_leftovers(output: Path) -> None:
    """Delete what runs that were killed left of this output."""
    for part in output.parent.glob(f"{output.stem}.*part.ipynb"):
        owner = part.name.split(".")[-3]
        if not (owner.isdecimal() and alive(int(owner))):
            _remove(part)


def told(error: Exception) -> str:
    """What went wrong, in words; when the system refused a file, with the file."""
    if not isinstance(error, OSError):
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or error
    return f"{where}{reason}; what was there is unchanged, make room or mend it and run again"


def _come_in(
    under_way: dict[Future, tuple[Attempt, int]], bars: list[int]
) -> list[tuple[Attempt, NotebookNode | Exception]]:
    """The attempts that were performed within a second, whose progress bars are free again."""
    found = []
    for future in wait(under_way, timeout=1, return_when=FIRST_COMPLETED).done if under_way else ():
        attempt, bar = under_way.pop(future)
        bars.append(bar)
        found.append((attempt, future.result()))
    return found


def _result(attempt: Attempt, raw: NotebookNode | Exception) -> Done | FailedRun:
    try:
        return attempt.settle(raw)
    except FailedRun as failure:
        return failure


def _comparable(run: Run, fresh: NotebookNode) -> NotebookNode | None:
    """The committed reference, if it was made from the same code and files as the fresh run.

    One that was edited since its run is none.
    """
    if not run.is_reference or outdated(run):
        return None
    reference, new = executed(run.output), fresh.metadata["attribook"]
    made = reference.metadata["attribook"]
    same = all(made[name] == new[name] for name in ("code", "reads", "parameters"))
    untouched = made.get("outputs") == agreement.outputs_digest(reference)
    return reference if same and untouched else None


def _executable(source: NotebookNode) -> NotebookNode:
    """The notebook with the hidden cells that watch its run."""
    notebook = nbformat.from_dict(json.loads(json.dumps(source)))
    notebook.metadata["language_info"] = {"name": "python"}
    imports = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    for position, call in ((imports + 1, "watch"), (len(notebook.cells) + 1, "report")):
        code = f"__import__('attribook.report.kernel').report.kernel.{call}()"
        hidden = nbformat.v4.new_code_cell(code, metadata={"tags": [HIDDEN]})
        notebook.cells.insert(position, hidden)
    return notebook


def _require_followed() -> None:
    """Stop when the process that wants these runs, a sweep, is gone."""
    followed = os.environ.get(FOLLOWED, "")
    if followed.isdecimal() and not alive(int(followed)):
        raise Stopped


def _remove(path: Path) -> None:
    """Delete a file if it is there and can be deleted."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass
