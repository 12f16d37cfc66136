"""What `attribook ledger --check` catches: every kind of tampering, drift and neglect."""

import json
import subprocess

import nbformat
import pytest
from written import SLUG, VERSIONS, execute, project

from attribook.report import audit, provenance
from attribook.report.agreement import outputs_digest
from attribook.report.audit import (
    moved,
    notes,
    problems,
    standing,
    unexplained,
)
from attribook.report.claims import (
    at_most,
    close,
    holds,
    report,
)
from attribook.report.ledger import (
    collect,
    committed,
    environment,
    ledger_path,
)

CHECKS = {
    "gap": lambda value: at_most("gap", value, 1),
    "parts": lambda value: close("parts", [value, 2], [0.5, 2], 1),
    "share": lambda value: report("share", value),
}


@pytest.fixture
def book(tmp_path, record):
    """A project with a reference, rows of seeds 1 and 2, and its ledger; nothing is wrong."""
    root = project(tmp_path)
    for seed in range(3):
        execute(root, made(record, 0.5 + seed / 10), seed=seed)
    renew(root)
    return root


def made(record, value, **options):
    return record("toy.sum", *(check(value) for check in CHECKS.values()), **options)


def renew(root):
    collect(root).save(ledger_path(root), environment(root))


def edit(path, old, new, count=1):
    text = path.read_text()
    assert old in text, old
    path.write_text(text.replace(old, new, count))


def change(root, edit_it):
    """Change the parsed ledger in place."""
    path = ledger_path(root)
    ledger = json.loads(path.read_text())
    edit_it(ledger)
    path.write_text(json.dumps(ledger, indent=1, ensure_ascii=False) + "\n")


def test_a_book_as_it_was_made_has_no_problems(book):
    assert problems(book) == [] and notes(book) == []


def first_check(ledger, run=0, check=0):
    return ledger["claims"][0]["runs"][run]["checks"][check]


