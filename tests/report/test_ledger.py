import json
import os
from pathlib import Path

import pytest
from written import SLUG, VERSIONS, execute, project

from attribook.report import provenance
from attribook.report.claims import at_most, holds
from attribook.report.inventory import load_claims
from attribook.report.ledger import (
    Ledger,
    collect,
    committed,
    committed_rows,
    environment,
    key_of,
    ledger_path,
)
from attribook.report.verdicts import ILLUSTRATED

RUN = {"notebook": SLUG, "model": "a", "seed": 0, "device": "cpu", "scale": "default",
       "code": "c", "library": {}, "reads": {}, "versions": VERSIONS}  # fmt: skip


@pytest.fixture
def book(tmp_path):
    project(tmp_path)
    return Ledger(load_claims(tmp_path / "book/claims"))


def entry_of(book):
    return book.as_json({})["claims"][0]


def test_a_claim_that_nobody_recorded_is_not_run(book):
    entry = entry_of(book)
    assert entry["outcome"] == "not run" and entry["reason"] and entry["runs"] == []
    assert entry["tally"]["runs"] == 0


def test_an_entry_tells_outcome_setting_evidence_and_origin_apart(book, record):
    book.add(RUN, [record("toy.sum", at_most("x", 2, 1), in_kind="other photos")])
    entry = entry_of(book)
    assert (entry["outcome"], entry["setting"]) == ("not reproduced", "in kind")
    assert entry["evidence"] == [{"kind": "sample", "n": 20, "text": "20 photos"}]
    assert entry["origin"] == "paper" and entry["in_kind"] == "other photos"


def test_a_run_with_the_same_parameters_replaces_the_earlier_one(book, record):
    for value in (0.5, 0.6):
        book.add(RUN, [record("toy.sum", at_most("x", value, 1))])
    assert [run["checks"][0]["measured"] for run in entry_of(book)["runs"]] == [0.6]


def test_only_runs_that_differ_by_seed_are_judged_together(book, record):
    for seed, value in enumerate((0.5, 0.51, 0.52)):
        book.add({**RUN, "seed": seed}, [record("toy.sum", at_most("x", value, 1))])
    for other in ({"model": "b"}, {"device": "cuda"}, {"scale": "paper"}):
        book.add({**RUN, **other}, [record("toy.sum", at_most("x", 99, 1))])
    entry = entry_of(book)
    assert entry["outcome"] == "reproduced"
    assert entry["tally"] == {"runs": 3, "hold": 3, "distinct": 3, "coverage": 0.75}
    assert [run["run"].split()[2] for run in entry["runs"]][:3] == ["0", "1", "2"]


def test_a_setting_stays_whatever_the_outcome(book, record):
    for seed, value in enumerate((0.5, 2.0)):
        made = record("toy.sum", at_most("x", value, 1), in_kind="digits")
        book.add({**RUN, "seed": seed}, [made])
    entry = entry_of(book)
    assert (entry["outcome"], entry["setting"]) == ("inconclusive", "in kind")


@pytest.mark.parametrize(("reference", "other"), [("digits", ""), ("", "digits")])
def test_the_setting_is_that_of_the_reference_whatever_other_models_are(
    book, record, reference, other
):
    made = [record("toy.sum", at_most("x", 0.5, 1), in_kind=kind) for kind in (reference, other)]
    for model, each in zip("ab", made, strict=True):
        book.add({**RUN, "model": model}, [each])
    entry = entry_of(book)
    assert (entry["setting"], entry["in_kind"]) == ("in kind" if reference else "paper", reference)


def test_an_illustration_is_called_one_while_it_holds(book, record):
    book.claims["toy.sum"]["outcome"] = ILLUSTRATED
    book.add(RUN, [record("toy.sum", holds("x", True))])
    assert entry_of(book)["outcome"] == "illustrated"
    book.add(RUN, [record("toy.sum", holds("x", False))])
    assert entry_of(book)["outcome"] == "not reproduced"


def test_unknown_repeated_and_shared_claims_are_refused(book, record):
    made = record("toy.sum", holds("x", True))
    with pytest.raises(ValueError, match=r"unknown claim 'toy.z'; known: \['toy.sum'\]"):
        book.add(RUN, [{**made, "id": "toy.z"}])
    with pytest.raises(ValueError, match="records a claim twice: toy.sum"):
        book.add(RUN, [made, made])
    book.add(RUN, [made])
    with pytest.raises(ValueError, match="recorded by both toy/01-sums and toy/02-y"):
        book.add({**RUN, "notebook": "toy/02-y"}, [made])


def test_criteria_that_differ_between_seeds_are_an_error(book, record):
    for seed, bound in enumerate((1, 2)):
        book.add({**RUN, "seed": seed}, [record("toy.sum", at_most("x", 0.5, bound))])
    with pytest.raises(ValueError, match="toy.sum: criterion of 'x' was ≤ 1"):
        book.as_json({})


def test_the_file_is_written_whole_or_not_at_all(book, record, tmp_path, monkeypatch):
    path = tmp_path / "book/ledger.json"
    book.add(RUN, [record("toy.sum", holds("x", True))])
    book.save(path, {})
    before = path.read_bytes()
    book.add({**RUN, "seed": 1}, [record("toy.sum", holds("x", False))])

    def full_disk(self, text, **options):
        with open(self, "w") as file:
            file.write(text[:4096])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full_disk)
        with pytest.raises(OSError, match="No space left"):
            book.save(path, {})
    assert path.read_bytes() == before and sorted(os.listdir(path.parent)) == [
        "claims",
        "ledger.json",
    ]


