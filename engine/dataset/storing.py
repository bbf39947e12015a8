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
from typing import Any

import pyarrow as pa

from engine.dataset.arrow import SCHEMA, to_batch
from engine.dataset.formats import open_rows
from engine.dataset.limits import UNLIMITED, DatasetLimits
from engine.dataset.reading import RawRow
from engine.dataset.refusals import admitted
from engine.dataset.rows import LONGEST_NAME, ROWS_FILE, Place, canonical_bytes, ignored_fields, parse_row
from engine.durable import FULL_DISK, sync_directory
from engine.errors import DatasetError, DuplicateExampleId, EmptyDataset, StorageFull
from engine.types import CheckpointFn, DatasetInfo, Example, Progress

HASH_PREFIX = b"whence-rows-1\n"
BATCH_ROWS = 1024
BATCH_BYTES = 32 * 2**20
COUNTED_NAMES = 1000


@dataclass
class _Checks:
    """What can only be seen across rows: repeated ids, fields that play no part."""

    limits: DatasetLimits
    position_of: dict[bytes, int] = field(default_factory=dict)  # by the id's digest: ids may be long
    lines: array[int] = field(default_factory=lambda: array("q"))
    ignored: Counter[str] = field(default_factory=Counter)

    def admit(self, raw: RawRow) -> Example:
        place = Place(len(self.lines), raw.line)
        self.limits.check_rows(place.position + 1)
        example = parse_row(raw.value, place)
        key = hashlib.blake2b(example.id.encode(), digest_size=16).digest()
        earlier = self.position_of.setdefault(key, place.position)
        if earlier != place.position:
            self._refuse_duplicate(example.id, earlier, place)
        self.lines.append(raw.line or 0)
        self._count_ignored(raw.value)
        return example

    def skip(self, error: DatasetError) -> None:
        """A refused row is counted too: those after it keep their numbers."""
        line = error.context.get("line")
        self.lines.append(line if isinstance(line, int) else 0)

    def _count_ignored(self, value: dict[str, Any]) -> None:
        """Of files that name other fields in every row, only the first are counted."""
        for name in ignored_fields(value):
            short = name[:LONGEST_NAME]
            if short in self.ignored or len(self.ignored) < COUNTED_NAMES:
                self.ignored[short] += 1

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


def parse_rows(source: Path, format: str | None = None, limits: DatasetLimits = UNLIMITED) -> Iterator[Example]:
    """The checked rows of a file, one at a time. Raises the DatasetErrors."""
    checks = _Checks(limits)
    for raw in open_rows(source, format, limits).rows:
        yield checks.admit(raw)


def store_dataset(
    source: Path,
    *,
    format: str | None,
    root: Path,
    checkpoint: CheckpointFn | None = None,
    limits: DatasetLimits = UNLIMITED,
    announce: Callable[[Path], object] = lambda _: None,
) -> DatasetInfo:
    """Write the rows of `source` to root/<sha256>/rows.arrow; the same rows give the same place.

    announce(root/<sha256>) is called before that place comes to be. Nothing half-written stays behind, whatever
    happens. Raises the DatasetErrors, StorageFull, and what `checkpoint` raises.
    """
    raw_rows, checks = open_rows(source, format, limits), _Checks(limits)
    digest = hashlib.sha256(HASH_PREFIX)

    def examples() -> Iterator[Example]:
        report = _reporter(checkpoint, raw_rows.total, raw_rows.unit)
        for raw, example in admitted(raw_rows.rows, checks.admit, checks.skip):
            digest.update(canonical_bytes(example))
            yield example
            report(raw.done)

    with _scratch(root) as scratch:
        rows = _write(scratch / ROWS_FILE, examples(), limits)
        if not rows:
            raise EmptyDataset(f"The {raw_rows.format.upper()} file holds no rows.")
        announce(root / digest.hexdigest())
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


def _write(path: Path, examples: Iterator[Example], limits: DatasetLimits) -> int:
    rows = 0
    with path.open("wb") as sink:
        with pa.ipc.new_file(sink, SCHEMA) as writer:
            for batch in _batches(examples):
                writer.write_batch(to_batch(batch))
                rows += len(batch)
                limits.check_written(sink.tell(), path.parent)
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
