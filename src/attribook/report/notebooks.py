"""The notebooks of a project: authored ones found, read and named, executed ones read safely.

A notebook is `notebooks/<paper>/NN-name.md`. One that lacks what a run needs is a draft: it is
listed with what it lacks, and is in nobody's way.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from attribook.report import provenance

PARAMETERS = ("model", "seed", "device", "scale")
SCALES = ("default", "paper")
MOST_SEED = 2**32 - 1  # what numpy and scikit-learn take
RUN_NAME = "{model}-seed{seed}-{device}-{scale}"


@dataclass(frozen=True)
class Notebook:
    """An authored notebook: where it lies, what it may be swept over, its default parameters."""

    root: Path
    slug: str
    models: list[str]
    seeds: list[int]
    defaults: dict
    digest: str
    code: str

    @property
    def source(self) -> Path:
        """The MyST text."""
        return self.root / "notebooks" / f"{self.slug}.md"

    @property
    def reference(self) -> Path:
        """The committed, executed notebook beside the source."""
        return self.source.with_suffix(".ipynb")

    @cached_property
    def made_from(self) -> dict:
        """The digests of its present text, code and library modules."""
        text, parsed = authored_text(self)
        try:
            return provenance.describe(text, parsed)
        except SyntaxError as error:
            line = (error.text or "").strip()
            raise ValueError(
                f"{self.slug} imports a module that does not parse: {error.msg}: {line!r}"
            ) from error

    def output(self, parameters: dict) -> Path:
        """Where a run with these parameters is written: the reference, or a file in runs/."""
        if parameters == self.defaults:
            return self.reference
        return self.root / "runs" / self.slug / f"{RUN_NAME.format(**parameters)}.ipynb"

    def failed(self, parameters: dict) -> Path:
        """Where a run with these parameters is kept for inspection when it fails."""
        name = f"{RUN_NAME.format(**parameters)}.ipynb"
        return self.root / "runs" / "failed" / self.slug / name


def find_root(start: Path) -> Path:
    """The project's folder: the nearest one upwards that has _toc.yml and notebooks/."""
    for folder in (start, *start.parents):
        if (folder / "_toc.yml").is_file() and (folder / "notebooks").is_dir():
            return folder
    raise ValueError(
        f"no attribook project in {start} or above (a folder with _toc.yml and notebooks/); "
        "change to your clone of the project first"
    )


def notebooks_of(root: Path) -> dict[str, Notebook]:
    """Every notebook of the project that can run, by its slug (`gradient/01-linear-model`)."""
    return _survey(root)[0]


def drafts_of(root: Path) -> dict[str, str]:
    """The notebooks that are not finished, by slug, each with what it lacks."""
    return _survey(root)[1]


def select(root: Path, names: Sequence[str]) -> list[Notebook]:
    """The named notebooks, each once; a name is a slug or a tail of it that only one notebook has.

    Raises ValueError for a name that fits none or several, and for a draft, with what it lacks.
    """
    notebooks, drafts = _survey(root)
    slugs = dict.fromkeys(_named([*notebooks, *drafts], name) for name in names)
    for slug in slugs:
        if slug in drafts:
            raise ValueError(f"{slug} is a draft: {drafts[slug]}")
    return [notebooks[slug] for slug in slugs]


def parameters_of(notebook: Notebook, given: dict[str, str]) -> dict:
    """The notebook's defaults with the given values in place, each checked.

    The reference always runs on the CPU; any other run takes the GPU when there is one.
    """
    if unknown := sorted(given.keys() - set(PARAMETERS)):
        raise ValueError(f"unknown parameter {unknown[0]!r}; there are: {', '.join(PARAMETERS)}")
    values = {**notebook.defaults, **given}
    device = given.get("device", "auto" if given else "cpu")
    if values["model"] not in notebook.models:
        raise ValueError(
            f"{notebook.slug} has no model {values['model']!r}; "
            f"its front matter lists: {', '.join(notebook.models)}"
        )
    if values["scale"] not in SCALES:
        raise ValueError(f"unknown scale {values['scale']!r}; there are: {', '.join(SCALES)}")
    return {**values, "seed": _seed(values["seed"]), "device": _device(device)}


def authored_text(notebook: Notebook) -> tuple[str, NotebookNode]:
    """The notebook's present source, as text and as cells."""
    text = notebook.source.read_text(encoding="utf-8")
    return text, _parsed(text)


def executed(path: Path) -> NotebookNode:
    """An executed notebook; ValueError that names a damaged file and the way out."""
    try:
        found = nbformat.read(path, as_version=4)
        nbformat.validate(found)
        return found
    except (ValueError, KeyError, AttributeError, TypeError, nbformat.ValidationError) as error:
        first = str(error).partition("\n")[0][:80]
        raise ValueError(
            f"{_shown(path)} is damaged ({first}); renew it with `{_renewal(path)}`"
        ) from error


