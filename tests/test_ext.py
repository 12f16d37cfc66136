"""The book's Sphinx extension, on a small project of two claims and one notebook."""

import io
import json
import math
import re
from pathlib import Path

import nbformat
import pytest
import yaml
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import docutils_namespace

from attribook.ledger import CLAIM_MIME, Ledger, at_most, claim, close, holds, load_claims, report

EXTENSION = Path(__file__).parents[1] / "book" / "_ext"
SLUG = "gradient/01-linear-model"
CELL = "../notebooks/gradient/01-linear-model.html#gradient.sum"
DEFAULTS = {"model": "lite0", "seed": 0, "device": "cpu", "scale": "default"}
CLAIMS = {
    "key": "gradient",
    "claims": [
        {"id": "gradient.sum", "where": "Eq. 9", "kind": "equation", "says": "R adds up & S < 1.",
         "values": {"x": [4, 4]}, "errata": "Needs S(0) = 0."},
        {"id": "gradient.absent", "where": "Fig. 2", "kind": "figure", "says": "Maps are noisy."},
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def extension_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(EXTENSION))


@pytest.fixture
def emit(monkeypatch):
    """The bundle that a claim displays in a notebook."""

    def bundle(*arguments):
        shown = []
        monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
        claim(*arguments)
        return shown[0]

    return bundle


@pytest.fixture
def project(tmp_path, emit):
    """A project in which one claim ran with three seeds and the other was never recorded."""
    (tmp_path / "book" / "claims").mkdir(parents=True)
    (tmp_path / "book" / "claims" / "gradient.yml").write_text(yaml.safe_dump(CLAIMS))
    (tmp_path / "index.md").write_text("# Start\n\n```{toctree}\n:glob:\n\n*/*\n*/*/*\n```\n")
    (tmp_path / "book" / "ledger.md").write_text("# Ledger\n")
    ledger = Ledger(load_claims(tmp_path / "book" / "claims"))
    for seed in (0, 1, 2):
        data = emit(
            "gradient.sum",
            at_most("gap", (0.01, 0.02, 0.09)[seed], 0.1),
            close("parts", [4, 2 + seed / 1000], [4, 2], 0.1),
            holds("ordered", True),
            report("share", [math.nan, 0.5, 0.5 + seed]),
        )
        ledger.add(data[CLAIM_MIME], SLUG, {**DEFAULTS, "seed": seed}, "abc")
    ledger.save(tmp_path / "book" / "ledger.json", {"torch": "9.9"})
    cell = nbformat.v4.new_code_cell(
        "claim(...)",
        execution_count=1,
        outputs=[nbformat.v4.new_output("display_data", data=data)],
    )
    cells = [nbformat.v4.new_markdown_cell("# A sum"), cell]
    python = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=python)
    (tmp_path / "notebooks" / "gradient").mkdir(parents=True)
    nbformat.write(notebook, tmp_path / "notebooks" / f"{SLUG}.ipynb")
    statistics = {
        "parameters": DEFAULTS, "wall_seconds": 90.0, "peak_memory_mb": 512, "forward_passes": 1234,
        "forward_rows": 5678, "processor": "CPU", "python": "3.0", "torch": "9.9", "numpy": "8.8",
        "timings": {"gradient.sum": {"seconds a map": 0.25}},
    }  # fmt: skip
    (tmp_path / "book" / "run_statistics.json").write_text(json.dumps({SLUG: statistics}))
    return tmp_path


def build(project: Path, page: str) -> tuple[str, str]:
    """The HTML of book/page.md with the given text, and the build's warnings."""
    (project / "book" / "page.md").write_text(f"# Page\n\n{page}\n", encoding="utf-8")
    warnings = io.StringIO()
    settings = {
        "extensions": ["myst_nb", "attribook_ext"],
        "nb_execution_mode": "off",
        "exclude_patterns": ["_build"],
        "suppress_warnings": ["mystnb.unknown_mime_type"],
        "myst_enable_extensions": ["dollarmath"],
        "mathjax_path": "mathjax/tex-chtml.js",
    }
    out = project / "_build" / "html"
    trees = project / "_build" / "trees"
    with docutils_namespace():
        app = Sphinx(project, None, out, trees, "html", settings, status=None, warning=warnings)
        app.build(force_all=True)
    return (out / "book" / "page.html").read_text(encoding="utf-8"), warnings.getvalue()


def test_a_value_is_the_median_over_seeds_in_three_digits_and_leads_to_the_cell(project):
    page, warnings = build(project, "{claimval}`gradient.sum:gap` {claimval}`gradient.sum:parts`")
    assert warnings == ""
    found = re.findall(r'<a class="claimval" href="([^"]+)" title="([^"]+)">([^<]+)</a>', page)
    assert found == [
        (CELL, "gradient.sum: gap", "0.02"),
        (CELL, "gradient.sum: parts", "(4, 2)"),
    ]


def test_an_undefined_value_stays_undefined_over_seeds(project):
    page, warnings = build(project, "{claimval}`gradient.sum:share`")
    assert warnings == ""
    assert "(nan, 0.5, 1.5)" in page


def test_a_claim_without_a_check_is_its_verdict(project):
    page, warnings = build(project, "{claimval}`gradient.sum` and {verdict}`refuted`")
    assert warnings == ""
    assert f'<a class="verdict" data-verdict="reproduced" href="{CELL}">reproduced</a>' in page
    assert '<span class="verdict" data-verdict="refuted">refuted</span>' in page


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{claimval}`gradient.sun`", "unknown claim 'gradient.sun'"),
        (
            "{claimval}`gradient.sum:gasp`",
            "has no check 'gasp'; it has ['gap', 'ordered', 'parts', 'share']",
        ),
        ("{verdict}`proved`", "unknown verdict 'proved'"),
        ("```{paper-claims} taylor\n```", "no claims of paper 'taylor'"),
    ],
)
def test_a_wrong_name_warns_so_that_the_strict_build_fails(project, text, message):
    assert message in build(project, text)[1]


