"""What moved between two commits, and which commit moved a claim, by git."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attribook.report import audit
from attribook.report.claims import records_in
from attribook.report.execute import execute
from attribook.report.git import commit_of, committed_text, git
from attribook.report.ledger import committed, parsed
from attribook.report.notebooks import executed, notebooks_of
from attribook.report.run import FailedRun, Run
from attribook.report.verdicts import drift

LEDGER = "book/ledger.json"
GOOD, BAD, SKIP = 0, 1, 125  # what `git bisect run` understands
FIRST_BAD = re.compile(r"^([0-9a-f]{40}) is the first bad commit", re.MULTILINE)


def ledger_at(root: Path, revision: str) -> dict:
    """The ledger as it was committed; ValueError when there is no such commit or no ledger in it."""
    text = committed_text(root, revision, LEDGER)
    return parsed(text, f"{LEDGER} of {revision}")


def moved_between(root: Path, old: str, new: str | None) -> list[str]:
    """What differs between the ledgers of two commits; of one and the file as it lies, for None."""
    after = committed(root) if new is None else ledger_at(root, new)
    return audit.moved(ledger_at(root, old), after)


def bisect(root: Path, claim: str, good: str | None, bad: str) -> str:
    """The commit that moved a claim, as git shows it.

    Every commit tried is checked out in a folder of its own, its notebook is run with its own
    library, and the claim is compared with its record in the reference of `good`; without `good`
    that is the commit which wrote the reference last. Needs a tree without changes: they would
    take no part.
    """
    _require_clean(root)
    slug = _notebook_of(root, claim)
    reference = f"notebooks/{slug}.ipynb"
    good = good or git(root, "log", "-1", "--format=%H", bad, "--", reference).strip()
    if not good:
        raise ValueError(f"{reference} was never committed; name a good commit with --good")
    ends = commit_of(root, bad), commit_of(root, good)
    wanted = _record(committed_text(root, good, reference), claim, f"{reference} of {good}")
    with _worktree(root, bad) as tree, tempfile.TemporaryDirectory() as folder:
        expected = Path(folder) / "record.json"
        expected.write_text(json.dumps(wanted), encoding="utf-8")
        step = [sys.executable, "-m", "attribook.report.history", slug, str(expected)]
        _require_ends(tree, step, claim, good, bad)
        git(tree, "bisect", "start", *ends)
        told = git(tree, "bisect", "run", *step)
        found = FIRST_BAD.search(told)
        if not found:
            raise ValueError(f"git found no single commit:\n{told[-1500:]}")
        return git(root, "show", "--stat", "--format=%h %ad %an%n%n    %s%n", found.group(1))


def step(tree: Path, slug: str, wanted: dict) -> tuple[int, list[str]]:
    """Whether a claim is as wanted when the notebook is run in a checked-out commit, and the drift."""
    notebook = notebooks_of(tree).get(slug)
    if notebook is None:
        return SKIP, [f"there is no notebook {slug}"]
    paths = [str(tree / "src"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))  # the library of that commit
    with tempfile.TemporaryDirectory() as folder:
        run = Run(notebook, notebook.defaults, Path(folder) / "fresh.ipynb")
        try:
            execute(run)
        except FailedRun as failure:
            return SKIP, [str(failure)]
        records = {record["id"]: record for record in records_in(executed(run.output))}
    fresh = records.get(wanted["id"])
    if fresh is None:
        return BAD, [f"{wanted['id']}: not recorded"]
    try:
        lines = drift(wanted, fresh)
    except KeyError as error:
        return SKIP, [f"its records are of another form (no {error})"]
    return (BAD if lines else GOOD), lines


def _require_ends(tree: Path, step: list[str], claim: str, good: str, bad: str) -> None:
    """ValueError unless the claim differs at the bad end and agrees at the good one."""
    for revision, wanted in ((bad, BAD), (good, GOOD)):
        git(tree, "checkout", "--quiet", "--detach", revision)
        done = subprocess.run(step, cwd=tree, capture_output=True, text=True)
        if done.returncode == wanted:
            continue
        if done.returncode not in (GOOD, BAD):
            raise ValueError(f"{revision} cannot be tried: {done.stdout.strip() or done.stderr}")
        if wanted == BAD:
            raise ValueError(f"{claim} agrees at {revision} with {good}: no commit moved it")
        raise ValueError(
            f"{claim} differs at {good} from its own reference ({done.stdout.strip()}); "
            "name another commit with --good"
        )


@contextmanager
def _worktree(root: Path, revision: str) -> Iterator[Path]:
    """A folder with a commit checked out; it is gone afterwards, and so is what git knew of it."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git(root, "worktree", "add", "--quiet", "--detach", str(tree), revision)
        try:
            prefix = git(root, "rev-parse", "--show-prefix").strip()
            yield tree / prefix
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=root,
                           capture_output=True)  # fmt: skip
            subprocess.run(["git", "worktree", "prune"], cwd=root, capture_output=True)


def _require_clean(root: Path) -> None:
    if git(root, "status", "--porcelain", "--untracked-files=no").strip():
        raise ValueError(
            "there are changes that are not committed; commit them or put them aside with "
            "`git stash` first, for only commits are tried"
        )


def _notebook_of(root: Path, claim: str) -> str:
    entries = {entry["id"]: entry for entry in committed(root)["claims"]}
    if claim not in entries:
        near = [key for key in entries if key.partition(".")[0] == claim.partition(".")[0]]
        raise ValueError(f"there is no claim {claim!r}; there are: {', '.join(near or entries)}")
    if not entries[claim]["notebook"]:
        raise ValueError(f"no notebook records {claim}")
    return entries[claim]["notebook"]


def _record(text: str, claim: str, where: str) -> dict:
    import nbformat

    for record in records_in(nbformat.reads(text, as_version=4)):
        if record["id"] == claim:
            if "outcome" not in record:
                raise ValueError(f"{where} is of an older form; name a later commit with --good")
            return record
    raise ValueError(f"{where} does not record {claim}; name another commit with --good")


if __name__ == "__main__":
    code, lines = step(Path.cwd(), sys.argv[1], json.loads(Path(sys.argv[2]).read_text()))
    print("\n".join(lines))
    sys.exit(code)
