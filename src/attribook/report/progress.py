"""Progress told to people: how many runs are done, what they took, about how long the rest takes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from attribook.report.run import Done, Run


class Progress:
    """The runs of one command; estimates come from the committed statistics of the references."""

    def __init__(self, runs: Sequence[Run], jobs: int, statistics: dict[str, dict]) -> None:
        self._jobs = jobs
        self._all = len(runs)
        self._waiting = {run.output: expected_seconds(run, statistics) for run in runs}
        self._spent: list[tuple[float, float | None]] = []  # seconds of a finished run, expected

    def done(self, run: Run, done: Done) -> str:
        """The line for a run that is finished."""
        seconds = done.statistics["wall_seconds"]
        self._spent.append((seconds, self._waiting.pop(run.output)))
        memory = _memory(done.statistics["peak_memory_mb"])
        return f"{self._count()} {run.label}: {seconds:.0f} s, {memory}{self._rest()}"

    def failed(self, run: Run) -> str:
        """The line for a run that failed."""
        self._waiting.pop(run.output)
        return f"{self._count()} {run.label}: failed{self._rest()}"

    def seconds_left(self) -> float | None:
        """The estimate for the runs that are not finished; None when nothing is known yet."""
        pace = self._pace()
        known = [expected * pace for expected in self._waiting.values() if expected is not None]
        typical = known or [seconds for seconds, _ in self._spent]
        if not typical:
            return None
        times = known + [mean(typical)] * (len(self._waiting) - len(known))
        return max(max(times, default=0.0), sum(times) / self._jobs)

    def _pace(self) -> float:
        """How much longer runs take here than where the references were made."""
        pairs = [(seconds, expected) for seconds, expected in self._spent if expected]
        return sum(s for s, _ in pairs) / sum(e for _, e in pairs) if pairs else 1.0

    def _count(self) -> str:
        width = len(str(self._all))
        return f"[{self._all - len(self._waiting):{width}}/{self._all}]"

    def _rest(self) -> str:
        if not self._waiting or (left := self.seconds_left()) is None:
            return ""
        return f"; about {duration(left)} left"


def expected_seconds(run: Run, statistics: dict[str, dict]) -> float | None:
    """What the reference took where it was made; None where that says nothing about this run."""
    row = statistics.get(run.notebook.slug)
    if not isinstance(row, dict) or run.parameters["scale"] != "default":
        return None
    return row.get("wall_seconds")


def duration(seconds: float) -> str:
    """A length of time in the unit that a person would use."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _memory(megabytes: float) -> str:
    return f"{megabytes} MB" if megabytes < 1000 else f"{megabytes / 1000:.1f} GB"
