import pytest
from written import INVENTORY

from attribook.report.inventory import (
    evidence_of,
    listed,
    load_claims,
    load_inventory,
    misspelt,
)


@pytest.fixture
def written(tmp_path):
    """Writes an inventory with a change, and reads it."""

    def make(old="", new=""):
        assert old in INVENTORY
        (tmp_path / "toy.yml").write_text(INVENTORY.replace(old, new) if old else INVENTORY)
        return load_claims(tmp_path)

    return make


def test_claims_are_read_with_their_paper_and_the_parts_of_their_evidence(written):
    (entry,) = written().values()
    assert entry["paper"] == "toy"
    assert entry["evidence"] == [{"kind": "sample", "n": 20, "text": "20 photos"}]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("exact", [("exact", None, "")]),
        ("exact (proof), tried on 6 networks", [("exact", None, "(proof), tried on 6 networks")]),
        ("instances: 1,000 cases", [("instances", 1000, "1,000 cases")]),
        ("exact; sample: 20 photos", [("exact", None, ""), ("sample", 20, "20 photos")]),
        ("drawing", [("drawing", None, "")]),
    ],
)
def test_evidence_has_a_kind_a_number_and_a_unit(text, parts):
    assert [tuple(part.values()) for part in evidence_of(text)] == parts


@pytest.mark.parametrize("text", ["sample: some photos", "instances", "proof", "", "exactly"])
def test_evidence_without_kind_or_number_is_refused(text):
    with pytest.raises(ValueError, match="evidence"):
        evidence_of(text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("origin: paper, ", "", "toy.sum lacks origin"),
        ("origin: paper", "origin: mine", "origin 'mine'; there are: paper, ours"),
        ("setting: paper", "setting: similar", "setting 'similar'; wants `paper` or `in kind"),
        ("20 photos", "photos", "wants a number and a unit"),
        ("origin: paper", "origin: paper, outcome: fine", "expects outcome 'fine'"),
        ("origin: paper", "origin: paper, history: [{date: x}]", "its history lacks check, old"),
        ("key: toy\n", "", "toy.yml wants `key: <paper>` and a list `claims:`"),
        ("claims:\n  - {id", "claims: {}\nx:\n  - {id", "`claims` is no list of claims"),
        ("claims:\n", "claims: [", "toy.yml is no YAML"),
        ("id: toy.sum, kind", "kind", "a claim without id lacks id"),
    ],
)
def test_a_broken_inventory_is_named_with_what_it_lacks(written, old, new, message):
    with pytest.raises(ValueError, match=message):
        written(old, new)


def test_an_id_that_stands_twice_is_refused(tmp_path):
    for name in ("toy", "joy"):
        (tmp_path / f"{name}.yml").write_text(INVENTORY)
    with pytest.raises(ValueError, match="the id toy.sum stands twice"):
        load_claims(tmp_path)


def test_a_folder_without_inventories_is_named(tmp_path):
    with pytest.raises(ValueError, match="no claims in"):
        load_claims(tmp_path)


def test_a_notebook_is_found_by_the_tail_of_its_name(tmp_path, written):
    written()
    inventory = load_inventory(tmp_path / "toy.yml")
    assert listed(inventory, "01-sums") == listed(inventory, "07-sums") == ["toy.sum"]
    assert listed(inventory, "01-other") == []
    assert misspelt(inventory, ["01-sums"]) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("toy-1-sums", "toy-1-suns", "lists a notebook 'toy-1-suns'; there are: 01-sums"),
        ("[toy.sum]", "[toy.sum, toy.sun]", "lists 'toy.sun' for a notebook, and no such claim"),
        ("[toy.sum]", "[]", "lists 'toy.sum' for no notebook"),
        ("[toy.sum]", "[toy.sum, toy.sum]", "lists 'toy.sum' for several notebooks"),
    ],
)
def test_what_is_listed_in_vain_is_told(tmp_path, written, old, new, told):
    written(old, new)
    lines = misspelt(load_inventory(tmp_path / "toy.yml"), ["01-sums"])
    assert any(told in line for line in lines), lines
