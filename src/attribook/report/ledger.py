"""The ledger: every claim with its runs and its outcome, as kept in book/ledger.json.

Nothing in the file is typed: references and sweeps bring checks, everything else follows from them
and from the inventories. `attribook.report.audit` says where a committed ledger is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from nbformat import NotebookNode

from attribook.report import provenance
from attribook.report.claims import records_in
from attribook.report.inventory import IN_KIND, load_claims
from attribook.report.notebooks import (
    PARAMETERS,
    Notebook,
    authored_text,
    executed,
    notebooks_of,
    write,
)
from attribook.report.verdicts import (
    ILLUSTRATED,
    NOT_RUN,
    judge,
    tally,
)

FORMAT = 2
LEDGER = "book/ledger.json"
RECORD = ("id", "checks", "in_kind", "reason", "outcome")
MADE_FROM = ("code", "library", "reads", "versions")
VERSIONS = ("python", "torch", "numpy", "scipy")


@dataclass(frozen=True)
class Authored:
    """A notebook with its present text and its committed run, each read once."""

    notebook: Notebook

    @property
    def made_from(self) -> dict:
        """The digests of its text, its code and the library modules it imports."""
        return self.notebook.made_from

    @cached_property
    def parsed(self) -> NotebookNode:
        """Its cells."""
        return authored_text(self.notebook)[1]

    @cached_property
    def reference(self) -> NotebookNode | None:
        """The committed run, or None; ValueError with its name when the file is damaged."""
        path = self.notebook.reference
        return executed(path) if path.exists() else None

    @property
    def has_current_reference(self) -> bool:
        """Whether there is a committed run, undamaged, and made from this very code."""
        try:
            made = self.reference.metadata.get("attribook", {}) if self.reference else {}
        except ValueError:
            return False
        return made.get("code") == self.made_from["code"]


@dataclass
class Ledger:
    """Claims with their runs; `dropped` tells the rows that a renewal leaves out, and why."""

    claims: dict[str, dict]
    dropped: list[str] = field(default_factory=list)
    runs: dict[str, dict] = field(default_factory=dict)  # what made each, by its key
    _rows: dict[str, dict[str, dict]] = field(default_factory=dict)  # claim -> run -> record
    _notebooks: dict[str, str] = field(default_factory=dict)

    def add(self, run: dict, records: Sequence[dict]) -> None:
        """Add a run (its notebook, parameters and what it was made from) with all its records.

        A run with the same notebook and parameters replaces the earlier one.
        """
        key, notebook = key_of(run), run["notebook"]
        ids = [record["id"] for record in records]
        if repeated := sorted({claim for claim in ids if ids.count(claim) > 1}):
            raise ValueError(f"{notebook} records a claim twice: {', '.join(repeated)}")
        for record in records:
            self._require_known(record["id"], notebook)
            kept = {name: record[name] for name in RECORD}
            self._rows.setdefault(record["id"], {})[key] = {"run": key, **kept}
        self.runs[key] = {name: run[name] for name in ("notebook", *PARAMETERS, *MADE_FROM)}
        self.runs[key]["records"] = digest_of_records(records)

    def as_json(self, environment: dict) -> dict:
        """The file's contents: claims in the inventories' order, and the runs by their keys."""
        return {
            "format": FORMAT,
            "claims": [self._entry(claim_id) for claim_id in self.claims],
            "runs": dict(sorted(self.runs.items())),
            "environment": environment,
        }

    def save(self, path: Path, environment: dict) -> None:
        """Write the ledger in one step: a full disk or a kill leaves the old one."""
        text = json.dumps(self.as_json(environment), indent=1, allow_nan=False, ensure_ascii=False)
        write(Path(path), text + "\n")

    def _require_known(self, claim_id: str, notebook: str) -> None:
        if claim_id not in self.claims:
            paper = claim_id.partition(".")[0]
            near = [known for known in self.claims if known.partition(".")[0] == paper]
            raise ValueError(f"{notebook} records unknown claim {claim_id!r}; known: {near}")
        other = self._notebooks.setdefault(claim_id, notebook)
        if other != notebook:
            raise ValueError(f"{claim_id} is recorded by both {other} and {notebook}; keep one")

    def _entry(self, claim_id: str) -> dict:
        claim, rows = self.claims[claim_id], list(self._rows.get(claim_id, {}).values())
        alike = [row for row in rows if self._setting(row) == self._setting(rows[0])]
        first = rows[0] if rows else {"in_kind": "", "reason": "no notebook records it yet"}
        illustration = claim.get("outcome") == ILLUSTRATED
        return {
            "id": claim_id,
            **{name: claim[name] for name in ("paper", "kind", "where", "says")},
            "paper_value": claim.get("values", {}),
            "origin": claim["origin"],
            "outcome": judge(alike, illustration) if alike else NOT_RUN,
            "setting": IN_KIND if first["in_kind"] else "paper",
            "in_kind": first["in_kind"],
            "evidence": claim["evidence"],
            "tally": asdict(tally(alike)),
            "reason": first["reason"],
            "notebook": self._notebooks.get(claim_id, ""),
            "errata": claim.get("errata", ""),
            "history": [_plain(change) for change in claim.get("history", [])],
            "runs": [{k: v for k, v in row.items() if k != "id"} for row in self._sorted(rows)],
        }

    def _setting(self, row: dict) -> tuple:
        """What two runs share when they differ by seed only, so that their spread means something."""
        run = self.runs[row["run"]]
        return run["model"], run["device"], run["scale"]

    def _sorted(self, rows: list[dict]) -> list[dict]:
        def place(row: dict) -> tuple:
            other = self._setting(row) != self._setting(rows[0])
            return other, self._setting(row), self.runs[row["run"]]["seed"]

        return rows[:1] + sorted(rows[1:], key=place)


def ledger_path(root: Path) -> Path:
    """Where the committed ledger lies."""
    return root / LEDGER


def key_of(run: dict) -> str:
    """What names a run: its notebook and its parameters."""
    return " ".join(str(run[name]) for name in ("notebook", *PARAMETERS))


def digest_of_records(records: Iterable[dict]) -> str:
    """Twelve digits that tell the records of one run, in whatever order they come."""
    told = sorted(({name: record[name] for name in RECORD} for record in records), key=_id)
    return provenance.digest(json.dumps(told, sort_keys=True))


def authored(root: Path) -> dict[str, Authored]:
    """Every notebook of the project with its present text."""
    return {slug: Authored(notebook) for slug, notebook in notebooks_of(root).items()}


Texts = dict[str, Authored]


def collect(root: Path, *, sweeps: bool = True, texts: Texts | None = None) -> Ledger:
    """The ledger of every current result: references first, then the rows of sweeps.

    A result counts while the notebook's code, and the weights and data it read, are the same.
    Sweep rows come from the committed ledger and, unless `sweeps` is false, from runs/ on this
    machine. Committed rows that no longer count are told in `dropped`. `texts` spares reading the
    notebooks again.
    """
    notebooks = texts or authored(root)
    ledger = Ledger(load_claims(root / "book" / "claims"))
    for text in notebooks.values():
        if text.has_current_reference:
            ledger.add(_run_of(text, text.reference), records_in(text.reference))
    for run, records in committed_rows(root):
        text = notebooks.get(run["notebook"])
        if text and _parameters(run) == text.notebook.defaults:
            continue
        reasons = (
            provenance.stale(run, text.made_from["code"]) if text else ["its notebook is gone"]
        )
        if reasons:
            ledger.dropped.append(f"{key_of(run)}: {'; '.join(reasons)}")
        else:
            ledger.add(run, records)
    for text in notebooks.values() if sweeps else ():
        for path in sorted((root / "runs" / text.notebook.slug).glob("*.ipynb")):
            _add_sweep(ledger, text, path)
    ledger.dropped = [line for line in ledger.dropped if line.partition(":")[0] not in ledger.runs]
    return ledger


def environment(root: Path, texts: Texts | None = None) -> dict:
    """Versions the references ran with; nothing that names a machine."""
    made = [
        text.reference.metadata["attribook"].get("versions", {})
        for text in (texts or authored(root)).values()
        if text.has_current_reference
    ]
    told = {key: sorted({row[key] for row in made if row.get(key)}) for key in VERSIONS}
    return {**{key: ", ".join(found) for key, found in told.items()}, "device": "cpu"}


def committed(root: Path) -> dict:
    """The committed ledger; ValueError that says what is wrong with the file and the way out."""
    path = ledger_path(root)
    if not path.exists():
        raise ValueError(f"{LEDGER} does not exist; write it with `attribook ledger`")
    return parsed(path.read_text(encoding="utf-8"), LEDGER)


def parsed(text: str, name: str) -> dict:
    """A ledger's JSON; ValueError when it is damaged."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{name} is damaged ({error}); restore it with `git checkout book/ledger.json`"
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get("claims"), list):
        raise ValueError(f"{name} is no ledger; restore it with `git checkout book/ledger.json`")
    return found if found.get("format") == FORMAT else _from_format_1(found)


