"""Whether a fresh run says what the committed reference says, and whether a reference is intact.

Claims are compared by `verdicts.drift`; text, tables and captions word by word and number by
number; figures by how alike they look. So a reference made on one processor holds on another, and
a figure that turns blank, a caption or a table that moved does not pass.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterable, Sequence
from difflib import unified_diff

import numpy as np
from nbformat import NotebookNode
from PIL import Image, UnidentifiedImageError

from attribook.report.claims import CLAIM_MIME, records_in, shown_as
from attribook.report.provenance import digest
from attribook.report.verdicts import RELATIVE_TOLERANCE, drift

NUMBER = re.compile(r"(?<![\w.])[-+−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
TEXT_FLOOR = 1e-9  # a printed number below it is rounding; one that matters is a claim's
LEAST_LIKENESS = 0.98  # processors leave 0.984; of 87 figures that a seed changed 77 fall below
INJECTED = "injected-parameters"  # papermill's tag of the cell with the values that were used
BLANK = 1.0  # spread of a figure's grey levels (of 255) below which there is nothing to see


def differences(reference: NotebookNode, fresh: NotebookNode) -> list[str]:
    """What a fresh run of a notebook shows differently from its reference; empty if nothing."""
    old, new = _code_cells(reference), _code_cells(fresh)
    if [cell.source for cell in old] != [cell.source for cell in new]:
        return ["the reference was made from other code"]
    pairs = enumerate(zip(old, new, strict=True), start=1)
    return [line for number, (a, b) in pairs for line in _told(number, cell_differences(a, b))]


def cell_differences(reference: NotebookNode, fresh: NotebookNode) -> list[str]:
    """What one executed cell shows differently from the reference's."""
    old, new = _seen(reference), _seen(fresh)
    kinds = [[output["kind"] for output in outputs] for outputs in (old, new)]
    lines = _claims_missing(old, new)
    if lines or kinds[0] != kinds[1]:
        return lines or [f"it showed {_listing(kinds[0])}, now {_listing(kinds[1])}"]
    return [line for a, b in zip(old, new, strict=True) for line in _COMPARE[a["kind"]](a, b)]


def defects(reference: NotebookNode, source: NotebookNode) -> list[str]:
    """Where a committed reference differs from its source, from what its run wrote, or is blank."""
    lines = []
    cells = authored(reference)
    if [(c.cell_type, c.source) for c in cells] != [(c.cell_type, c.source) for c in source.cells]:
        lines.append(f"its cells are not its source's: {_first_difference(cells, source.cells)}")
    stored = reference.metadata.get("attribook", {}).get("outputs")
    if stored != outputs_digest(reference):
        lines.append("its outputs were edited after the run that made them")
    for record, bundle in zip(records_in(reference), _bundles(reference), strict=True):
        if any(bundle.get(kind) != text for kind, text in shown_as(record).items()):
            lines.append(f"{record['id']}: what is shown is not what is recorded")
    for number, cell in enumerate(_code_cells(reference), start=1):
        figures = (output for output in _seen(cell) if output["kind"] == "figure")
        lines += _told(number, (flaw for figure in figures for flaw in _blank(figure["png"])))
    return lines


def authored(reference: NotebookNode) -> list[NotebookNode]:
    """The cells of an executed notebook without those that papermill put in."""
    return [cell for cell in reference.cells if INJECTED not in tags_of(cell)]


def tags_of(cell: NotebookNode) -> list[str]:
    """The cell's tags."""
    return list(cell.metadata.get("tags", []))


def outputs_digest(notebook: NotebookNode) -> str:
    """Twelve digits that tell all outputs of a normalised notebook, its captions included."""
    told = [[cell.outputs, cell.metadata.get("mystnb")] for cell in _code_cells(notebook)]
    return digest(json.dumps(told, sort_keys=True))


