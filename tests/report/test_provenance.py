import jupytext
import pytest
from written import SOURCE, VERSIONS

from attribook.report import provenance
from attribook.report.provenance import (
    code_of,
    describe,
    library_of,
    older,
    stale,
)

RUN = {"code": "c1", "library": {"paths": "aa", "score": "bb"}, "versions": VERSIONS,
       "reads": {"mnist5k": "123456789abc"}}  # fmt: skip


def described(text):
    return describe(text, jupytext.reads(text, fmt="md:myst"))


@pytest.fixture
def on_disk(monkeypatch):
    """What reading each file would report today."""
    digests = {"mnist5k": "123456789abcdef0"}

    def digest_of(name):
        if name not in digests:
            raise ValueError(name)
        return digests[name]

    monkeypatch.setattr(provenance, "digest_of", digest_of)
    return digests


def test_prose_is_no_part_of_what_makes_a_row():
    before, after = described(SOURCE), described(SOURCE.replace("a tpyo", "no typo"))
    assert before["source"] != after["source"]
    assert (before["code"], before["library"]) == (after["code"], after["library"])


def test_a_changed_bound_in_the_code_is_another_code():
    assert described(SOURCE)["code"] != described(SOURCE.replace('"toy.sum"', '"toy.sun"'))["code"]


def test_spaces_at_the_ends_of_lines_are_no_code():
    spaced = SOURCE.replace("seed = 0\n", "seed = 0   \n")
    assert described(SOURCE)["code"] == described(spaced)["code"]


@pytest.fixture
def library(tmp_path):
    modules = {
        "one.py": "from attribook import two\n",
        "two.py": "def f():\n    import attribook.deep.inner as inner\n    return inner\n",
        "deep/__init__.py": "",
        "deep/inner.py": "from attribook.one import x\n",
        "other.py": "Y = 3\n",
        "__init__.pyi": "from attribook.one import x as x\n",
    }
    for name, text in modules.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    "code",
    [
        "from attribook.one import x",
        "import attribook.one",
        "from attribook import one",
        "from attribook import x",
        "def f():\n    from attribook import one as uno",
    ],  # fmt: skip
)
def test_the_closure_follows_imports_in_every_spelling_and_round_a_cycle(library, code):
    assert set(library_of(code, library)) == {"one", "two", "deep", "deep.inner"}


def test_a_change_of_a_module_is_seen_where_it_is_imported_and_only_there(library):
    codes = ("import attribook.one", "import attribook.other", "import numpy")
    before = [library_of(code, library) for code in codes]
    (library / "deep/inner.py").write_text("from attribook.one import x, y\n")
    after = [library_of(code, library) for code in codes]
    assert [was == now for was, now in zip(before, after, strict=True)] == [False, True, True]
    assert after[2] == {}


def test_a_row_is_fresh_while_code_and_files_are_the_same(on_disk):
    assert stale(RUN, "c1") == []
    assert older(RUN, RUN["library"], VERSIONS) == []


def test_a_row_is_stale_when_code_weights_or_data_changed(on_disk):
    assert stale(RUN, "c2") == ["the notebook's code changed"]
    on_disk["mnist5k"] = "fedcba9876543210"
    assert stale(RUN, "c1") == ["mnist5k changed"]
    del on_disk["mnist5k"]
    assert stale(RUN, "c1") == ["mnist5k is no longer there"]
    assert stale({**RUN, "code": ""}, "") == ["nobody knows what made it"]


def test_a_row_is_older_when_the_library_or_a_version_changed():
    library = {"paths": "zz", "score": "bb"}
    assert older(RUN, library, VERSIONS) == ["changed: paths"]
    assert older(RUN, {"score": "bb", "new": "cc"}, VERSIONS) == ["changed: new, paths"]
    newer = {**VERSIONS, "torch": "2.14.0", "python": "3.13"}
    assert older(RUN, RUN["library"], newer) == ["made with torch 2.13.0, now 2.14.0"]


def test_the_code_of_a_notebook_is_its_code_cells():
    assert code_of(jupytext.reads(SOURCE, fmt="md:myst")).startswith(
        "from attribook.report.claims import"
    )
