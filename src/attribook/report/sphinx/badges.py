"""How a claim's outcome, setting, evidence and origin are shown: told apart, each in its own sign.

Everything that comes from data passes through `escape` on its way into text or an attribute.
"""

from __future__ import annotations

from html import escape

from attribook.report.verdicts import ILLUSTRATED, NOT_RUN, OUTCOMES

IN_KIND, OURS = "in kind", "ours"
SHOWN_PARTS = 2  # of the evidence; a badge's title has them all


def outcome_badge(outcome: str, url: str = "") -> str:
    """An outcome as a word with its sign, a link when it has somewhere to lead."""
    inner = f'<span class="verdict">{escape(outcome)}</span>'
    return _wrapped(inner, f'data-outcome="{escape(outcome)}"', url)


def badge(entry: dict, url: str = "", title: str = "") -> str:
    """A claim's badge: the outcome, and beside it setting, evidence, runs and origin."""
    parts = [("verdict", entry["outcome"])]
    if entry["setting"] == IN_KIND:
        parts.append(("setting", IN_KIND))
    parts += [("evidence", text) for text in brief_evidence(entry)]
    parts += [("runs", text) for text in [brief_runs(entry)] if text]
    if entry["origin"] == OURS:
        parts.append(("origin", OURS))
    inner = " ".join(f'<span class="{kind}">{escape(text)}</span>' for kind, text in parts)
    data = "".join(
        f' data-{key}="{escape(entry[key])}"' for key in ("outcome", "setting", "origin")
    )
    return _wrapped(inner, f'{data.strip()} title="{escape(title or told(entry))}"', url)


def told(entry: dict) -> str:
    """A badge in one sentence: what the parts beside the word mean."""
    setting = "the paper's own setting"
    if entry["setting"] == IN_KIND:
        setting = f"in kind: {entry['in_kind'] or 'another model or other data'}"
    evidence = "; ".join(full_evidence(part) for part in entry["evidence"]) or "none stated"
    ours = "our own result; " if entry["origin"] == OURS else ""
    return f"{ours}{entry['outcome']}; {setting}; evidence: {evidence}"


def brief_evidence(entry: dict) -> list[str]:
    """What was tried, as few words as a badge can hold; nothing for what was not run."""
    if entry["outcome"] == NOT_RUN:
        return []
    parts = [_counted(part) if part["n"] else part["kind"] for part in entry["evidence"]]
    return parts if len(parts) <= SHOWN_PARTS else [*parts[: SHOWN_PARTS - 1], "…"]


def full_evidence(part: dict) -> str:
    """One piece of evidence with its kind: exact (by hand), instances: 8 networks."""
    if part["n"]:
        return f"{part['kind']}: {_counted(part)}"
    return f"{part['kind']} {part['text']}".strip()


def brief_runs(entry: dict) -> str:
    """How the runs bear on the badge: a mixed result as n of m, repeated bits as deterministic."""
    tally = entry["tally"]
    if 0 < tally["hold"] < tally["runs"]:
        return f"holds in {tally['hold']} of {tally['runs']} runs"
    return "deterministic" if tally["runs"] > 1 and tally["distinct"] == 1 else ""


def full_runs(entry: dict) -> str:
    """The tally with what it can tell: how many runs hold, and how sure the interval is."""
    tally = entry["tally"]
    runs, hold, distinct = tally["runs"], tally["hold"], tally["distinct"]
    if entry["outcome"] == NOT_RUN or not runs:
        return ""
    if runs == 1:
        return "1 run"
    if distinct == 1:
        return f"deterministic: {runs} runs agree to the last digit"
    if entry["outcome"] == ILLUSTRATED:
        return f"{runs} runs"
    words = f"holds{' as printed' if hold < runs else ''} in {hold} of {runs} runs"
    if distinct < runs:
        words += f", {distinct} of them different"
    if tally["coverage"] is not None:
        words += f"; the interval covers {percent(tally['coverage'])}"
    return words


def percent(share: float) -> str:
    """A share as a percentage of at most one decimal: 75 %, 93.8 %."""
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def counts(entry: dict) -> bool:
    """Whether a claim is counted with its paper: not ours, and more than an illustration."""
    return entry["origin"] != OURS and entry["outcome"] != ILLUSTRATED


def rank(outcome: str) -> int:
    """The place of an outcome in an ordered list; an unknown one comes last."""
    return OUTCOMES.index(outcome) if outcome in OUTCOMES else len(OUTCOMES)


def _counted(part: dict) -> str:
    """18 photos, whether or not the text that came with the number repeats it."""
    number, text = f"{part['n']:,}", part["text"]
    told = number in text or str(part["n"]) in text
    return text if told else f"{number} {text}".strip()


def _wrapped(inner: str, attributes: str, url: str) -> str:
    if url:
        return f'<a class="claim-badge" {attributes} href="{escape(url)}">{inner}</a>'
    return f'<span class="claim-badge" {attributes}>{inner}</span>'
