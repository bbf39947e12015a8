"""What a lane has done since it started. Written by its own thread, read by any."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Tally:
    """tokens: of the queries that were answered. sizes: how many batches had so many queries."""

    batches: int = 0
    queries: int = 0
    tokens: int = 0
    busy_s: float = 0.0
    sizes: dict[int, int] = field(default_factory=dict)

    def add(self, size: int, seconds: float) -> None:
        """One batch, answered or not."""
        self.batches += 1
        self.queries += size
        self.busy_s += seconds
        self.sizes[size] = self.sizes.get(size, 0) + 1

    def figures(self) -> dict[str, Any]:
        counts = {"batches": self.batches, "queries": self.queries, "tokens": self.tokens}
        return counts | {"busy_s": round(self.busy_s, 3), "batch_sizes": dict(self.sizes)}
