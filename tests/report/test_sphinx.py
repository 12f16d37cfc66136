"""The book's Sphinx extension, on a small project of two claims and one notebook."""

import io
import json
import math
import re
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import yaml
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import docutils_namespace

from attribook.report import audit
from attribook.report.claims import (
    CLAIM_MIME,
    at_most,
    claim,
    close,
    holds,
    report,
)
from attribook.report.inventory import load_claims
from attribook.report.ledger import Ledger

SLUG = "gradient/01-linear-model"
CELL = "../notebooks/gradient/01-linear-model.html#gradient.sum"
DEFAULTS = {"model": "lite0", "seed": 0, "device": "cpu", "scale": "default"}
MADE_FROM = {"code": "abc", "library": {}, "reads": {}, "versions": {}}
CHANGE = {"date": "2026-11-28", "check": "gap", "old": "≤ 0.01", "new": "≤ 0.1", "reason": "S < 1"}
CLAIMS = {
    "key": "gradient",
    "claims": [
        {"id": "gradient.sum", "where": "Eq. 9", "kind": "equation", "says": "R adds up & S < 1.",
         "values": {"x": [4, 4]}, "errata": "Needs S(0) = 0.", "origin": "paper",
         "setting": "in kind: lite0", "evidence": "exact (by hand); sample: 18 photos",
         "history": [CHANGE]},
        {"id": "gradient.absent", "where": "Fig. 2", "kind": "figure", "says": "Maps are noisy.",
         "origin": "paper", "setting": "paper", "evidence": "instances: 40 networks"},
    ],
}  # fmt: skip
EVIL = "\"><script>alert(1)</script>'&"


@pytest.fixture
def emit(monkeypatch):
    """The bundle that a claim displays in a notebook."""

    def bundle(*arguments, **named):
        shown = []
        monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
        claim(*arguments, **named)
        return shown[0]

    return bundle


@pytest.fixture
def project(tmp_path, emit):
    """A project in which one claim ran with three seeds and the other was never recorded."""
    (tmp_path / "book" / "claims").mkdir(parents=True)
    (tmp_path / "book" / "claims" / "gradient.yml").write_text(yaml.safe_dump(CLAIMS))
    (tmp_path / "index.md").write_text("# Start\n\n```{toctree}\n:glob:\n\n*/*\n*/*/*\n```\n")
    (tmp_path / "book" / "ledger.md").write_text("# Ledger\n\n```{claim-ledger}\n```\n")
    ledger = Ledger(load_claims(tmp_path / "book" / "claims"))
    bundles = []
    for seed in (0, 1, 2):
        data = emit(
            "gradient.sum",
            at_most("gap", (0.01, 0.02, 0.09)[seed], 0.1),
            close("parts", [4, 2 + seed / 10], [4, 2], 0.5),
            holds("ordered", True),
            report("share", [math.nan, 0.5, 0.5 + seed]),
            in_kind="lite0 instead of Inception",
        )
        ledger.add({"notebook": SLUG, **DEFAULTS, "seed": seed, **MADE_FROM}, [data[CLAIM_MIME]])
        bundles.append(data)
    ledger.save(tmp_path / "book" / "ledger.json", {"torch": "9.9"})
    write_notebook(tmp_path, bundles[0])
    statistics = {
        "parameters": DEFAULTS, "wall_seconds": 90.0, "peak_memory_mb": 512, "forward_passes": 1234,
        "forward_rows": 5678, "processor": "CPU", "python": "3.0", "torch": "9.9", "numpy": "8.8",
        "timings": {"gradient.sum": {"seconds a map": 0.25}},
    }  # fmt: skip
    (tmp_path / "book" / "run_statistics.json").write_text(json.dumps({SLUG: statistics}))
    return tmp_path


def write_notebook(project: Path, data: dict) -> None:
    output = nbformat.v4.new_output("display_data", data=data)
    cell = nbformat.v4.new_code_cell("claim(...)", execution_count=1, outputs=[output])
    cells = [nbformat.v4.new_markdown_cell("# A sum"), cell]
    python = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=python)
    (project / "notebooks" / "gradient").mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, project / "notebooks" / f"{SLUG}.ipynb")


