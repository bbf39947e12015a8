"""Parse, check, hash and write a dataset, without ever holding it whole."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from engine.dataset.arrow import ROWS_FILE, SCHEMA, to_batch
from engine.dataset.formats import open_rows
from engine.dataset.reading import RawRow
from engine.dataset.rows import Place, canonical_bytes, ignored_fields, parse_row
from engine.durable import FULL_DISK, sync_directory
from engine.errors import DuplicateExampleId, EmptyDataset, StorageFull
from engine.types import CheckpointFn, DatasetInfo, Example, Progress

HASH_PREFIX = b"whence-rows-1\n"
BATCH_ROWS = 1024
BATCH_BYTES = 32 * 2**20


@dataclass
class _Checks:
    """What can only be seen across rows: repeated ids, fields that play no part."""

    position_of: dict[str, int] = field(default_factory=dict)
    lines: array[int] = field(default_factory=lambda: array("q"))
    ignored: Counter[str] = field(default_factory=Counter)

    def admit(self, raw: RawRow) -> Example:
        place = Place(len(self.lines), raw.line)
        example = parse_row(raw.value, place)
        earlier = self.position_of.setdefault(example.id, place.position)
        if earlier != place.position:
            self._refuse_duplicate(example.id, earlier, place)
        self.lines.append(raw.line or 0)
        self.ignored.update(ignored_fields(raw.value))
        return example

    def _refuse_duplicate(self, example_id: str, earlier: int, place: Place) -> None:
        first = Place(earlier, self.lines[earlier] or None)
        raise DuplicateExampleId(
            f"The id '{example_id}' is used by {first} and by {place}.",
            id=example_id,
            rows=[first.position, place.position],
            lines=[first.line, place.line],
        )

    def warnings(self) -> tuple[str, ...]:
        ignored = "Field '{}' is ignored in {} rows; to filter by it, name it tags.{}."
        return tuple(ignored.format(name, count, name) for name, count in self.ignored.most_common(20))


def parse_rows(source: Path, format: str | None = None) -> Iterator[Example]:
    """The checked rows of a file, one at a time. Raises the DatasetErrors."""
    checks = _Checks()
    for raw in open_rows(source, format).rows:
        yield checks.admit(raw)


def store_dataset(
    source: Path, *, format: str | None, root: Path, checkpoint: CheckpointFn | None = None
) -> DatasetInfo:
    """Write the rows of `source` to root/<sha256>/rows.arrow; the same rows give the same place.

    Nothing half-written stays behind, whatever happens. Raises the DatasetErrors, StorageFull,
    and what `checkpoint` raises.
    """
    raw_rows, checks, digest = open_rows(source, format), _Checks(), hashlib.sha256(HASH_PREFIX)

    def examples() -> Iterator[Example]:
        report = _reporter(checkpoint, raw_rows.total, raw_rows.unit)
        for raw in raw_rows.rows:
            example = checks.admit(raw)
            digest.update(canonical_bytes(example))
            yield example
            report(raw.done)

    with _scratch(root) as scratch:
        rows = _write(scratch / ROWS_FILE, examples())
        if not rows:
            raise EmptyDataset(f"The {raw_rows.format.upper()} file holds no rows.")
        _publish(scratch, root / digest.hexdigest())
    return DatasetInfo(digest.hexdigest(), rows, raw_rows.format, checks.warnings())


def _reporter(checkpoint: CheckpointFn | None, total: int, unit: str) -> Callable[[int], None]:
    """Report every BATCH_ROWS rows: often enough to cancel, too seldom to cost."""
    seen = 0

    def report(done: int) -> None:
        nonlocal seen
        seen += 1
        if checkpoint and seen % BATCH_ROWS == 0:
            checkpoint(Progress(done, total, unit, "load"))

    return report


@contextmanager
def _scratch(root: Path) -> Iterator[Path]:
    """A directory beside the final one that is gone afterwards, if it was not renamed; a full disk is named."""
    scratch = root / f".incoming-{uuid.uuid4().hex}"
    try:
        scratch.mkdir(parents=True)
        yield scratch
    except OSError as error:
        if error.errno in FULL_DISK:
            detail = "The disk filled up while the dataset was written; nothing of it was kept."
            raise StorageFull(detail, remedy="Free space under WHENCE_HOME, then send the dataset again.") from error
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write(path: Path, examples: Iterator[Example]) -> int:
    rows = 0
    with path.open("wb") as sink:
        with pa.ipc.new_file(sink, SCHEMA) as writer:
            for batch in _batches(examples):
                writer.write_batch(to_batch(batch))
                rows += len(batch)
        sink.flush()
        os.fsync(sink.fileno())
    return rows


def _batches(examples: Iterator[Example]) -> Iterator[list[Example]]:
    batch: list[Example] = []
    size = 0
    for example in examples:
        batch.append(example)
        size += len(canonical_bytes(example))
        if len(batch) == BATCH_ROWS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _publish(scratch: Path, final: Path) -> None:
    """Rename into place. Who loses a race, or comes again, finds the same bytes there already."""
    if not (final / ROWS_FILE).is_file():
        sync_directory(scratch)
        try:
            scratch.rename(final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        sync_directory(final.parent)
