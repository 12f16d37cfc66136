"""The built book as a reader meets it: opened from disk, with no network, in Chromium.

ATTRIBOOK_PROJECT may name another project folder whose built book is to be tested.
"""

import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import sync_playwright

from attribook.report.inventory import load_claims
from attribook.report.verdicts import NOT_RUN, OUTCOMES

pytestmark = pytest.mark.browser

PROJECT = Path(os.environ.get("ATTRIBOOK_PROJECT", Path(__file__).parents[2]))
HTML = PROJECT / "_build" / "html"
CLAIMS = load_claims(PROJECT / "book" / "claims")
ENTRIES = {
    entry["id"]: entry
    for entry in json.loads((PROJECT / "book" / "ledger.json").read_text("utf-8"))["claims"]
}
LEDGER = "book/ledger.html"
MATH = "book/papers/gradient.html"
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
READABLE = 4.5  # WCAG AA for text of this size


class Tags(HTMLParser):
    """Every start tag of a page, as (name, attributes)."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="session")
def tags():
    """The start tags of every page, by its path in the build."""
    if not (HTML / "index.html").exists():
        pytest.fail(f"there is no built book in {HTML}; build it with `make html`")
    pages = set(HTML.rglob("*.html")) - set(HTML.glob("_static/**/*.html")) - {HTML / "index.html"}
    return {p.relative_to(HTML).as_posix(): Tags(p.read_text("utf-8")).found for p in sorted(pages)}


@pytest.fixture(scope="session")
def notebooks(tags):
    """The notebooks' pages."""
    found = [page for page in tags if page.startswith("notebooks/")]
    assert found, "the book holds no notebook"
    return found


