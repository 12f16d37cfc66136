import errno
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from attribook.papers import sources
from attribook.report import processors
from attribook.report.cli import main

ROOT = Path(__file__).parents[2]
SOURCE = "notebooks/toy/01-square.md"
REFERENCE = "notebooks/toy/01-square.ipynb"
DRIFT = "toy.square: 'square' was 4.5, is 4.0"
PROSE = ("The line of squares.", "The curve of squares.")


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def put_wrong_digit(path, old='"measured": 4.0', new='"measured": 4.5'):
    change(path, old, new)


def git(root, *arguments):
    who = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    done = subprocess.run(["git", *who, *arguments], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def otherwise(root, attribook, code):
    """The notebook run once with a cell more; within, OTHERWISE is set for its kernels."""
    with (root / SOURCE).open("a") as source:
        source.write(f"\n```{{code-cell}} ipython3\n{code}\n```\n")
    assert attribook("run", "square").exit_code == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTHERWISE", "yes")
        yield


@pytest.fixture
def committed(executed):
    """The small project with its reference and ledger, all of it committed to git."""
    shutil.copy(ROOT / ".gitignore", executed)
    git(executed, "init", "--quiet")
    git(executed, "add", "--all")
    git(executed, "commit", "--quiet", "-m", "start")
    return executed


@pytest.mark.parametrize("command", [[], *([name] for name in main.commands)])
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_has_help_with_an_example(attribook, command, option):
    result = attribook(*command, option)
    assert result.exit_code == 0
    assert not command or f"attribook {command[0]}" in result.output


def test_the_version_is_told(attribook):
    result = attribook("--version")
    assert result.exit_code == 0 and re.search(r"attribook, version \d+\.\d+", result.output)


def examples():
    """Every `attribook run` or `attribook sweep` that the README or a help text shows."""
    texts = [(ROOT / "README.md").read_text(), *(c.help for c in main.commands.values())]
    lines = (line.strip() for text in texts for line in text.splitlines())
    return sorted({line.split("   ")[0] for line in lines
                   if re.match(r"attribook (run|sweep) [^`]*$", line)})  # fmt: skip


@pytest.mark.parametrize("example", examples())
def test_the_examples_of_readme_and_help_can_be_run(attribook, monkeypatch, example):
    if "--executor" in example:
        monkeypatch.setattr("attribook.report.sweep.require_executor", lambda name: None)
    monkeypatch.chdir(ROOT)
    words = [word for word in shlex.split(example) if word not in ("--device", "cuda")]
    result = attribook(*words[1:], "--dry-run")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "cube"], "there is no notebook 'cube'; choose from: toy/01-square"),
        (["run"], "name a notebook or pass --all; there are: toy/01-square"),
        (["run", "square", "--all"], "leave out their names"),
        (["run", "square", "-p", "model", "four"], "lists: two, three"),
        (["run", "square", "-p", "seed", "x"], "seed must be an integer"),
        (["run", "square", "-p", "seed", "9" * 300], "got '999999999999... (300 digits)'"),
        (["run", "square", "-p", "sead", "1"], "there are: model, seed, device, scale"),
        (["run", "square", "-j", "0"], "0 is not in the range"),
        (["run", "square", "--processor", "z80"], "unknown processor 'z80'; there are: native"),
        (["sweep", "--models", "four"], "no notebook has a model 'four'"),
        (["sweep", "square", "--models", "four"], "lists: two, three"),
        (["sweep", "--seeds", "1,b"], "seed must be an integer"),
        (["sweep", "--stale", "--seeds", "1"], "by their state or by their parameters, not both"),
        (["sweep", "--executor", "abacus"], "unknown executor 'abacus'; there are: local, slurm"),
        (["verify", "cube"], "choose from: toy/01-square"),
        (["verify", "--processor", "z80"], "unknown processor 'z80'"),
        (["rum"], "No such command 'rum'"),
    ],
)
def test_bad_input_exits_2_and_says_what_exists(project, attribook, arguments, message):
    result = attribook(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_an_unknown_processor_in_the_environment_exits_2(project, attribook, monkeypatch):
    monkeypatch.setenv(processors.ASKED, "z80")
    result = attribook("info")
    assert result.exit_code == 2 and "unknown processor 'z80'" in result.output


@pytest.mark.parametrize("command", ["run", "verify", "ledger", "build", "info", "sweep"])
def test_outside_a_project_the_way_out_is_said(tmp_path, monkeypatch, attribook, command):
    monkeypatch.chdir(tmp_path)
    result = attribook(command)
    assert result.exit_code == 2 and "_toc.yml" in result.output


class TestRun:
    """`attribook run`."""

    def test_skips_what_is_up_to_date_unless_forced_or_older_than_a_file(self, executed, attribook):
        before = (executed / REFERENCE).stat().st_mtime_ns
        result = attribook("run", "square")
        assert "up to date" in result.output and result.exit_code == 0
        assert (executed / REFERENCE).stat().st_mtime_ns == before
        marker = executed / "marker"
        marker.touch()
        os.utime(marker, ns=(before - 1, before - 1))
        assert "up to date" in attribook("run", "square", "--since", "marker").output
        os.utime(marker, ns=(before + 1, before + 1))
        result = attribook("run", "square", "--since", "marker")
        assert "[1/1] toy/01-square: " in result.output and "toy/01-square" in result.stderr
        assert (executed / REFERENCE).stat().st_mtime_ns > before
        assert "up to date" in attribook("run", "square", "--since", "marker").output

    @pytest.mark.parametrize("processor", [None, "default"])
    def test_leaves_no_change_for_git_where_all_agrees(self, committed, attribook, processor):
        options = ["--processor", processor] if processor else []
        result = attribook("run", "--all", "--force", *options)
        assert result.exit_code == 0 and git(committed, "status", "--porcelain") == ""

    def test_names_what_moved_keeps_the_fresh_run_and_exits_3(self, committed, attribook):
        code = "import os\nprint('no' if os.environ.get('OTHERWISE') else 'yes')"
        with otherwise(committed, attribook, code):
            result = attribook("run", "square", "--force")
        assert result.exit_code == 3
        assert "drift: toy/01-square: code cell" in result.stderr and "+no" in result.stderr
        assert '"no\\n"' in (committed / REFERENCE).read_text()

    def test_puts_new_prose_into_a_reference_without_a_run(self, executed, attribook):
        statistics = (executed / "book/run_statistics.json").read_bytes()
        change(executed / SOURCE, *PROSE)
        result = attribook("run", "square")
        assert result.exit_code == 0 and "its new prose is in place" in result.output
        assert "[1/1]" not in result.output and PROSE[1] in (executed / REFERENCE).read_text()
        assert (executed / "book/run_statistics.json").read_bytes() == statistics
        assert "up to date" in attribook("run", "square").output

    def test_runs_a_notebook_that_is_named_twice_once(self, project, attribook):
        result = attribook("run", "square", "toy/01-square")
        assert result.exit_code == 0 and "[1/1]" in result.output

    def test_lets_the_others_run_when_one_fails_and_exits_1(self, project, attribook):
        text = (project / SOURCE).read_text()
        bad = text.replace("number = {", "number = {}[model] if seed == 0 else {")
        (project / "notebooks/toy/00-broken.md").write_text(bad)
        result = attribook("run", "--all")
        assert result.exit_code == 1 and "[1/2] toy/00-broken: failed" in result.output
        assert "FAILED toy/00-broken: cell [" in result.stderr and "KeyError" in result.stderr
        assert (project / REFERENCE).exists()
        assert not (project / "notebooks/toy/00-broken.ipynb").exists()

    def test_repairs_a_damaged_reference(self, executed, attribook):
        before = (executed / REFERENCE).read_bytes()
        (executed / REFERENCE).write_text("<<<<<<< ours")
        result = attribook("run", "square")
        assert result.exit_code == 0 and f"{REFERENCE} is damaged" in result.output
        assert (executed / REFERENCE).read_bytes() == before

    def test_says_what_it_would_run_and_changes_nothing(self, executed, attribook):
        before = (executed / REFERENCE).read_bytes()
        change(executed / SOURCE, *PROSE)
        result = attribook("run", "--all", "--force", "--dry-run")
        assert result.exit_code == 0 and re.search(r"1 run, about \d+ s", result.output)
        assert "nothing to run" in attribook("run", "--all", "--dry-run").output
        assert (executed / REFERENCE).read_bytes() == before

    def test_leaves_drafts_out_and_says_why(self, executed, attribook):
        (executed / "notebooks/toy/02-draft.md").write_text("# A thought\n")
        result = attribook("run", "--all")
        assert result.exit_code == 0 and "up to date" in result.output
        assert "left out: toy/02-draft is a draft: it wants a cell" in result.stderr
        result = attribook("run", "draft")
        assert result.exit_code == 2 and "toy/02-draft is a draft" in result.output


class TestVerify:
    """`attribook verify` with notebooks; rows are tested in test_verify.py."""

    def test_agrees_with_a_good_reference_and_names_what_drifted(self, executed, attribook):
        before = (executed / REFERENCE).read_bytes()
        result = attribook("verify")
        assert result.exit_code == 0 and "1 notebook agrees with its reference" in result.output
        assert (executed / REFERENCE).read_bytes() == before
        put_wrong_digit(executed / REFERENCE)
        result = attribook("verify", "square")
        assert result.exit_code == 1
        assert "drift: toy/01-square: code cell " in result.stderr and DRIFT in result.stderr
        assert "1 of 1 notebooks differ from their references: toy/01-square" in result.stderr

    def test_says_under_which_processor_each_line_was_found(self, executed, attribook):
        result = attribook("verify", "--processor", "default", "--processor", "threads2")
        assert result.exit_code == 0
        for name in ("default", "threads2"):
            assert f"{name} [1/1] toy/01-square: " in result.output
            assert f"1 notebook agrees with its reference under {name}" in result.output
        put_wrong_digit(executed / REFERENCE)
        result = attribook("verify", "--processor", "default")
        assert result.exit_code == 1 and "drift under default: toy/01-square" in result.stderr

    def test_starts_kernels_as_on_the_processor(self, executed, attribook):
        code = "import os\nprint(os.environ['OMP_NUM_THREADS'])"
        with (executed / SOURCE).open("a") as source:
            source.write(f"\n```{{code-cell}} ipython3\n{code}\n```\n")
        assert attribook("run", "square", "--processor", "native").exit_code == 0
        assert attribook("verify", "square", "--processor", "threads1").exit_code == 0
        result = attribook("verify", "square", "--processor", "threads2")
        assert result.exit_code == 1 and "-1" in result.stderr and "+2" in result.stderr

    def test_names_references_that_cannot_be_compared_with_the_way_out(self, executed, attribook):
        reference = executed / REFERENCE
        text = reference.read_text()
        for damaged, message in (
            (text[:100], "is damaged"),
            (text.replace('"code": "', '"code": "x'), "is older than its source; run `attribook"),
        ):
            reference.write_text(damaged)
            result = attribook("verify", "square")
            assert result.exit_code == 1 and message in result.stderr
        reference.unlink()
        assert "is missing; run `attribook run toy/01-square`" in attribook("verify").stderr

    def test_exits_1_when_a_notebook_fails(self, executed, attribook):
        with otherwise(executed, attribook, "import os\nassert 'OTHERWISE' not in os.environ"):
            result = attribook("verify")
        assert result.exit_code == 1 and "FAILED toy/01-square: cell [" in result.stderr


class TestLedger:
    """`attribook ledger`; what it finds wrong is tested with `attribook.report.audit`."""

    def rows(self, root):
        claims = json.loads((root / "book/ledger.json").read_text())["claims"]
        return [run["run"] for run in claims[0]["runs"]]

    def test_check_names_a_number_that_was_edited(self, executed, attribook):
        assert attribook("ledger", "--check").exit_code == 0
        put_wrong_digit(executed / "book/ledger.json")
        result = attribook("ledger", "--check")
        assert result.exit_code == 1 and "toy.square" in result.stderr and "4.5" in result.stderr
        assert attribook("ledger").exit_code == 0
        assert attribook("ledger", "--check").exit_code == 0

    def test_check_lists_what_is_missing_and_fails_nothing(self, executed, attribook):
        result = attribook("ledger", "--check")
        assert result.exit_code == 0
        assert "note: missing: toy/01-square two 1 cpu default" in result.output

    def test_is_not_written_from_a_reference_of_other_code(self, executed, attribook):
        before = (executed / "book/ledger.json").read_bytes()
        change(executed / SOURCE, "start = time", "pass\nstart = time")
        result = attribook("ledger")
        assert result.exit_code == 1 and "the reference is older than its source" in result.stderr
        assert (executed / "book/ledger.json").read_bytes() == before

    def test_is_not_written_while_a_notebook_with_a_reference_cannot_run(self, executed, attribook):
        change(executed / SOURCE, "seed = 0\n", "")
        for command in (["ledger"], ["ledger", "--check"]):
            result = attribook(*command)
            assert result.exit_code == 1 and "toy/01-square: it wants a cell" in result.stderr

    def test_rows_of_sweeps_stay_while_their_code_does_and_are_named_when_they_go(
        self, executed, attribook
    ):
        assert attribook("run", "square", "-p", "seed", "1", "-p", "device", "cpu").exit_code == 0
        assert attribook("ledger").exit_code == 0
        keys = [f"toy/01-square two {seed} cpu default" for seed in (0, 1)]
        assert self.rows(executed) == keys
        shutil.rmtree(executed / "runs")
        change(executed / SOURCE, *PROSE)
        assert attribook("run", "square").exit_code == 0
        assert attribook("ledger").exit_code == 0 and self.rows(executed) == keys
        change(executed / SOURCE, "start = time", "pass\nstart = time")
        assert attribook("run", "square").exit_code == 0
        assert f"{keys[1]} (the notebook's code changed)" in attribook("ledger", "--check").stderr
        result = attribook("ledger")
        assert f"dropped: {keys[1]}: the notebook's code changed" in result.stderr
        assert self.rows(executed) == keys[:1]

    @pytest.mark.parametrize("text", ["key: toy\n", "[1, 2]", "key: [", ""])
    def test_an_inventory_that_is_none_is_one_sentence_and_exit_2(self, executed, attribook, text):
        (executed / "book/claims/toy.yml").write_text(text)
        result = attribook("ledger")
        assert result.exit_code == 2 and "toy.yml" in result.output

    def test_a_full_disk_leaves_the_old_one_and_says_so(self, executed, attribook, monkeypatch):
        before = (executed / "book/ledger.json").read_bytes()

        def refuse(source, target):
            raise OSError(errno.ENOSPC, "No space left on device", str(target))

        monkeypatch.setattr(os, "replace", refuse)
        result = attribook("ledger")
        assert result.exit_code == 1 and "ledger.json: No space left on device" in result.output
        assert (executed / "book/ledger.json").read_bytes() == before
        assert not list(executed.rglob("*.part"))

    def test_names_versions_and_no_machine(self, executed):
        environment = json.loads((executed / "book/ledger.json").read_text())["environment"]
        assert {"python", "torch", "numpy", "device"} <= environment.keys()
        assert str(executed) not in (executed / "book/ledger.json").read_text()


def test_a_book_that_does_not_build_exits_1(project, attribook):
    (project / "_toc.yml").write_text("format: jb-book\nroot: nowhere\n")
    result = attribook("build")
    assert result.exit_code == 1 and "jupyter-book ended with exit code" in result.output


def test_info_lists_versions_notebooks_and_drafts(project, attribook):
    (project / "notebooks/toy/02-draft.md").write_text("# A thought\n")
    result = attribook("info")
    assert result.exit_code == 0
    for text in (
        "torch",
        "devices",
        "toy/01-square  (reference out of date: there is no such run yet)",
        "two, three",
        "toy/02-draft  (draft: it wants a cell tagged `parameters`",
    ):
        assert text in result.output


def test_info_survives_a_damaged_reference(executed, attribook):
    (executed / REFERENCE).write_text("")
    result = attribook("info")
    assert result.exit_code == 0 and "01-square.ipynb is damaged" in result.output


@pytest.fixture
def one_source(monkeypatch, tmp_path):
    """A project that reads one small file, which is not there but can be fetched."""

    def fetched(scratch):
        (scratch / "new").mkdir()
        (scratch / "new/a.bin").write_bytes(b"content")
        return scratch / "new"

    source = sources.Source(
        "parcel", ("a.bin",), sha256(b"content").hexdigest(), list, ("order parcel",), (fetched,)
    )
    monkeypatch.setattr(sources, "SOURCES", {"gone": source})
    monkeypatch.setenv("ATTRIBOOK_CACHE", str(tmp_path / "cache"))
    return source


def test_data_says_what_is_there_and_how_to_get_the_rest(attribook, one_source):
    result = attribook("data")
    assert result.exit_code == 1
    assert "order parcel" in result.output and "missing: gone" in result.output


def test_data_fetch_gets_what_is_missing_once(attribook, one_source):
    result = attribook("data", "--fetch")
    assert result.exit_code == 0 and "fetching gone" in result.output
    assert attribook("data").exit_code == 0
    again = attribook("data", "--fetch")
    assert again.exit_code == 0 and "fetching" not in again.output


def test_data_fetch_says_why_it_could_not(attribook, one_source, monkeypatch):
    monkeypatch.setattr(sources, "SOURCES", {"gone": replace(one_source, fetchers=())})
    result = attribook("data", "--fetch")
    assert result.exit_code == 1
    assert "gone was not fetched" in result.output and "order parcel" in result.output


class TestNbval:
    """What `pytest --nbval notebooks` accepts and refuses."""

    def compare(self, root):
        shutil.copy(ROOT / "notebooks/conftest.py", root / "notebooks")
        command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-q"]
        options = ["-p", "no:cacheprovider", "--color=no", "-c", os.devnull, "--rootdir", str(root)]
        done = subprocess.run(
            [*command, *options, str(root / "notebooks")], capture_output=True, text=True, cwd=root
        )
        return done.returncode, done.stdout

    def test_a_good_reference_passes(self, executed):
        assert self.compare(executed)[0] == 0

    def test_a_number_within_the_tolerance_passes(self, executed):
        put_wrong_digit(executed / REFERENCE, new='"measured": 4.001')
        assert self.compare(executed)[0] == 0

    def test_a_wrong_digit_fails_and_is_named(self, executed):
        put_wrong_digit(executed / REFERENCE)
        code, output = self.compare(executed)
        assert code == 1 and f"drift: {DRIFT}" in output

    def test_a_changed_outcome_fails_and_is_named(self, executed):
        put_wrong_digit(executed / REFERENCE, '"outcome": "reproduced"', '"outcome": "refuted"')
        code, output = self.compare(executed)
        assert code == 1 and "toy.square: outcome was 'refuted', is 'reproduced'" in output

    def test_a_changed_printed_line_fails(self, executed):
        put_wrong_digit(executed / REFERENCE, '"1\\n"', '"7\\n"')
        assert self.compare(executed)[0] == 1

    def test_a_changed_caption_fails(self, executed):
        put_wrong_digit(executed / REFERENCE, "Squares, model two.", "Squares, model three.")
        assert self.compare(executed)[0] == 1

    def test_a_reference_cell_that_was_never_run_fails(self, executed):
        put_wrong_digit(executed / REFERENCE, '"execution_count": 1,', '"execution_count": null,')
        code, output = self.compare(executed)
        assert code == 1 and "was never run" in output

    def test_another_processor_can_be_asked_for(self, executed, monkeypatch):
        monkeypatch.setenv(processors.ASKED, "default")
        assert self.compare(executed)[0] == 0
