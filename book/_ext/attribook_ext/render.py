"""HTML of the ledger, errata and statistics pages: plain data in, a string out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from html import escape

from attribook.ledger import INCONCLUSIVE, REPRODUCED, VERDICTS, criterion, judge, show

from .results import BENCHMARKS, alike, over_runs, values_over_runs

SHOWN_CHECKS = 3  # a row's further checks fold away
VERSIONS = ("processor", "python", "torch", "numpy")

Url = Callable[[dict | str], str]


def badge(verdict: str, url: str = "") -> str:
    """A verdict's badge, a link when it has somewhere to lead."""
    tag, target = ("a", f' href="{escape(url)}"') if url else ("span", "")
    return f'<{tag} class="verdict" data-verdict="{verdict}"{target}>{escape(verdict)}</{tag}>'


def value_link(text: str, url: str, title: str) -> str:
    """A measured value in running text."""
    return f'<a class="claimval" href="{escape(url)}" title="{escape(title)}">{escape(text)}</a>'


def ledger_table(entries: Iterable[dict], url: Url) -> str:
    """The ledger: a plain table, which attribook.js makes sortable and filterable."""
    columns = ("Claim", "The paper says", "Its value", "Measured, and the criterion", "Verdict",
               "Where", "Kind", "Paper")  # fmt: skip
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    rows = "\n".join(_ledger_row(entry, url(entry)) for entry in entries)
    return (
        '<div class="ledger-box" role="region" aria-label="Ledger of claims" tabindex="0">'
        f'<table class="ledger"><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>'
        "</div>"
    )


def _ledger_row(entry: dict, url: str) -> str:
    rank = VERDICTS.index(entry["verdict"])
    facts = "".join(
        f'<td data-label="{label}">{escape(entry[key])}</td>'
        for label, key in (("Where", "where"), ("Kind", "kind"), ("Paper", "paper"))
    )
    return (
        f'<tr id="ledger-{entry["id"]}" data-paper="{entry["paper"]}" data-kind="{entry["kind"]}" '
        f'data-verdict="{entry["verdict"]}">'
        f'<th scope="row"><a href="{escape(url)}"><code>{_breakable(entry["id"])}</code></a></th>'
        f'<td data-label="The paper says" class="says">{escape(entry["says"])}</td>'
        f'<td data-label="Its value" class="value">{_folded(_plain(entry["paper_value"]))}</td>'
        f'<td data-label="Measured" class="measured">{_measured(entry)}</td>'
        f'<td data-label="Verdict" data-sort="{rank}">{badge(entry["verdict"], url)}</td>'
        f"{facts}</tr>"
    )


def _measured(entry: dict) -> str:
    if not entry["runs"] or not entry["runs"][0]["checks"]:
        return f"<p>Not run: {escape(entry['reason'])}.</p>".replace("..</p>", ".</p>")
    checks = sorted(entry["runs"][0]["checks"], key=lambda check: check["outcome"] is not False)
    lines = [_check_line(entry, check) for check in checks]  # what failed comes first
    shown, hidden = lines[:SHOWN_CHECKS], lines[SHOWN_CHECKS:]
    more = _details(f"{len(hidden)} more", f"<ul>{''.join(hidden)}</ul>") if hidden else ""
    remark = entry["runs"][0]["in_kind"]
    remark = f'<p class="remark">In kind: {escape(remark)}</p>' if remark else ""
    return f"<ul>{''.join(shown)}</ul>{more}{remark}{_runs(entry['runs'])}"


def _check_line(entry: dict, check: dict) -> str:
    role = "" if check["role"] == "printed" else f" <small>({check['role']})</small>"
    wanted = "" if isinstance(check["measured"], bool) else criterion(check)
    if check["expected"] is not None:
        wanted = f"wanted {wanted}"
    return (
        f'<li><span class="met">{_mark(entry, check)}</span> {escape(check["name"])}{role}: '
        f"<b>{escape(show(over_runs(entry, check['name'])))}</b>{_pooled(entry, check)} "
        f'<span class="criterion">{escape(wanted)}</span></li>'
    )