@pytest.fixture(scope="session")
def chromium():
    """A running Chromium: the system's, else the one that Playwright installed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    system = next(filter(None, map(shutil.which, names)), None)
    with sync_playwright() as playwright:
        if system is None and not Path(playwright.chromium.executable_path).exists():
            pytest.fail(
                "the browser tests need Chromium: apt-get install chromium, or "
                "playwright install chromium"
            )
        browser = playwright.chromium.launch(executable_path=system, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, tags):
    """Open a page of the book; complain at the end about its errors and outside requests."""
    pages, complaints = {}, []

    def failed(request):
        if request.failure != "net::ERR_ABORTED":  # by going on to the next page
            complaints.append(f"{request.failure}: {request.url}")

    def watch(page):
        page.on("pageerror", lambda error: complaints.append(f"{page.url}: {error}"))
        page.on("requestfailed", failed)
        page.on(
            "console",
            lambda said: said.type == "error" and complaints.append(f"{page.url}: {said.text}"),
        )
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("file:", "data:", "blob:"))
                or complaints.append(f"outside: {request.url}")
            ),
        )

    def open_page(path, width=1280, scheme="light"):
        if (width, scheme) not in pages:
            screen = {"width": width, "height": 900}
            context = chromium.new_context(viewport=screen, color_scheme=scheme, offline=True)
            watch(page := context.new_page())
            pages[width, scheme] = page
        pages[width, scheme].goto(f"{HTML.as_uri()}/{path}")
        return pages[width, scheme]

    yield open_page
    for page in pages.values():
        page.context.close()
    assert complaints == []


def settle(page):
    """Wait until formulas are typeset."""
    page.wait_for_function("window.MathJax?.startup?.promise !== undefined")
    page.evaluate("MathJax.startup.promise")


# What the files say ---------------------------------------------------------------------------


def test_nothing_is_loaded_from_outside(tags):
    loaded = [
        (page, url)
        for page, found in tags.items()
        for tag, attributes in found
        for url in [attributes.get("href") if tag == "link" else attributes.get("src")]
        if url and urlsplit(url).netloc
    ]
    assert loaded == []
    for sheet in HTML.rglob("*.css"):
        text = sheet.read_text("utf-8")
        assert not re.search(r"@import[^;]*//|url\(\s*[\"']?(https?:)?//", text), sheet


def test_links_inside_the_book_lead_somewhere(tags):
    anchors = {
        page: {value for _, a in found for value in (a.get("id"), a.get("name")) if value}
        for page, found in tags.items()
    }
    broken = []
    for page, found in tags.items():
        for tag, attributes in found:
            url = urlsplit(attributes.get("href") or "")
            if tag != "a" or url.scheme or url.netloc or not (url.path or url.fragment):
                continue
            path = (HTML / page).parent / unquote(url.path) if url.path else HTML / page
            target = Path(os.path.normpath(path))
            name = target.relative_to(HTML).as_posix() if target.is_relative_to(HTML) else ""
            if not target.exists() or (
                url.fragment and unquote(url.fragment) not in anchors.get(name, ())
            ):
                broken.append((page, attributes["href"]))
    assert broken == []


def test_every_image_has_alternative_text(tags):
    silent = [
        (page, attributes.get("src"))
        for page, found in tags.items()
        for tag, attributes in found
        if tag == "img" and not (attributes.get("alt") or "").strip()
    ]
    assert silent == []


def test_every_figure_of_a_notebook_is_numbered_and_described(notebooks):
    for page in notebooks:
        text = (HTML / page).read_text("utf-8")
        figures = re.findall(r"<figure.*?</figure>", text, re.DOTALL)
        assert text.count('src="../../_images/') == len(figures), (
            f"{page}: an image without caption"
        )
        for figure in figures:
            alternative = re.search(r'alt="([^"]*)"', figure)[1]
            assert "_images" not in alternative, f"{page}: alternative text is a file name"
            assert 'class="caption-number"' in figure, page


def test_every_notebook_shows_its_code(notebooks):
    for page in notebooks:
        assert '<div class="cell_input' in (HTML / page).read_text("utf-8"), page


def test_the_ledger_page_has_every_claim_and_its_cell(tags):
    rows = [a["id"].removeprefix("ledger-") for tag, a in tags[LEDGER] if tag == "tr" and "id" in a]
    assert rows == list(CLAIMS)
    text = (HTML / LEDGER).read_text("utf-8")
    for claim in CLAIMS:
        row = text.partition(f'id="ledger-{claim}"')[2].partition('id="ledger-')[0]
        link = re.search(r'<a href="([^"]+)"', row)[1]
        assert link.endswith((f"#{claim}", f"#ledger-{claim}")), link
        outcome = re.search(r'data-outcome="([^"]+)"', row)[1]
        assert outcome in OUTCOMES
        if outcome != NOT_RUN:
            assert link.startswith("../notebooks/"), f"{claim} has an outcome but no cell"


def test_a_claim_has_one_outcome_and_one_setting_wherever_it_stands(tags):
    words = {key: (entry["outcome"], entry["setting"]) for key, entry in ENTRIES.items()}
    boxes, badges = {}, 0
    for found in tags.values():
        for _, a in found:
            if a.get("class") == "claim":
                boxes[a["id"]] = a["data-outcome"]
            if a.get("class") == "claim-badge" and "data-setting" in a and "href" in a:
                claim = urlsplit(a["href"]).fragment.removeprefix("ledger-")
                assert (a["data-outcome"], a["data-setting"]) == words[claim], claim
                badges += 1
    assert boxes == {key: words[key][0] for key in boxes}
    assert badges >= len(boxes) > 0


# What a browser shows -------------------------------------------------------------------------


def test_every_page_opens_without_error_or_request(visit, tags):
    for page in tags:
        visit(page).wait_for_load_state("load")


def test_the_index_leads_to_the_first_page(visit):
    visit("index.html").wait_for_url("**/book/intro.html")


def test_formulas_are_typeset(visit):
    page = visit(MATH)
    settle(page)
    assert page.locator("mjx-container").count() > 3
    assert page.locator("mjx-merror").count() == 0
    words = page.locator("main").inner_text()
    assert "$" not in words and "\\(" not in words


def test_no_page_shows_raw_formulas(visit, notebooks):
    for name in notebooks:
        page = visit(name)
        settle(page)
        prose = page.evaluate(
            "[...document.querySelectorAll('main p, main li, main h1, main h2, main td')]"
            ".filter(e => !e.closest('.cell')).map(e => e.innerText).join(' ')"
        )
        raw = re.search(r"\$(?!\s)[^$]+(?<!\s)\$|\\[a-z]{2,}", prose)
        assert raw is None, f"{name} shows {raw[0]}"
        assert page.locator("mjx-merror").count() == 0, name


def test_search_for_a_claim_finds_its_notebook(visit, tags, notebooks):
    claim, page = next(
        (a["id"], name) for name in notebooks for _, a in tags[name] if a.get("class") == "claim"
    )
    results = visit(f"search.html?q={claim}").locator("#search-results")
    results.locator(f"a[href*='{page}']").first.wait_for()


def rows(page):
    return page.locator("table.ledger > tbody > tr:visible")


def shown_ids(page):
    return {row.removeprefix("ledger-") for row in rows(page).evaluate_all("r => r.map(e => e.id)")}


@pytest.mark.parametrize("name", ["outcome", "setting", "origin", "paper", "kind"])
def test_the_ledger_filters_by_what_its_rows_are(visit, name):
    page = visit(LEDGER)
    select = page.locator(f"select[name={name}]")
    values = select.locator("option").evaluate_all("options => options.map(o => o.value)")
    assert set(values[1:]) == {entry[name] for entry in ENTRIES.values()}
    for value in values[1:]:
        select.select_option(value)
        assert shown_ids(page) == {k for k, entry in ENTRIES.items() if entry[name] == value}
    select.select_option("")
    assert rows(page).count() == len(CLAIMS)


def test_the_ledger_filters_by_each_kind_of_evidence_a_claim_has(visit):
    page = visit(LEDGER)
    kinds = {key: {part["kind"] for part in entry["evidence"]} for key, entry in ENTRIES.items()}
    for kind in set.union(*kinds.values()):
        page.locator("select[name=evidence]").select_option(kind)
        assert shown_ids(page) == {key for key in kinds if kind in kinds[key]}


def test_the_ledger_is_searched_by_words_and_says_when_nothing_fits(visit):
    page = visit(LEDGER)
    sought = list(CLAIMS)[-1]
    page.locator("input[name=words]").fill(sought)
    found = shown_ids(page)
    assert sought in found and len(found) < len(CLAIMS)
    assert page.locator(".ledger-tools output").inner_text().startswith(f"{len(found)} of ")
    assert not page.locator(".ledger-none").is_visible()
    page.locator("input[name=words]").fill("no claim has these words")
    assert page.locator(".ledger-none").is_visible()
    page.locator(".ledger-tools button").click()
    assert rows(page).count() == len(CLAIMS)


def test_a_view_of_the_ledger_can_be_linked_reloaded_and_gone_back_to(visit):
    page = visit(LEDGER)
    outcome, paper = next((e["outcome"], e["paper"]) for e in ENTRIES.values())
    page.locator("select[name=outcome]").select_option(outcome)
    page.locator("select[name=paper]").select_option(paper)
    wanted = {k for k, e in ENTRIES.items() if (e["outcome"], e["paper"]) == (outcome, paper)}
    assert shown_ids(page) == wanted
    page.reload()
    assert shown_ids(page) == wanted
    rows(page).first.locator("th a").click()
    page.wait_for_load_state()
    page.go_back()
    page.locator("select[name=outcome]").wait_for()
    assert page.locator("select[name=outcome]").input_value() == outcome
    assert shown_ids(page) == wanted


def test_a_count_on_the_first_page_leads_to_the_claims_it_counts(visit):
    page = visit("book/intro.html")
    for place in range(page.locator(".verdict-summary li").count()):
        item = visit("book/intro.html").locator(".verdict-summary li").nth(place)
        count = int(item.locator("b").inner_text())
        item.locator("a").click()
        page.wait_for_url("**/ledger.html?*")
        assert rows(page).count() == count


def test_ours_and_illustrations_are_in_no_bar(visit):
    summaries = visit("book/intro.html").locator(".verdict-summary")
    papers = list(dict.fromkeys(entry["paper"] for entry in ENTRIES.values()))
    assert summaries.count() == len(papers)
    for paper, summary in zip(papers, summaries.all(), strict=True):
        counted = [
            entry["outcome"]
            for entry in ENTRIES.values()
            if (entry["paper"], entry["origin"]) == (paper, "paper")
            and entry["outcome"] != "illustrated"
        ]
        numbers = summary.locator("li b").all_inner_texts()
        assert sum(map(int, numbers)) == len(counted)


def test_each_outcome_has_a_sign_of_its_own_and_only_what_holds_as_printed_a_tick(visit):
    signs = visit("book/intro.html").evaluate(
        """(outcomes) => outcomes.map((outcome) => {
          const badge = document.createElement("span");
          badge.dataset.outcome = outcome;
          badge.innerHTML = '<span class="verdict">word</span>';
          document.querySelector("main").append(badge);
          return getComputedStyle(badge.firstChild, "::before").content;
        })""",
        list(OUTCOMES),
    )
    assert len(set(signs)) == len(OUTCOMES)
    ticks = [outcome for outcome, sign in zip(OUTCOMES, signs, strict=True) if "✓" in sign]
    assert ticks == ["reproduced"]


@pytest.mark.parametrize("width", [1280, 1440])
def test_the_ledger_fits_the_page_and_its_header_stays_in_view(visit, width):
    page = visit(LEDGER, width=width)
    assert page.evaluate(
        "(() => { const box = document.querySelector('.ledger-box');"
        " return box.scrollWidth <= box.clientWidth + 1; })()"
    )
    page.evaluate("document.querySelector('table.ledger').rows[8].scrollIntoView()")
    assert page.locator("table.ledger > thead").bounding_box()["y"] >= 0


def test_the_ledger_sorts_from_the_keyboard(visit):
    page = visit(LEDGER)
    header = page.locator("table.ledger > thead th").first
    for direction, backwards in (("ascending", False), ("descending", True)):
        header.locator("button").focus()
        page.keyboard.press("Enter")
        assert header.get_attribute("aria-sort") == direction
        ids = rows(page).evaluate_all("rows => rows.map(row => row.id)")
        assert ids == sorted(ids, reverse=backwards, key=as_a_reader_counts)


def as_a_reader_counts(name):
    """eq2 before eq10: runs of digits count as numbers."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(6), name.lower())


