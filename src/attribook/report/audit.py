"""Where a committed ledger, its references and its inventories are wrong, and which rows are old.

Everything that a page prints is made again from the references, the rows and the inventories, and
compared with the committed file field by field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from attribook.report import agreement, provenance
from attribook.report.claims import records_in, usual_floor
from attribook.report.git import commits_of, committed_text
from attribook.report.inventory import (
    listed,
    load_claims,
    load_inventory,
    misspelt,
    setting_of,
)
from attribook.report.ledger import (
    LEDGER,
    Authored,
    Texts,
    authored,
    collect,
    committed,
    committed_rows,
    digest_of_records,
    environment,
    key_of,
    ledger_path,
    parsed,
)
from attribook.report.notebooks import PARAMETERS, Notebook, drafts_of
from attribook.report.verdicts import (
    criterion,
    drift,
    is_met,
    judge,
    show,
)

# Whether rows that the front matter lists and nobody made yet fail the check. They are only listed
# until the library's modules have moved, after which one sweep fills them all.
MISSING_ROWS_FAIL = False
FRESH, OLDER, STALE, MISSING = "fresh", "older", "stale", "missing"


@dataclass(frozen=True)
class Standing:
    """How a row of the ledger, or one that its front matter lists, stands to what made it."""

    notebook: Notebook
    parameters: dict
    state: str  # fresh, older (library changed), stale (code, weights or data did), missing
    reasons: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        """The run's name in the ledger."""
        return key_of({"notebook": self.notebook.slug, **self.parameters})

    @property
    def told(self) -> str:
        """One line for people."""
        return f"{self.state}: {self.key}" + (
            f" ({'; '.join(self.reasons)})" if self.reasons else ""
        )


def problems(root: Path) -> list[str]:
    """Everything that is wrong with the committed report; empty when nothing is."""
    texts = authored(root)
    lines = _inventories(root, texts) + _failed_runs(root)
    if waiting := unready(root, texts):  # whatever else is wrong may follow from these
        return waiting + lines + [row.told for row in standing(root, texts) if row.state == STALE]
    if not ledger_path(root).exists():
        return [*lines, f"{LEDGER} does not exist; write it with `attribook ledger`"]
    old = committed(root)
    for text in texts.values():
        lines += _reference_problems(text)
    lines += _ledger_problems(root, old, texts)
    lines += unexplained_since(root)
    failing = (STALE, MISSING) if MISSING_ROWS_FAIL else (STALE,)
    return lines + [row.told for row in standing(root, texts) if row.state in failing]


def notes(root: Path) -> list[str]:
    """What is worth knowing and fails nothing: older rows, and rows that nobody made yet."""
    told = (OLDER,) if MISSING_ROWS_FAIL else (OLDER, MISSING)
    return [row.told for row in standing(root) if row.state in told]


def unready(root: Path, texts: Texts | None = None) -> list[str]:
    """Notebooks without a reference that counts: missing, damaged, of other code, or a broken text.

    No ledger comes of them: it would lose their claims.
    """
    broken = [
        f"{slug}: {lacks}"
        for slug, lacks in drafts_of(root).items()
        if (root / "notebooks" / f"{slug}.ipynb").exists()
    ]
    texts = texts or authored(root)
    return broken + [line for text in texts.values() for line in _unready(text)]


def standing(root: Path, texts: Texts | None = None) -> list[Standing]:
    """Every row: committed ones, and those of the front matter's first model that are missing.

    References are re-run by the tests, so they are never older.
    """
    texts = texts or authored(root)
    rows = {key_of(run): run for run, _ in committed_rows(root)}
    found = [_standing(texts[run["notebook"]], run) for run in rows.values()
             if run["notebook"] in texts]  # fmt: skip
    for text in texts.values():
        for seed in text.notebook.seeds:
            parameters = {**text.notebook.defaults, "seed": seed}
            if key_of({"notebook": text.notebook.slug, **parameters}) not in rows:
                found.append(Standing(text.notebook, parameters, MISSING))
    return sorted(found, key=lambda row: row.key)


def moved(old: dict, new: dict) -> list[str]:
    """What differs between two ledgers: claims, outcomes, criteria, numbers, rows."""
    before, after = ({entry["id"]: entry for entry in side["claims"]} for side in (old, new))
    lines = [f"{key}: gone" for key in before if key not in after]
    lines += [f"{key}: new, {after[key]['outcome']}" for key in after if key not in before]
    return lines + [line for key in before if key in after
                    for line in _moved(before[key], after[key])]  # fmt: skip


