import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from attribook import run as running
from attribook.ledger import TIMING_MIME, records_in
from attribook.normalise import normalise
from attribook.run import FailedRun, Run

SLUG = "toy/01-square"
REFERENCE = "notebooks/toy/01-square.ipynb"


def load(path):
    return nbformat.read(path, as_version=4)


def planned(root, **given):
    notebook = running.notebooks_of(root)[SLUG]
    parameters = running.parameters_of(notebook, given)
    return Run(notebook, parameters, notebook.output(parameters))


def add_cell(root, code):
    """Append a code cell to the notebook's source."""
    source = root / "notebooks/toy/01-square.md"
    source.write_text(source.read_text() + f"\n```{{code-cell}} ipython3\n{code}\n```\n")


def start(*arguments):
    """The command line in a process of its own, with its own group as under a shell."""
    return subprocess.Popen(
        [sys.executable, "-m", "attribook.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def leftovers(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.part*"))


def alive(pid):
    """Whether a process runs; one that ended and waits for its parent does not."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_two_runs_give_the_same_bytes(executed):
    first = (executed / REFERENCE).read_bytes()
    assert b"image/png" in first
    running.execute(planned(executed))
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
    statistics = json.loads((executed / "book/run_statistics.json").read_text())[SLUG]
    assert statistics["timings"]["toy.timing"]["seconds"] > 0
    assert statistics["wall_seconds"] > 0 and statistics["peak_memory_mb"] > 50
    assert statistics["python"] == ".".join(map(str, sys.version_info[:3]))
    assert notebook.metadata.attribook.source == planned(executed).notebook.digest


def test_forward_passes_of_a_network_are_counted_by_outermost_calls(project):
    add_cell(project, "import torch\nnet = torch.nn.Sequential(torch.nn.Linear(2, 1))")
    add_cell(project, "_ = net(torch.ones(5, 2)), net(torch.ones(3, 2))")
    source = project / "notebooks/toy/01-square.md"
    source.write_text(source.read_text().replace("import sys\n", "import sys\nimport torch\n"))
    statistics = running.execute(planned(project))
    assert (statistics["forward_passes"], statistics["forward_rows"]) == (2, 8)


def test_other_parameters_are_written_to_runs_and_leave_the_reference_alone(executed):
    before = (executed / REFERENCE).read_bytes()
    run = planned(executed, model="three", seed="1", device="cpu")
    assert run.output == executed / "runs/toy/01-square/three-seed1-cpu-default.ipynb"
    running.save_statistics(run, running.execute(run))
    (record, _) = records_in(load(run.output))
    assert record["checks"][0]["measured"] == 16.0 and record["verdict"] == "not reproduced"
    assert run.output.with_suffix(".json").exists()
    assert (executed / REFERENCE).read_bytes() == before


def test_a_result_is_current_until_its_source_changes(executed):
    assert running.is_current(planned(executed))
    assert not running.is_current(planned(executed, seed="1", device="cpu"))
    add_cell(executed, "pass")
    assert not running.is_current(planned(executed))


def test_a_failing_cell_is_named_and_its_notebook_kept_for_inspection(executed):
    before = (executed / REFERENCE).read_bytes()
    add_cell(executed, "assert number == 17, 'numbers are odd today'")
    with pytest.raises(FailedRun, match=r"toy/01-square: cell \[\d+\] `assert .*numbers are odd"):
        running.execute(planned(executed))
    kept = load(executed / "runs/failed/toy/01-square.ipynb")
    assert any("AssertionError" in str(cell.get("outputs")) for cell in kept.cells)
    assert (executed / REFERENCE).read_bytes() == before and leftovers(executed) == []


def test_a_kernel_that_dies_is_a_failed_run(project):
    add_cell(project, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(FailedRun, match="kernel died"):
        running.execute(planned(project))
    assert leftovers(project) == [] and not (project / REFERENCE).exists()


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_after_kill_9_nothing_counts_and_a_second_run_completes(project, jobs):
    pause = project / "pause"
    pause.touch()
    add_cell(project, f"import os\nwhile os.path.exists({str(pause)!r}): time.sleep(0.1)")
    add_cell(
        project, f"open({str(project / 'kernel.pid')!r}, 'w').write(str(os.getpid())) and None"
    )
    text = (project / "notebooks/toy/01-square.md").read_text()
    (project / "notebooks/toy/02-again.md").write_text(text)
    first = start("run", "--all", "-j", jobs)
    part = project / "notebooks/toy/01-square.part.ipynb"
    wait_for(lambda: part.exists() and "rising" in part.read_text())
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (project / REFERENCE).exists() and not running.is_current(planned(project))
    pause.unlink()
    second = start("run", "--all", "-j", jobs)
    output, _ = second.communicate(timeout=120)
    assert second.returncode == 0, output
    assert running.is_current(planned(project)) and leftovers(project) == []


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_exits_130_ends_the_kernels_and_leaves_nothing_half_written(project, jobs):
    pid = project / "kernel.pid"
    add_cell(project, f"import os\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)")
    again = (project / "notebooks/toy/01-square.md").read_text().replace("kernel.pid", "again.pid")
    (project / "notebooks/toy/02-again.md").write_text(again)
    process = start("run", "--all", "-j", jobs)
    wait_for(lambda: pid.exists() and pid.read_text())
    if jobs == "2":
        wait_for((project / "again.pid").exists)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "no result is half-written" in output and "Traceback" not in output
    assert leftovers(project) == [] and not (project / REFERENCE).exists()
    wait_for(lambda: not alive(pid.read_text()), seconds=10)


def test_two_notebooks_run_side_by_side(project):
    text = (project / "notebooks/toy/01-square.md").read_text()
    (project / "notebooks/toy/02-again.md").write_text(text)
    notebooks = running.notebooks_of(project).values()
    runs = [Run(notebook, notebook.defaults, notebook.reference) for notebook in notebooks]
    results = [(run.notebook.slug, made) for run, made in running.execute_all(runs, jobs=2)]
    assert {slug for slug, _ in results} == {SLUG, "toy/02-again"}
    assert all(made["wall_seconds"] > 0 for _, made in results)
    assert all(run.output.exists() for run in runs)


def test_normalise_refuses_a_cell_that_was_not_run(executed):
    notebook = load(executed / REFERENCE)
    notebook.metadata.papermill = {"duration": 1.0}
    output = nbformat.v4.new_output("stream", name="stdout", text="{}")
    hidden = nbformat.v4.new_code_cell(
        "", outputs=[output], execution_count=9, metadata={"tags": ["attribook-hidden"]}
    )
    notebook.cells.append(hidden)
    normalise(notebook, SLUG, {})
    notebook.cells[4].execution_count = None
    with pytest.raises(ValueError, match="was not run: 'for step in range"):
        normalise(notebook, SLUG, {})


def test_a_notebook_is_found_by_its_slug_or_a_tail_only_it_has(project):
    text = (project / "notebooks/toy/01-square.md").read_text()
    (project / "notebooks/toy/02-other-square.md").write_text(text)
    notebooks = running.notebooks_of(project)
    for name in (SLUG, "01-square"):
        assert [nb.slug for nb in running.select(notebooks, [name])] == [SLUG]
    assert running.select(notebooks, ["other-square"])[0].slug == "toy/02-other-square"
    with pytest.raises(ValueError, match="several notebooks end in 'square'.*02-other"):
        running.select(notebooks, ["square"])
    with pytest.raises(ValueError, match="no notebook 'cube'; choose from: toy/01-square"):
        running.select(notebooks, ["cube"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "four"}, "no model 'four'.*two, three"),
        ({"seed": "x"}, "seed must be an integer"),
        ({"seed": "-1"}, "seed must be an integer"),
        ({"scale": "huge"}, "unknown scale 'huge'.*default, paper"),
        ({"device": "tpu"}, "unknown device 'tpu'.*auto, cpu, cuda"),
        ({"color": "red"}, "unknown parameter 'color'.*model, seed, device, scale"),
    ],
)
def test_a_wrong_parameter_says_which_exist(project, given, message):
    with pytest.raises(ValueError, match=message):
        planned(project, **given)


def test_a_source_without_parameters_or_front_matter_is_refused(project):
    source = project / "notebooks/toy/01-square.md"
    source.write_text(source.read_text().replace("seed = 0\n", ""))
    with pytest.raises(ValueError, match="toy/01-square: wants a cell tagged `parameters`"):
        running.notebooks_of(project)


def test_the_project_is_found_from_a_folder_inside_it(project, tmp_path):
    assert running.find_root(project / "notebooks/toy") == project
    with pytest.raises(ValueError, match="no attribook project"):
        running.find_root(tmp_path)
