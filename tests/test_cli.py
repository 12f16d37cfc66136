import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from attribook import sources
from attribook.cli import main

REFERENCE = "notebooks/toy/01-square.ipynb"
DRIFT = "drift: toy.square: 'square' was 4.5, is 4.0"


def put_wrong_digit(path, old='"measured": 4.0', new='"measured": 4.5'):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("command", [[], *([name] for name in main.commands)])
def test_every_command_has_help_with_an_example(attribook, command):
    result = attribook(*command, "--help")
    assert result.exit_code == 0
    assert not command or f"attribook {command[0]}" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "cube"], "there is no notebook 'cube'; choose from: toy/01-square"),
        (["run"], "name a notebook or pass --all; there are: toy/01-square"),
        (["run", "square", "--all"], "leave out their names"),
        (["run", "square", "-p", "model", "four"], "lists: two, three"),
        (["run", "square", "-p", "seed", "x"], "seed must be an integer"),
        (["run", "square", "-p", "sead", "1"], "there are: model, seed, device, scale"),
        (["run", "square", "-j", "0"], "0 is not in the range"),
        (["sweep", "--models", "four"], "lists: two, three"),
        (["sweep", "--seeds", "1,b"], "seed must be an integer"),
        (["verify", "cube"], "choose from: toy/01-square"),
        (["rum"], "No such command 'rum'"),
    ],
)
def test_bad_input_exits_2_and_says_what_exists(project, attribook, arguments, message):
    result = attribook(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


@pytest.mark.parametrize("command", ["run", "verify", "ledger", "build", "info"])
def test_outside_a_project_the_way_out_is_said(tmp_path, monkeypatch, attribook, command):
    monkeypatch.chdir(tmp_path)
    result = attribook(command)
    assert result.exit_code == 2 and "_toc.yml" in result.output


def test_run_skips_what_is_up_to_date_unless_forced_or_older_than_a_file(executed, attribook):
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
    assert f"{REFERENCE}: " in result.output and "toy/01-square" in result.stderr
    assert (executed / REFERENCE).stat().st_mtime_ns > before


def test_a_failing_notebook_exits_1_and_the_others_still_run(project, attribook):
    source = (project / "notebooks/toy/01-square.md").read_text()
    bad = source.replace("number = {", "number = {}[model] if seed == 0 else {")
    (project / "notebooks/toy/00-broken.md").write_text(bad)
    result = attribook("run", "--all")
    assert result.exit_code == 1
    assert "FAILED toy/00-broken: cell [" in result.stderr and "KeyError" in result.stderr
    assert (project / REFERENCE).exists()
    assert not (project / "notebooks/toy/00-broken.ipynb").exists()


def test_verify_agrees_with_a_good_reference_and_names_a_drifted_claim(executed, attribook):
    before = (executed / REFERENCE).read_bytes()
    result = attribook("verify")
    assert result.exit_code == 0 and "1 notebooks agree" in result.output
    assert (executed / REFERENCE).read_bytes() == before
    put_wrong_digit(executed / REFERENCE)
    result = attribook("verify", "square")
    assert result.exit_code == 1 and DRIFT in result.stderr


def test_ledger_check_names_a_drifted_claim_with_old_and_new(executed, attribook):
    assert attribook("ledger", "--check").exit_code == 0
    put_wrong_digit(executed / "book/ledger.json")
    result = attribook("ledger", "--check")
    assert result.exit_code == 1 and DRIFT in result.stderr
    assert attribook("ledger").exit_code == 0
    assert attribook("ledger", "--check").exit_code == 0


def test_ledger_check_names_a_changed_verdict(executed, attribook):
    put_wrong_digit(executed / "book/ledger.json", '"reproduced"', '"refuted"')
    result = attribook("ledger", "--check")
    assert result.exit_code == 1
    assert "drift: toy.square: verdict was 'refuted', is 'reproduced'" in result.stderr


def test_ledger_check_wants_every_claim_listed_for_a_notebook(executed, attribook):
    inventory = executed / "book/claims/toy.yml"
    text = inventory.read_text().replace("[toy.square, toy.timing]", "[toy.square, toy.cube]")
    inventory.write_text(text)
    result = attribook("ledger", "--check")
    assert result.exit_code == 1
    assert "toy.cube: listed for toy/01-square, which does not record it" in result.stderr


def test_ledger_check_notices_a_source_newer_than_its_reference(executed, attribook):
    source = executed / "notebooks/toy/01-square.md"
    source.write_text(source.read_text() + "\nOne more remark.\n")
    result = attribook("ledger", "--check")
    assert result.exit_code == 1 and "the reference is older than its source" in result.stderr
    assert "verdict was 'reproduced', is 'not run'" in result.stderr


def test_ledger_refuses_a_claim_the_inventory_does_not_know(executed, attribook):
    inventory = executed / "book/claims/toy.yml"
    inventory.write_text(inventory.read_text().replace("id: toy.square", "id: toy.cube"))
    result = attribook("ledger")
    assert result.exit_code == 1 and "unknown claim 'toy.square'" in result.output


def test_sweep_rows_stay_in_the_ledger_until_their_source_changes(executed, attribook):
    def rows():
        claims = json.loads((executed / "book/ledger.json").read_text())["claims"]
        return {(run["model"], run["seed"]) for run in claims[0]["runs"]}

    assert attribook("run", "square", "-p", "seed", "1", "-p", "device", "cpu").exit_code == 0
    assert attribook("ledger", "--check").exit_code == 0  # runs/ is this machine's alone
    assert attribook("ledger").exit_code == 0
    assert rows() == {("two", 0), ("two", 1)}
    shutil.rmtree(executed / "runs")
    assert attribook("ledger").exit_code == 0
    assert rows() == {("two", 0), ("two", 1)}
    assert attribook("ledger", "--check").exit_code == 0
    source = executed / "notebooks/toy/01-square.md"
    source.write_text(source.read_text() + "\nOne more remark.\n")
    assert attribook("run", "square").exit_code == 0
    assert "the run two 1 cpu default is out of date" in attribook("ledger", "--check").stderr
    assert attribook("ledger").exit_code == 0
    assert rows() == {("two", 0)}


def test_the_ledger_names_versions_and_no_machine(executed):
    environment = json.loads((executed / "book/ledger.json").read_text())["environment"]
    assert environment.keys() == {"python", "torch", "numpy", "device"}
    assert str(executed) not in (executed / "book/ledger.json").read_text()


def test_sweep_without_snakemake_runs_in_sequence_and_resumes(executed, attribook, monkeypatch):
    monkeypatch.setattr("attribook.cli.find_spec", lambda name: None)
    command = ("sweep", "square", "--models", "two", "--seeds", "0,1", "--device", "cpu")
    result = attribook(*command)
    assert result.exit_code == 0 and "1 runs in runs/" in result.output
    assert (executed / "runs/toy/01-square/two-seed1-cpu-default.ipynb").exists()
    assert "up to date" in attribook(*command).output


def test_sweep_with_snakemake_makes_the_missing_runs_only(executed):
    shutil.copy(Path(__file__).parents[1] / "Snakefile", executed)
    command = [sys.executable, "-m", "attribook.cli", "sweep", "--models", "two", "--device", "cpu"]
    for expected in ("1 of 1 steps (100%) done", "Nothing to be done"):
        done = subprocess.run(command, capture_output=True, text=True, cwd=executed)
        assert done.returncode == 0 and expected in done.stderr, done.stderr


def test_a_book_that_does_not_build_exits_1(project, attribook):
    (project / "_toc.yml").write_text("format: jb-book\nroot: nowhere\n")
    result = attribook("build")
    assert result.exit_code == 1 and "jupyter-book ended with exit code" in result.output


def test_info_lists_versions_and_notebooks(project, attribook):
    result = attribook("info")
    assert result.exit_code == 0
    for text in ("torch", "devices", "toy/01-square  (reference out of date)", "two, three"):
        assert text in result.output


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
        conftest = Path(__file__).parents[1] / "notebooks/conftest.py"
        shutil.copy(conftest, root / "notebooks")
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
        assert code == 1 and DRIFT in output

    def test_a_changed_verdict_fails_and_is_named(self, executed):
        put_wrong_digit(executed / REFERENCE, '"verdict": "reproduced"', '"verdict": "refuted"')
        code, output = self.compare(executed)
        assert code == 1 and "toy.square: verdict was 'refuted', is 'reproduced'" in output

    def test_a_changed_printed_line_fails(self, executed):
        put_wrong_digit(executed / REFERENCE, '"1\\n"', '"7\\n"')
        assert self.compare(executed)[0] == 1

    def test_a_reference_cell_that_was_never_run_fails(self, executed):
        put_wrong_digit(executed / REFERENCE, '"execution_count": 1,', '"execution_count": null,')
        code, output = self.compare(executed)
        assert code == 1 and "was never run" in output
