import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from attribook.report import sweep as sweeping
from attribook.report.kernels import alive

ROOT = Path(__file__).parents[2]
SOURCE = "notebooks/toy/01-square.md"
FOLDER = "runs/toy/01-square"
needs_snakemake = pytest.mark.skipif(find_spec("snakemake") is None, reason="no snakemake")
WAYS = ["in sequence", pytest.param("by snakemake", marks=needs_snakemake)]


@pytest.fixture(params=WAYS)
def way(request, executed, monkeypatch):
    """The small project, swept with Snakemake or without."""
    shutil.copy(ROOT / "Snakefile", executed)
    if request.param == "in sequence":
        monkeypatch.setattr("attribook.report.sweep.find_spec", lambda name: None)
    return executed


@pytest.fixture
def with_snakemake(executed):
    """The small project with the Snakefile."""
    shutil.copy(ROOT / "Snakefile", executed)
    return executed


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def made(root):
    return sorted(path.stem for path in (root / FOLDER).glob("*.ipynb"))


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "attribook.report.cli", "sweep", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


class TestPlan:
    """Which runs a sweep makes."""

    def test_missing_and_stale_rows_and_not_what_is_made_already(self, executed, attribook):
        result = attribook("sweep", "--dry-run")
        assert result.exit_code == 0
        assert "would run toy/01-square, seed 1 (missing)" in result.output
        assert "1 run, about" in result.output
        assert attribook("run", "square", "-p", "seed", "1", "-p", "device", "cpu").exit_code == 0
        assert "nothing to run" in attribook("sweep", "--dry-run").output
        assert attribook("ledger").exit_code == 0
        assert "nothing to run" in attribook("sweep", "--dry-run").output
        change(executed / SOURCE, "start = time", "pass\nstart = time")
        result = attribook("sweep", "--dry-run")
        assert "would run toy/01-square, seed 1 (the notebook's code changed)" in result.output
        assert "would run toy/01-square (the notebook's code changed)" in result.output

    def test_older_rows_when_they_are_asked_for(self, executed, attribook, monkeypatch):
        assert attribook("run", "square", "-p", "seed", "1", "-p", "device", "cpu").exit_code == 0
        assert attribook("ledger").exit_code == 0
        shutil.rmtree(executed / "runs")
        monkeypatch.setattr(
            "attribook.report.provenance.library_of", lambda code: {"claims": "00000000"}
        )
        for options in ([], ["--stale"], ["--missing"]):
            assert "nothing to run" in attribook("sweep", "--dry-run", *options).output
        result = attribook("sweep", "--older", "--dry-run")
        assert "would run toy/01-square, seed 1 (changed: claims" in result.output

    def test_a_grid_when_parameters_are_given(self, executed, attribook):
        options = "--models", "two,three", "--seeds", "0,1", "--device", "cpu", "--dry-run"
        result = attribook("sweep", "square", *options)
        assert result.exit_code == 0 and "3 runs, about" in result.output
        assert "would run toy/01-square, model three, seed 1 (there is no" in result.output

    def test_a_model_that_only_some_notebooks_have_leaves_the_others_out(self, executed, attribook):
        text = (executed / SOURCE).read_text().replace("[two, three]", "[two]")
        (executed / "notebooks/toy/02-narrow.md").write_text(text)
        options = "--models", "three", "--seeds", "0", "--device", "cpu", "--dry-run"
        result = attribook("sweep", *options)
        assert "1 run, about" in result.output and "02-narrow" not in result.output
        result = attribook("sweep", "narrow", *options)
        assert result.exit_code == 2 and "has no model 'three'" in result.output

    def test_a_damaged_run_counts_as_missing(self, executed, attribook):
        options = "--models", "two", "--seeds", "1", "--device", "cpu"
        assert attribook("run", "square", "-p", "seed", "1", "-p", "device", "cpu").exit_code == 0
        path = executed / FOLDER / "two-seed1-cpu-default.ipynb"
        for text in ("", "<<<<<<< ours", path.read_text()[:500]):
            path.write_text(text)
            assert "1 run, about" in attribook("sweep", *options, "--dry-run").output
            assert "1 run, about" in attribook("sweep", "--dry-run").output