def build(project: Path, page: str, read: str = "book/page") -> tuple[str, str]:
    """The HTML of a page when book/page.md has the given text, and the build's warnings."""
    (project / "book" / "page.md").write_text(f"# Page\n\n{page}\n", encoding="utf-8")
    warnings = io.StringIO()
    settings = {
        "extensions": ["myst_nb", "attribook.report.sphinx"],
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
    return (out / f"{read}.html").read_text(encoding="utf-8"), warnings.getvalue()


def change(project: Path, alter) -> None:
    """Alter the first claim of the project's ledger."""
    path = project / "book" / "ledger.json"
    ledger = json.loads(path.read_text())
    alter(ledger["claims"][0])
    path.write_text(json.dumps(ledger))


def words_of(html: str) -> str:
    """What a reader sees of a piece of HTML, on one line."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def row(page: str, claim_id: str) -> str:
    return page.partition(f'<tr id="ledger-{claim_id}"')[2].partition('<tr id="ledger-')[0]


# Values and badges in the text ----------------------------------------------------------------


def test_a_value_is_the_median_over_seeds_with_its_range_and_leads_to_the_cell(project):
    page, warnings = build(project, "{claimval}`gradient.sum:gap` {claimval}`gradient.sum:parts`")
    assert warnings == ""
    found = re.findall(r'<a class="claimval" href="([^"]+)" title="([^"]+)">([^<]+)</a>', page)
    assert found == [
        (CELL, "gradient.sum: gap", "0.02 (0.01 to 0.09)"),
        (CELL, "gradient.sum: parts", "(4, 2.1 [2 to 2.2])"),
    ]


def test_an_undefined_value_stays_undefined_over_seeds(project):
    page, warnings = build(project, "{claimval}`gradient.sum:share`")
    assert warnings == ""
    assert "(nan, 0.5, 1.5 [0.5 to 2.5])" in page


def test_a_yes_that_some_runs_lack_says_in_how_many(project):
    def alter(entry):
        entry["runs"][1]["checks"][2].update(measured=False, value=0.0, met=False)

    change(project, alter)
    page, _ = build(project, "{claimval}`gradient.sum:ordered`")
    assert ">yes in 2 of 3 runs</a>" in page


def test_runs_of_another_model_do_not_move_a_value(project):
    path = project / "book" / "ledger.json"
    ledger = json.loads(path.read_text())
    ledger["runs"][ledger["claims"][0]["runs"][2]["run"]]["model"] = "lite1"
    path.write_text(json.dumps(ledger))
    assert ">0.015 (0.01 to 0.02)</a>" in build(project, "{claimval}`gradient.sum:gap`")[0]


def test_every_page_shows_the_number_that_the_checks_of_the_runs_recorded(project):
    def alter(entry):
        for run in entry["runs"]:
            run["checks"][0]["measured"] = 0.077

    change(project, alter)
    page, _ = build(project, "{claimval}`gradient.sum:gap`\n\n```{claim-ledger}\n```")
    assert ">0.077</a>" in page and "<b>0.077</b>" in page


def test_a_claim_without_a_check_is_its_badge_with_setting_and_evidence(project):
    page, warnings = build(project, "{claimval}`gradient.sum` and {outcome}`refuted`")
    assert warnings == ""
    badge = re.search(r'<a class="claim-badge".*?</a>', page)[0]
    assert f'href="{CELL}"' in badge and 'data-outcome="reproduced"' in badge
    parts = re.findall(r'<span class="(\w+)">([^<]+)</span>', badge)
    assert parts == [
        *(("verdict", "reproduced"), ("setting", "in kind")),
        *(("evidence", "exact"), ("evidence", "18 photos")),
    ]
    assert "in kind: lite0 instead of Inception; evidence: exact (by hand); sample: 18" in badge
    assert 'data-outcome="refuted"><span class="verdict">refuted</span>' in page


@pytest.mark.parametrize("outcome", ["not reproduced", "corrected", "refuted", "inconclusive"])
def test_in_kind_survives_every_outcome(project, outcome):
    change(project, lambda entry: entry.update(outcome=outcome))
    page, _ = build(project, "{claimval}`gradient.sum`")
    badge = words_of(re.search(r'<a class="claim-badge".*?</a>', page)[0])
    assert badge.startswith(f"{outcome} in kind")


@pytest.mark.parametrize(
    ("tally", "brief", "full"),
    [
        ((6, 6, 6, 0.96875), "", "holds in 6 of 6 runs; the interval covers 96.9 %"),
        ((3, 2, 3, 0.75), "holds in 2 of 3 runs",
         "holds as printed in 2 of 3 runs; the interval covers 75 %"),
        ((3, 3, 1, None), "deterministic", "deterministic: 3 runs agree to the last digit"),
        ((4, 4, 3, 0.75), "", "holds in 4 of 4 runs, 3 of them different; the interval covers 75 %"),
        ((1, 1, 1, None), "", "1 run"),
        ((0, 0, 0, None), "", ""),
    ],
)  # fmt: skip
def test_the_tally_says_how_many_runs_hold_and_what_they_can_tell(tally, brief, full):
    from attribook.report.sphinx import badges

    named = dict(zip(("runs", "hold", "distinct", "coverage"), tally, strict=True))
    entry = {"tally": named, "outcome": "reproduced"}
    assert badges.brief_runs(entry) == brief
    assert badges.full_runs(entry) == full
    assert "holds" not in badges.full_runs({**entry, "outcome": "illustrated"})


@pytest.mark.parametrize(
    ("part", "shown"),
    [
        ({"kind": "exact", "n": None, "text": ""}, "exact"),
        ({"kind": "exact", "n": None, "text": "(proof)"}, "exact (proof)"),
        ({"kind": "drawing", "n": None, "text": ""}, "drawing"),
        ({"kind": "sample", "n": 18, "text": "18 photos"}, "sample: 18 photos"),
        ({"kind": "sample", "n": 18, "text": "photos"}, "sample: 18 photos"),
        ({"kind": "instances", "n": 1000, "text": "1,000 networks"}, "instances: 1,000 networks"),
    ],
)
def test_evidence_is_told_with_its_kind_and_its_number_once(part, shown):
    from attribook.report.sphinx import badges

    assert badges.full_evidence(part) == shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{claimval}`gradient.sun`", "unknown claim 'gradient.sun'"),
        (
            "{claimval}`gradient.sum:gasp`",
            "has no check 'gasp'; it has ['gap', 'ordered', 'parts', 'share']",
        ),
        ("{outcome}`proved`", "unknown outcome 'proved'"),
        ("```{paper-claims} taylor\n```", "no claims of paper 'taylor'"),
    ],
)
def test_a_wrong_name_warns_so_that_the_strict_build_fails(project, text, message):
    assert message in build(project, text)[1]


# The box in a notebook ------------------------------------------------------------------------


def box(project):
    page, warnings = build(project, "", read=f"notebooks/{SLUG}")
    assert warnings == ""
    return re.search(r'<div class="claim".*?</div>', page, re.DOTALL)[0]


def test_a_box_has_the_badge_of_the_ledger_and_says_which_run_it_shows(project):
    found = box(project)
    assert 'href="../../book/ledger.html#ledger-gradient.sum"' in found
    assert found.count('class="verdict"') == 1
    assert "reproduced in kind exact 18 photos" in words_of(found)
    assert "Shown is the run with seed 0. The claim holds in 3 of 3 runs" in words_of(found)


def test_a_box_whose_seed_alone_says_something_else_says_so(project):
    change(project, lambda entry: entry.update(outcome="inconclusive"))
    found = box(project)
    assert found.startswith('<div class="claim" id="gradient.sum" data-outcome="inconclusive">')
    assert "seed 0, which alone is reproduced." in words_of(found)


def test_a_box_of_an_illustration_says_whose_run_it_shows_and_no_more(project):
    change(project, lambda entry: entry.update(outcome="illustrated"))
    assert words_of(box(project)).count("Shown is the run with seed 0, of 3.") == 1
    assert "The claim" not in words_of(box(project))


def test_a_box_of_repeated_runs_shows_their_one_result(project):
    change(project, lambda entry: entry["tally"].update(distinct=1))
    assert "Shown is the run" not in box(project)
    assert "deterministic" in box(project)


def test_a_box_tells_how_its_criterion_changed(project):
    told = "1 change of criteria 2026-11-28: “gap” was ≤ 0.01, is ≤ 0.1. S < 1"
    assert told in words_of(box(project))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("absent", "≤ 1", "2026-11-28: “gap” added, ≤ 1. S < 1"),
        ("≤ 1", "absent", "2026-11-28: “gap” dropped, it was ≤ 1. S < 1"),
        ("≤ 1", "≤ 1", "2026-11-28: “gap” stays ≤ 1, asked of something else. S < 1"),
    ],
)
def test_a_check_that_came_went_or_was_asked_otherwise_is_told_so(project, old, new, told):
    changed = {**CHANGE, "old": old, "new": new}
    change(project, lambda entry: entry.update(history=[changed]))
    assert told in words_of(box(project))


def test_a_box_that_is_not_the_ledgers_stops_the_strict_build(project):
    write_notebook(project, {"text/html": '<div class="claim" id="gradient.sum">x</div>'})
    assert "the box of gradient.sum is not the ledger's" in build(project, "")[1]


# The ledger's page ----------------------------------------------------------------------------


def test_the_ledger_has_a_row_for_every_claim_with_what_was_said_and_measured(project):
    page, warnings = build(project, "```{claim-ledger}\n```")
    assert warnings == ""
    assert re.findall(r'<tr id="ledger-([^"]+)"', page) == ["gradient.sum", "gradient.absent"]
    ran, absent = row(page, "gradient.sum"), row(page, "gradient.absent")
    for text in (
        *(f'href="{CELL}"', "R adds up &amp; S &lt; 1.", "x: (4, 4)", "<b>0.02 (0.01 to 0.09)</b>"),
        *("≤ 0.1", "3 runs", "holds in 3 of 3 runs; the interval covers 75 %", "sample: 18 photos"),
    ):
        assert text in ran
    assert "Not run: no notebook records it yet." in absent
    assert "instances: 40 networks" in absent


def test_a_row_carries_what_the_filters_ask_for(project):
    page, _ = build(project, "```{claim-ledger}\n```")
    opening = row(page, "gradient.sum").partition(">")[0]
    assert dict(re.findall(r'data-(\w+)="([^"]*)"', opening)) == {
        "paper": "gradient", "kind": "equation", "outcome": "reproduced", "setting": "in kind",
        "evidence": "exact|sample", "origin": "paper",
    }  # fmt: skip


def test_a_check_that_fails_is_shown_first_and_each_sign_is_over_all_runs(project):
    def alter(entry):
        for run in entry["runs"]:
            run["checks"][2].update(measured=False, value=0.0, met=False)
        entry["runs"][2]["checks"][1].update(met=False)

    change(project, alter)
    page, _ = build(project, "```{claim-ledger}\n```")
    lines = re.findall(r'<span class="met">(.)</span> (\w+)', page)
    assert lines == [("±", "parts"), ("✗", "ordered"), ("✓", "gap"), ("–", "share")]
    assert "met in 2 of 3 runs" in page


def test_the_runs_of_a_claim_are_listed_with_their_seeds(project):
    page, _ = build(project, "```{claim-ledger}\n```")
    runs = page.partition("3 runs</summary>")[2].partition("</table>")[0]
    assert [re.findall(r"<td>(\w[^<]*)</td>", run)[1] for run in runs.split("<tr>")[2:]] == list(
        "012"
    )
    assert "<td>0.09</td>" in runs


def test_our_own_result_is_marked_and_not_called_the_papers(project):
    change(project, lambda entry: entry.update(origin="ours"))
    page, _ = build(project, "```{claim-ledger}\n```\n\n```{claim-errata} gradient\n```")
    assert '<span class="origin">ours</span> R adds up' in page
    assert "<span>Ours:</span> R adds up" in page and "The paper:" not in page


def test_the_page_counts_older_and_missing_runs_and_says_what_that_means(project, monkeypatch):
    def standing(state):
        return SimpleNamespace(state=state, told=f"{state}: a <run> (changed: paths)")

    rows = [standing("older"), standing("fresh")]
    monkeypatch.setattr(audit, "standing", lambda root: rows)
    page, _ = build(project, "```{claim-ledger}\n```")
    assert "1 run is older than the library" in page
    assert "<li>a &lt;run&gt; (changed: paths)</li>" in page
    assert "missing" not in page
    rows += [standing("missing")] * 2
    assert "2 runs are missing" in build(project, "```{claim-ledger}\n```")[0]
    rows[:] = []
    assert "none is missing" in build(project, "```{claim-ledger}\n```")[0]


# A paper's page -------------------------------------------------------------------------------


def test_a_paper_shows_its_counts_and_lists_claims_under_their_notebook(project):
    page, warnings = build(project, "```{paper-claims} gradient\n```")
    assert warnings == ""
    assert 'aria-label="2 claims: 1 reproduced, 1 not run"' in page
    assert "1 reproduced in kind" in words_of(page)
    assert page.index("A sum") < page.index("R adds up") < page.index("In no notebook yet")
    linked = 'href="ledger.html?paper=gradient&amp;origin=paper&amp;outcome=reproduced"'
    assert linked in page


@pytest.mark.parametrize(
    ("altered", "told"),
    [
        ({"origin": "ours"}, "Not counted: 1 result of our own : 1 reproduced."),
        ({"outcome": "illustrated"}, "Not counted: 1 definition or drawing: illustrated ."),
    ],
)
def test_ours_and_illustrations_are_told_apart_and_not_counted(project, altered, told):
    change(project, lambda entry: entry.update(altered))
    page, _ = build(project, "```{paper-claims} gradient\n:bar-only:\n```")
    assert 'aria-label="1 claims: 1 not run"' in page
    assert told in words_of(page)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("S = {i: k_i > 0}; I is an AND: " + 150 * "x", "S = {i: k_i > 0}."),
        ("C(k) = m(|k|; k) holds. " + 150 * "x" + ": always.", None),
        ("Short: all of it; even this.", None),
    ],
)
def test_a_long_text_is_cut_outside_of_brackets(text, shown):
    from attribook.report.sphinx.markup import first_sentence

    assert first_sentence(text) == (shown or text.split(": always")[0].rstrip(".") + ".")


def test_errata_list_only_claims_that_have_one(project):
    page, warnings = build(project, "```{claim-errata} gradient\n```")
    assert warnings == ""
    assert "Needs S(0) = 0." in page
    assert page.count('class="erratum"') == 1


def test_criteria_that_changed_are_listed_with_date_and_reason(project):
    page, warnings = build(project, "```{criterion-history} gradient\n```")
    assert warnings == ""
    (row,) = re.findall(r'<ul class="history"><li>(.*?)</li></ul>', page)
    assert words_of(row) == "gradient. sum 2026-11-28: “gap” was ≤ 0.01, is ≤ 0.1. S < 1."
    change(project, lambda entry: entry.update(history=[]))
    page, _ = build(project, "```{criterion-history} gradient\n```")
    assert "No change of a criterion is recorded" in page


# Costs ----------------------------------------------------------------------------------------


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


# What stops a build ---------------------------------------------------------------------------


def test_nothing_from_data_reaches_the_page_unescaped(project):
    def alter(entry):
        for key in ("paper", "kind", "where", "says", "setting", "in_kind", "errata", "origin"):
            entry[key] = EVIL
        entry["outcome"], entry["paper_value"] = EVIL, {EVIL: EVIL}
        entry["evidence"] = [{"kind": EVIL, "n": n, "text": EVIL} for n in (None, 3)]
        entry["history"] = [dict.fromkeys(CHANGE, EVIL)]
        for run in entry["runs"]:
            for check in run["checks"]:
                check["role"] = EVIL
            run["checks"][0]["name"] = run["outcome"] = EVIL

    change(project, alter)
    directives = ("claim-ledger", "paper-claims", "claim-errata", "criterion-history")
    page = "{claimval}`gradient.sum` {claimval}`gradient.sum:parts`\n\n" + "\n\n".join(
        f"```{{{name}}} {'' if name == 'claim-ledger' else 'gradient'}\n```" for name in directives
    )
    ledger = json.loads((project / "book" / "ledger.json").read_text())
    ledger["claims"][1].update(ledger["claims"][0], id="gradient.absent", paper="gradient")
    (project / "book" / "ledger.json").write_text(json.dumps(ledger))
    html, _ = build(project, page)
    assert html.count("alert(1)") > 40
    assert "<script>alert" not in html
    assert '"><script' not in html.replace("&quot;", "").replace("&gt;", "")
    attributes = re.findall(r'(?:data-\w+|title|id|class|href)="([^"]*)"', html)
    assert all("<" not in value for value in attributes)


def test_a_hostile_id_is_escaped_where_it_is_shown_and_where_it_is_an_anchor(project):
    from attribook.report.sphinx import ledger_table, render

    entry = json.loads((project / "book" / "ledger.json").read_text())["claims"][0]
    runs = [{**DEFAULTS, **run} for run in entry["runs"]]
    entry = {**entry, "id": EVIL, "runs": runs}
    for html in (
        ledger_table.ledger_table([entry], lambda e: EVIL),
        render.errata([entry], lambda e: EVIL),
        render.claim_list([entry], lambda e: EVIL),
        render.criterion_history([entry], lambda e: EVIL),
        render.value_link(EVIL, EVIL, EVIL),
    ):
        assert "<script" not in html and "&lt;script" in html
        assert "'&" not in html


def test_a_claim_recorded_on_a_page_the_book_lacks_warns(project):
    (project / "notebooks" / f"{SLUG}.ipynb").unlink()
    assert "which the book lacks" in build(project, "```{claim-ledger}\n```")[1]


@pytest.mark.parametrize("name", ["ledger.json", "run_statistics.json"])
def test_a_missing_file_stops_the_build_and_says_how_to_make_it(project, name):
    (project / "book" / name).unlink()
    with pytest.raises(ExtensionError, match=rf"{name} is missing .*attribook ledger"):
        build(project, "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ('{"claims": [], "environment": {}}', "has format 1, the book reads format 2"),
        ('{"format": 2, "claims": [], "runs": {}, "environment": {}}', "differ in"),
    ],
)
def test_a_ledger_that_cannot_be_read_stops_the_build_and_names_the_way_out(project, text, message):
    (project / "book" / "ledger.json").write_text(text)
    with pytest.raises(ExtensionError, match=rf"{message}.*`attribook ledger`"):
        build(project, "")


def test_a_run_that_the_ledger_does_not_describe_stops_the_build(project):
    change(project, lambda entry: entry["runs"][0].update(run="elsewhere"))
    with pytest.raises(ExtensionError, match="does not describe: 'elsewhere'"):
        build(project, "")


def test_a_ledger_that_knows_other_claims_than_the_inventory_stops_the_build(project):
    inventory = {**CLAIMS, "claims": CLAIMS["claims"][:1]}
    (project / "book" / "claims" / "gradient.yml").write_text(yaml.safe_dump(inventory))
    with pytest.raises(ExtensionError, match=r"gradient\.absent"):
        build(project, "")


def test_an_inventory_that_cannot_be_read_stops_the_build_and_names_the_file(project):
    (project / "book" / "claims" / "gradient.yml").write_text("key: [")
    with pytest.raises(ExtensionError, match=r"gradient\.yml is no YAML"):
        build(project, "")


def test_formulas_come_from_files_in_the_build(project):
    page, _ = build(project, "$x$")
    assert 'src="../_static/mathjax/tex-chtml.js' in page
    mathjax = project / "_build" / "html" / "_static" / "mathjax"
    assert (mathjax / "tex-chtml.js").stat().st_size > 10**6
    assert len(list(mathjax.glob("output/chtml/fonts/woff-v2/*.woff"))) > 20


def test_no_formula_package_is_an_error_that_names_it(monkeypatch):
    from attribook.report.sphinx import offline

    monkeypatch.setattr(offline, "PACKAGE", "no-such-package")
    with pytest.raises(ExtensionError, match="pip install no-such-package"):
        offline._mathjax_files()
