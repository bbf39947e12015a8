"""The rows of somebody else's rows.arrow, as lines that are read like any upload.

Arrow believes what a file says of itself: buffers that unpack to a thousand times their size, batches that a footer
points to in the middle of others. So the file is read as the plain sequence of messages that Whence writes, in which
no buffer is compressed; what comes out is checked, hashed and written anew by `store_dataset`, and the file itself is
never opened as a dataset.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine.dataset.arrow import SCHEMA, to_example
from engine.dataset.rows import example_to_row
from engine.errors import DatasetError

MAGIC = b"ARROW1\x00\x00"  # then come the messages
ROWS_AT_ONCE = 256
HEADER, COMPRESSION = 2, 3  # fields of Arrow's tables Message and RecordBatch


def write_as_jsonl(source: Path, target: Path) -> None:
    """Every row of the Arrow file `source` as one line of `target`. Raises DatasetError, OSError."""
    try:
        with target.open("wb") as lines:
            for record in _records(source):
                lines.write(json.dumps(example_to_row(to_example(record))).encode() + b"\n")
    except (pa.ArrowException, ValueError, TypeError, KeyError, IndexError, struct.error) as error:
        raise _unreadable(error) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise _unreadable(error) from error  # Arrow's own: it has no number


def _unreadable(error: Exception) -> DatasetError:
    return DatasetError(f"The Arrow file cannot be read: {' '.join(str(error).split())[:200]}.")


def _records(source: Path) -> Iterator[dict[str, Any]]:
    with pa.memory_map(str(source)) as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError("it does not begin as one")
        messages = iter(pa.ipc.MessageReader.open_stream(file))
        schema = next(messages, None)
        # the kind first: of a message of another one, what read_schema would follow has not been verified
        if schema is None or schema.type != "schema" or not pa.ipc.read_schema(schema).equals(SCHEMA):
            raise ValueError("its columns are not those of a dataset")
        for message in messages:
            if message.type != "record batch" or _is_compressed(message.metadata):
                raise ValueError("it holds something else than plain batches of rows")
            batch = pa.ipc.read_record_batch(message, SCHEMA)
            batch.validate(full=True)
            for start in range(0, batch.num_rows, ROWS_AT_ONCE):
                yield from batch.slice(start, ROWS_AT_ONCE).to_pylist()


def _is_compressed(metadata: pa.Buffer) -> bool:
    """Whether the batch's table has the field `compression`. Arrow has verified the tables by now."""
    content = metadata.to_pybytes()
    (message,) = struct.unpack_from("<I", content)
    header = _field(content, message, HEADER)
    if header is None:
        raise ValueError("a message has no header")
    (batch,) = struct.unpack_from("<I", content, header)
    return _field(content, header + batch, COMPRESSION) is not None


def _field(content: bytes, table: int, number: int) -> int | None:
    """Where a FlatBuffers table keeps this field; None where it does not have it."""
    (back,) = struct.unpack_from("<i", content, table)
    vtable = table - back
    (size,) = struct.unpack_from("<H", content, vtable)
    place = 4 + 2 * number
    if place + 2 > size:
        return None
    (offset,) = struct.unpack_from("<H", content, vtable + place)
    return table + offset if offset else None
