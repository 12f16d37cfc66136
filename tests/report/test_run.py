import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from attribook.report import execute as executing
from attribook.report import notebooks as finding
from attribook.report import provenance
from attribook.report import run as running
from attribook.report.claims import TIMING_MIME, records_in
from attribook.report.kernels import alive
from attribook.report.normalise import normalise
from attribook.report.progress import Progress, duration
from attribook.report.run import Done, FailedRun

SLUG = "toy/01-square"
SOURCE = "notebooks/toy/01-square.md"
REFERENCE = "notebooks/toy/01-square.ipynb"
STATISTICS = "book/run_statistics.json"


def load(path):
    return nbformat.read(path, as_version=4)


def planned(root, **given):
    notebook = finding.notebooks_of(root)[SLUG]
    return running.planned(notebook, finding.parameters_of(notebook, given))


def renew(root, **given):
    """Run the notebook and store its statistics, as the command line does."""
    run = planned(root, **given)
    done = executing.execute(run)
    running.save_statistics(run, done)
    return done


def add_cell(root, code):
    """Append a code cell to the notebook's source."""
    source = root / SOURCE
    source.write_text(source.read_text() + f"\n```{{code-cell}} ipython3\n{code}\n```\n")


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def add_notebook(root, name="02-again", old="", new=""):
    """A second notebook, a copy of the first."""
    text = (root / SOURCE).read_text()
    (root / f"notebooks/toy/{name}.md").write_text(text.replace(old, new) if old else text)


