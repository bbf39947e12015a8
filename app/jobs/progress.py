"""What a checkpoint means: when it is worth a write, how far the job is, how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.types import Progress

WRITE_SECONDS = 0.25  # at most four progress writes a second …
EVENT_SHARE = 0.01  # … and an event for every percent


@dataclass
class Meter:
    """Watches one attempt. Phase changes and ends of phases are always due."""

    clock: Callable[[], float] = time.monotonic
    _phase: str | None = None
    _phase_began: float = 0.0
    _phase_first: int = 0
    _written_at: float = float("-inf")
    _event_at: tuple[str, int] | None = None

    def due(self, progress: Progress) -> bool:
        """True when this report should be written now; call once a report."""
        now = self.clock()
        if progress.phase != self._phase:
            self._phase, self._phase_began, self._phase_first = progress.phase, now, progress.done
        elif progress.done < progress.total and now - self._written_at < WRITE_SECONDS:
            return False
        self._written_at = now
        return True

    def event_due(self, progress: Progress) -> bool:
        """True when the report is worth an event of its own."""
        last_phase, last_done = self._event_at or (None, 0)
        moved = progress.done - last_done >= max(1, progress.total * EVENT_SHARE) or progress.done >= progress.total
        if last_phase == progress.phase and (not moved or progress.done == last_done):
            return False
        self._event_at = (progress.phase, progress.done)
        return True

    def snapshot(self, progress: Progress) -> dict[str, Any]:
        return {
            "done": progress.done,
            "total": progress.total,
            "unit": progress.unit,
            "phase": progress.phase,
            "eta_s": self._eta(progress),
        }

    def _eta(self, progress: Progress) -> float | None:
        """Seconds left in this phase at the pace seen in it; unknown before the first step."""
        steps = progress.done - self._phase_first
        if progress.done >= progress.total:
            return 0.0
        if steps <= 0:
            return None
        return round((self.clock() - self._phase_began) / steps * (progress.total - progress.done), 1)


def advance(marker: dict[str, Any] | None, progress: Progress) -> dict[str, Any] | None:
    """The furthest point over all attempts, or None when `progress` does not go beyond it.

    Phases come in a fixed order, learnt from their first appearance: a restarted job that only
    repeats what an earlier attempt reached makes no progress.
    """
    phases = list(marker["phases"]) if marker else []
    best = tuple(marker["best"]) if marker else (-1, 0)
    if progress.phase not in phases:
        phases.append(progress.phase)
    reached = (phases.index(progress.phase), progress.done)
    return {"phases": phases, "best": list(reached)} if reached > best else None
