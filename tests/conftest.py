"""Fixtures that several test modules share."""

import json
import shutil
from pathlib import Path

import hypothesis
import pytest
from click.testing import CliRunner

from attribook.report import processors

processors.apply_asked()  # before torch is loaded

import torch  # noqa: E402

from attribook.report import claims  # noqa: E402
from attribook.report.cli import main  # noqa: E402

hypothesis.settings.register_profile("attribook", deadline=None)  # machines are shared
hypothesis.settings.load_profile("attribook")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with one small notebook that was not run yet; the working directory."""
    root = tmp_path / "project"
    shutil.copytree(Path(__file__).parent / "project", root)
    monkeypatch.chdir(root)
    return root


@pytest.fixture(scope="session")
def executed_once(tmp_path_factory):
    """The small project after `attribook run --all` and `attribook ledger`; for copying."""
    root = tmp_path_factory.mktemp("executed") / "project"
    shutil.copytree(Path(__file__).parent / "project", root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for command in (["run", "--all"], ["ledger"]):
            result = CliRunner().invoke(main, command)
            assert result.exit_code == 0, result.output
    return root


@pytest.fixture
def executed(executed_once, tmp_path, monkeypatch):
    """A copy of the small project with its reference and its ledger; the working directory."""
    root = tmp_path / "project"
    shutil.copytree(executed_once, root)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def attribook():
    """Calls the command line in this process: `attribook("run", "square")` -> click's result."""

    def call(*arguments: str):
        return CliRunner().invoke(main, list(arguments))

    return call


@pytest.fixture
def generator():
    """A fresh random source with a fixed seed."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def record(monkeypatch):
    """Makes a claim and returns the record it emits; `record.bundles` holds what is displayed."""
    bundles = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: bundles.append(data))

    def make(claim_id, *checks, **roles):
        claims.claim(claim_id, *checks, **roles)
        return json.loads(json.dumps(bundles[-1][claims.CLAIM_MIME], allow_nan=False))

    make.bundles = bundles
    return make
