"""What the book's pages take from the ledger.

Roles        {claimval}`id` a verdict, {claimval}`id:check` a measured value, {verdict}`refuted`
Directives   {claim-ledger}, {paper-claims} key, {claim-errata} key, {run-statistics}, {benchmarks}
"""

from __future__ import annotations

from docutils import nodes
from docutils.parsers.rst.directives import flag
from sphinx import addnodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from attribook.ledger import VERDICTS, show

from . import render
from .results import CLAIMS, Results, over_runs

log = logging.getLogger(__name__)


def claim_url(env, entry: dict) -> str:
    """Where the page being read links to for a claim: the cell that recorded it, else its row."""
    page = f"notebooks/{entry['notebook']}" if entry["notebook"] else "book/ledger"
    anchor = entry["id"] if entry["notebook"] else f"ledger-{entry['id']}"
    if page not in env.found_docs:
        log.warning("claim %s leads to %s, which the book lacks", entry["id"], page)
    return f"{env.app.builder.get_relative_uri(env.docname, page)}#{anchor}"


def results_for(env) -> Results:
    """The recorded results; the page being read is rebuilt whenever one of their files changes."""
    for path in env.app.attribook.files:
        env.note_dependency(str(path))
    return env.app.attribook


class ClaimValue(SphinxRole):
    """A claim's verdict, or the measured value of one of its checks, linked to the cell."""

    def run(self):
        claim_id, _, check = self.text.partition(":")
        claim_id, check = claim_id.strip(), check.strip()
        entry = results_for(self.env).entries.get(claim_id)
        if entry is None:
            return self._unknown(f"unknown claim {claim_id!r}; the ids are in {CLAIMS}")
        if not check:
            badge = render.badge(entry["verdict"], claim_url(self.env, entry))
            return [nodes.raw("", badge, format="html")], []
        if check not in entry["measured"]:
            known = sorted(entry["measured"])
            return self._unknown(f"claim {claim_id!r} has no check {check!r}; it has {known}")
        text = render.value_link(
            show(over_runs(entry, check)), claim_url(self.env, entry), f"{claim_id}: {check}"
        )
        return [nodes.raw("", text, format="html")], []

    def _unknown(self, message: str):
        log.warning(message, location=self.get_location())
        return [nodes.literal(text=self.text)], []


class VerdictBadge(SphinxRole):
    """The badge of a verdict, as a word in a sentence."""

    def run(self):
        if self.text not in VERDICTS:
            log.warning("unknown verdict %r; known: %s", self.text, list(VERDICTS))
        return [nodes.raw("", render.badge(self.text), format="html")], []


class ResultsDirective(SphinxDirective):
    """What the directives share: their results and a way from a claim to its cell."""

    def url(self, entry: dict) -> str:
        return claim_url(self.env, entry)

    def raw(self, text: str) -> list[nodes.Node]:
        return [nodes.raw("", text, format="html")]


class ClaimLedger(ResultsDirective):
    """Every claim, one row each."""

    def run(self):
        entries = results_for(self.env).entries.values()
        return self.raw(render.ledger_table(entries, self.url))


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
    """Verdict counts of a paper and its claims, notebook by notebook."""

    option_spec = {"bar-only": flag}

    def run(self):
        entries = self.entries()
        parts = self.raw(render.verdict_bar(entries))
        if "bar-only" in self.options:
            return parts
        recorded = dict.fromkeys(entry["notebook"] for entry in entries if entry["notebook"])
        for notebook in sorted(recorded):
            group = [entry for entry in entries if entry["notebook"] == notebook]
            title = addnodes.pending_xref(
                "",
                nodes.inline(),
                refdomain="std",
                reftype="doc",
                refdoc=self.env.docname,
                reftarget=f"/notebooks/{notebook}",
                refexplicit=False,
                refwarn=True,
            )
            parts.append(nodes.paragraph("", "", title, classes=["claims-of"]))
            parts += self.raw(render.claim_list(group, self.url))
        if missing := [entry for entry in entries if not entry["notebook"]]:
            parts.append(nodes.paragraph("", "In no notebook yet", classes=["claims-of"]))
            parts += self.raw(render.claim_list(missing, self.url))
        return parts


class ClaimErrata(PaperDirective):
    """What a paper's claims need corrected, with the cell that shows it."""

    def run(self):
        return self.raw(render.errata([e for e in self.entries() if e["errata"]], self.url))


class RunStatistics(ResultsDirective):
    """Time and memory of every notebook, and the machine that ran them."""

    def run(self):
        results = results_for(self.env)
        return self.raw(render.run_statistics(results.statistics, results.environment, self._page))

    def _page(self, slug: str) -> str:
        return self.env.app.builder.get_relative_uri(self.env.docname, f"notebooks/{slug}")


class Benchmarks(ResultsDirective):
    """The cost tables, or how to measure them when nobody has on this copy."""

    def run(self):
        return self.raw(render.benchmarks(results_for(self.env).benchmarks))
