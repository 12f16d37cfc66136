"""An executed notebook made fit to be committed: two runs of it on one machine are byte-identical.

What varies from run to run (wall time, memory, timings of claims) leaves the notebook and becomes
its run statistics.
"""

from __future__ import annotations

import json

import nbformat
from nbformat import NotebookNode

from attribook.report.agreement import INJECTED, authored, outputs_digest, tags_of
from attribook.report.claims import TIMING_MIME

HIDDEN = "attribook-hidden"  # tag of the cells that watch a run; no reader sees them


def normalise(notebook: NotebookNode, slug: str, record: dict) -> tuple[NotebookNode, dict]:
    """The notebook as it is committed, and the statistics of its run.

    `record` (parameters, digests, models, seeds) becomes the notebook's metadata, with what the run
    read, the versions, and a digest of its outputs. Raises ValueError when a cell failed or was not
    run: such a notebook is no result.
    """
    clean = nbformat.from_dict(json.loads(json.dumps(notebook)))
    reported = _reported(clean)
    statistics = {
        "wall_seconds": round(clean.metadata.papermill.duration, 1),
        **reported["statistics"],
        **{name: reported["versions"][name] for name in ("python", "torch", "numpy")},
        "timings": {},
    }
    record = {**record, "reads": reported["reads"], "versions": reported["versions"]}
    clean.cells = [cell for cell in clean.cells if HIDDEN not in tags_of(cell)]
    clean.metadata = _notebook_metadata(clean.metadata, record)
    _number(clean, slug)
    for cell in clean.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if not tags_of(cell):
            cell.metadata.pop("tags", None)
        if cell.cell_type == "code":
            _clean_outputs(cell, statistics["timings"])
    _hide_default_parameters(clean)
    _name_figures(clean, slug)
    clean.metadata["attribook"]["outputs"] = outputs_digest(clean)
    nbformat.validate(clean)
    return clean, statistics


def reweave(reference: NotebookNode, source: NotebookNode) -> None:
    """Put the prose and the cells' tags of the source into an executed notebook of the same code.

    In place; outputs stay.
    """
    injected = [cell for cell in reference.cells if INJECTED in tags_of(cell)]
    executed = [cell for cell in authored(reference) if cell.cell_type == "code"]
    waiting, cells = iter(executed), []
    for cell in source.cells:
        cells.append(_dressed(next(waiting), cell) if cell.cell_type == "code" else cell)
        if "parameters" in tags_of(cell):
            cells += injected
    reference.cells = cells
    for position, cell in enumerate(cells):
        cell.id = f"c{position:03d}"
    _hide_default_parameters(reference)


def _dressed(cell: NotebookNode, wanted: NotebookNode) -> NotebookNode:
    """An executed cell with the tags of its present source."""
    cell.metadata.pop("tags", None)
    if tags_of(wanted):
        cell.metadata["tags"] = tags_of(wanted)
    return cell


def text_of(notebook: NotebookNode) -> str:
    """The notebook's file contents."""
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def _reported(notebook: NotebookNode) -> dict:
    """What the hidden last cell printed: what was read, versions, statistics."""
    last = notebook.cells[-1]
    texts = [out.text for out in last.get("outputs", []) if out.get("name") == "stdout"]
    if HIDDEN not in tags_of(last) or not texts:
        raise ValueError("the notebook stopped before its last cell; run it again")
    return json.loads(texts[0])


def _notebook_metadata(metadata: NotebookNode, record: dict) -> NotebookNode:
    language = {
        key: value for key, value in metadata.language_info.items() if "version" not in key
    }  # versions belong to the statistics; the lexer's name holds one too
    language["pygments_lexer"] = "ipython3"
    return nbformat.from_dict(
        {
            "kernelspec": dict(metadata.kernelspec),
            "language_info": {**language, "codemirror_mode": {"name": "ipython"}},
            "attribook": record,
        }
    )


def _number(notebook: NotebookNode, slug: str) -> None:
    """Give cells stable ids and code cells the numbers a reader would count."""
    executed = 0
    for position, cell in enumerate(notebook.cells):
        cell.id = f"c{position:03d}"
        if cell.cell_type != "code":
            continue
        if cell.execution_count is None:
            first_line = cell.source.strip().partition("\n")[0] or "an empty cell"
            raise ValueError(f"{slug}: a code cell was not run: {first_line!r}; remove or mend it")
        executed += 1
        cell.execution_count = executed
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = executed
            if output.output_type == "error" and "raises-exception" not in tags_of(cell):
                raise ValueError(f"{slug}, cell {executed}: {output.ename}: {output.evalue}")


def _clean_outputs(cell: NotebookNode, timings: dict) -> None:
    """Drop stderr (progress bars, warnings with paths) and move timings to the statistics.

    Printed text arrives in pieces that depend on the load of the machine, so they are joined.
    """
    kept = []
    for output in cell.outputs:
        if output.get("name") == "stderr":
            continue
        timing = output.get("data", {}).pop(TIMING_MIME, None)
        if timing is not None:
            timings[timing["id"]] = timing["timings"]
        if kept and "stream" == output.output_type == kept[-1].output_type:
            kept[-1].text += output.text
        else:
            kept.append(output)
    cell.outputs = kept


def _hide_default_parameters(notebook: NotebookNode) -> None:
    """Let the reader see one parameter cell, the one with the values that were used."""
    if not any(INJECTED in tags_of(cell) for cell in notebook.cells):
        return
    for cell in notebook.cells:
        if "parameters" in tags_of(cell):
            cell.metadata.tags = sorted({*tags_of(cell), "remove-cell"})
            cell.metadata.jupyter = {"source_hidden": True}


def _name_figures(notebook: NotebookNode, slug: str) -> None:
    """Move caption and alternative text from a figure's output to where the book looks for them."""
    figures = 0
    for cell in notebook.cells:
        shown = [out for out in cell.get("outputs", []) if "attribook" in out.get("metadata", {})]
        if len(shown) > 1:
            raise ValueError(f"{slug}, {cell.id}: two figures in one cell; give each its own cell")
        for output in shown:
            figures += 1
            words = output.metadata.pop("attribook")
            name = f"fig-{slug.replace('/', '-')}-{figures}"
            cell.metadata.mystnb = {
                "figure": {"caption": words["caption"], "name": name},
                "image": {"alt": words["alt"]},
            }
