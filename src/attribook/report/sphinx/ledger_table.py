"""The ledger as a table: one row a claim, and above it how it stands with the present code.

attribook.js makes it sortable and filterable by the `data-` attributes of its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape

from attribook.report.claims import criterion, show

from . import badges
from .markup import breakable, fold, folded, plain
from .results import checks_over_runs, value_over_runs

SHOWN_CHECKS = 3  # a row's further checks fold away
COLUMNS = (
    "Claim",
    "The statement",
    "Measured, criterion",
    "Outcome",
    "Setting",
    "Evidence",
)

STANDING = {  # the states of runs that are not fresh, and what each means
    "stale": "stale: code, weights or data of the notebook changed since. What they say is about "
    "another text than the present one, and they have to be renewed.",
    "older": "older than the library: only modules that the notebook imports, or versions of "
    "packages, changed since. They stand, and are the first to be run again.",
    "missing": "missing: their notebooks draw at random and name these seeds, which were not run "
    "yet. Until then the intervals rest on fewer runs than planned.",
}


def ledger_table(entries: Iterable[dict], url: Callable[[dict], str]) -> str:
    """The ledger: a plain table, one row a claim."""
    head = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
    rows = "\n".join(_row(entry, url(entry)) for entry in entries)
    return (
        '<div class="ledger-box" role="region" aria-label="Ledger of claims" tabindex="0">'
        f'<table class="ledger"><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>'
        "</div>"
    )


def standing(account: dict[str, Sequence[str]]) -> str:
    """How many runs are stale, older or missing, in sentences."""
    lines = [
        fold(f"{_runs_are(found)} {meaning}", f"<ul>{_items(found)}</ul>")
        for state, meaning in STANDING.items()
        if (found := list(account.get(state, ())))
    ]
    if not lines:
        lines = ["<p>Every run was made by the present code, and none is missing.</p>"]
    return f'<div class="standing">{"".join(lines)}</div>'


def _runs_are(found: Sequence[str]) -> str:
    return f"{len(found)} run is" if len(found) == 1 else f"{len(found)} runs are"


def _items(found: Sequence[str]) -> str:
    return "".join(f"<li>{escape(line)}</li>" for line in found)


def _row(entry: dict, url: str) -> str:
    kinds = dict.fromkeys(part["kind"] for part in entry["evidence"])
    data = {
        "paper": entry["paper"], "kind": entry["kind"], "outcome": entry["outcome"],
        "setting": entry["setting"], "evidence": "|".join(kinds), "origin": entry["origin"],
    }  # fmt: skip
    attributes = "".join(f' data-{key}="{escape(value)}"' for key, value in data.items())
    name = escape(entry["id"])
    remark = f'<p class="remark">{escape(entry["where"])}, {escape(entry["kind"])}</p>'
    cells = (
        _cell_of("The statement", "says", _statement(entry)),
        _cell_of("Measured", "measured", _measured(entry)),
        _cell_of("Outcome", "outcome", _outcome(entry, url), f"{badges.rank(entry['outcome'])}"),
        _cell_of("Setting", "in-kind", _setting(entry)),
        _cell_of("Evidence", "proof", _evidence(entry), _evidence_rank(entry)),
    )
    return (
        f'<tr id="ledger-{name}"{attributes}><th scope="row" data-sort="{name}">'
        f'<a href="{escape(url)}"><code>{breakable(entry["id"])}</code></a>{remark}</th>'
        f"{''.join(cells)}</tr>"
    )


def _cell_of(label: str, kind: str, content: str, rank: str = "") -> str:
    """A cell with its column's name for narrow screens, and what it is sorted by if not its text."""
    sort = f' data-sort="{escape(rank)}"' if rank else ""
    return f'<td data-label="{label}" class="{kind}"{sort}>{content}</td>'


def _statement(entry: dict) -> str:
    ours = '<span class="origin">ours</span> ' if entry["origin"] == badges.OURS else ""
    value = plain(entry["paper_value"]) if entry["paper_value"] else ""
    value = f'<p class="value">Value given: {folded(value)}</p>' if value else ""
    return f"{ours}{escape(entry['says'])}{value}"


