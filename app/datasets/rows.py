"""Reading stored rows: pages, filters, single examples."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import NotFound
from app.pagination import PageRequest, bad_cursor, decode_cursor, encode_cursor
from engine.types import Example

if TYPE_CHECKING:
    from engine.dataset import Dataset, RowFilter


@lru_cache(maxsize=32)
def opened(directory: Path) -> Dataset:
    """Rows never change, so an open dataset can be kept; pages of it cost nothing until they are read."""
    from engine.dataset import open_dataset  # here: a server starts without pyarrow

    return open_dataset(directory)


def examples_page(rows: Dataset, page: PageRequest, wanted: RowFilter) -> tuple[list[tuple[int, Example]], str | None]:
    """Rows in file order that `wanted` lets through; the cursor is the next position."""
    start = 0 if page.cursor is None else _position(page.cursor)
    found = rows.select(wanted.tags, wanted.query, label=wanted.label, start=start, limit=page.limit + 1)
    following = encode_cursor(found[page.limit]) if len(found) > page.limit else None
    return [(position, rows[position]) for position in found[: page.limit]], following


def _position(cursor: str) -> int:
    (position,) = decode_cursor(cursor, 1)
    if not isinstance(position, int) or position < 0:
        raise bad_cursor(cursor)
    return position


def example_by_id(rows: Dataset, example_id: str) -> tuple[int, Example]:
    """Raises NotFound."""
    position = rows.position_of(example_id)
    if position is None:
        raise NotFound(f"The dataset has no example '{example_id[:60]}'.")
    return position, rows[position]