def start(*arguments):
    """The command line in a process of its own, with its own group as under a shell."""
    return subprocess.Popen(
        [sys.executable, "-m", "attribook.report.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's & ignores it
    )


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def leftovers(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.part*"))


def kernels_of(root):
    """Two notebooks whose kernels tell their process and wait; the functions that name them."""
    add_cell(root, "import os")
    add_cell(root, "open('first.pid', 'w').write(str(os.getpid()))\ntime.sleep(600)")
    for name in ("02-again", "03-more"):
        add_notebook(root, name, "first.pid", f"{name}.pid")
    return [root / f"notebooks/toy/{name}.pid" for name in ("first", "02-again", "03-more")]


def written(path):
    return path.exists() and path.read_text()


def test_two_runs_give_the_same_bytes(executed):
    first = (executed / REFERENCE).read_bytes()
    assert b"image/png" in first
    (executed / REFERENCE).unlink()
    renew(executed)
    assert (executed / REFERENCE).read_bytes() == first


def test_a_reader_sees_one_parameter_cell_with_the_values_used(executed):
    cells = load(executed / REFERENCE).cells
    hidden = [cell for cell in cells if "remove-cell" in cell.metadata.get("tags", [])]
    shown = [cell for cell in cells if "injected-parameters" in cell.metadata.get("tags", [])]
    assert [cell.metadata.tags for cell in hidden] == [["parameters", "remove-cell"]]
    (shown,) = shown
    assert 'device = "cpu"' in shown.source and 'model = "two"' in shown.source


def test_a_figure_carries_its_caption_and_alternative_text_in_the_cell(executed):
    (figure,) = [cell for cell in load(executed / REFERENCE).cells if "mystnb" in cell.metadata]
    assert figure.metadata.mystnb == {
        "figure": {"caption": "Squares, model two.", "name": "fig-toy-01-square-1"},
        "image": {"alt": "A rising curve."},
    }
    assert figure.outputs[0].metadata == {}


def test_what_varies_leaves_the_notebook_and_becomes_statistics(executed):
    notebook = load(executed / REFERENCE)
    text = (executed / REFERENCE).read_text()
    assert (
        TIMING_MIME not in text
        and "papermill" not in text
        and "progress" not in str([cell.get("outputs") for cell in notebook.cells])
    )
    printed = [out for cell in notebook.cells for out in cell.get("outputs", []) if "text" in out]
    assert [out.text for out in printed] == ["0\n1\n2\n"]
    statistics = json.loads((executed / STATISTICS).read_text())[SLUG]
    assert statistics["timings"]["toy.timing"]["seconds"] > 0
    assert statistics["wall_seconds"] > 0 and statistics["peak_memory_mb"] > 50
    assert statistics["python"] == ".".join(map(str, sys.version_info[:3]))


def test_a_run_tells_what_made_it(executed):
    made, run = load(executed / REFERENCE).metadata.attribook, planned(executed)
    assert made.keys() == {
        "parameters", "models", "seeds", "source", "code", "library", "reads", "versions", "outputs"
    }  # fmt: skip
    assert (made.source, made.code) == (run.notebook.digest, run.notebook.code)
    assert {"report.claims", "report.verdicts"} <= made.library.keys() and made.reads == {}
    assert made.versions.keys() == {"python", "torch", "numpy", "scipy"}
    assert "+" not in made.versions.torch


def test_files_that_the_library_says_it_read_are_part_of_what_made_a_run(project):
    add_cell(project, "sys.audit('attribook.read', 'cnn-tanh-seed0', 'ab' * 32)")
    renew(project)
    made = load(project / REFERENCE).metadata.attribook
    assert made.reads == {"cnn-tanh-seed0": "ab" * 6}


def test_forward_passes_of_a_network_are_counted_by_outermost_calls(project):
    add_cell(project, "import torch\nnet = torch.nn.Sequential(torch.nn.Linear(2, 1))")
    add_cell(project, "_ = net(torch.ones(5, 2)), net(torch.ones(3, 2))")
    replace(project / SOURCE, "import sys\n", "import sys\nimport torch\n")
    statistics = executing.execute(planned(project)).statistics
    assert (statistics["forward_passes"], statistics["forward_rows"]) == (2, 8)


def test_other_parameters_are_written_to_runs_and_leave_the_reference_alone(executed):
    before = (executed / REFERENCE).read_bytes()
    run = planned(executed, model="three", seed="1", device="cpu")
    assert run.output == executed / "runs/toy/01-square/three-seed1-cpu-default.ipynb"
    renew(executed, model="three", seed="1", device="cpu")
    (record, _) = records_in(load(run.output))
    assert record["checks"][0]["measured"] == 16.0 and record["outcome"] == "not reproduced"
    assert run.output.with_suffix(".json").exists()
    assert (executed / REFERENCE).read_bytes() == before


class TestUpToDate:
    """Which results count as they are, and which are made again."""

    def test_a_result_is_until_the_code_of_its_notebook_changes(self, executed):
        assert running.outdated(planned(executed)) == []
        add_cell(executed, "pass")
        assert running.outdated(planned(executed)) == ["the notebook's code changed"]

    def test_a_run_that_was_never_made_is_not(self, executed):
        run = planned(executed, seed="1", device="cpu")
        assert running.outdated(run) == ["there is no such run yet"]

    def test_prose_changes_nothing(self, executed):
        replace(executed / SOURCE, "The line of squares.", "The curve of squares.")
        assert running.outdated(planned(executed)) == []

    @pytest.mark.parametrize("joined", [True, False])
    def test_the_same_code_in_other_cells_ends_a_reference_and_no_sweeps_run(
        self, executed, joined
    ):
        renew(executed, seed="1", device="cpu")
        cells = ("[model]\n```\n\n```{code-cell} ipython3\nstart", "[model]\n\nstart")
        if not joined:
            replace(executed / SOURCE, *cells)
            renew(executed)
            cells = cells[::-1]
        replace(executed / SOURCE, *cells)
        assert running.outdated(planned(executed)) == [
            "the notebook's code is cut into other cells"
        ]
        assert running.outdated(planned(executed, seed="1", device="cpu")) == []
        renew(executed)
        assert running.outdated(planned(executed)) == []
        assert not running.weave(planned(executed))

    def test_a_changed_library_ends_a_sweeps_run_and_no_reference(self, executed, monkeypatch):
        renew(executed, seed="1", device="cpu")
        runs = planned(executed), planned(executed, seed="1", device="cpu")
        assert [running.outdated(run) for run in runs] == [[], []]
        monkeypatch.setattr(provenance, "library_of", lambda code: {"claims": "00000000"})
        reference, other = (planned(executed), planned(executed, seed="1", device="cpu"))
        assert running.outdated(reference) == []
        assert "changed: claims" in running.outdated(other)[0]

    def test_other_versions_end_a_sweeps_run(self, executed, monkeypatch):
        renew(executed, seed="1", device="cpu")
        monkeypatch.setattr(running, "versions", lambda: {"numpy": "9.9"})
        (reason,) = running.outdated(planned(executed, seed="1", device="cpu"))
        assert "now 9.9" in reason

    def test_changed_weights_end_a_reference(self, executed, monkeypatch):
        text = (executed / REFERENCE).read_text()
        (executed / REFERENCE).write_text(text.replace('"reads": {}', '"reads": {"cnn": "abc"}'))
        digests = {"cnn": "abcdef"}
        monkeypatch.setattr("attribook.report.provenance.digest_of", lambda name: digests[name])
        assert running.outdated(planned(executed)) == []
        digests["cnn"] = "fedcba"
        assert running.outdated(planned(executed)) == ["cnn changed"]


class TestAgreement:
    """A fresh run of a reference, beside the committed one."""

    def test_the_committed_file_and_its_statistics_stay_where_both_agree(self, executed):
        before = [(executed / path).read_bytes() for path in (REFERENCE, STATISTICS)]
        os.utime(executed / REFERENCE, ns=(0, 0))
        assert renew(executed).agrees
        assert [(executed / path).read_bytes() for path in (REFERENCE, STATISTICS)] == before
        assert (executed / REFERENCE).stat().st_mtime_ns > 0  # so that --since counts it as done

    def test_numbers_within_their_tolerance_agree(self, executed):
        replace(executed / SOURCE, "(number + seed) ** 2", "(number + seed) ** 2 + DIFFERENCE")
        replace(
            executed / SOURCE,
            "number = {",
            "import os; DIFFERENCE = float(os.environ['D'])\nnumber = {",
        )
        replace(executed / SOURCE, "tolerance=1e-9", "tolerance=0.1")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("D", "0")
            renew(executed)
            before = (executed / REFERENCE).read_bytes()
            patch.setenv("D", "0.0001")
            assert renew(executed).agrees and (executed / REFERENCE).read_bytes() == before
            patch.setenv("D", "0.05")
            done = renew(executed)
        assert not done.agrees and (executed / REFERENCE).read_bytes() != before
        assert any("'square' was 4.0, is 4.05" in line for line in done.drift), done.drift
        assert all(line.startswith(f"{SLUG}: ") for line in done.drift)

    def test_other_code_is_not_compared(self, executed):
        add_cell(executed, "print(7)")
        done = renew(executed)
        assert not done.agrees and done.drift == []
        assert "print(7)" in (executed / REFERENCE).read_text()

    def test_a_reference_that_was_edited_after_its_run_is_replaced(self, executed):
        before = (executed / REFERENCE).read_bytes()
        replace(executed / REFERENCE, "Squares, model two.", "Squares, model three.")
        assert not renew(executed).agrees
        assert (executed / REFERENCE).read_bytes() == before

    def test_an_edit_smaller_than_the_tolerance_does_not_stay_either(self, executed):
        before = (executed / REFERENCE).read_bytes()
        replace(executed / REFERENCE, '"measured": 4.0', '"measured": 4.0001')
        assert not renew(executed).agrees
        assert (executed / REFERENCE).read_bytes() == before

    def test_a_lost_row_of_statistics_comes_back(self, executed):
        (executed / STATISTICS).write_text("{}")
        assert renew(executed).agrees
        assert SLUG in json.loads((executed / STATISTICS).read_text())

    def test_the_statistics_of_other_notebooks_stay(self, executed):
        rows = json.loads((executed / STATISTICS).read_text())
        rows["toy/02-other"] = {"wall_seconds": 7.0}
        (executed / STATISTICS).write_text(json.dumps(rows))
        (executed / REFERENCE).unlink()
        renew(executed)
        assert running.read_statistics(executed)["toy/02-other"] == {"wall_seconds": 7.0}


class TestProse:
    """Changed prose, and other changes of a source that need no run."""

    CHANGES = (
        ("The line of squares.", "The *curve* of squares.\n\nIt rises."),
        ("# Does squaring work?", "# Does it?"),
        ("seeds: [0, 1]", "seeds: [0, 1, 2]"),
        ("ipython3\nfor step", "ipython3\n:tags: [hide-input]\n\nfor step"),
    )

    @pytest.mark.parametrize(("old", "new"), CHANGES)
    def test_is_woven_into_the_reference_as_a_run_would(self, executed, old, new):
        replace(executed / SOURCE, old, new)
        assert running.weave(planned(executed)) and not running.weave(planned(executed))
        woven = (executed / REFERENCE).read_bytes()
        (executed / REFERENCE).unlink()
        renew(executed)
        assert (executed / REFERENCE).read_bytes() == woven

    def test_is_woven_in_by_a_run_that_agrees(self, executed):
        replace(executed / SOURCE, "The line of squares.", "The curve of squares.")
        assert renew(executed).agrees
        assert "The curve of squares." in (executed / REFERENCE).read_text()

    def test_leaves_the_time_of_the_reference_for_it_was_not_run(self, executed):
        os.utime(executed / REFERENCE, ns=(5, 5))
        replace(executed / SOURCE, "The line of squares.", "The curve of squares.")
        assert running.weave(planned(executed))
        assert (executed / REFERENCE).stat().st_mtime_ns == 5


class TestFailures:
    """Runs that do not come to their end."""

    def test_a_failing_cell_is_named_and_its_notebook_kept_for_inspection(self, executed):
        before = (executed / REFERENCE).read_bytes()
        add_cell(executed, "assert number == 17, 'numbers are odd today'")
        with pytest.raises(FailedRun, match=r"toy/01-square: cell \[\d+\] `assert .*are odd"):
            executing.execute(planned(executed))
        kept = load(executed / "runs/failed/toy/01-square/two-seed0-cpu-default.ipynb")
        assert any("AssertionError" in str(cell.get("outputs")) for cell in kept.cells)
        assert (executed / REFERENCE).read_bytes() == before and leftovers(executed) == []

    def test_each_failed_run_is_kept_under_its_own_name_until_it_succeeds(self, project):
        add_cell(project, "assert scale == 'paper'")
        for seed in ("0", "1"):
            with pytest.raises(FailedRun):
                executing.execute(planned(project, seed=seed, device="cpu"))
        kept = sorted(path.name for path in (project / "runs/failed/toy/01-square").iterdir())
        assert kept == ["two-seed0-cpu-default.ipynb", "two-seed1-cpu-default.ipynb"]
        replace(project / SOURCE, "assert scale == 'paper'", "pass")
        executing.execute(planned(project, seed="1", device="cpu"))
        kept = [path.name for path in (project / "runs/failed/toy/01-square").iterdir()]
        assert kept == ["two-seed0-cpu-default.ipynb"]

    def test_a_kernel_that_dies_is_a_failed_run(self, project):
        add_cell(project, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
        with pytest.raises(FailedRun, match="kernel died"):
            executing.execute(planned(project))
        assert leftovers(project) == [] and not (project / REFERENCE).exists()

    def test_a_folder_that_cannot_be_written_is_said_in_one_sentence(self, executed):
        (executed / "runs").write_text("a file where a folder is wanted")
        with pytest.raises(
            FailedRun, match=r"toy/01-square: /.*runs.*; what was there is unchanged"
        ):
            executing.execute(planned(executed, seed="1", device="cpu"))

    def test_a_full_disk_loses_nothing(self, executed):
        before = (executed / REFERENCE).read_bytes()
        add_cell(executed, "pass")
        command = f"ulimit -f 8; exec {sys.executable} -m attribook.report.cli run square"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert "File too large; what was there is unchanged" in done.stderr
        assert (executed / REFERENCE).read_bytes() == before and leftovers(executed) == []


class TestBrokenFiles:
    """Files damaged by a full disk, a merge or a hand."""

    DAMAGE = {
        "empty": lambda text: "",
        "truncated": lambda text: text[: len(text) // 2],
        "in conflict": lambda text: "<<<<<<< ours\n" + text + "=======\n>>>>>>> theirs\n",
        "no notebook": lambda text: "[1, 2]",
        "another notebook": lambda text: '{"cells": 7, "metadata": {}, "nbformat": 4}',
    }

    @pytest.fixture(params=DAMAGE)
    def damage(self, request):
        return lambda path: path.write_text(self.DAMAGE[request.param](path.read_text()))

    def test_a_damaged_reference_is_named_with_the_way_out_and_made_again(self, executed, damage):
        before = (executed / REFERENCE).read_bytes()
        damage(executed / REFERENCE)
        (reason,) = running.outdated(planned(executed))
        assert reason.startswith(f"{REFERENCE} is damaged (")
        assert "`attribook run toy/01-square --force`" in reason
        renew(executed)
        assert (executed / REFERENCE).read_bytes() == before

    def test_a_damaged_run_of_a_sweep_is_named_with_its_parameters(self, executed, damage):
        renew(executed, seed="1", device="cpu")
        run = planned(executed, seed="1", device="cpu")
        damage(run.output)
        (reason,) = running.outdated(run)
        assert reason.startswith("runs/toy/01-square/two-seed1-cpu-default.ipynb is damaged")
        assert "-p model two -p seed 1 -p device cpu -p scale default --force" in reason

    @pytest.mark.parametrize("text", ["", "{", "[]", "<<<<<<< ours"])
    def test_damaged_statistics_are_none_and_fill_again(self, executed, text):
        (executed / STATISTICS).write_text(text)
        assert running.read_statistics(executed) == {}
        renew(executed)
        assert running.read_statistics(executed).keys() == {SLUG}


class TestStopping:
    """Signals: kernels end, nothing more starts, nothing is half-written."""

    @pytest.mark.parametrize("jobs", ["1", "2"])
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_ctrl_c_and_sigterm_end_the_kernels_and_leave_nothing_half_written(
        self, project, jobs, number, code
    ):
        pids = kernels_of(project)
        process = start("run", "--all", "-j", jobs)
        running_pids = pids[: int(jobs)]
        wait_for(lambda: all(map(written, running_pids)))
        os.kill(process.pid, number)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == code, output
        assert "no result is half-written" in output and "Traceback" not in output
        assert leftovers(project) == [] and not (project / REFERENCE).exists()
        assert not (project / "runs").exists()  # what was stopped has not failed
        assert not any(alive(int(pid.read_text())) for pid in running_pids)
        assert not any(written(pid) for pid in pids[int(jobs) :])

    @pytest.mark.parametrize("jobs", ["1", "2"])
    def test_after_kill_9_kernels_end_and_nothing_more_starts(self, project, jobs):
        pids = kernels_of(project)
        process = start("run", "--all", "-j", jobs)
        running_pids = pids[: int(jobs)]
        wait_for(lambda: all(map(written, running_pids)))
        process.kill()
        process.communicate(timeout=60)
        wait_for(lambda: not any(alive(int(pid.read_text())) for pid in running_pids))
        time.sleep(1)
        assert not any(written(pid) for pid in pids[int(jobs) :])
        assert not (project / REFERENCE).exists()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    def test_verify_ends_its_kernels_too(self, executed, number):
        pid, wait = (executed / "notebooks/toy" / name for name in ("kernel.pid", "wait"))
        add_cell(
            executed,
            "import os\nif os.path.exists('wait'):\n"
            "    open('kernel.pid', 'w').write(str(os.getpid()))\n    time.sleep(600)",
        )
        renew(executed)
        wait.touch()
        process = start("verify", "square")
        wait_for(lambda: written(pid))
        process.send_signal(number)
        process.communicate(timeout=60)
        wait_for(lambda: not alive(int(pid.read_text())))

    @pytest.mark.parametrize("jobs", ["1", "2"])
    def test_after_kill_9_nothing_counts_and_a_second_run_completes(self, project, jobs):
        pause = project / "pause"
        pause.touch()
        add_cell(project, f"import os\nwhile os.path.exists({str(pause)!r}): time.sleep(0.1)")
        add_notebook(project)
        first = start("run", "--all", "-j", jobs)
        folder = project / "notebooks/toy"
        wait_for(lambda: any("rising" in p.read_text() for p in folder.glob("01*.part.ipynb")))
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        assert not (project / REFERENCE).exists() and leftovers(project)
        pause.unlink()
        second = start("run", "--all", "-j", jobs)
        output, _ = second.communicate(timeout=120)
        assert second.returncode == 0, output
        assert not running.outdated(planned(project)) and leftovers(project) == []

    def test_a_run_ends_when_the_process_that_it_follows_is_gone(self, project, monkeypatch):
        pids = kernels_of(project)
        sweep = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        monkeypatch.setenv(executing.FOLLOWED, str(sweep.pid))
        process = start("run", "square")
        wait_for(lambda: written(pids[0]))
        sweep.kill()
        sweep.wait()
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 143 and "half-written" in output
        assert not alive(int(pids[0].read_text()))

    def test_parts_of_runs_that_still_go_on_are_left_alone(self, project):
        run = planned(project)
        parts = [
            run.output.with_name(f"01-square.{pid}.part.ipynb") for pid in (os.getpid(), 2**22)
        ]
        for part in [*parts, run.output.with_name("01-square.part.ipynb")]:
            part.touch()
        executing.remove_leftovers(run.output)
        assert leftovers(project) == [f"notebooks/toy/01-square.{os.getpid()}.part.ipynb"]


def test_two_notebooks_run_side_by_side_each_in_its_own_folder(project):
    add_notebook(project)
    other = project / "notebooks/other"
    other.mkdir()
    (other / "01-else.md").write_text((project / SOURCE).read_text())
    for source in (project / "notebooks").glob("*/*.md"):
        code = "import os\nprint(os.path.basename(os.getcwd()))"
        source.write_text(source.read_text() + f"\n```{{code-cell}} ipython3\n{code}\n```\n")
    runs = [running.planned(nb, nb.defaults) for nb in finding.notebooks_of(project).values()]
    results = {run: done for run, done in executing.execute_all(runs, jobs=2)}
    assert results.keys() == set(runs)
    assert all(done.statistics["wall_seconds"] > 0 for done in results.values())
    for run in runs:
        paper = run.notebook.slug.partition("/")[0]
        assert load(run.output).cells[-1].outputs[0].text == f"{paper}\n"


def test_normalise_refuses_a_cell_that_was_not_run(executed):
    notebook = load(executed / REFERENCE)
    notebook.metadata.papermill = {"duration": 1.0}
    told = {"reads": {}, "versions": {"python": "3", "torch": "2", "numpy": "1"}, "statistics": {}}
    output = nbformat.v4.new_output("stream", name="stdout", text=json.dumps(told))
    hidden = nbformat.v4.new_code_cell(
        "", outputs=[output], execution_count=9, metadata={"tags": ["attribook-hidden"]}
    )
    notebook.cells.append(hidden)
    normalise(notebook, SLUG, {})
    notebook.cells[4].execution_count = None
    with pytest.raises(ValueError, match="was not run: 'for step in range"):
        normalise(notebook, SLUG, {})


class TestFinding:
    """Notebooks by name, their parameters, and drafts."""

    def test_a_notebook_is_found_by_its_slug_or_a_tail_only_it_has(self, project):
        add_notebook(project, "02-other-square")
        for name in (SLUG, "01-square"):
            assert [nb.slug for nb in finding.select(project, [name])] == [SLUG]
        assert finding.select(project, ["other-square"])[0].slug == "toy/02-other-square"
        with pytest.raises(ValueError, match="several notebooks end in 'square'.*02-other"):
            finding.select(project, ["square"])
        with pytest.raises(ValueError, match="no notebook 'cube'; choose from: toy/01-square"):
            finding.select(project, ["cube"])
        with pytest.raises(ValueError, match="no notebook 'quare'"):  # a part of a word is no name
            finding.select(project, ["quare"])

    def test_a_notebook_named_twice_is_meant_once(self, project):
        assert len(finding.select(project, ["square", SLUG, "square"])) == 1

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"model": "four"}, "no model 'four'.*two, three"),
            ({"seed": "x"}, "seed must be an integer"),
            ({"seed": "-1"}, "seed must be an integer"),
            ({"seed": "7" * 300}, r"seed must be an integer from 0 to \d+, .*\(300 digits\)"),
            ({"seed": str(2**32)}, "seed must be an integer from 0 to 4294967295"),
            ({"scale": "huge"}, "unknown scale 'huge'.*default, paper"),
            ({"device": "tpu"}, "unknown device 'tpu'.*auto, cpu, cuda"),
            ({"color": "red"}, "unknown parameter 'color'.*model, seed, device, scale"),
        ],
    )
    def test_a_wrong_parameter_says_which_exist(self, project, given, message):
        with pytest.raises(ValueError, match=message):
            planned(project, **given)

    DRAFTS = {
        "no parameter": (("seed = 0\n", ""), "wants a cell tagged `parameters`"),
        "no front matter": (("attribook:\n  models: [two, three]\n  seeds: [0, 1]\n", ""), "wants"),
        "a wrong list": (("seeds: [0, 1]", "seeds: all"), "seeds: "),
        "wrong YAML": (("models: [two", "models: [[two"), "does not parse"),
        "wrong Python": (("number = {", "number = ("), "does not parse .SyntaxError"),
        "no literal": (("seed = 0", "seed = 1 + x"), "does not parse"),
    }

    @pytest.mark.parametrize(("change", "lacks"), DRAFTS.values(), ids=DRAFTS)
    def test_an_unfinished_notebook_is_a_draft_with_what_it_lacks(self, project, change, lacks):
        add_notebook(project, "02-draft", *change)
        assert finding.notebooks_of(project).keys() == {SLUG}
        assert lacks.split(".")[0] in finding.drafts_of(project)["toy/02-draft"]
        with pytest.raises(ValueError, match="toy/02-draft is a draft: it "):
            finding.select(project, ["draft"])

    def test_a_name_with_an_underscore_and_a_text_that_is_none_are_drafts(self, project):
        add_notebook(project, "_draft")
        (project / "notebooks/toy/03-bytes.md").write_bytes(b"\xff\xfe\x00")
        (project / "notebooks/toy/04-empty.md").touch()
        assert finding.drafts_of(project).keys() == {
            "toy/03-bytes", "toy/04-empty", "toy/_draft"
        }  # fmt: skip

    def test_the_project_is_found_from_a_folder_inside_it(self, project, tmp_path):
        assert finding.find_root(project / "notebooks/toy") == project
        with pytest.raises(ValueError, match="no attribook project"):
            finding.find_root(tmp_path)


