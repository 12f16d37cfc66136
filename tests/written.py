"""A project written by hand: notebooks whose outputs are made here instead of being executed."""

import base64
import io

import jupytext
import nbformat
import numpy as np
from PIL import Image

from attribook.report import agreement, claims, provenance

MODULES = {"one": "from attribook import two\n", "two": "X = 2\n", "other": "Y = 3\n"}
VERSIONS = {"python": "3.11", "torch": "2.13.0", "numpy": "2.4.6", "scipy": "1.16"}
SOURCE = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
attribook:
  models: [a, b]
  seeds: [0, 1, 2]
---

# Is it so?

```{code-cell} ipython3
from attribook.report.claims import claim
```

```{code-cell} ipython3
:tags: [parameters]

model = "a"
seed = 0
device = "auto"
scale = "default"
```

Some prose with a tpyo.

```{code-cell} ipython3
claim("toy.sum")
```
"""
INVENTORY = """key: toy
notebooks:
  - {slug: toy-1-sums, claims: [toy.sum]}
claims:
  - {id: toy.sum, kind: equation, where: "Eq. 1", says: "It adds up.", values: {sum: 4},
     origin: paper, setting: paper, evidence: "sample: 20 photos"}
"""
SLUG = "toy/01-sums"


def picture(values, size=(120, 80)):
    """A PNG with bars of these heights (0 to 1), in base64."""
    canvas = np.full((size[1], size[0]), 255, dtype=np.uint8)
    width = size[0] // max(1, len(values))
    for place, value in enumerate(values):
        top = size[1] - int(value * size[1])
        canvas[top:, place * width : place * width + width - 4] = 40
    data = io.BytesIO()
    Image.fromarray(canvas).save(data, format="PNG")
    return base64.b64encode(data.getvalue()).decode()


def figure(png, caption="Bars of 3 photos.", alt="Three bars."):
    words = {"caption": caption, "alt": alt}
    data = {"image/png": png, "text/plain": alt}
    return nbformat.v4.new_output("display_data", data=data, metadata={"attribook": words})


def claim_output(record):
    data = {**claims.shown_as(record), claims.CLAIM_MIME: record}
    return nbformat.v4.new_output("display_data", data=data)


def text_output(text):
    return nbformat.v4.new_output("stream", name="stdout", text=text)


def cell(*outputs, source="claim(...)", **metadata):
    made = nbformat.v4.new_code_cell(
        source, outputs=list(outputs), execution_count=1, metadata=metadata
    )
    made.pop("id", None)
    return made


def project(root):
    """The folders of a project with one notebook that has no reference yet."""
    for folder in ("notebooks/toy", "book/claims"):
        (root / folder).mkdir(parents=True)
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/intro\n")
    (root / "notebooks" / f"{SLUG}.md").write_text(SOURCE)
    (root / "book/claims/toy.yml").write_text(INVENTORY)
    return root


def execute(root, record, seed=0, model="a", reads=None, library=None, versions=None):
    """Write what running the notebook would have written, with this record."""
    text = (root / "notebooks" / f"{SLUG}.md").read_text()
    parsed = jupytext.reads(text, fmt="md:myst")
    parameters = {"model": model, "seed": seed, "device": "cpu", "scale": "default"}
    made = {"parameters": parameters, "models": ["a", "b"], "seeds": [0, 1, 2],
            **provenance.describe(text, parsed), "reads": reads or {},
            "versions": versions or VERSIONS}  # fmt: skip
    if library is not None:
        made["library"] = library
    code = [each for each in parsed.cells if each.cell_type == "code"]
    for count, each in enumerate(code, start=1):
        each.execution_count = count
    code[-1].outputs = [claim_output(record)]
    parsed.metadata = nbformat.from_dict({"attribook": made})
    made["outputs"] = agreement.outputs_digest(parsed)
    parsed.metadata = nbformat.from_dict({"attribook": made})
    target = root / "notebooks" / f"{SLUG}.ipynb"
    if (seed, model) != (0, "a"):
        target = root / "runs" / SLUG / f"{model}-seed{seed}-cpu-default.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(parsed, target)
    return target
