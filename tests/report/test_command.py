"""The installed command, with and without the packages of the book."""

import sys
from importlib.metadata import entry_points

import pytest

from attribook.report import command


def test_the_installed_command_is_this_one():
    (found,) = entry_points(group="console_scripts", name="attribook")
    assert found.load() is command.main


def test_it_runs_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["attribook", "--version"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 0 and "0.1.0" in capsys.readouterr().out


def test_without_the_extra_it_says_what_is_missing_and_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "click", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "attribook.report.cli", raising=False)
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert "needs click" in (told := capsys.readouterr().err) and "attribook[book]" in told


def test_a_fault_of_ours_is_not_taken_for_a_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "attribook.report.cli", None)
    with pytest.raises(ModuleNotFoundError, match="attribook"):
        command.main()
