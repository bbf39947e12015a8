"""What a contender is to worker.py. Imports nothing beside the standard library."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks.quality.peers.given import Given

Row = TypeVar("Row")


class Contender(ABC):
    """Loaded once; runs as often as it is asked, each time from nothing but its loaded model and tokens.

    runs: the names of what it can do. settings: batch sizes, one of which suits it best; tried before anything counts.
    """

    version: str
    runs: tuple[str, ...]
    settings: tuple[int, ...]

    @abstractmethod
    def __init__(self, given: Given, scratch: Path) -> None: ...

    @abstractmethod
    def run(self, name: str, setting: int, few: bool) -> dict[str, float]:
        """Seconds by part. few: over a quarter of the rows (`share`), to warm up and to choose a setting."""


def share(rows: Sequence[Row], few: bool) -> Sequence[Row]:
    """The rows a run goes over."""
    return rows[::4] if few else rows


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
