"""Pieces of HTML that several pages share: tables, folds, links, texts cut to length."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """A plain table of cells that are HTML already; nothing when it has no rows."""
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
        '<div class="scroll" tabindex="0" role="region" aria-label="Table">'
        f'<table class="plain"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def link(url: str, text: str) -> str:
    return f'<a href="{escape(url)}">{escape(text)}</a>'


def fold(summary: str, body: str) -> str:
    """A summary that opens; both are HTML already."""
    return f"<details><summary>{summary}</summary>{body}</details>"


def folded(text: str) -> str:
    """A text, behind its first words when it is long."""
    if len(text) <= 60:
        return escape(text)
    return fold(escape(text[:40].rsplit(" ", 1)[0]) + " …", f"<p>{escape(text)}</p>")


def plain(value) -> str:
    """A paper's printed value as one line of text."""
    if isinstance(value, dict):
        return "; ".join(f"{str(k).replace('_', ' ')}: {plain(v)}" for k, v in value.items())
    if isinstance(value, list):
        joint = "; " if any(isinstance(entry, dict) for entry in value) else ", "
        return "(" + joint.join(plain(entry) for entry in value) + ")"
    return str(value)


def first_sentence(text: str) -> str:
    """A long text up to its first colon or semicolon that stands outside all brackets."""
    if len(text) <= 160:
        return text
    depth = 0
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and text[place : place + 2] in ("; ", ": "):
            return text[:place].rstrip(".") + "."
    return text


def breakable(claim_id: str) -> str:
    """A claim's id with places where a narrow column may break it."""
    return escape(claim_id).replace(".", ".<wbr>").replace("-", "-<wbr>")


def _alignment(column: Sequence[str]) -> str:
    """The class of a column whose every cell is a number, with or without a unit."""
    numeric = all(re.fullmatch(r"-?[\d.,]+(e-?\d+)?( s| MB)?", cell) for cell in column)
    return ' class="number"' if numeric else ""
