"""What the workflows call exists: targets and variables of the Makefile, commands, processors."""

import re
from pathlib import Path

import pytest
import yaml
from commandlines import unknown_in

from attribook.report.processors import PROCESSORS

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()
ACTION = re.compile(r"actions/[\w-]+@v\d+")

each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def loaded(path):
    return yaml.safe_load(path.read_text())


def jobs(path):
    return loaded(path)["jobs"].values()


def steps(path):
    return [step for job in jobs(path) for step in job["steps"]]


def scripts(path):
    """The shell lines of a workflow, each with what it continues on the next."""
    texts = (step.get("run", "").replace("\\\n", " ") for step in steps(path))
    return [line for text in texts for line in text.splitlines()]


def test_there_are_a_test_a_sweep_and_the_pages():
    assert [path.stem for path in WORKFLOWS] == ["pages", "sweep", "test"]


@each_workflow
def test_every_make_target_and_variable_of_a_workflow_exists(path):
    calls = [re.sub(r"\$\{\{.*?\}\}", "x", line).strip() for line in scripts(path)]
    calls = [line for line in calls if line.startswith("make ")]
    assert calls
    for call in calls:
        for variable in re.findall(r"\b([A-Z_]+)=", call):
            assert re.search(rf"\$\({variable}\)", MAKEFILE), f"Makefile ignores {variable}"
        bare = re.sub(r"""[A-Z_]+=("[^"]*"|\S+)""", "", call)
        for target in bare.split()[1:]:
            assert re.search(rf"^{re.escape(target)}:", MAKEFILE, re.MULTILINE), target


@each_workflow
def test_every_attribook_command_and_option_of_a_workflow_exists(path):
    calls = [line.partition("attribook ")[2] for line in scripts(path) if "bin/attribook " in line]
    assert [told for call in calls for told in unknown_in(call)] == []


@each_workflow
def test_a_workflow_ends_and_may_do_no_more_than_it_needs(path):
    workflow = loaded(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert "concurrency" in workflow
    for job in jobs(path):
        assert job["timeout-minutes"] <= 300
        assert set(job.get("permissions", {})) <= {"contents", "issues", "pages", "id-token"}


@each_workflow
def test_actions_are_github_s_own_at_a_major_version(path):
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert used and all(ACTION.fullmatch(name) for name in used)


@each_workflow
def test_a_checkout_keeps_no_token_and_brings_the_history(path):
    checkouts = [step for step in steps(path) if "checkout@" in step.get("uses", "")]
    assert checkouts
    for checkout in checkouts:
        assert checkout["with"] == {"fetch-depth": 0, "persist-credentials": False}


def test_the_tests_run_on_two_pythons_and_two_processors_that_exist():
    matrix = loaded(ROOT / ".github/workflows/test.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert len(matrix["python"]) == 2 and len(matrix["processor"]) == 2
    assert set(matrix["processor"]) <= set(PROCESSORS)


@each_workflow
def test_the_triggers_of_a_workflow_are_known(path):
    triggers = loaded(path)[True]  # YAML 1.1 reads the key `on` as true
    assert set(triggers) <= {"push", "pull_request", "schedule", "workflow_dispatch"}


def test_every_seed_of_the_sweep_has_its_week():
    text = (ROOT / ".github/workflows/sweep.yml").read_text()
    assert "% 6" in text and "--seeds" in text