def committed_rows(root: Path) -> list[tuple[dict, list[dict]]]:
    """The runs in the committed ledger, each with its records; none where there is no ledger."""
    if not ledger_path(root).exists():
        return []
    ledger = committed(root)
    records: dict[str, list[dict]] = {key: [] for key in ledger["runs"]}
    for entry in ledger["claims"]:
        for row in entry["runs"]:
            if row["run"] in records:
                records[row["run"]].append({"id": entry["id"], **row})
    return [(run, records[key]) for key, run in ledger["runs"].items()]


def _add_sweep(ledger: Ledger, text: Authored, path: Path) -> None:
    """Add a finished run of this machine, unless its code or what it read has changed since."""
    if path.name.endswith(".part.ipynb"):
        return
    try:
        notebook = executed(path)
    except ValueError as error:  # one damaged run is not in the way of the others
        ledger.dropped.append(str(error))
        return
    made = notebook.metadata.get("attribook", {})
    if not all(name in made for name in MADE_FROM):
        return
    run = _run_of(text, notebook)
    if not provenance.stale(run, text.made_from["code"]):
        ledger.add(run, records_in(notebook))


def _run_of(text: Authored, executed: NotebookNode) -> dict:
    made = executed.metadata["attribook"]
    kept = {name: _plain(made[name]) for name in MADE_FROM}
    return {"notebook": text.notebook.slug, **made["parameters"], **kept}


