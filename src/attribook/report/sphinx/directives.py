"""What the book's pages take from the ledger.

Roles        {claimval}`id` a claim's badge, {claimval}`id:check` a measured value,
             {outcome}`refuted` a badge as a word in a sentence
Directives   {claim-ledger}, {paper-claims} key, {claim-errata} key, {criterion-history} key,
             {run-statistics}, {benchmarks}
"""

from __future__ import annotations

from docutils import nodes
from docutils.parsers.rst.directives import flag
from sphinx import addnodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from attribook.report.verdicts import OUTCOMES

from . import badges, costs, ledger_table, render
from .results import CLAIMS, Results, value_over_runs

LEDGER_PAGE = "book/ledger"

log = logging.getLogger(__name__)


def claim_url(env, entry: dict) -> str:
    """Where the page being read links to for a claim: the cell that recorded it, else its row."""
    if not entry["notebook"]:
        return row_url(env, entry)
    page = f"notebooks/{entry['notebook']}"
    if page not in env.found_docs:
        log.warning("claim %s leads to %s, which the book lacks", entry["id"], page)
    return f"{env.app.builder.get_relative_uri(env.docname, page)}#{entry['id']}"


def row_url(env, entry: dict) -> str:
    """The claim's row in the ledger, seen from the page being read."""
    return f"{env.app.builder.get_relative_uri(env.docname, LEDGER_PAGE)}#ledger-{entry['id']}"


def results_for(env) -> Results:
    """The recorded results; the page being read is rebuilt whenever one of their files changes."""
    for path in env.app.attribook.files:
        env.note_dependency(str(path))
    return env.app.attribook


def complete_boxes(app, doctree) -> None:
    """Give the claim boxes of a notebook the ledger's word over all runs."""
    for node in doctree.findall(nodes.raw):
        text = node.astext()
        if node.get("format") != "html" or not text.startswith('<div class="claim"'):
            continue
        entry = results_for(app.env).entries.get(text.partition('id="')[2].partition('"')[0])
        if entry is None:
            continue
        if (whole := render.box(text, entry, row_url(app.env, entry))) == text:
            log.warning("%s: the box of %s is not the ledger's", app.env.docname, entry["id"])
        node.children = [nodes.Text(whole)]


class ClaimValue(SphinxRole):
    """A claim's badge, or the measured value of one of its checks, linked to the cell."""

    def run(self):
        claim_id, _, check = self.text.partition(":")
        claim_id, check = claim_id.strip(), check.strip()
        entry = results_for(self.env).entries.get(claim_id)
        if entry is None:
            return self._unknown(f"unknown claim {claim_id!r}; the ids are in {CLAIMS}")
        url = claim_url(self.env, entry)
        if not check:
            return [nodes.raw("", badges.badge(entry, url), format="html")], []
        known = [found["name"] for run in entry["runs"][:1] for found in run["checks"]]
        if check not in known:
            known = sorted(known)
            return self._unknown(f"claim {claim_id!r} has no check {check!r}; it has {known}")
        text = render.value_link(value_over_runs(entry, check), url, f"{claim_id}: {check}")
        return [nodes.raw("", text, format="html")], []

    def _unknown(self, message: str):
        log.warning(message, location=self.get_location())
        return [nodes.literal(text=self.text)], []


class OutcomeBadge(SphinxRole):
    """The badge of an outcome, as a word in a sentence."""

    def run(self):
        if self.text not in OUTCOMES:
            log.warning("unknown outcome %r; known: %s", self.text, list(OUTCOMES))
        return [nodes.raw("", badges.outcome_badge(self.text), format="html")], []


class ResultsDirective(SphinxDirective):
    """What the directives share: their results and a way from a claim to its cell."""

    def url(self, entry: dict) -> str:
        return claim_url(self.env, entry)

    def ledger(self) -> str:
        """Where the ledger's page is; empty when the book has none."""
        if LEDGER_PAGE not in self.env.found_docs:
            return ""
        return self.env.app.builder.get_relative_uri(self.env.docname, LEDGER_PAGE)

    def raw(self, text: str) -> list[nodes.Node]:
        return [nodes.raw("", text, format="html")]


class ClaimLedger(ResultsDirective):
    """How the ledger stands with the present code, and every claim, one row each."""

    def run(self):
        results = results_for(self.env)
        rows = ledger_table.ledger_table(results.entries.values(), self.url)
        return self.raw(ledger_table.standing(results.standing) + rows)


class PaperDirective(ResultsDirective):
    """A directive about one paper; an unknown paper is a build error."""

    required_arguments = 1

    def entries(self) -> list[dict]:
        paper = self.arguments[0]
        entries = results_for(self.env).entries.values()
        found = [entry for entry in entries if entry["paper"] == paper]
        if not found:
            known = sorted({entry["paper"] for entry in entries})
            raise self.error(f"no claims of paper {paper!r}; there are claims of {known}")
        return found


class PaperClaims(PaperDirective):
    """Counts of a paper's outcomes and its claims, notebook by notebook."""

    option_spec = {"bar-only": flag}

    def run(self):
        entries = self.entries()
        parts = self.raw(render.outcome_bar(entries, self.ledger()))
        if "bar-only" in self.options:
            return parts
        recorded = dict.fromkeys(entry["notebook"] for entry in entries if entry["notebook"])
        for notebook in sorted(recorded):
            group = [entry for entry in entries if entry["notebook"] == notebook]
            parts.append(nodes.paragraph("", "", self._title(notebook), classes=["claims-of"]))
            parts += self.raw(render.claim_list(group, self.url))
        if missing := [entry for entry in entries if not entry["notebook"]]:
            parts.append(nodes.paragraph("", "In no notebook yet", classes=["claims-of"]))
            parts += self.raw(render.claim_list(missing, self.url))
        return parts

    def _title(self, notebook: str) -> nodes.Node:
        """A notebook's title, linked to its page."""
        return addnodes.pending_xref(
            "",
            nodes.inline(),
            refdomain="std",
            reftype="doc",
            refdoc=self.env.docname,
            reftarget=f"/notebooks/{notebook}",
            refexplicit=False,
            refwarn=True,
        )


class ClaimErrata(PaperDirective):
    """What a paper's claims need corrected, with the cell that shows it."""

    def run(self):
        return self.raw(render.errata([e for e in self.entries() if e["errata"]], self.url))


class CriterionHistory(PaperDirective):
    """The criteria of a paper's claims that changed, with date and reason."""

    def run(self):
        return self.raw(render.criterion_history(self.entries(), self.url))


class RunStatistics(ResultsDirective):
    """Time and memory of every notebook, and the machine that ran them."""

    def run(self):
        results = results_for(self.env)
        return self.raw(costs.run_statistics(results.statistics, results.environment, self._page))

    def _page(self, slug: str) -> str:
        return self.env.app.builder.get_relative_uri(self.env.docname, f"notebooks/{slug}")


class Benchmarks(ResultsDirective):
    """The cost tables, or how to measure them when nobody has on this copy."""

    def run(self):
        return self.raw(costs.benchmarks(results_for(self.env).benchmarks))