def test_the_ledger_is_a_whole_table_without_javascript(chromium, tags):
    context = chromium.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(f"{HTML.as_uri()}/{LEDGER}")
    assert rows(page).count() == len(CLAIMS)
    context.close()


CONTRAST = """
(selector) => {
  const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const opaque = (colour) => numbers(colour).length === 3 || numbers(colour)[3] === 1;
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (opaque(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  return [...document.querySelectorAll(selector)]
    .filter((e) => !e.matches(".headerlink"))  // shown on hover only
    .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()))
    .map((e) => {
      const [light, dark] = [getComputedStyle(e).color, behind(e)]
        .map(numbers).map(luminance).sort((a, b) => b - a);
      return [(light + 0.05) / (dark + 0.05), e.textContent.slice(0, 40)];
    });
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_claims_and_tables_are_readable_in_both_modes(visit, notebooks, scheme):
    page = visit(notebooks[0], scheme=scheme)
    assert page.locator("html").get_attribute("data-theme") == scheme
    found = page.evaluate(CONTRAST, ".claim, .claim *, figcaption *")
    found += visit("book/intro.html", scheme=scheme).evaluate(
        CONTRAST, ".claim-badge *, .verdict-summary *, .setting, .origin, .pipeline *"
    )
    found += visit(LEDGER, scheme=scheme).evaluate(
        CONTRAST, ".standing *, .ledger-tools *, .ledger *"
    )
    found += visit("book/errata.html", scheme=scheme).evaluate(CONTRAST, ".erratum *")
    found += visit(MATH, scheme=scheme).evaluate(CONTRAST, ".claim-list *, .history *")
    assert len(found) > 100
    assert [pair for pair in found if pair[0] < READABLE] == []


@pytest.mark.parametrize("width", [375, 768])
def test_no_page_scrolls_sideways_on_a_small_screen(visit, tags, width):
    for name in tags:
        page = visit(name, width=width)
        if page.locator("script[src*='tex-chtml']").count():
            settle(page)
        reach = page.evaluate("document.documentElement.scrollWidth")
        assert reach <= width, f"{name} is {reach} px wide on a screen of {width}"
