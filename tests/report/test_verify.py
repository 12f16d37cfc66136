import json

import pytest

from attribook.report import verify as verifying
from attribook.report.notebooks import notebooks_of
from attribook.report.run import planned

SLUG = "toy/01-square"


@pytest.fixture
def with_rows(executed, attribook):
    """The small project whose ledger has rows of seeds 1 and 2 beside the reference."""
    for seed in ("1", "2"):
        made = attribook("run", "square", "-p", "seed", seed, "-p", "device", "cpu")
        assert made.exit_code == 0, made.output
    assert attribook("ledger").exit_code == 0
    return executed


def seeds(trials):
    return [trial.run.parameters["seed"] for trial in trials]


def edit_ledger(root, change):
    path = root / "book/ledger.json"
    ledger = json.loads(path.read_text())
    change(ledger)
    path.write_text(json.dumps(ledger))


def test_without_rows_but_references_there_is_nothing_to_do(executed, attribook):
    result = attribook("verify", "--rows", "5", "--drawn-from", "abc")
    assert result.exit_code == 0 and "there are no rows to run again" in result.output


def test_rows_that_agree_are_told(with_rows, attribook):
    result = attribook("verify", "--rows", "5", "--drawn-from", "abc", "-j", "2")
    assert result.exit_code == 0 and "2 rows agree with the ledger" in result.output
    assert "toy/01-square, seed 1: " in result.output


def test_a_row_that_differs_is_named(with_rows, attribook):
    def change(ledger):
        rows = {row["run"]: row for row in ledger["claims"][0]["runs"]}
        rows["toy/01-square two 2 cpu default"]["checks"][0]["measured"] = 17.0

    edit_ledger(with_rows, change)
    result = attribook("verify", "--rows", "5", "--drawn-from", "abc")
    assert result.exit_code == 1
    assert "drift: toy/01-square, seed 2: toy.square: 'square' was 17.0, is 16.0" in result.stderr
    assert "1 of 2 rows differ from the ledger" in result.stderr


def test_which_rows_are_drawn_depends_on_the_text_alone(with_rows):
    rows = verifying.rows_of(with_rows, [SLUG])
    assert sorted(seeds(rows)) == [1, 2]
    first = {text: seeds(verifying.drawn(rows, 1, text, 99, 1)) for text in map(str, range(20))}
    assert {tuple(drawn) for drawn in first.values()} == {(1,), (2,)}
    for text, drawn in first.items():
        assert seeds(verifying.drawn(rows[::-1], 1, text, 99, 1)) == drawn


def test_older_rows_come_first_and_stale_ones_not_at_all(with_rows):
    def change(ledger):
        ledger["runs"]["toy/01-square two 1 cpu default"]["library"] = {"claims": "00000000"}

    edit_ledger(with_rows, change)
    rows = verifying.rows_of(with_rows, [SLUG])
    for text in map(str, range(10)):
        assert seeds(verifying.drawn(rows, 1, text, 99, 1)) == [1]

    def spoil(ledger):
        ledger["runs"]["toy/01-square two 1 cpu default"]["code"] = "000000000000"

    edit_ledger(with_rows, spoil)
    assert seeds(verifying.rows_of(with_rows, [SLUG])) == [2]


def test_rows_that_take_too_long_are_passed_over(project):
    text = (project / "notebooks/toy/01-square.md").read_text()
    (project / "notebooks/toy/02-long.md").write_text(text)
    seconds = {SLUG: 10.0, "toy/02-long": 100.0}
    table = {slug: {"wall_seconds": value} for slug, value in seconds.items()}
    (project / "book/run_statistics.json").write_text(json.dumps(table))
    rows = [
        verifying.Trial(planned(notebook, {**notebook.defaults, "seed": seed}), list)
        for notebook in notebooks_of(project).values()
        for seed in range(1, 5)
    ]

    def drawn(seconds, jobs):
        trials = verifying.drawn(rows, 5, "x", seconds, jobs)
        return sorted(trial.run.notebook.slug for trial in trials)

    assert drawn(45, 1) == [SLUG] * 4
    assert drawn(15, 2) == [SLUG] * 3
    assert len(drawn(1000, 1)) == 5
    assert drawn(5, 1) == []
    assert drawn(60, 3) == [SLUG] * 4  # 180 seconds in all, but no row may take over 60
