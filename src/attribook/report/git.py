"""What git knows of the project: files as they were committed. ValueError where it refuses."""

from __future__ import annotations

import subprocess
from pathlib import Path


def git(root: Path, *arguments: str, failing: str = "") -> str:
    """What git answers; ValueError in one sentence (or `failing`) when it refuses or is not there."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ValueError("git is not installed, and history is known to git alone") from error
    if done.returncode == 0:
        return done.stdout
    if "not a git repository" in done.stderr:
        raise ValueError(f"{root} is no git repository, and history is known to git alone")
    said = " ".join((done.stderr.strip() or done.stdout.strip()).split())
    raise ValueError(failing or f"git {arguments[0]}: {said[-300:]}")


def commit_of(root: Path, revision: str) -> str:
    """The full name of a commit."""
    return git(root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}",
               failing=f"there is no commit {revision!r}").strip()  # fmt: skip


def committed_text(root: Path, revision: str, path: str) -> str:
    """A file as it was committed."""
    commit_of(root, revision)
    return git(root, "show", f"{revision}:./{path}", failing=f"{revision} has no {path}")


def commits_of(root: Path, path: str, number: int) -> list[str]:
    """The last commits that changed a file, the newest first; none where there is no git."""
    try:
        return git(root, "log", f"-{number}", "--format=%H", "--", path).split()
    except ValueError:
        return []