def text_differences(old: str, new: str) -> list[str]:
    """The lines that differ: words exactly, numbers within 1e-3 or one unit of the last digit."""
    if NUMBER.sub("#", old) == NUMBER.sub("#", new) and all(
        _same_number(a, b) for a, b in zip(NUMBER.findall(old), NUMBER.findall(new), strict=True)
    ):
        return []
    lines = unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)
    changed = [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    return changed[:6]


def likeness(old: bytes, new: bytes) -> float:
    """How alike two figures look: structural similarity in [-1, 1], 1 when they are the same."""
    from skimage.metrics import structural_similarity

    a, b = _image(old), _image(new)
    if max(abs(p - q) for p, q in zip(a.size, b.size, strict=True)) > 0.02 * max(a.size):
        return 0.0  # another shape; a few pixels come with the width of printed numbers
    a, b = (np.asarray(image.resize(a.size)) for image in (a, b))
    return float(structural_similarity(a, b, channel_axis=2))


def _same_number(old: str, new: str) -> bool:
    """Whether two printed numbers agree: counts exactly, others by size or their last digit."""
    a, b = (float(text.replace(",", "").replace("−", "-")) for text in (old, new))
    counts = [not re.search(r"[.e]", text) for text in (old, new)]
    if any(counts):
        return all(counts) and a == b
    if max(abs(a), abs(b)) < TEXT_FLOOR:
        return True
    return abs(a - b) <= max(RELATIVE_TOLERANCE * abs(a), 1.01 * _last_digit(old))


def _last_digit(text: str) -> float:
    """The worth of one unit of a printed number's last digit."""
    mantissa, _, exponent = text.partition("e")
    return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def _seen(cell: NotebookNode) -> list[dict]:
    """What a reader sees of a cell's outputs, in order, each with its kind."""
    words = cell.metadata.get("mystnb", {})
    seen = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if CLAIM_MIME in data:
            seen.append({"kind": "claim", "record": data[CLAIM_MIME]})
        elif "image/png" in data:
            told = output.get("metadata", {}).get("attribook") or {
                "caption": words.get("figure", {}).get("caption", ""),
                "alt": words.get("image", {}).get("alt", ""),
            }
            seen.append({"kind": "figure", "png": data["image/png"], **told})
        elif output.get("name") != "stderr":
            seen.append({"kind": "text", "text": _text(output)})
    return _joined(seen)


def _text(output: NotebookNode) -> str:
    if output.output_type == "stream":
        return output.text
    if output.output_type == "error":
        return f"{output.ename}: {output.evalue}"
    data = output.get("data", {})
    return "\n".join(str(data[kind]) for kind in sorted(data) if kind.startswith("text/"))


def _joined(seen: list[dict]) -> list[dict]:
    """Pieces of text that follow one another as one: they arrive as the load of a machine has it."""
    kept: list[dict] = []
    for output in seen:
        if kept and output["kind"] == "text" == kept[-1]["kind"]:
            kept[-1] = {"kind": "text", "text": kept[-1]["text"] + output["text"]}
        else:
            kept.append(output)
    return kept


def _claims_missing(old: Sequence[dict], new: Sequence[dict]) -> list[str]:
    ids = [{o["record"]["id"] for o in side if o["kind"] == "claim"} for side in (old, new)]
    gone = [f"{key}: recorded by the reference only" for key in sorted(ids[0] - ids[1])]
    return gone + [f"{key}: not recorded by the reference" for key in sorted(ids[1] - ids[0])]


def _claim_differences(old: dict, new: dict) -> list[str]:
    return drift(old["record"], new["record"])


def _figure_differences(old: dict, new: dict) -> list[str]:
    lines = [f"its {key} changed: {' '.join(text_differences(old[key], new[key]))}"
             for key in ("caption", "alt") if text_differences(old[key], new[key])]  # fmt: skip
    if old["png"] == new["png"]:
        return lines
    if blank := _blank(new["png"]):
        return lines + blank
    alike = likeness(*(base64.b64decode(side["png"]) for side in (old, new)))
    if alike < LEAST_LIKENESS:
        lines.append(f"its figure looks different (likeness {alike:.3f}, {LEAST_LIKENESS} wanted)")
    return lines


def _text_differences(old: dict, new: dict) -> list[str]:
    return text_differences(old["text"], new["text"])


_COMPARE = {
    "claim": _claim_differences,
    "figure": _figure_differences,
    "text": _text_differences,
}


def _blank(png: str) -> list[str]:
    try:
        grey = np.asarray(_image(base64.b64decode(png)).convert("L"), dtype=float)
    except (UnidentifiedImageError, ValueError, OSError):
        return ["its figure is no image"]
    return ["its figure is blank"] if grey.std() < BLANK else []


def _image(png: bytes) -> Image.Image:
    """The picture on white, without transparency."""
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(ground, picture).convert("RGB")


def _bundles(notebook: NotebookNode) -> Iterable[dict]:
    outputs = (out for cell in notebook.cells for out in cell.get("outputs", []))
    return (out["data"] for out in outputs if CLAIM_MIME in out.get("data", {}))


def _code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _first_difference(cells: Sequence[NotebookNode], wanted: Sequence[NotebookNode]) -> str:
    for one, other in zip(cells, wanted, strict=False):
        if (one.cell_type, one.source) != (other.cell_type, other.source):
            lines = text_differences(other.source, one.source)
            return " ".join(lines) or f"{one.source[:60]!r}"
    return f"{len(cells)} cells, {len(wanted)} in the source"


def _told(number: int, lines: Iterable[str]) -> list[str]:
    return [f"code cell {number}: {line}" for line in lines]


def _listing(kinds: Sequence[str]) -> str:
    return ", ".join(kinds) or "nothing"
