"""What a check gives, and what it is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.database import Database
from app.settings import Settings
from engine.types import Progress

YOUNG_SECONDS = 300.0  # what changed within them may be a build, an upload or an import that is under way


def _quiet(_progress: Progress) -> None:
    pass


@dataclass(frozen=True)
class Store:
    """What is looked at. `tell` is called as a long check goes on. Ages are seconds since a file changed."""

    settings: Settings
    database: Database
    tell: Callable[[Progress], object] = _quiet
    young_seconds: float = YOUNG_SECONDS
    clock: Callable[[], float] = time.time

    def shown(self, path: Path) -> str:
        """Below the home where it lies there."""
        home = self.settings.home
        return str(path.relative_to(home)) if path.is_relative_to(home) else str(path)

    def is_young(self, path: Path) -> bool:
        """True when it, or anything in it, changed a moment ago; and when it has just vanished."""
        since = self.clock() - self.young_seconds
        try:
            return any(part.lstat().st_mtime > since for part in (path, *path.rglob("*")))
        except FileNotFoundError:
            return True

    @contextmanager
    def progress(self, phase: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """What the body calls with each amount that is done."""
        done = 0

        def advance(amount: int) -> None:
            nonlocal done
            done = min(total, done + amount)
            self.tell(Progress(done, total, unit, phase))

        self.tell(Progress(0, total, unit, phase))
        yield advance
        self.tell(Progress(total, total, unit, phase))


Repair = Callable[[Store], str]


class NotRepaired(Exception):
    """Its message says why."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    kind: stable, for machines. subject: an id, or a path below the home. repair: does what can be done and says what
    it did; None where only a person can help. stops: no later check can be made.
    """

    kind: str
    subject: str
    what: str
    remedy: str
    repair: Repair | None = field(default=None, compare=False, repr=False)
    stops: bool = False

    def to_json(self) -> dict[str, Any]:
        named = {name: getattr(self, name) for name in ("kind", "subject", "what", "remedy")}
        return named | {"repairable": self.repair is not None}
