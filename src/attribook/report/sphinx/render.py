"""What a paper's page shows of its claims: counts, lists, errata, and criteria that changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from html import escape
from urllib.parse import urlencode

from attribook.report.verdicts import ILLUSTRATED, OUTCOMES

from . import badges
from .markup import breakable, first_sentence, fold, link
from .results import alike

Url = Callable[[dict], str]


def value_link(text: str, url: str, title: str) -> str:
    """A measured value in running text."""
    return f'<a class="claimval" href="{escape(url)}" title="{escape(title)}">{escape(text)}</a>'


def outcome_bar(entries: Sequence[dict], ledger: str = "") -> str:
    """How many of the paper's claims had which outcome: one bar, and its counts as text.

    What is only illustrated and what is ours is told in lines of their own.
    """
    counted = [entry for entry in entries if badges.counts(entry)]
    present = [(o, [e for e in counted if e["outcome"] == o]) for o in OUTCOMES]
    present = [(outcome, found) for outcome, found in present if found]
    told = ", ".join(f"{len(found)} {outcome}" for outcome, found in present)
    keys = "".join(_bar_key(outcome, found, ledger) for outcome, found in present)
    pieces = "".join(_piece(outcome, found) for outcome, found in present)
    return (
        '<div class="verdict-summary">'
        f'<div class="verdict-bar" role="img" aria-label="{len(counted)} claims: {escape(told)}">'
        f"{pieces}</div><ul>{keys}</ul>{_beside(entries, ledger)}</div>"
    )


def _piece(outcome: str, found: Sequence[dict]) -> str:
    """The stretch of a bar that an outcome takes: its part in the paper's setting, then in kind."""
    settings = Counter(entry["setting"] for entry in found)
    return "".join(
        f'<span data-outcome="{escape(outcome)}" data-setting="{escape(setting)}" '
        f'style="flex-grow:{settings[setting]}"></span>'
        for setting in sorted(settings, reverse=True)
    )


def _bar_key(outcome: str, found: Sequence[dict], ledger: str) -> str:
    url = _filtered(ledger, paper=found[0]["paper"], origin="paper", outcome=outcome)
    in_kind = sum(entry["setting"] == badges.IN_KIND for entry in found)
    of_them = {0: "", len(found): "in kind"}.get(in_kind, f"{in_kind} of them in kind")
    told = f" <small>{of_them}</small>" if of_them else ""
    return f"<li><b>{len(found)}</b> {badges.outcome_badge(outcome, url)}{told}</li>"


def _beside(entries: Sequence[dict], ledger: str) -> str:
    """One line on what a bar does not count: illustrations, and results of our own."""
    paper = entries[0]["paper"]
    drawn = [e for e in entries if not badges.counts(e) and e["origin"] != badges.OURS]
    ours = [entry for entry in entries if entry["origin"] == badges.OURS]
    lines = []
    if drawn:
        url = _filtered(ledger, paper=paper, origin="paper", outcome=ILLUSTRATED)
        words = "definition or drawing" if len(drawn) == 1 else "definitions and drawings"
        lines.append(f"{len(drawn)} {words}: {badges.outcome_badge(ILLUSTRATED, url)}")
    if ours:
        outcomes = Counter(entry["outcome"] for entry in ours)
        told = ", ".join(f"{outcomes[o]} {o}" for o in OUTCOMES if outcomes[o])
        words = "result" if len(ours) == 1 else "results"
        text = f"{len(ours)} {words} of our own"
        url = _filtered(ledger, paper=paper, origin="ours")
        lines.append(f"{link(url, text) if url else text}: {escape(told)}")
    return f'<p class="beside">Not counted: {"; ".join(lines)}.</p>' if lines else ""


def _filtered(ledger: str, **filters: str) -> str:
    """The ledger's address with filters set; none when the book has no ledger page."""
    return f"{ledger}?{urlencode(filters)}" if ledger else ""


def claim_list(entries: Sequence[dict], url: Url) -> str:
    """Claims with what they say and their badges, each leading to its cell."""
    rows = "".join(
        f"<li>{badges.badge(entry, url(entry))}<span><b>{escape(entry['where'])}.</b> "
        f"{escape(first_sentence(entry['says']))}</span></li>"
        for entry in entries
    )
    return f'<ul class="claim-list">{rows}</ul>'