def _outcome(entry: dict, url: str) -> str:
    told = badges.full_runs(entry)
    return badges.outcome_badge(entry["outcome"], url) + (
        f'<p class="remark">{escape(told)}</p>' if told else ""
    )


def _setting(entry: dict) -> str:
    if entry["setting"] != badges.IN_KIND:
        return "the paper’s" if entry["origin"] != badges.OURS else "–"
    how = f'<p class="remark">{folded(entry["in_kind"])}</p>'
    return f'<span class="setting">{badges.IN_KIND}</span>{how}'


def _evidence_rank(entry: dict) -> str:
    """Sorted by kind first, and within a kind by how much was tried."""
    first = entry["evidence"][0] if entry["evidence"] else {"kind": "", "n": 0}
    return f"{first['kind']} {first['n'] or 0:09d}"


def _evidence(entry: dict) -> str:
    items = (f"<li>{escape(badges.full_evidence(part))}</li>" for part in entry["evidence"])
    return f"<ul>{''.join(items)}</ul>" if entry["evidence"] else "–"


def _measured(entry: dict) -> str:
    ran = [run for run in entry["runs"] if run["checks"]]
    if not ran:
        return f"<p>Not run: {escape(entry['reason'])}.</p>".replace("..</p>", ".</p>")
    lines = [
        (sign, _check_line(entry, check, sign))
        for check in ran[0]["checks"]
        for sign in [mark(entry, check["name"])]
    ]
    lines = [line for _, line in sorted(lines, key=lambda pair: pair[0] in "✓–")]  # failed first
    shown, hidden = lines[:SHOWN_CHECKS], lines[SHOWN_CHECKS:]
    more = fold(f"{len(hidden)} more", f"<ul>{''.join(hidden)}</ul>") if hidden else ""
    return f"<ul>{''.join(shown)}</ul>{more}{_runs(ran)}"


def _check_line(entry: dict, check: dict, sign: str) -> str:
    role = "" if check["role"] == "printed" else f" <small>({escape(check['role'])})</small>"
    wanted = "" if isinstance(check["measured"], bool) else criterion(check)
    if check["expected"] is not None:
        wanted = f"wanted {wanted}"
    return (
        f'<li><span class="met">{sign}</span> {escape(check["name"])}{role}: '
        f"<b>{escape(value_over_runs(entry, check['name']))}</b>{_met(entry, check)} "
        f'<span class="criterion">{escape(wanted)}</span></li>'
    )


def mark(entry: dict, name: str) -> str:
    """✓ when a check is met in every run, ✗ in none, ± in some, – where nothing judges it."""
    met = {check["met"] for check in checks_over_runs(entry, name)}
    if met == {None}:
        return "–"
    return {frozenset({True}): "✓", frozenset({False}): "✗"}.get(frozenset(met), "±")


def _met(entry: dict, check: dict) -> str:
    """In how many runs a check is met, where they differ."""
    met = [found["met"] for found in checks_over_runs(entry, check["name"])]
    if isinstance(check["measured"], bool) or len({*met}) == 1:
        return ""
    return f" <small>met in {met.count(True)} of {len(met)} runs</small>"


def _runs(runs: Sequence[dict]) -> str:
    """Every run with its own numbers, those of other models and devices too."""
    if len(runs) < 2:
        return ""
    names = [check["name"] for check in runs[0]["checks"]]
    keys = ("model", "seed", "device", "scale")
    head = "".join(f"<th>{escape(name)}</th>" for name in (*keys, "outcome", *names))
    rows = "".join(
        "<tr>"
        + "".join(f"<td>{escape(str(run[key]))}</td>" for key in keys)
        + f"<td>{badges.outcome_badge(run['outcome'])}</td>"
        + "".join(f"<td>{_cell(run, name)}</td>" for name in names)
        + "</tr>"
        for run in runs
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return fold(f"{len(runs)} runs", f'<div class="scroll" tabindex="0">{table}</div>')


def _cell(run: dict, name: str) -> str:
    found = [check["measured"] for check in run["checks"] if check["name"] == name]
    return escape(show(found[0])) if found else "–"
