"""What README and CONTRIBUTING tell can be done: commands, files, Python, saving in JupyterLab."""

import re
from pathlib import Path

import jupytext
import pytest
import torch
from commandlines import calls_in, unknown_in
from jupytext.config import load_jupytext_config
from torch import nn

from attribook.report.cli import main
from attribook.report.provenance import code_of
from attribook.report.verdicts import OUTCOMES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_every_command_and_option_of_a_text_exists(text):
    calls = calls_in(text)
    assert calls
    assert [told for call in calls for told in unknown_in(call)] == []


def test_the_readme_shows_every_command_but_the_one_that_make_calls():
    shown = {call.split()[0] for call in calls_in(README)}
    assert set(main.commands) - shown == {"build"}


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_every_make_target_of_a_text_exists(text):
    targets = re.findall(r"(?:^ {4}|`)(?:[A-Z_]+=\S+ )?make ([a-z]+)", text, re.MULTILINE)
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_every_file_that_a_text_names_exists(text):
    names = re.findall(r"`((?:src|book|tests|notebooks|\.github)/[\w./-]+|[\w-]+\.\w+)`", text)
    files = [name for name in names if re.search(r"\.(md|yml|json|txt|cff|toml|py)$", name)]
    assert files
    assert [name for name in files if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("notebooks/*/[0-9]*.md")), ids=lambda path: path.stem
)
def test_a_notebook_saved_in_jupyterlab_keeps_what_it_may_be_swept_over(path):
    settings = load_jupytext_config(str(path))
    parsed = jupytext.reads(path.read_text(), fmt="md:myst", config=settings)
    saved = jupytext.writes(parsed, fmt="md:myst", config=settings)
    again = jupytext.reads(saved, fmt="md:myst")
    assert again.metadata["attribook"] == parsed.metadata["attribook"]
    assert code_of(again) == code_of(parsed)


def test_the_readme_explains_every_outcome_once_and_ticks_only_what_is_reproduced():
    rows = re.findall(r"^\| (✓ )?([a-z ]+) \| ", README, re.MULTILINE)
    found = [(name, bool(tick)) for tick, name in rows if name in OUTCOMES]
    assert found == [(name, name == "reproduced") for name in OUTCOMES]


def test_the_python_of_the_readme_runs_on_a_small_model():
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    given = {"model": model, "x": torch.randn(5, 4), "label": 1}
    exec(block, given)  # noqa: S102
    assert given["attributions"].shape == (5, 4)
    assert given["gap"].abs().max() < 0.05  # the rule's error at 64 steps on a kinked network