def test_infinity_never_reaches_the_file(book, record, tmp_path):
    book.add(RUN, [record("toy.sum", at_most("x", float("inf"), 1))])
    book.save(tmp_path / "ledger.json", {})
    json.loads((tmp_path / "ledger.json").read_text(), parse_constant=pytest.fail)


@pytest.fixture
def swept(tmp_path, record):
    """A project with a reference, rows of two other seeds, and its ledger."""
    root = project(tmp_path)
    for seed in range(3):
        execute(root, record("toy.sum", at_most("x", 0.5 + seed / 10, 1)), seed=seed)
    collect(root).save(ledger_path(root), environment(root))
    return root


def seeds(ledger):
    return [run["seed"] for run in ledger.as_json({})["runs"].values()]


def test_rows_come_back_from_the_committed_ledger_without_their_files(swept):
    for path in (swept / "runs").rglob("*.ipynb"):
        path.unlink()
    ledger = collect(swept)
    assert seeds(ledger) == [0, 1, 2] and ledger.dropped == []
    assert ledger.as_json(environment(swept)) == committed(swept)


def test_a_mended_typo_keeps_every_row(swept, record):
    source = swept / "notebooks" / f"{SLUG}.md"
    source.write_text(source.read_text().replace("a tpyo", "no typo"))
    assert seeds(collect(swept)) == [0, 1, 2]


def test_rows_of_other_code_are_dropped_and_told(swept, record):
    source = swept / "notebooks" / f"{SLUG}.md"
    source.write_text(source.read_text().replace('claim("toy.sum")', 'claim("toy.sum", 1)'))
    execute(swept, record("toy.sum", at_most("x", 0.5, 1)))
    ledger = collect(swept)
    assert seeds(ledger) == [0]
    assert ledger.dropped == [
        f"{SLUG} a {seed} cpu default: the notebook's code changed" for seed in (1, 2)
    ]


def test_rows_of_changed_weights_are_dropped_and_told(tmp_path, record, monkeypatch):
    root = project(tmp_path)
    digests = {"net-seed1": "a" * 64}
    monkeypatch.setattr(provenance, "digest_of", digests.__getitem__)
    execute(root, record("toy.sum", at_most("x", 0.5, 1)))
    execute(root, record("toy.sum", at_most("x", 0.6, 1)), seed=1, reads={"net-seed1": "a" * 12})
    collect(root).save(ledger_path(root), environment(root))
    assert seeds(collect(root)) == [0, 1]
    digests["net-seed1"] = "b" * 64
    ledger = collect(root)
    assert seeds(ledger) == [0]
    assert ledger.dropped == [f"{SLUG} a 1 cpu default: net-seed1 changed"]


def test_a_row_made_again_is_not_told_as_dropped(swept, record):
    source = swept / "notebooks" / f"{SLUG}.md"
    source.write_text(source.read_text().replace('claim("toy.sum")', 'claim("toy.sum", 1)'))
    for seed in (0, 1):
        execute(swept, record("toy.sum", at_most("x", 0.5 + seed, 2)), seed=seed)
    assert [line.split()[2] for line in collect(swept).dropped] == ["2"]


def test_a_damaged_run_is_not_in_the_way_of_the_others(swept):
    path = swept / "runs" / SLUG / "a-seed1-cpu-default.ipynb"
    path.write_text(path.read_text()[:200])
    ledger = collect(swept)
    assert seeds(ledger) == [0, 1, 2]  # the row is in the committed ledger, too
    assert any("a-seed1-cpu-default.ipynb is damaged" in line for line in ledger.dropped)


@pytest.mark.parametrize("text", ["", "{", "<<<<<<< HEAD\n{}\n=======\n", "[]", "{}"])
def test_a_damaged_ledger_is_named_with_the_way_out(swept, text):
    ledger_path(swept).write_text(text)
    with pytest.raises(ValueError, match="book/ledger.json is .*git checkout book/ledger.json"):
        committed(swept)


def test_the_rows_of_an_old_ledger_are_read_and_nobody_knows_what_made_them(swept):
    check = {"name": "x", "measured": 1, "value": 1, "low": None, "high": 2, "expected": None,
             "timing": False, "role": "printed", "outcome": True}  # fmt: skip
    run = {"model": "a", "seed": 4, "device": "cpu", "scale": "default", "checks": [check],
           "in_kind": "", "reason": "", "verdict": "reproduced after correction"}  # fmt: skip
    entry = {"id": "toy.sum", "notebook": SLUG, "verdict": "reproduced in kind", "runs": [run]}
    ledger_path(swept).write_text(json.dumps({"claims": [entry], "environment": {}}))
    ((row, _),) = committed_rows(swept)
    assert key_of(row) == f"{SLUG} a 4 cpu default"
    assert committed(swept)["claims"][0]["runs"][0]["outcome"] == "corrected"
    (line,) = [line for line in collect(swept).dropped if " 4 " in line]
    assert "nobody knows what made it" in line


def test_the_ledger_names_versions_and_no_machine(swept):
    assert environment(swept) == {**VERSIONS, "device": "cpu"}
    assert str(swept) not in ledger_path(swept).read_text()
