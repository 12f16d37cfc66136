"""The claim inventories, book/claims/<paper>.yml: what each claim says and how it is judged."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from attribook.report.verdicts import OUTCOMES

LOADER = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)  # the first is written in C: ten times as fast
REQUIRED = ("id", "kind", "where", "says", "origin", "setting", "evidence")
ORIGINS = ("paper", "ours")
IN_KIND = "in kind"
EVIDENCE = re.compile(r"(exact|instances|sample|drawing)\b:?\s*(.*)", re.DOTALL)
CHANGE = ("date", "check", "old", "new", "reason")


def load_claims(folder: Path) -> dict[str, dict]:
    """The claims of a folder's inventories: id -> entry, with its paper's key added.

    `evidence` becomes a list of parts. Raises ValueError that names the file and what it lacks.
    """
    claims: dict[str, dict] = {}
    for path in sorted(Path(folder).glob("*.yml")):
        inventory = load_inventory(path)
        for entry in inventory["claims"]:
            _validate(entry, path.name)
            if entry["id"] in claims:
                raise ValueError(f"{path.name}: the id {entry['id']} stands twice; keep one")
            parts = evidence_of(entry["evidence"], f"{path.name}: {entry['id']}")
            claims[entry["id"]] = {**entry, "paper": inventory["key"], "evidence": parts}
    if not claims:
        raise ValueError(f"no claims in {folder}; expected files like gradient.yml there")
    return claims


def load_inventory(path: Path) -> dict:
    """One inventory as it stands in its file; ValueError when it is none."""
    try:
        inventory = yaml.load(path.read_text(encoding="utf-8"), LOADER)
    except yaml.YAMLError as error:
        where = str(error).replace("\n", " ")
        raise ValueError(f"{path.name} is no YAML: {where}") from error
    if not isinstance(inventory, dict) or not {"key", "claims"} <= inventory.keys():
        raise ValueError(f"{path.name} wants `key: <paper>` and a list `claims:`")
    if not isinstance(inventory["claims"], list) or not inventory["claims"]:
        raise ValueError(f"{path.name}: `claims` is no list of claims")
    return inventory


def listed(inventory: dict, name: str) -> list[str]:
    """The claims that an inventory lists for a notebook (`03-one-chain-rule`, by its tail)."""
    entries = inventory.get("notebooks") or []
    return [key for entry in entries if _is_for(entry, name) for key in entry["claims"]]


def misspelt(inventory: dict, names: list[str]) -> list[str]:
    """What an inventory lists in vain: notebooks that do not exist, claims it does not have."""
    known = {entry["id"] for entry in inventory["claims"]}
    entries = inventory.get("notebooks") or []
    file = f"book/claims/{inventory['key']}.yml"
    lines = [
        f"{file} lists a notebook {entry['slug']!r}; there are: {', '.join(names) or 'none'}"
        for entry in entries
        if not any(_is_for(entry, name) for name in names)
    ]
    named = [key for entry in entries for key in entry["claims"]]
    lines += [f"{file} lists {key!r} for a notebook, and no such claim" for key in named
              if key not in known]  # fmt: skip
    lines += [f"{file} lists {key!r} for several notebooks" for key in sorted(set(named))
              if named.count(key) > 1]  # fmt: skip
    return lines + [
        f"{file} lists {key!r} for no notebook" for key in sorted(known - set(named)) if entries
    ]


def evidence_of(text: str, where: str = "evidence") -> list[dict]:
    """The parts of an evidence: "exact; sample: 20 photos" -> kinds with their number and words."""
    return [_part(part.strip(), where) for part in str(text).split(";")]


def setting_of(entry: dict) -> str:
    """`paper` or `in kind`, as the inventory has it."""
    return IN_KIND if str(entry["setting"]).startswith(IN_KIND) else "paper"


def _part(text: str, where: str) -> dict:
    found = EVIDENCE.fullmatch(text)
    if not found:
        raise ValueError(
            f"{where}: evidence {text!r} is neither `exact`, `instances: 40 networks`, "
            "`sample: 18 photos` nor `drawing`"
        )
    kind, words = found.groups()
    number = re.search(r"\d[\d,]*", words)
    if kind in ("instances", "sample") and not number:
        raise ValueError(f"{where}: evidence {text!r} wants a number and a unit")
    n = (
        int(number.group().replace(",", ""))
        if number and kind not in ("exact", "drawing")
        else None
    )
    return {"kind": kind, "n": n, "text": words}


def _validate(entry: dict, file: str) -> None:
    name = entry.get("id", "a claim without id") if isinstance(entry, dict) else repr(entry)
    if not isinstance(entry, dict) or (missing := [k for k in REQUIRED if k not in entry]):
        lacks = ", ".join(missing) if isinstance(entry, dict) else "everything"
        raise ValueError(f"{file}: {name} lacks {lacks}")
    if entry["origin"] not in ORIGINS:
        raise ValueError(f"{file}: {name} has origin {entry['origin']!r}; there are: paper, ours")
    if not str(entry["setting"]).startswith(("paper", IN_KIND)):
        raise ValueError(
            f"{file}: {name} has setting {entry['setting']!r}; wants `paper` or `in kind: ...`"
        )
    if entry.get("outcome", OUTCOMES[0]) not in OUTCOMES:
        raise ValueError(
            f"{file}: {name} expects outcome {entry['outcome']!r}; there are: {', '.join(OUTCOMES)}"
        )
    for change in entry.get("history", []):
        if not isinstance(change, dict) or (gone := [k for k in CHANGE if k not in change]):
            lacks = ", ".join(gone) if isinstance(change, dict) else "everything"
            raise ValueError(f"{file}: {name}: a change of its history lacks {lacks}")


def _is_for(entry: dict, name: str) -> bool:
    """Whether an inventory's notebook is this one; inventories number notebooks their own way."""
    return f"-{entry['slug']}".endswith("-" + name.partition("-")[2])