class TestMaking:
    """Sweeps with and without Snakemake."""

    def test_what_is_missing_is_made_once_with_a_log(self, way, attribook):
        result = attribook("sweep")
        assert result.exit_code == 0, result.output
        assert "[1/1] toy/01-square, seed 1: " in result.output
        assert made(way) == ["two-seed1-cpu-default"]
        for ending in (".json", ".log"):
            assert (way / FOLDER / f"two-seed1-cpu-default{ending}").read_text()
        result = attribook("sweep")
        assert result.exit_code == 0 and "nothing to run" in result.output

    def test_a_changed_library_is_no_reason_for_times_and_a_reason_for_rows(
        self, way, attribook, monkeypatch
    ):
        options = "sweep", "--seeds", "1", "--models", "two", "--device", "cpu"
        assert attribook(*options).exit_code == 0
        for path in way.rglob("*.md"):
            os.utime(path)
        assert "nothing to run" in attribook(*options).output
        path = way / FOLDER / "two-seed1-cpu-default.ipynb"
        library = path.read_text().partition('"library": {')[2].partition(": ")[2][1:9]
        before = path.read_text()
        path.write_text(before.replace(library, "00000000"))
        result = attribook(*options)
        assert "[1/1] toy/01-square, seed 1: " in result.output, result.output
        assert path.read_text() == before

    def test_one_failure_stops_no_other_run_and_is_kept_under_its_own_name(self, way, attribook):
        change(way / SOURCE, "number = {", "assert seed != 1, 'odd'\nnumber = {")
        assert attribook("run", "square").exit_code == 0
        options = "--seeds", "1,2", "--models", "two,three", "--device", "cpu"
        result = attribook("sweep", *options, "-j", "2")
        assert result.exit_code == 1
        assert made(way) == ["three-seed2-cpu-default", "two-seed2-cpu-default"]
        assert result.stderr.count("FAILED ") == 2 and "odd" in result.stderr
        failed = sorted(path.stem for path in (way / "runs/failed/toy/01-square").iterdir())
        assert failed == ["three-seed1-cpu-default", "two-seed1-cpu-default"]
        log = (way / FOLDER / "two-seed1-cpu-default.log").read_text()
        assert "AssertionError: odd" in log

    def test_a_stale_reference_is_renewed_as_well(self, way, attribook):
        change(way / SOURCE, "start = time", "pass\nstart = time")
        result = attribook("sweep", "--stale")
        assert result.exit_code == 0 and "[1/1] toy/01-square: " in result.output, result.output
        assert "pass\\n" in (way / "notebooks/toy/01-square.ipynb").read_text()