TAMPERED = {
    "a number of the reference": lambda x: first_check(x).update(measured=0.7),
    "a number that is reported and not judged": lambda x: first_check(x, 0, 2).update(measured=9),
    "a value that is judged": lambda x: first_check(x).update(value=0.7),
    "a check's outcome": lambda x: first_check(x).update(met=False),
    "a bound": lambda x: first_check(x).update(high=2.0),
    "a floor": lambda x: first_check(x).update(floor=0.1),
    "a number of another seed": lambda x: first_check(x, 1).update(measured=0.7, value=0.7),
    "another seed's check's outcome": lambda x: first_check(x, 2).update(met=False),
    "one of a list": lambda x: first_check(x, 1, 1)["measured"].__setitem__(1, 2.5),
    "the outcome": lambda x: x["claims"][0].update(outcome="refuted"),
    "a run's outcome": lambda x: x["claims"][0]["runs"][1].update(outcome="refuted"),
    "the setting": lambda x: x["claims"][0].update(setting="in kind"),
    "the words about the setting": lambda x: x["claims"][0].update(in_kind="other photos"),
    "the evidence": lambda x: x["claims"][0]["evidence"][0].update(n=200),
    "the origin": lambda x: x["claims"][0].update(origin="ours"),
    "the tally": lambda x: x["claims"][0]["tally"].update(runs=6),
    "the paper's value": lambda x: x["claims"][0]["paper_value"].update(sum=5),
    "what the claim says": lambda x: x["claims"][0].update(says="It does not."),
    "an erratum": lambda x: x["claims"][0].update(errata="Eq. 1 is wrong."),
    "the history": lambda x: x["claims"][0]["history"].append({"date": "2020-01-01"}),
    "the environment": lambda x: x["environment"].update(torch="9.9"),
    "the order of runs": lambda x: x["claims"][0]["runs"].reverse(),
    "what made a row": lambda x: x["runs"][f"{SLUG} a 1 cpu default"].update(records="0" * 12),
    "a field that no page knows": lambda x: x["claims"][0].update(note="hello"),
    "a claim": lambda x: x["claims"].clear(),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_whatever_is_edited_in_the_ledger_is_told(book, what):
    change(book, TAMPERED[what])
    assert problems(book) != []


def test_an_edited_number_is_told_with_its_place_both_values_and_the_claim(book):
    change(book, TAMPERED["a number of the reference"])
    (line,) = [line for line in problems(book) if "is 0.7, wanted 0.5" in line]
    assert "toy.sum" in line and "gap" in line and "measured" in line


def test_removed_seeds_are_listed_as_missing(book):
    def remove(ledger):
        del ledger["claims"][0]["runs"][1:], ledger["runs"][f"{SLUG} a 1 cpu default"]
        del ledger["runs"][f"{SLUG} a 2 cpu default"]
        ledger["claims"][0]["tally"] = {"runs": 1, "hold": 1, "distinct": 1, "coverage": None}

    change(book, remove)
    assert notes(book) == [f"missing: {SLUG} a {seed} cpu default" for seed in (1, 2)]


def test_missing_rows_fail_once_the_switch_is_turned(book, monkeypatch):
    for path in (book / "runs").rglob("*2-cpu*"):
        path.unlink()
    ledger_path(book).unlink()
    renew(book)
    assert problems(book) == [] and len(notes(book)) == 1
    monkeypatch.setattr(audit, "MISSING_ROWS_FAIL", True)
    assert problems(book) == [f"missing: {SLUG} a 2 cpu default"] and notes(book) == []


def test_a_mended_typo_asks_for_the_prose_and_costs_no_row(book):
    edit(book / "notebooks" / f"{SLUG}.md", "a tpyo", "no typo")
    assert problems(book) == [
        f"{SLUG}: the reference has older prose; `attribook run {SLUG}` renews it at once"
    ]
    assert {row.state for row in standing(book)} == {"fresh"}


def test_changed_code_makes_rows_stale_and_stale_rows_fail(book):
    edit(book / "notebooks" / f"{SLUG}.md", 'claim("toy.sum")', 'claim("toy.sum", 1)')
    lines = problems(book)
    assert any("the reference is older than its source" in line for line in lines)
    stale = [line for line in lines if line.startswith("stale: ")]
    assert len(stale) == 3 and all("the notebook's code changed" in line for line in stale)


def test_changed_weights_make_rows_stale(tmp_path, record, monkeypatch):
    root = project(tmp_path)
    digests = {"net": "a" * 64}
    monkeypatch.setattr(provenance, "digest_of", digests.__getitem__)
    for seed in range(3):
        execute(root, made(record, 0.5 + seed / 10), seed=seed, reads={"net": "a" * 12})
    renew(root)
    assert problems(root) == []
    digests["net"] = "b" * 64
    assert [line for line in problems(root) if line.startswith("stale")] == [
        f"stale: {SLUG} a {seed} cpu default (net changed)" for seed in range(3)
    ]


def test_a_changed_library_makes_rows_older_which_is_listed_and_fails_nothing(tmp_path, record):
    root = project(tmp_path)
    for seed in range(3):
        library = {"report.claims": "0" * 8} if seed == 1 else None
        versions = {**VERSIONS, "torch": "1.0"} if seed == 2 else None
        execute(root, made(record, 0.5 + seed / 10), seed=seed, library=library, versions=versions)
    renew(root)
    assert problems(root) == []
    assert notes(root) == [
        f"older: {SLUG} a 1 cpu default (changed: report, report.claims, report.verdicts)",
        f"older: {SLUG} a 2 cpu default (made with torch 1.0, now {VERSIONS['torch']})",
    ]


def test_a_reference_is_re_run_by_the_tests_and_so_never_older(tmp_path, record):
    root = project(tmp_path)
    execute(root, made(record, 0.5), library={"report.claims": "0" * 8})
    renew(root)
    assert [row.state for row in standing(root) if row.parameters["seed"] == 0] == ["fresh"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"measured": 0.5', '"measured": 0.6', "outputs were edited"),
        ("<td>0.5</td>", "<td>0.7</td>", "what is shown is not what is recorded"),
        ("Some prose with a tpyo.", "Some prose.", "its cells are not its source's"),
    ],
)
def test_an_edited_reference_is_told(book, old, new, told):
    edit(book / "notebooks" / f"{SLUG}.ipynb", old, new)
    assert any(told in line for line in problems(book))