def unexplained(old: dict, new: dict, claims: dict[str, dict]) -> list[str]:
    """Criteria that differ between two ledgers, and whose inventory does not tell the change."""
    before, after = ({entry["id"]: entry for entry in side["claims"]} for side in (old, new))
    floors = old.get("format") != 1  # an older ledger told none
    lines = []
    for key in [key for key in before if key in after]:
        history = [
            (change["check"], str(change["old"]), str(change["new"]))
            for change in claims.get(key, {}).get("history", [])
        ]
        for change in _changes(*(_criteria(side[key], floors) for side in (before, after))):
            if change not in history:
                check, was, now = change
                lines.append(
                    f"{key}: the criterion of {check!r} was {was!r}, is {now!r}; give date, check, "
                    "old, new and reason in the claim's `history`"
                )
    return lines


def unexplained_since(root: Path, fresh: dict | None = None) -> list[str]:
    """Criteria that changed without history since the last commits of the ledger.

    `fresh` is the ledger about to be written; else the file is compared with its last two
    committed versions. Where there is no git, nothing can be told.
    """
    claims = load_claims(root / "book" / "claims")
    versions = _versions(root)
    now = [fresh] if fresh else [committed(root)]
    pairs = zip([*now, *versions], versions, strict=False)
    lines = (line for new, old in pairs for line in unexplained(old, new, claims))
    return list(dict.fromkeys(lines))


def _unready(text: Authored) -> list[str]:
    slug = text.notebook.slug
    try:
        if text.reference is None:
            return [f"{slug}: no reference; make it with `attribook run {slug}`"]
    except ValueError as error:
        return [str(error)]
    if not text.has_current_reference:
        return [
            f"{slug}: the reference is older than its source; renew it with `attribook run {slug}`"
        ]
    return []


def _reference_problems(text: Authored) -> Iterator[str]:
    """Where a reference departs from its source, or from what its run wrote."""
    if _unready(text):
        return
    slug, made = text.notebook.slug, text.reference.metadata["attribook"]
    if made["source"] != text.made_from["source"]:
        yield f"{slug}: the reference has older prose; `attribook run {slug}` renews it at once"
    else:
        yield from (f"{slug}: {line}" for line in agreement.defects(text.reference, text.parsed))
    if dict(made["parameters"]) != text.notebook.defaults:
        yield f"{slug}: the reference was made with other parameters than the notebook's own"
    for record in records_in(text.reference):
        yield from _record_problems(record, slug)


def _ledger_problems(root: Path, old: dict, texts: Texts) -> list[str]:
    """Every field in which the committed file is not what references, rows and inventories give."""
    lines = []
    for run, records in committed_rows(root):
        if run.get("records") not in (None, digest_of_records(records)):
            lines.append(f"{key_of(run)}: its numbers were edited after the run that made them")
        lines += [line for record in records for line in _record_problems(record, key_of(run))]
    try:
        ledger = collect(root, sweeps=False, texts=texts)
        new = ledger.as_json(environment(root, texts))
    except ValueError as error:
        return [*lines, str(error)]
    lines += _settings(new, ledger.claims)
    return lines + _different(_named(old), _named(json.loads(json.dumps(new))), LEDGER)


def _record_problems(record: dict, where: str) -> Iterator[str]:
    """Where a record contradicts itself: outcomes not from values, values not from measurements."""
    for check in record["checks"]:
        name = f"{where}: {record['id']}: {check['name']!r}"
        if not check["timing"] and check["met"] != is_met(check):
            yield f"{name} is recorded as {_word(check['met'])}, its value says otherwise"
        if not _consistent(check):
            yield f"{name} shows {check['measured']}, but {check['value']} was judged"
    if record["outcome"] != (outcome := judge([record])):
        yield f"{where}: {record['id']}: recorded as {record['outcome']!r}, its checks say {outcome!r}"


def _consistent(check: dict) -> bool:
    """Whether what is shown and what is judged are one number (for a list: the gap it leaves)."""
    measured, value = check["measured"], check["value"]
    if check["timing"] or value is None:
        return True
    if check["expected"] is not None:
        pairs = zip(_list(measured), _list(check["expected"]), strict=True)
        gap = max(abs(float(got) - want) for got, want in pairs)
        size = max(abs(want) for want in _list(check["expected"]))
        return math.isclose(gap, value, rel_tol=1e-4, abs_tol=1e-5 * size)  # both have six digits
    return float(_list(measured)[0]) == value


def _settings(new: dict, claims: dict[str, dict]) -> list[str]:
    """Claims whose notebook and inventory disagree about whose setting it is."""
    return [
        f"{entry['id']}: its notebook says {entry['setting']!r}, "
        f"book/claims/{entry['paper']}.yml {setting_of(claims[entry['id']])!r}"
        for entry in new["claims"]
        if entry["runs"] and entry["setting"] != setting_of(claims[entry["id"]])
    ]


