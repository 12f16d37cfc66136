import subprocess
from pathlib import Path

import pytest

SOURCE = "notebooks/toy/01-square.md"


def git(root, *arguments):
    who = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    done = subprocess.run(["git", *who, *arguments], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(root, message):
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--allow-empty", "-m", message)
    return git(root, "rev-parse", "HEAD")


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture
def history(executed, attribook, monkeypatch):
    """A project with a library of its own, five commits, and the commits by what they say.

    The notebook's number comes from src/helper.py, which the fourth commit changes.
    """
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (executed / ".gitignore").write_text("runs/\n__pycache__/\n*.part*\n")
    helper = executed / "src/helper.py"
    helper.parent.mkdir()
    helper.write_text("def number():\n    return 2.0\n")
    change(executed / SOURCE, "import sys\n", "import os\nimport sys\n")
    change(
        executed / SOURCE,
        'number = {"two": 2.0, "three": 3.0}[model]',
        'sys.path[:0] = os.environ.get("PYTHONPATH", "../../src").split(":")\n'
        "import helper\nnumber = helper.number()",
    )
    for command in (["run", "square"], ["ledger"]):
        assert attribook(*command).exit_code == 0
    git(executed, "init", "--quiet")
    commits = {"start": commit(executed, "start")}
    (executed / "notes.txt").write_text("one\n")
    commits["notes"] = commit(executed, "notes")
    (executed / "notes.txt").write_text("two\n")
    commits["more"] = commit(executed, "more notes")
    helper.write_text("def number():\n    return 2.5\n")
    commits["moved"] = commit(executed, "helper: another number")
    (executed / "notes.txt").write_text("three\n")
    commits["last"] = commit(executed, "last notes")
    return executed, commits


class TestBisect:
    """`attribook bisect`."""

    def test_finds_the_commit_and_leaves_everything_as_it_was(self, history, attribook):
        root, commits = history
        before = git(root, "for-each-ref"), git(root, "rev-parse", "HEAD")
        result = attribook("bisect", "toy.square")
        assert result.exit_code == 0, result.output
        assert result.output.startswith(commits["moved"][:7])
        assert "helper: another number" in result.output and "src/helper.py" in result.output
        assert (git(root, "for-each-ref"), git(root, "rev-parse", "HEAD")) == before
        assert git(root, "status", "--porcelain") == ""
        assert len(git(root, "worktree", "list").splitlines()) == 1

    def test_takes_the_ends_it_is_given_and_says_when_nothing_moved_between(
        self, history, attribook
    ):
        root, commits = history
        result = attribook("bisect", "toy.square", "--good", commits["start"], "--bad", "HEAD~2")
        assert result.exit_code == 2 and "no commit moved it" in " ".join(result.output.split())
        result = attribook("bisect", "toy.square", "--good", "HEAD")
        assert result.exit_code == 2 and "differs at HEAD from its own" in " ".join(
            result.output.split()
        )
        assert len(git(root, "worktree", "list").splitlines()) == 1

    def test_refuses_what_it_cannot_do_in_one_sentence(self, history, attribook):
        root, _ = history
        for arguments, message in (
            (["toy.cube"], "there is no claim 'toy.cube'; there are: toy.square"),
            (["toy.square", "--good", "v9"], "there is no commit 'v9'"),
        ):
            result = attribook("bisect", *arguments)
            assert result.exit_code == 2 and message in " ".join(result.output.split())
        change(root / SOURCE, "The line", "The curve")
        result = attribook("bisect", "toy.square")
        assert result.exit_code == 2 and "changes that are not committed" in result.output

    def test_needs_git(self, executed, attribook, monkeypatch):
        result = attribook("bisect", "toy.square")
        assert result.exit_code == 2 and "is no git repository" in " ".join(result.output.split())
        monkeypatch.setenv("PATH", str(Path(executed)))
        result = attribook("bisect", "toy.square")
        assert result.exit_code == 2 and "git is not installed" in result.output


class TestDiff:
    """`attribook diff`."""

    def test_says_what_moved_since_a_commit(self, history, attribook):
        root, commits = history
        assert "nothing moved" in attribook("diff", "HEAD").output
        for command in (["run", "square", "--force"], ["ledger"]):
            attribook(*command)
        result = attribook("diff", commits["start"])
        assert result.exit_code == 0
        assert "toy.square: outcome was 'reproduced', is 'not reproduced'" in result.output
        last = commit(root, "renewed")
        between = attribook("diff", commits["last"], last)
        assert between.output == result.output
        assert "nothing moved" in attribook("diff", commits["start"], commits["last"]).output

    def test_names_a_commit_that_is_none_and_one_without_a_ledger(self, history, attribook):
        root, _ = history
        result = attribook("diff", "v9")
        assert result.exit_code == 2 and "there is no commit 'v9'" in result.output
        git(root, "rm", "--quiet", "--cached", "book/ledger.json")
        git(root, "commit", "--quiet", "-m", "no ledger")
        result = attribook("diff", "HEAD")
        assert result.exit_code == 2 and "HEAD has no book/ledger.json" in result.output