def errata(entries: Sequence[dict], url: Url) -> str:
    """What the paper prints and what it needs, claim by claim."""
    return "".join(_erratum(entry, url(entry)) for entry in entries)


def _erratum(entry: dict, url: str) -> str:
    name = escape(entry["id"])
    who = "Ours" if entry["origin"] == badges.OURS else "The paper"
    return (
        f'<section class="erratum" id="erratum-{name}" data-outcome="{escape(entry["outcome"])}">'
        f"<h3>{escape(entry['where'])} {badges.badge(entry, url)}</h3>"
        f'<p class="says"><span>{who}:</span> {escape(entry["says"])}</p>'
        f"<p><span>Note:</span> {escape(entry['errata'].strip())}</p>"
        f'<p class="cell"><a href="{escape(url)}">Cell that shows it: '
        f"<code>{breakable(entry['id'])}</code></a></p></section>"
    )


def criterion_history(entries: Sequence[dict], url: Url) -> str:
    """Criteria that changed after they were laid down: when, from what to what, and why."""
    changes = [(change, entry) for entry in entries for change in entry["history"]]
    if not changes:
        return "<p>No change of a criterion is recorded for this paper.</p>"
    changes.sort(key=lambda pair: str(pair[0]["date"]))
    rows = "".join(
        f'<li><a href="{escape(url(entry))}"><code>{breakable(entry["id"])}</code></a> '
        f"{_change(change)}</li>"
        for change, entry in changes
    )
    return f'<ul class="history">{rows}</ul>'


def box(text: str, entry: dict, row: str) -> str:
    """A notebook's claim box with the ledger's badge in its head, and whose numbers it shows.

    The box was rendered from one run; outcome, setting and evidence are those over all runs. The
    text is returned as it is when it is no such box.
    """
    head, middle, rest = text.partition("</p>")
    start, mark, _ = head.partition('<span class="verdict">')
    alone = alike(entry)[0]["outcome"] if alike(entry) else entry["outcome"]
    old = f'data-outcome="{escape(alone)}"'
    if not (mark and middle and rest.endswith("</div>") and old in start):
        return text
    start = start.replace(old, f'data-outcome="{escape(entry["outcome"])}"', 1)
    more = "".join(f"<p>{line}</p>" for line in _which_run(entry)) + _changes(entry)
    return f"{start}{badges.badge(entry, row)}</p>{rest.removesuffix('</div>')}{more}</div>"


def _which_run(entry: dict) -> list[str]:
    """Which run the numbers of a box come from, where the badge rests on several."""
    runs = alike(entry)
    if len(runs) < 2 or entry["tally"]["distinct"] == 1:
        return []
    shown = f"Shown is the run with seed {escape(str(runs[0]['seed']))}"
    if entry["outcome"] == ILLUSTRATED:
        return [f"{shown}, of {len(runs)}."]
    alone = runs[0]["outcome"]
    but = f", which alone is {escape(alone)}" if alone != entry["outcome"] else ""
    told = escape(badges.full_runs(entry))
    return [f"{shown}{but}. The claim {told}."]


def _changes(entry: dict) -> str:
    """How the criteria of a claim changed, folded away; nothing where none did."""
    told = [f"<li>{_change(change)}</li>" for change in entry["history"]]
    title = f"{len(told)} change{'s' if len(told) > 1 else ''} of criteria"
    return fold(title, f'<ul class="history">{"".join(told)}</ul>') if told else ""


def _change(change: dict) -> str:
    """One change of a criterion in a sentence, with its date and reason."""
    told = {key: escape(str(value)) for key, value in change.items()}
    if told["old"] == "absent":
        form = "{date}: “{check}” added, {new}."
    elif told["new"] == "absent":
        form = "{date}: “{check}” dropped, it was {old}."
    elif told["old"] == told["new"]:
        form = "{date}: “{check}” stays {old}, asked of something else."
    else:
        form = "{date}: “{check}” was {old}, is {new}."
    reason = told.pop("reason")
    return f"{form.format(**told)} {reason[:1].upper()}{reason[1:]}."