def _mark(entry: dict, check: dict) -> str:
    """Whether a check is met, by the ledger's own rule over seeds; ? when they leave it open."""
    if check["outcome"] is None:
        return "–"
    found = [c for run in alike(entry) for c in run["checks"] if c["name"] == check["name"]]
    outcome = judge([{"in_kind": "", "checks": [{**each, "role": "printed"}]} for each in found])
    return {REPRODUCED: "✓", INCONCLUSIVE: "?"}.get(outcome, "✗")


def _pooled(entry: dict, check: dict) -> str:
    """Over how many seeds a value was taken."""
    values = values_over_runs(entry, check["name"])
    if len(values) == 1:
        return ""
    shown = over_runs(entry, check["name"])
    words = f"in {values.count(shown)} of" if isinstance(shown, bool) else "median of"
    return f" <small>{words} {len(values)} seeds</small>"


def _runs(runs: Sequence[dict]) -> str:
    if len(runs) < 2:
        return ""
    head = "".join(f"<th>{name}</th>" for name in ("model", "seed", "device", "scale", "verdict"))
    head += "".join(f"<th>{escape(name)}</th>" for name in runs[0]["measured"])
    rows = "".join(
        "<tr>"
        + "".join(f"<td>{escape(str(run[k]))}</td>" for k in ("model", "seed", "device", "scale"))
        + f"<td>{badge(run['verdict'])}</td>"
        + "".join(f"<td>{_cell(run['measured'], name)}</td>" for name in runs[0]["measured"])
        + "</tr>"
        for run in runs
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return _details(f"{len(runs)} runs", f'<div class="scroll">{table}</div>')


def _cell(measured: dict, name: str) -> str:
    return escape(show(measured[name])) if name in measured else "–"


def verdict_bar(entries: Sequence[dict]) -> str:
    """How many claims got which verdict: one bar, and its counts as text."""
    counts = Counter(entry["verdict"] for entry in entries)
    present = [verdict for verdict in VERDICTS if counts[verdict]]
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in present)
    pieces = "".join(
        f'<span data-verdict="{verdict}" style="flex-grow:{counts[verdict]}"></span>'
        for verdict in present
    )
    keys = "".join(f"<li><b>{counts[v]}</b> {badge(v)}</li>" for v in present)
    return (
        '<div class="verdict-summary">'
        f'<div class="verdict-bar" role="img" aria-label="{len(entries)} claims: {told}">{pieces}'
        f"</div><ul>{keys}</ul></div>"
    )


def claim_list(entries: Sequence[dict], url: Url) -> str:
    """Claims with what they say and their verdicts, each leading to its cell."""
    rows = "".join(
        f"<li>{badge(entry['verdict'], url(entry))}<span><b>{escape(entry['where'])}.</b> "
        f"{escape(_first_sentence(entry['says']))}</span></li>"
        for entry in entries
    )
    return f'<ul class="claim-list">{rows}</ul>'


def errata(entries: Sequence[dict], url: Url) -> str:
    """What the paper prints and what it needs, claim by claim."""
    return "".join(
        f'<section class="erratum" id="erratum-{entry["id"]}" data-verdict="{entry["verdict"]}">'
        f"<h3>{escape(entry['where'])} {badge(entry['verdict'], url(entry))}</h3>"
        f'<p class="says"><span>The paper:</span> {escape(entry["says"])}</p>'
        f"<p><span>Note:</span> {escape(entry['errata'].strip())}</p>"
        f'<p class="cell"><a href="{escape(url(entry))}">Cell that shows it: '
        f"<code>{_breakable(entry['id'])}</code></a></p></section>"
        for entry in entries
    )


