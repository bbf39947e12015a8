"""rows.arrow: the rows of a dataset as a memory-mapped Arrow IPC file, row = position."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute

from engine.errors import DatasetPathNotFound
from engine.types import Example, Message

pc: Any = pyarrow.compute  # its functions are made at import, so type checkers do not see them

ROWS_FILE = "rows.arrow"
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("prompt", pa.string()),
        pa.field("completion", pa.string()),
        pa.field("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        pa.field("text", pa.string()),
        pa.field("tags", pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field("label", pa.string()),
    ],
    metadata={"whence.rows": "1"},
)


def to_batch(examples: Sequence[Example]) -> pa.RecordBatch:
    """Examples as one record batch of SCHEMA."""
    return pa.RecordBatch.from_pylist([_to_record(example) for example in examples], schema=SCHEMA)


def _to_record(example: Example) -> dict[str, Any]:
    messages = example.messages
    return {
        "id": example.id,
        "prompt": example.prompt,
        "completion": example.completion,
        "messages": None if messages is None else [{"role": m.role, "content": m.content} for m in messages],
        "text": example.text,
        "tags": sorted(example.tags.items()),
        "label": example.label,
    }


def _to_example(record: dict[str, Any]) -> Example:
    messages = record["messages"]
    turns = None if messages is None else tuple(Message(m["role"], m["content"]) for m in messages)
    return Example(**{**record, "messages": turns, "tags": dict(record["tags"])})


class Dataset:
    """The rows of one dataset, read from disk as they are asked for. Safe to share between threads.

    Positions are 0-based. `sha256` names the content: it is the directory's name.
    """

    def __init__(self, path: Path) -> None:
        rows = path / ROWS_FILE
        if not rows.is_file():
            raise DatasetPathNotFound(f"There are no stored rows at '{rows}'.")
        self.path = path
        self.sha256 = path.name
        reader = pa.ipc.open_file(pa.memory_map(str(rows)))
        self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._ends = list(accumulate(batch.num_rows for batch in self._batches))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, position: int) -> Example:
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} of a dataset of {len(self)} rows")
        number = bisect_right(self._ends, position)
        row = position - self._start(number)
        return _to_example(self._batches[number].slice(row, 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Example]:
        for batch in self._batches:
            for record in batch.to_pylist():
                yield _to_example(record)

    def position_of(self, example_id: str) -> int | None:
        """The position of the row with this id, None when there is none."""
        for number, batch in enumerate(self._batches):
            row = pc.index(batch.column("id"), pa.scalar(example_id, pa.string())).as_py()
            if row >= 0:
                return self._start(number) + row
        return None

    def tag_values(self, key: str) -> list[str | None]:
        """The value of one tag for every row, by position; None where a row lacks it."""
        return [value for batch in self._batches for value in _tag(batch, key).to_pylist()]

    def select(
        self, tags: dict[str, str] | None = None, query: str | None = None, *, start: int = 0, limit: int | None = None
    ) -> list[int]:
        """Positions ≥ `start` of the rows that have every tag and contain `query` (case ignored); `limit` at most."""
        found: list[int] = []
        for number, batch in enumerate(self._batches):
            first = self._start(number)
            if first + batch.num_rows <= start:
                continue
            rows = pc.indices_nonzero(_matches(batch, tags or {}, query)).to_pylist()
            found.extend(first + row for row in rows if first + row >= start)
            if limit is not None and len(found) >= limit:
                return found[:limit]
        return found

    def _start(self, number: int) -> int:
        return self._ends[number - 1] if number else 0


def open_dataset(path: Path) -> Dataset:
    """Open root/<sha256>. Raises DatasetPathNotFound."""
    return Dataset(path)


def _tag(batch: pa.RecordBatch, key: str) -> pa.Array:
    return pc.map_lookup(batch.column("tags"), pa.scalar(key, pa.string()), "first")


def _matches(batch: pa.RecordBatch, tags: dict[str, str], query: str | None) -> pa.Array:
    mask = pa.array([True] * batch.num_rows, pa.bool_())
    for key, value in tags.items():
        mask = pc.and_(mask, pc.fill_null(pc.equal(_tag(batch, key), value), False))
    return pc.and_(mask, _contains(batch, query)) if query else mask


def _contains(batch: pa.RecordBatch, query: str) -> pa.Array:
    """Rows of which any text contains `query`."""
    mask = pa.array([False] * batch.num_rows, pa.bool_())
    for name in ("prompt", "completion", "text"):
        mask = pc.or_(mask, _text_contains(batch.column(name), query))
    messages = batch.column("messages")
    turns = _text_contains(pc.struct_field(pc.list_flatten(messages), "content"), query)
    rows = pc.filter(pc.list_parent_indices(messages), turns)
    return pc.or_(mask, pc.is_in(pa.array(range(batch.num_rows), rows.type), value_set=rows))


def _text_contains(column: pa.Array, query: str) -> pa.Array:
    return pc.fill_null(pc.match_substring(column, query, ignore_case=True), False)
