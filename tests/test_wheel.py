"""What is installed: a wheel works outside the clone, and the library alone brings little."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = """
import torch
from attribook import Score, completeness_gap, integrated_gradients
score, x = Score(lambda x: x.prod(1)), torch.tensor([[1.0, 2.0]])
print(float(completeness_gap(integrated_gradients(score, x), score, x, 0 * x).abs()) < 1e-6)
from attribook.papers.networks import load_model
print(sum(p.numel() for p in load_model("cnn-tanh", 3).parameters()))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The path of the wheel, built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    skipped = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", folder / "src", ignore=skipped)
    build = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*build, "--no-index", "-w", folder], cwd=folder, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_a_wheel_works_in_an_empty_folder(wheel, tmp_path):
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    told = "import attribook; print(attribook.__file__, attribook.__version__)" + SCRIPT
    shown = subprocess.run(
        [sys.executable, "-c", told], cwd=empty, env=environment, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    origin, complete, parameters = shown.stdout.splitlines()
    assert origin.split()[0].startswith(str(installed))
    assert complete == "True"
    assert int(parameters) > 1000


@pytest.mark.slow
def test_a_wheel_holds_the_stub_the_weights_and_the_annotations(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    there = {str(p.relative_to(ROOT / "src")) for p in (ROOT / "src").rglob("*")
             if p.suffix in (".py", ".pyi", ".safetensors", ".yml") or p.name == "py.typed"}  # fmt: skip
    assert there <= names


def test_the_library_alone_asks_for_four_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {one.split(">")[0] for one in project["dependencies"]} == {
        "jaxtyping", "numpy", "scipy", "torch"}  # fmt: skip