def run_statistics(statistics: dict[str, dict], environment: dict, page: Url) -> str:
    """Time, memory and passes of every reference run, what the notebooks timed, and versions."""
    rows = [
        (
            _link(page(slug), slug.partition("/")[2]),
            *(escape(str(run["parameters"][key])) for key in ("model", "seed", "device", "scale")),
            f"{run['wall_seconds']:.0f} s",
            f"{run['peak_memory_mb']:.0f} MB",
            f"{run['forward_passes']:,}",
            f"{run['forward_rows']:,}",
        )
        for slug, run in statistics.items()
    ]
    head = ("Notebook", "Model", "Seed", "Device", "Scale", "Time", "Memory",
            "Passes", "Samples")  # fmt: skip
    minutes = sum(run["wall_seconds"] for run in statistics.values()) / 60
    timed = [
        (f"<code>{_breakable(claim)}</code>", escape(check), show(value))
        for run in statistics.values()
        for claim, checks in run["timings"].items()
        for check, value in checks.items()
    ]
    versions = sorted({(name, str(run[name])) for run in statistics.values() for name in VERSIONS})
    versions += [(str(key), str(value)) for key, value in environment.items()]
    machine = [(escape(key), escape(value)) for key, value in dict.fromkeys(versions)]
    total = f"The reference runs, {minutes:.1f} minutes in all."
    return (
        _table(head, rows, total)
        + _table(("Claim", "Timing", "Measured"), timed, "What the notebooks timed.")
        + _table(("What", "Version"), machine, "What it ran on.")
    )


def benchmarks(recorded: dict | None) -> str:
    """The cost tables as recorded: {"environment", "tables": [{"caption", "columns", "rows"}]}."""
    if recorded is None:
        return f"<p>Not measured on this copy: it has no <code>{BENCHMARKS}</code>.</p>"
    found = [
        _table(
            [escape(name) for name in table["columns"]],
            [[escape(_number(cell)) for cell in row] for row in table["rows"]],
            table["caption"],
        )
        for table in recorded["tables"]
    ]
    rows = [(escape(key), escape(str(value))) for key, value in recorded["environment"].items()]
    return "".join(found) + _table(("What", "Version"), rows, "What it ran on.")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    if not (rows := list(rows)):
        return ""
    kinds = [_alignment([row[i] for row in rows]) for i in range(len(head))]
    names = "".join(f'<th scope="col"{k}>{name}</th>' for k, name in zip(kinds, head, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{k}>{cell}</td>" for k, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table class="plain"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _link(url: str, text: str) -> str:
    return f'<a href="{escape(url)}">{escape(text)}</a>'


def _alignment(column: Sequence[str]) -> str:
    """The class of a column whose every cell is a number, with or without a unit."""
    numeric = all(re.fullmatch(r"-?[\d.,]+(e-?\d+)?( s| MB)?", cell) for cell in column)
    return ' class="number"' if numeric else ""


def _number(cell) -> str:
    return cell if isinstance(cell, str) else show(cell)


def _details(summary: str, body: str) -> str:
    return f"<details><summary>{summary}</summary>{body}</details>"


def _folded(text: str) -> str:
    if len(text) <= 60:
        return escape(text)
    return _details(escape(text[:40].rsplit(" ", 1)[0]) + " …", f"<p>{escape(text)}</p>")


def _plain(value) -> str:
    """A paper's printed value as one line of text."""
    if isinstance(value, dict):
        return "; ".join(f"{str(k).replace('_', ' ')}: {_plain(v)}" for k, v in value.items())
    if isinstance(value, list):
        joint = "; " if any(isinstance(entry, dict) for entry in value) else ", "
        return "(" + joint.join(_plain(entry) for entry in value) + ")"
    return str(value)


def _first_sentence(text: str) -> str:
    """A long text up to its first colon or semicolon that stands outside all brackets."""
    if len(text) <= 160:
        return text
    depth = 0
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and text[place : place + 2] in ("; ", ": "):
            return text[:place].rstrip(".") + "."
    return text


def _breakable(claim_id: str) -> str:
    return escape(claim_id).replace(".", ".<wbr>").replace("-", "-<wbr>")