def _parameters(run: dict) -> dict:
    return {name: run[name] for name in PARAMETERS}


def _from_format_1(ledger: dict) -> dict:
    """An old ledger in the present form, for comparing; nobody knows what made its rows."""
    runs: dict[str, dict] = {}
    claims = []
    for entry in ledger["claims"]:
        rows = []
        for row in entry["runs"]:
            run = {"notebook": entry["notebook"], **_parameters(row)}
            runs[key_of(run)] = {**run, "code": "", "library": {}, "reads": {}, "versions": {}}
            checks = [{**check, "met": check["outcome"], "floor": 0.0} for check in row["checks"]]
            told = {"in_kind": row["in_kind"], "reason": row["reason"], "checks": checks}
            rows.append({"run": key_of(run), "outcome": _renamed(row["verdict"]), **told})
        setting = IN_KIND if rows and rows[0]["in_kind"] else "paper"
        outcome = _renamed(entry["verdict"])
        claims.append({**entry, "outcome": outcome, "setting": setting, "runs": rows})
    return {"format": 1, "claims": claims, "runs": runs, "environment": ledger["environment"]}


def _renamed(verdict: str) -> str:
    return {
        "reproduced in kind": "reproduced",
        "reproduced after correction": "corrected",
    }.get(verdict, verdict)


def _plain(value):
    """Dates as text, and notebook nodes as the plain data that JSON gives back."""
    return json.loads(json.dumps(value, default=str))


def _id(record: dict) -> str:
    return record["id"]
