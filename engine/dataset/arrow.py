"""rows.arrow: the rows of a dataset as a memory-mapped Arrow IPC file, row = position."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute

from engine.dataset.filtering import RowFilter
from engine.dataset.rows import ROWS_FILE
from engine.errors import CorruptDataset, DatasetPathNotFound
from engine.types import Example, Message

pc: Any = pyarrow.compute  # its functions are made at import, so type checkers do not see them

UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, IndexError)  # what pyarrow raises of damage
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


def to_example(record: dict[str, Any]) -> Example:
    """A row of SCHEMA, as Python values."""
    messages = record["messages"]
    turns = None if messages is None else tuple(Message(m["role"], m["content"]) for m in messages)
    return Example(**{**record, "messages": turns, "tags": dict(record["tags"])})


class Dataset:
    """The rows of one dataset, read from disk as they are asked for. Safe to share between threads.

    Positions are 0-based. `sha256` names the content: it is the directory's name. Arrow would follow a damaged offset
    out of the file and take the process with it, so a batch is validated before the first value of it is touched:
    every reading method raises CorruptDataset.
    """

    def __init__(self, path: Path) -> None:
        rows = path / ROWS_FILE
        if not rows.is_file():
            raise DatasetPathNotFound(f"There are no stored rows at '{rows}'.")
        self.path = path
        self.sha256 = path.name
        try:
            self._unvalidated = read_batches(pa.memory_map(str(rows)))
        except UNREADABLE as error:
            raise self._damaged(error) from error
        self._validated: dict[int, pa.RecordBatch] = {}
        self._ends = list(accumulate(batch.num_rows for batch in self._unvalidated))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, position: int) -> Example:
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} of a dataset of {len(self)} rows")
        number = bisect_right(self._ends, position)
        row = position - self._start(number)
        return to_example(self._batch(number).slice(row, 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Example]:
        for _, batch in self._batches():
            for record in batch.to_pylist():
                yield to_example(record)

    def position_of(self, example_id: str) -> int | None:
        """The position of the row with this id, None when there is none."""
        for number, batch in self._batches():
            row = pc.index(batch.column("id"), pa.scalar(example_id, pa.string())).as_py()
            if row >= 0:
                return self._start(number) + row
        return None

    def tag_values(self, key: str) -> list[str | None]:
        """The value of one tag for every row, by position; None where a row lacks it."""
        return [value for _, batch in self._batches() for value in _tag(batch, key).to_pylist()]

    def select(
        self,
        tags: dict[str, str] | None = None,
        query: str | None = None,
        *,
        label: str | None = None,
        start: int = 0,
        limit: int | None = None,
    ) -> list[int]:
        """Positions ≥ `start` of the rows that have every tag and the label and contain `query` (case ignored);
        `limit` at most."""
        wanted = RowFilter(tags or {}, query, label)
        end = len(self) if limit is None else min(len(self), start + limit)
        if not wanted:
            return list(range(start, end))
        found: list[int] = []
        for number in range(bisect_right(self._ends, start), len(self._ends)):
            found.extend(row for row in self._rows_of(number, wanted) if row >= start)
            if limit is not None and len(found) >= limit:
                return found[:limit]
        return found

    def select_before(
        self,
        tags: dict[str, str] | None = None,
        query: str | None = None,
        *,
        label: str | None = None,
        end: int,
        limit: int,
    ) -> list[int]:
        """As `select`, backwards: the last `limit` matching positions < `end`, ascending."""
        wanted = RowFilter(tags or {}, query, label)
        end = min(end, len(self))
        if not wanted:
            return list(range(max(0, end - limit), end))
        found: list[int] = []
        for number in reversed(range(len(self._ends))):
            if self._start(number) >= end:
                continue
            found[:0] = [row for row in self._rows_of(number, wanted) if row < end]
            if len(found) >= limit:
                break
        return found[-limit:]

    def _rows_of(self, number: int, wanted: RowFilter) -> list[int]:
        first = self._start(number)
        return [first + row for row in wanted.rows(self._batch(number))]

    def _batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        return ((number, self._batch(number)) for number in range(len(self._ends)))

    def _batch(self, number: int) -> pa.RecordBatch:
        if number not in self._validated:
            try:
                self._unvalidated[number].validate(full=True)
            except UNREADABLE as error:
                raise self._damaged(error) from error
            self._validated[number] = self._unvalidated[number]
        return self._validated[number]

    def _damaged(self, error: Exception) -> CorruptDataset:
        reason = " ".join(str(error).split())[:200]
        return CorruptDataset(f"The rows of dataset {self.sha256} cannot be read: {reason}.", file=ROWS_FILE)

    def _start(self, number: int) -> int:
        return self._ends[number - 1] if number else 0


def read_batches(source: pa.NativeFile) -> list[pa.RecordBatch]:
    """The batches of a file of SCHEMA, none of them validated. Raises UNREADABLE."""
    reader = pa.ipc.open_file(source)
    if not reader.schema.equals(SCHEMA):
        raise ValueError("its columns are not those of a dataset")
    return [reader.get_batch(number) for number in range(reader.num_record_batches)]


def open_dataset(path: Path) -> Dataset:
    """Open root/<sha256>. Raises DatasetPathNotFound, CorruptDataset."""
    return Dataset(path)


def _tag(batch: pa.RecordBatch, key: str) -> pa.Array:
    return pc.map_lookup(batch.column("tags"), pa.scalar(key, pa.string()), "first")