def _inventories(root: Path, texts: Texts) -> list[str]:
    """What inventories list in vain, and what notebooks should record and do not."""
    paths = sorted((root / "book" / "claims").glob("*.yml"))
    inventories = {path.stem: load_inventory(path) for path in paths}
    names: dict[str, list[str]] = {paper: [] for paper in inventories}
    for slug in texts:
        paper, _, name = slug.partition("/")
        names.setdefault(paper, []).append(name)
    lines = [line for paper, inventory in inventories.items()
             for line in misspelt(inventory, names[paper])]  # fmt: skip
    lines += [f"notebooks/{paper} has no inventory book/claims/{paper}.yml"
              for paper in names.keys() - inventories.keys()]  # fmt: skip
    for slug, text in texts.items():
        paper, _, name = slug.partition("/")
        if paper in inventories and not _unready(text):
            recorded = {record["id"] for record in records_in(text.reference)}
            wanted = listed(inventories[paper], name)
            lines += [f"{claim}: listed for {slug}, which does not record it"
                      for claim in wanted if claim not in recorded]  # fmt: skip
    return lines


def _failed_runs(root: Path) -> list[str]:
    """Runs that failed on this machine and were not made since."""
    folder = root / "runs" / "failed"
    return [
        f"failed: {path.relative_to(root)}; look at it, then run it again or delete it"
        for path in sorted(folder.rglob("*.ipynb"))
    ]


def _standing(text: Authored, run: dict) -> Standing:
    notebook, parameters = text.notebook, {name: run[name] for name in PARAMETERS}
    if reasons := provenance.stale(run, text.made_from["code"]):
        return Standing(notebook, parameters, STALE, reasons)
    if parameters == notebook.defaults:
        return Standing(notebook, parameters, FRESH)
    made = text.reference.metadata["attribook"] if text.has_current_reference else {}
    reasons = provenance.older(run, text.made_from["library"], made.get("versions", {}))
    return Standing(notebook, parameters, OLDER if reasons else FRESH, reasons)


def _moved(old: dict, new: dict) -> Iterator[str]:
    name = new["id"]
    for word in ("outcome", "setting", "in_kind", "origin", "says", "notebook"):
        if old.get(word) != new.get(word):
            yield f"{name}: {word} was {old.get(word)!r}, is {new.get(word)!r}"
    before, after = ({row["run"]: row for row in side["runs"]} for side in (old, new))
    yield from (f"{name}: run {key} is gone" for key in before if key not in after)
    yield from (f"{name}: run {key} is new" for key in after if key not in before)
    for key in [key for key in before if key in after]:
        lines = drift({"id": name, **before[key]}, {"id": name, **after[key]})
        yield from (f"{line} ({key})" for line in lines)


def _changes(old: dict[str, str], new: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    for check in dict.fromkeys([*old, *new]):
        was, now = old.get(check, "absent"), new.get(check, "absent")
        if was != now and {was, now} != {"reported", "absent"}:
            yield check, was, now


def _criteria(entry: dict, floors: bool = True) -> dict[str, str]:
    """The criteria by which the first run of a claim is judged, with role and floor if unusual."""
    checks = entry["runs"][0]["checks"] if entry["runs"] else []
    return {check["name"]: _criterion(check, floors) for check in checks}


def _criterion(check: dict, floors: bool) -> str:
    role = "" if check["role"] == "printed" else f" ({check['role']})"
    told = floors and check["met"] is not None and check["floor"] != usual_floor(check)
    return criterion(check) + role + (f", noise {show(check['floor'])}" if told else "")


def _versions(root: Path) -> list[dict]:
    """The last two committed versions of the ledger, the newest first; none without git."""
    return [
        parsed(committed_text(root, revision, LEDGER), f"{LEDGER} of {revision[:8]}")
        for revision in commits_of(root, LEDGER, 2)
    ]


def _different(old, new, where: str) -> list[str]:
    """The places where two trees of plain data differ, each with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [
            line for key in keys
            for line in _different(old.get(key, "absent"), new.get(key, "absent"), f"{where}: {key}")
        ]  # fmt: skip
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = zip(old, new, strict=True)
        return [
            line for i, (a, b) in enumerate(pairs) for line in _different(a, b, f"{where}[{i}]")
        ]
    if old == new and type(old) is type(new):
        return []
    return [f"{where} is {_short(old)}, wanted {_short(new)}"]


def _named(ledger: dict) -> dict:
    """The ledger with claims, rows and checks under their names, so that a place can be read."""

    def rows(entry: dict) -> dict:
        return {row["run"]: {**row, "checks": {c["name"]: c for c in row["checks"]}}
                for row in entry["runs"]}  # fmt: skip

    claims = {entry["id"]: {**entry, "runs": rows(entry), "row order": [r["run"] for r in entry["runs"]]}
              for entry in ledger["claims"]}  # fmt: skip
    return {**ledger, "claims": claims, "claim order": list(claims)}


def _short(value) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else text[:157] + "..."


def _list(value) -> list:
    return value if isinstance(value, list) else [value]


def _word(met: bool | None) -> str:
    return {True: "met", False: "missed", None: "not judged"}[met]