def test_a_reference_whose_record_contradicts_itself_is_told(book):
    """Edited with care: the digest of the outputs and the shown HTML follow the edit."""
    path = book / "notebooks" / f"{SLUG}.ipynb"
    edit(path, '"met": true', '"met": false', count=-1)
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.attribook.outputs = outputs_digest(notebook)
    nbformat.write(notebook, path)
    assert any("recorded as missed, its value says otherwise" in line for line in problems(book))


def test_missing_damaged_and_stale_references_keep_the_ledger_from_being_written(book):
    path = book / "notebooks" / f"{SLUG}.ipynb"
    whole = path.read_text()
    for text in (whole[:300], "", "<<<<<<< HEAD\n" + whole):
        path.write_text(text)
        (line,) = audit.unready(book)
        assert "01-sums.ipynb is damaged" in line and "--force" in line
        assert line in problems(book)
    path.unlink()
    assert audit.unready(book) == [f"{SLUG}: no reference; make it with `attribook run {SLUG}`"]


def test_failed_runs_are_told_until_they_are_mended(book):
    kept = book / "runs/failed/toy/01-sums/a-seed3-cpu-default.ipynb"
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert any("failed: runs/failed/toy/01-sums/a-seed3" in line for line in problems(book))


def test_a_claim_that_the_notebook_does_not_record_is_told(book):
    path = book / "book/claims/toy.yml"
    edit(path, "[toy.sum]", "[toy.sum, toy.other]")
    edit(path, "claims:\n  -", "claims:\n  - {id: toy.other, kind: table, where: a, says: b, "
         "origin: paper, setting: paper, evidence: exact}\n  -")  # fmt: skip
    assert f"toy.other: listed for {SLUG}, which does not record it" in problems(book)


def test_a_misspelt_notebook_in_an_inventory_is_told(book):
    edit(book / "book/claims/toy.yml", "toy-1-sums", "toy-1-suns")
    assert any("lists a notebook 'toy-1-suns'" in line for line in problems(book))


def test_notebook_and_inventory_agree_about_the_setting(book):
    edit(book / "book/claims/toy.yml", "setting: paper", 'setting: "in kind: digits"')
    assert any("its notebook says 'paper', book/claims/toy.yml 'in kind'" in line
               for line in problems(book))  # fmt: skip


def test_a_damaged_ledger_is_an_error_and_a_missing_one_a_problem(book):
    ledger_path(book).write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        problems(book)
    ledger_path(book).unlink()
    assert any("does not exist" in line for line in problems(book))


def loosened(book, record):
    """The bound of a check loosened in notebook, reference and every row, and the ledger renewed."""
    edit(book / "notebooks" / f"{SLUG}.md", 'claim("toy.sum")', 'claim("toy.sum", 1)')
    for seed in range(3):
        checks = [at_most("gap", 0.5 + seed / 10, 5), CHECKS["parts"](0.5), CHECKS["share"](0.5)]
        execute(book, record("toy.sum", *checks), seed=seed)


def commit(root, message):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run(["git", "add", "-A"], cwd=root, check=True)
    subprocess.run(["git", *identity, "commit", "-qm", message], cwd=root, check=True)


TOLD = ("toy.sum: the criterion of 'gap' was '≤ 1', is '≤ 5'; give date, check, old, new and "
        "reason in the claim's `history`")  # fmt: skip