def made_of(path: Path) -> dict:
    """What made a finished run: its parameters and digests; {} where there is no such notebook."""
    return dict(executed(path).metadata.get("attribook", {})) if path.exists() else {}


def write(path: Path, text: str) -> None:
    """Write a file in one step: a reader sees the old text or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _survey(root: Path) -> tuple[dict[str, Notebook], dict[str, str]]:
    notebooks, drafts = {}, {}
    for source in sorted((root / "notebooks").glob("*/[0-9_]*.md")):
        slug = f"{source.parent.name}/{source.stem}"
        try:
            notebooks[slug] = _read(root, slug)
        except ValueError as error:
            drafts[slug] = str(error)
    return notebooks, drafts


def _read(root: Path, slug: str) -> Notebook:
    """The notebook; ValueError with what it lacks."""
    text = (root / "notebooks" / f"{slug}.md").read_text(encoding="utf-8")
    if slug.partition("/")[2].startswith("_"):
        raise ValueError("its name begins with an underscore; a notebook's begins with a number")
    try:
        parsed = _parsed(text)
        code = provenance.code_of(parsed)
        ast.parse(code)
        defaults = _default_parameters(parsed)
    except Exception as error:  # whatever a half-written text makes the parsers raise
        raise ValueError(f"it does not parse ({type(error).__name__}: {error})") from error
    swept = parsed.metadata.get("attribook")
    listed = [swept.get(name) if isinstance(swept, dict) else None for name in ("models", "seeds")]
    if set(defaults) != set(PARAMETERS) or not all(isinstance(found, list) for found in listed):
        raise ValueError(
            f"it wants a cell tagged `parameters` that sets {', '.join(PARAMETERS)}, and "
            "`attribook: {models: [...], seeds: [...]}` in its front matter"
        )
    models, seeds = map(list, listed)
    reference = {**defaults, "device": "cpu"}
    digest = provenance.digest
    return Notebook(root, slug, models, seeds, reference, digest(text), digest(code))


def _default_parameters(notebook: NotebookNode) -> dict:
    """The assignments in the cell tagged `parameters`."""
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            lines = [line for line in ast.parse(cell.source).body if isinstance(line, ast.Assign)]
            return {line.targets[0].id: ast.literal_eval(line.value) for line in lines}
    return {}


def _named(slugs: Sequence[str], name: str) -> str:
    tails = (f"/{name}", f"-{name}")
    found = [slug for slug in slugs if slug == name or slug.endswith(tails)]
    if name in found:
        return name
    if len(found) == 1:
        return found[0]
    problem = f"several notebooks end in {name!r}" if found else f"there is no notebook {name!r}"
    raise ValueError(f"{problem}; choose from: {', '.join(found or slugs)}")


def _parsed(text: str) -> NotebookNode:
    import jupytext  # a quarter of a second, which `attribook --help` does not need

    return jupytext.reads(text, fmt="md:myst")


def _seed(wanted) -> int:
    text = str(wanted)
    if not text.isdecimal() or len(text) > len(str(MOST_SEED)) or int(text) > MOST_SEED:
        shown = text if len(text) < 30 else f"{text[:12]}... ({len(text)} digits)"
        raise ValueError(f"seed must be an integer from 0 to {MOST_SEED}, got {shown!r}")
    return int(text)


def _device(wanted: str) -> str:
    """The device a run is labelled with; "auto" takes the GPU when there is one."""
    if wanted == "cpu":
        return wanted
    import torch

    if wanted not in ("auto", "cuda"):
        raise ValueError(f"unknown device {wanted!r}; there are: auto, cpu, cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but PyTorch finds no GPU; use auto or cpu")
    return "cuda" if torch.cuda.is_available() else "cpu"


def _shown(path: Path) -> str:
    """A run's path below the project's folder."""
    depth = 4 if path.parents[2].name == "runs" else 3
    return "/".join(path.parts[-depth:])


def _renewal(path: Path) -> str:
    """The command that makes an executed notebook again."""
    name = re.fullmatch(
        r"(?P<model>.+)-seed(?P<seed>\d+)-(?P<device>\w+)-(?P<scale>\w+)", path.stem
    )
    if not name or path.parents[2].name != "runs":
        return f"attribook run {path.parent.name}/{path.stem} --force"
    given = " ".join(f"-p {key} {value}" for key, value in name.groupdict().items())
    return f"attribook run {path.parents[1].name}/{path.parent.name} {given} --force"
