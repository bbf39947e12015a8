"""Is a stored dataset still what its name says? The name is the hash of its rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from engine.dataset.arrow import UNREADABLE, read_batches, to_example
from engine.dataset.rows import ROWS_FILE, canonical_bytes
from engine.dataset.storing import HASH_PREFIX


def dataset_damage(directory: Path, rows: int | None = None, read: Callable[[int], object] | None = None) -> str | None:
    """Why root/<sha256> is not whole; None when it is. `rows`: how many it has to hold. `read` is told of rows read.

    Every batch is validated before a value of it is touched: a damaged offset would lead outside the file.
    """
    try:
        found, sha256 = _read(directory / ROWS_FILE, read)
    except FileNotFoundError:
        return "It is missing."
    except OSError as error:
        return f"It cannot be read: {error.strerror or error}."
    except UNREADABLE as error:
        return f"It cannot be read: {' '.join(str(error).split())[:200]}."
    if sha256 != directory.name:
        return "Its rows are not those that its name is the hash of."
    if rows is not None and found != rows:
        return f"It holds {found} rows, not {rows}."
    return None


def _read(file: Path, read: Callable[[int], object] | None) -> tuple[int, str]:
    """(rows, sha256) as `store_dataset` counts and hashes them."""
    digest, rows = hashlib.sha256(HASH_PREFIX), 0
    with pa.memory_map(str(file)) as source:
        for batch in read_batches(source):
            batch.validate(full=True)
            for record in batch.to_pylist():
                digest.update(canonical_bytes(to_example(record)))
            rows += batch.num_rows
            if read:
                read(batch.num_rows)
    return rows, digest.hexdigest()