def test_a_changed_criterion_needs_its_history(book, record):
    commit(book, "first")
    loosened(book, record)
    assert audit.unexplained_since(book, collect(book).as_json({})) == [TOLD]
    renew(book)
    assert problems(book) == [TOLD]  # not yet committed
    commit(book, "second")
    assert problems(book) == [TOLD]  # committed: compared with the version before
    edit(book / "book/claims/toy.yml", "origin: paper", "origin: paper, history: [{date: 2026-01-02, "
         "check: gap, old: ≤ 1, new: ≤ 5, reason: too tight}]")  # fmt: skip
    renew(book)
    assert problems(book) == []
    (told,) = committed(book)["claims"][0]["history"]
    assert told["date"] == "2026-01-02" and told["reason"] == "too tight"


def test_a_history_of_another_change_explains_nothing(book, record):
    old = committed(book)
    loosened(book, record)
    new = collect(book).as_json({})
    history = [{"check": "gap", "old": "≤ 1", "new": "≤ 2"}]
    assert unexplained(old, new, {"toy.sum": {"history": history}}) == [TOLD]
    history = [{"check": "gap", "old": "≤ 1", "new": "≤ 5"}]
    assert unexplained(old, new, {"toy.sum": {"history": history}}) == []


def test_a_check_that_comes_goes_or_changes_its_role_is_a_changed_criterion(record):
    def ledger(*checks, **roles):
        run = {"run": "r", **record("toy.sum", holds("always", True), *checks, **roles)}
        return {"claims": [{"id": "toy.sum", "runs": [run]}]}

    one, none = ledger(at_most("x", 1, 2)), ledger()
    assert "was 'absent', is '≤ 2'" in unexplained(none, one, {})[0]
    assert "was '≤ 2', is 'absent'" in unexplained(one, none, {})[0]
    other = ledger(corrected=[at_most("x", 1, 2)])
    assert "was '≤ 2', is '≤ 2 (corrected)'" in unexplained(one, other, {})[0]
    assert unexplained(none, ledger(report("y", 3)), {}) == []


def test_a_floor_that_hides_more_is_a_changed_criterion_too(record):
    def ledger(**options):
        run = {"run": "r", **record("toy.sum", at_most("x", 0.5, 1, **options))}
        return {"format": 2, "claims": [{"id": "toy.sum", "runs": [run]}]}

    usual, wide = ledger(), ledger(noise=0.4)
    assert "was '≤ 1', is '≤ 1, noise 0.4'" in unexplained(usual, wide, {})[0]
    assert unexplained({**usual, "format": 1}, wide, {}) == []  # which told no floors
    small = [
        {"format": 2, "claims": [{"id": "toy.sum", "runs": [{"run": "r", **made}]}]}
        for made in (record("toy.sum", check) for check in SMALL)
    ]
    assert unexplained(small[0], small[1], {}) == []  # the floor that its bound gives anyway


SMALL = at_most("x", 0, 1e-9), at_most("x", 0, 1e-9, noise=1e-10)


def test_what_moved_between_two_ledgers_is_told_by_claim_check_and_run(book, record):
    old = committed(book)
    execute(book, made(record, 2.5), seed=0)
    new = json.loads(json.dumps(collect(book).as_json({})))
    lines = moved(old, new)
    assert "toy.sum: outcome was 'reproduced', is 'inconclusive'" in lines
    assert any("outcome was 'reproduced', is 'not reproduced'" in line and "a 0 cpu" in line
               for line in lines)  # fmt: skip
    gone = {**new, "claims": []}
    assert moved(new, gone) == ["toy.sum: gone"]
    assert moved(gone, new) == ["toy.sum: new, inconclusive"]


def test_without_git_nothing_can_be_told_of_earlier_criteria(book):
    assert audit.unexplained_since(book) == []
