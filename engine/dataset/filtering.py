"""Which rows are wanted: what a filter says. How it is put to rows is in matching.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class RowFilter:
    """Rows that have every tag and the label, and contain `query` in any text (case ignored)."""

    tags: dict[str, str] = field(default_factory=dict)
    query: str | None = None
    label: str | None = None

    def __bool__(self) -> bool:
        return bool(self.tags or self.query or self.label is not None)

    def rows(self, batch: pa.RecordBatch) -> list[int]:
        """The matching rows of a validated batch, ascending."""
        from engine.dataset.matching import matching_rows  # here: a filter can be named without pyarrow

        return matching_rows(self, batch)