class TestProgress:
    """What people are told while notebooks run."""

    def runs(self, root, number=3):
        for i in range(2, number + 1):
            add_notebook(root, f"{i:02}-more")
        return [running.planned(nb, nb.defaults) for nb in finding.notebooks_of(root).values()]

    def done(self, seconds, megabytes=1234):
        return Done({"wall_seconds": seconds, "peak_memory_mb": megabytes})

    def test_a_line_tells_how_many_are_done_and_about_how_long_the_rest_takes(self, project):
        runs = self.runs(project)
        table = {run.notebook.slug: {"wall_seconds": 60.0} for run in runs}
        progress = Progress(runs, 1, table)
        assert progress.seconds_left() == 180
        line = progress.done(runs[0], self.done(120.4))  # this machine takes twice the time
        assert line == "[1/3] toy/01-square: 120 s, 1.2 GB; about 4 min left"
        assert progress.failed(runs[1]) == "[2/3] toy/02-more: failed; about 2 min left"
        assert progress.done(runs[2], self.done(1, 466)) == "[3/3] toy/03-more: 1 s, 466 MB"

    def test_without_statistics_the_mean_of_those_done_is_taken(self, project):
        runs = self.runs(project)
        progress = Progress(runs, 2, {})
        assert progress.seconds_left() is None
        assert "about 40 s left" in progress.done(runs[0], self.done(40))

    def test_side_by_side_the_longest_run_sets_the_time(self, project):
        runs = self.runs(project)
        seconds = (10.0, 500.0, 20.0)
        table = {r.notebook.slug: {"wall_seconds": s} for r, s in zip(runs, seconds, strict=True)}
        assert Progress(runs, 2, table).seconds_left() == 500

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0.2, "1 s"), (89, "89 s"), (100, "2 min"), (3600, "60 min"), (7300, "2 h 2 min")],
    )
    def test_times_are_told_in_units_of_people(self, seconds, text):
        assert duration(seconds) == text

    def test_a_run_is_called_by_what_is_not_the_notebooks_own(self, project):
        assert planned(project).label == SLUG
        assert planned(project, model="three", seed="4", device="cpu").label == (
            "toy/01-square, model three, seed 4"
        )