def test_the_ledger_has_a_row_for_every_claim_with_what_was_said_and_measured(project):
    page, warnings = build(project, "```{claim-ledger}\n```")
    assert warnings == ""
    parts = page.split('<tr id="ledger-')[1:]
    rows = {part.partition('"')[0]: part for part in parts}
    assert list(rows) == ["gradient.sum", "gradient.absent"]
    ran, absent = rows.values()
    for text in (
        *(f'href="{CELL}"', "R adds up &amp; S &lt; 1.", "x: (4, 4)", "<b>0.02</b>", "≤ 0.1"),
        *("median of 3 seeds", "in 3 of 3 seeds", "3 runs", 'data-verdict="reproduced"'),
    ):
        assert text in ran
    assert "Not run: no notebook records it yet." in absent
    assert 'data-verdict="not run"' in absent


def test_a_check_that_fails_on_average_is_shown_first_and_marked(project):
    path = project / "book" / "ledger.json"
    ledger = json.loads(path.read_text())
    for run in ledger["claims"][0]["runs"]:
        check = run["checks"][2]
        check["measured"], check["value"], check["outcome"] = False, 0.0, False
        run["measured"]["ordered"] = False
    path.write_text(json.dumps(ledger))
    page, _ = build(project, "```{claim-ledger}\n```")
    lines = re.findall(r'<span class="met">(.)</span> (\w+)', page)
    assert lines == [("✗", "ordered"), ("✓", "gap"), ("✓", "parts"), ("–", "share")]


def test_the_runs_of_a_claim_are_listed_with_their_seeds(project):
    page, _ = build(project, "```{claim-ledger}\n```")
    runs = page.partition("3 runs</summary>")[2].partition("</table>")[0]
    assert [re.findall(r"<td>(\w[^<]*)</td>", row)[1] for row in runs.split("<tr>")[2:]] == list(
        "012"
    )
    assert "<td>0.09</td>" in runs


def test_a_paper_shows_its_counts_and_lists_claims_under_their_notebook(project):
    page, warnings = build(project, "```{paper-claims} gradient\n```")
    assert warnings == ""
    assert 'aria-label="2 claims: 1 reproduced, 1 not run"' in page
    assert page.index("A sum") < page.index("R adds up") < page.index("In no notebook yet")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("S = {i: k_i > 0}; I is an AND: " + 150 * "x", "S = {i: k_i > 0}."),
        ("C(k) = m(|k|; k) holds. " + 150 * "x" + ": always.", None),
        ("Short: all of it; even this.", None),
    ],
)
def test_a_long_text_is_cut_outside_of_brackets(text, shown):
    from attribook_ext.render import _first_sentence

    assert _first_sentence(text) == (shown or text.split(": always")[0].rstrip(".") + ".")


def test_errata_list_only_claims_that_have_one(project):
    page, warnings = build(project, "```{claim-errata} gradient\n```")
    assert warnings == ""
    assert "Needs S(0) = 0." in page
    assert page.count('class="erratum"') == 1


def test_run_statistics_show_cost_timings_and_versions(project):
    page, warnings = build(project, "```{run-statistics}\n```")
    assert warnings == ""
    for text in ("90 s", "512 MB", "1,234", "1.5 minutes", "seconds a map", "0.25", "9.9", "8.8"):
        assert text in page


def test_benchmarks_are_a_table_once_recorded(project):
    assert "Not measured on this copy" in build(project, "```{benchmarks}\n```")[0]
    table = {"caption": "Cost", "columns": ["method", "ratio"], "rows": [["IG", 1.0987]]}
    recorded = {"environment": {"cpu": "two cores"}, "tables": [table]}
    (project / "book" / "benchmarks.json").write_text(json.dumps(recorded))
    page, warnings = build(project, "```{benchmarks}\n```")
    assert warnings == ""
    assert "1.1" in page and "two cores" in page


def test_a_claim_recorded_on_a_page_the_book_lacks_warns(project):
    (project / "notebooks" / f"{SLUG}.ipynb").unlink()
    assert "which the book lacks" in build(project, "```{claim-ledger}\n```")[1]


@pytest.mark.parametrize("name", ["ledger.json", "run_statistics.json"])
def test_a_missing_file_stops_the_build_and_says_how_to_make_it(project, name):
    (project / "book" / name).unlink()
    with pytest.raises(ExtensionError, match=rf"{name} is missing .*attribook ledger"):
        build(project, "")


def test_a_ledger_that_knows_other_claims_than_the_inventory_stops_the_build(project):
    inventory = {**CLAIMS, "claims": CLAIMS["claims"][:1]}
    (project / "book" / "claims" / "gradient.yml").write_text(yaml.safe_dump(inventory))
    with pytest.raises(ExtensionError, match="gradient.absent"):
        build(project, "")


def test_formulas_come_from_files_in_the_build(project):
    page, _ = build(project, "$x$")
    assert 'src="../_static/mathjax/tex-chtml.js' in page
    mathjax = project / "_build" / "html" / "_static" / "mathjax"
    assert (mathjax / "tex-chtml.js").stat().st_size > 10**6
    assert len(list(mathjax.glob("output/chtml/fonts/woff-v2/*.woff"))) > 20


def test_no_formula_package_is_an_error_that_names_it(monkeypatch):
    from attribook_ext import offline

    monkeypatch.setattr(offline, "PACKAGE", "no-such-package")
    with pytest.raises(ExtensionError, match="pip install no-such-package"):
        offline._mathjax_files()
