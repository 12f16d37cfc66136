"""Sphinx extension of the book: pages read from the ledger, and a build that needs no network."""

from __future__ import annotations

from . import directives
from .offline import copy_mathjax
from .results import Results


def load_results(app) -> None:
    app.attribook = Results.load(app.srcdir)


def setup(app):
    app.connect("builder-inited", load_results)
    app.connect("doctree-read", directives.complete_boxes)
    app.connect("build-finished", copy_mathjax)
    app.add_role("claimval", directives.ClaimValue())
    app.add_role("outcome", directives.OutcomeBadge())
    app.add_directive("claim-ledger", directives.ClaimLedger)
    app.add_directive("paper-claims", directives.PaperClaims)
    app.add_directive("claim-errata", directives.ClaimErrata)
    app.add_directive("criterion-history", directives.CriterionHistory)
    app.add_directive("run-statistics", directives.RunStatistics)
    app.add_directive("benchmarks", directives.Benchmarks)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
