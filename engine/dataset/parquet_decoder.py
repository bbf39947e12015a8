"""Decodes a Parquet file in a process of its own, which may fail, run out of memory or crash without harm.

A page of a few kilobytes can unpack to gigabytes, a footer can claim anything, and a decoder that is given damaged
bytes may crash: nothing in the file can be trusted to tell beforehand. So memory and time are bounded from outside.

Run by parquet_rows.py as a script with one argument, its `Job` as JSON. To stdout goes one line of JSON (rows, ignored
columns), then the rows as an Arrow stream; a refusal goes to stderr as one line of JSON (kind, detail), with status 3.
Imports nothing of ours, so that it starts fast.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

BATCH_ROWS = 64  # so few, because each may be large
NAMED_COLUMNS, NAME_CHARACTERS = 20, 200
REFUSED = 3


@dataclass(frozen=True)
class Job:
    """memory_bytes: beyond what the interpreter and its libraries take. known, known_prefix: columns that matter."""

    source: str
    path: list[str]
    known: list[str]
    known_prefix: str
    max_rows: int | None
    max_row_bytes: int
    memory_bytes: int
    cpu_seconds: int


def main(argument: str) -> None:
    job = Job(**json.loads(argument))
    sys.path[:] = job.path
    try:
        import pyarrow as pa

        pa.set_cpu_count(1)
        pa.set_io_thread_count(1)
        _bound(job)
        _decode(job, sys.stdout.buffer)
    except MemoryError:  # pyarrow's own is one, too
        refuse("memory", f"it needs more than {job.memory_bytes} bytes of memory to unpack")


def refuse(kind: str, detail: str) -> NoReturn:
    print("\n" + json.dumps({"kind": kind, "detail": detail[:500]}), file=sys.stderr, flush=True)
    raise SystemExit(REFUSED)


def _bound(job: Job) -> None:
    """From here on, what is missing is memory, not libraries."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (job.cpu_seconds, job.cpu_seconds + 5))
    with open("/proc/self/statm") as statm:
        taken = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + job.memory_bytes, taken + job.memory_bytes))


def _decode(job: Job, out: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Column chunks are read through a buffer, not whole: one of them may be all of the file.
        file = pq.ParquetFile(job.source, pre_buffer=False, buffer_size=2**20)
    except (pa.ArrowException, OSError, ValueError) as error:
        refuse("unreadable", str(error))
    rows, names = file.metadata.num_rows, file.schema_arrow.names
    if job.max_rows is not None and rows > job.max_rows:
        refuse("rows", str(rows))
    ignored = [name for name in names if name not in job.known and not name.startswith(job.known_prefix)]
    head = {"rows": rows, "ignored": [name[:NAME_CHARACTERS] for name in ignored[:NAMED_COLUMNS]]}
    out.write(json.dumps(head).encode() + b"\n")
    wanted = set(names) - set(ignored)
    batches = file.iter_batches(BATCH_ROWS, columns=[name for name in names if name in wanted], use_threads=False)
    writer = None
    for part in _parts(batches, rows, job):
        writer = writer or pa.ipc.new_stream(out, part.schema)
        writer.write_batch(part)
    if writer is not None:
        writer.close()
    out.flush()


def _parts(batches: Iterator[Any], rows: int, job: Job) -> Iterator[Any]:
    """The batches, with rows that are large one by one."""
    import pyarrow as pa

    done = 0
    while True:
        try:
            batch = next(batches, None)
            batch = batch if batch is None else _plain(batch)
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, MemoryError):
                raise
            refuse("decode", f"after row {done}: {error}")
        if batch is None:
            if done != rows:
                refuse("decode", f"after row {done}: its footer says that there are {rows}")
            return
        if _size(batch) <= job.max_row_bytes:
            yield batch
        else:
            for number in range(batch.num_rows):
                row = batch.slice(number, 1)
                if _size(row) > job.max_row_bytes:
                    refuse("row", str(done + number))
                yield row
        done += batch.num_rows


def _size(batch: Any) -> int:
    """Bytes, and eight for every value however deep: even what takes no bytes in a list takes a place in it."""
    return batch.nbytes + 8 * sum(_values(column) for column in batch.columns)


def _values(array: Any) -> int:
    import pyarrow as pa

    kind = array.type
    if pa.types.is_struct(kind):
        return len(array) + sum(_values(field) for field in array.flatten())
    if pa.types.is_map(kind):
        first, last = array.offsets[0].as_py(), array.offsets[len(array)].as_py()
        length = last - first
        return len(array) + sum(_values(part.slice(first, length)) for part in (array.keys, array.items))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return len(array) + _values(array.flatten())
    return len(array)


def _plain(batch: Any) -> Any:
    """Without dictionaries: a value there would be counted once and unpacked many times."""
    import pyarrow as pa

    schema = pa.schema([field.with_type(_plain_type(field.type)) for field in batch.schema])
    return batch if schema.equals(batch.schema) else batch.cast(schema)


def _plain_type(kind: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain_type(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_plain_type(kind.key_type), _plain_type(kind.item_type))
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_plain_type(kind.value_type)))
    return kind


if __name__ == "__main__":
    main(sys.argv[1])
