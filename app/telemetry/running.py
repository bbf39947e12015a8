"""The index builds under way in this process: how fast they go, what is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import Counter

from engine.types import Progress

# The phases of engine.build; a phase not known here counts as "other".
PHASES: tuple[str, ...] = ("tokenize", "replicas", "curvature", "sketch", "lists", "finish")
OTHER: str = "other"


@dataclass
class _Build:
    """The last report of a build, and the first of its phase."""

    phase: str
    began: float
    first: int
    done: int
    total: int
    seen: float

    @property
    def rows_per_second(self) -> float:
        """Over this phase so far; 0 before the second report."""
        elapsed = self.seen - self.began
        return (self.done - self.first) / elapsed if elapsed > 0 else 0.0


class RunningBuilds:
    """Told of every report of a build; read by /metrics."""

    def __init__(self, rows: Counter, clock: Callable[[], float] = time.monotonic) -> None:
        self._rows, self._clock = rows, clock
        self._builds: dict[str, _Build] = {}
        self._lock = threading.Lock()
        for phase in PHASES:
            rows.labels(phase)

    def report(self, job_id: str, progress: Progress) -> None:
        """Counts what was done since the phase's last report. Its first only says where it begins: a resumed
        build begins behind the shards that are there. Rows are read anew each time, so those count from 0."""
        phase, now = (progress.phase if progress.phase in PHASES else OTHER), self._clock()
        with self._lock:
            build = self._builds.get(job_id)
            if build is None or build.phase != phase:
                first = 0 if phase == "tokenize" else progress.done
                build = self._builds[job_id] = _Build(phase, now, first, first, progress.total, now)
            passed = max(0, progress.done - build.done)
            build.done, build.total, build.seen = progress.done, progress.total, now
        if passed:
            self._rows.labels(phase).inc(passed)

    def ended(self, job_id: str) -> None:
        with self._lock:
            self._builds.pop(job_id, None)

    def running(self) -> int:
        return len(self._builds)

    def rows_left(self) -> int:
        """Row passes to go, over all builds."""
        with self._lock:
            return sum(max(0, build.total - build.done) for build in self._builds.values())

    def rows_per_second(self) -> dict[str, float]:
        """The pace of the builds under way by the phase they are in, 0 for the other phases."""
        pace = dict.fromkeys((*PHASES, OTHER), 0.0)
        with self._lock:
            for build in self._builds.values():
                pace[build.phase] += build.rows_per_second
        return pace