@needs_snakemake
class TestSnakemake:
    """What Snakemake's locks, clusters and own command line need."""

    def waiting(self, root, attribook):
        """A sweep whose kernel waits while a file is there: its process, the file, the kernel's id."""
        pause, pid = root / "pause", root / "kernel.pid"
        code = f"import os\nif seed and not os.path.exists({str(pid)!r}):\n"
        code += f"    _ = open({str(pid)!r}, 'w').write(str(os.getpid()))\n"
        code += f"while seed and os.path.exists({str(pause)!r}):\n    time.sleep(0.1)"
        with (root / SOURCE).open("a") as source:
            source.write(f"\n```{{code-cell}} ipython3\n{code}\n```\n")
        assert attribook("run", "square").exit_code == 0
        pause.touch()
        process = start()
        wait_for(lambda: pid.exists() and pid.read_text())
        return process, pause, int(pid.read_text())

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_after_a_kill_in_mid_sweep_kernels_end_and_the_next_call_completes(
        self, with_snakemake, attribook, number
    ):
        root = with_snakemake
        process, pause, kernel = self.waiting(root, attribook)
        process.send_signal(number)
        process.communicate(timeout=60)
        wait_for(lambda: not alive(kernel))
        wait_for(lambda: sweeping._at_work(root) is None)
        pause.unlink()
        result = attribook("sweep")
        assert result.exit_code == 0, result.output
        assert made(root) == ["two-seed1-cpu-default"]
        assert not list(root.rglob("*.part*"))

    def test_a_dead_lock_is_removed_and_a_living_sweep_is_respected(
        self, with_snakemake, attribook
    ):
        root = with_snakemake
        process, pause, _ = self.waiting(root, attribook)
        result = attribook("sweep")
        assert result.exit_code == 2 and "another sweep of" in result.output
        pause.unlink()
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        locks = root / ".snakemake/locks"
        locks.mkdir(exist_ok=True)
        (locks / "0.output.lock").write_text(f"{FOLDER}/two-seed2-cpu-default.ipynb\n")
        result = attribook("sweep", "--seeds", "2", "--models", "two", "--device", "cpu")
        assert result.exit_code == 0, result.output

    def test_the_snakefile_can_be_used_by_itself_and_minds_digests_not_times(self, with_snakemake):
        root = with_snakemake
        command = [sys.executable, "-m", "snakemake", "--cores", "1"]
        target = f"{FOLDER}/two-seed1-cpu-default.ipynb"
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

        def call():
            done = subprocess.run([*command, target], cwd=root, capture_output=True, text=True,
                                  env={**os.environ, "PATH": tools})  # fmt: skip
            assert done.returncode == 0, done.stderr
            return done.stderr

        assert "1 of 1 steps (100%) done" in call()
        os.utime(root / SOURCE)
        assert "Nothing to be done" in call()
        change(root / SOURCE, "The line of squares.", "The curve of squares.")
        assert "Nothing to be done" in call()
        change(root / SOURCE, "start = time", "pass\nstart = time")
        assert "1 of 1 steps (100%) done" in call()

    @pytest.mark.parametrize("executor", ["slurm", "kubernetes"])
    def test_a_cluster_can_be_asked_to_make_the_runs(self, with_snakemake, executor):
        plugins = [f"snakemake_executor_plugin_{executor}", "snakemake_storage_plugin_fs"]
        if missing := [name for name in plugins if find_spec(name) is None]:
            pytest.skip(f"{missing[0]} is not installed (extra `cluster`)")
        command = [sys.executable, "-m", "snakemake", "--executor", executor, "--jobs", "2", "-n"]
        command += ["--default-storage-provider", "fs"]
        command += ["--default-storage-prefix", str(with_snakemake)]
        target = f"{FOLDER}/two-seed1-cpu-default.ipynb"
        done = subprocess.run(
            [*command, target], cwd=with_snakemake, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "This was a dry-run" in done.stdout + done.stderr

    @pytest.mark.parametrize("executor", ["slurm", "kubernetes"])
    def test_what_is_passed_to_a_cluster(self, with_snakemake, monkeypatch, executor):
        calls, popen = [], subprocess.Popen

        def noted(command, **options):
            calls.append((command, options))
            return popen([sys.executable, "-c", ""])

        monkeypatch.setattr(sweeping.subprocess, "Popen", noted)
        wanted = sweeping.of_grid(with_snakemake, [], ["two"], ["1"], {"device": "cpu"})
        sweeping._start(with_snakemake, [entry.run for entry in wanted], 7, executor).wait()
        ((command, options),) = calls
        given = " ".join(command)
        assert f"--executor {executor} --jobs 7 --retries 1" in given
        assert {"--keep-going", "--rerun-incomplete", "--force"} <= set(command)
        assert command[-1] == f"{FOLDER}/two-seed1-cpu-default.ipynb"
        assert sweeping.FOLLOWED not in options["env"]


def test_a_cluster_without_its_plugin_is_refused_with_the_way_out(executed, attribook, monkeypatch):
    monkeypatch.setattr("attribook.report.sweep.find_spec", lambda name: None)
    result = attribook("sweep", "--executor", "slurm")
    assert result.exit_code == 2 and "pip install 'attribook[sweep,cluster]'" in result.output
