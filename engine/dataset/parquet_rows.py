"""Parquet files: the columns of a JSON row; tags as struct, map or tags.<key> columns."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, NoReturn

import pyarrow as pa

from engine.dataset import parquet_decoder
from engine.dataset.limits import DatasetLimits
from engine.dataset.parquet_decoder import REFUSED, Job
from engine.dataset.reading import RawRow, RawRows
from engine.dataset.rows import KNOWN_FIELDS, TAG_PREFIX
from engine.errors import DatasetTooLarge, MalformedRow, UnsupportedFormat

# A row group is decoded page by page, BATCH_ROWS rows at a time: this is many times what files people write need.
MEMORY_BYTES = 768 * 2**20
CPU_SECONDS = 600


def read_parquet(source: Path, limits: DatasetLimits) -> RawRows:
    """Raises UnsupportedFormat, DatasetTooLarge; while iterating also MalformedRow."""
    decoding = _Decoding(source, limits)
    rows, ignored = decoding.head()
    return RawRows("parquet", _parquet_rows(decoding, ignored), rows, "rows")


def _parquet_rows(decoding: _Decoding, ignored: list[str]) -> Iterator[RawRow]:
    """Columns that play no part are named in each row, for the warning, but never decoded."""
    named = dict.fromkeys(ignored, True)
    done = 0
    with contextlib.closing(decoding):
        for batch in decoding.batches():
            for value in batch.to_pylist():
                done += 1
                yield RawRow(_parquet_row(value) | named, None, done)


def _parquet_row(value: dict[str, Any]) -> dict[str, Any]:
    """Drop nulls (a Parquet column is there for every row); a map column comes as pairs."""
    row = {key: cell for key, cell in value.items() if cell is not None}
    tags = row.get("tags")
    if isinstance(tags, list) and all(isinstance(pair, tuple) for pair in tags):
        row["tags"] = dict(tags)
    return row


class _Decoding:
    """A decoder at work on one file: see parquet_decoder.py."""

    def __init__(self, source: Path, limits: DatasetLimits) -> None:
        self._source, self._limits = source, limits
        self._reason: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by _end)
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(Path(parquet_decoder.__file__)), self._job()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._reason,
            env=_environment(),
        )
        self.close = weakref.finalize(self, _end, self._process, self._reason)

    def _job(self) -> str:
        job = Job(
            source=str(self._source.absolute()),
            path=sys.path,
            known=sorted(KNOWN_FIELDS),
            known_prefix=TAG_PREFIX,
            max_rows=self._limits.max_rows,
            max_row_bytes=self._limits.max_row_bytes,
            memory_bytes=MEMORY_BYTES,
            cpu_seconds=CPU_SECONDS,
        )
        return json.dumps(asdict(job))

    def head(self) -> tuple[int, list[str]]:
        """How many rows there are said to be, and columns that play no part."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            self._refuse(0)
        head = json.loads(line)
        return head["rows"], head["ignored"]

    def batches(self) -> Iterator[pa.RecordBatch]:
        done = 0
        try:
            for batch in self._stream():
                yield batch
                done += batch.num_rows
        except (pa.ArrowException, OSError):  # cut off
            self._refuse(done)
        if self._process.wait():
            self._refuse(done)

    def _stream(self) -> Iterator[pa.RecordBatch]:
        """Nothing at all of a file without rows."""
        assert self._process.stdout is not None
        if self._process.stdout.peek(1):  # type: ignore[attr-defined]
            yield from pa.ipc.open_stream(self._process.stdout)

    def _refuse(self, done: int) -> NoReturn:
        """Says why the decoder ended; done: rows that came before."""
        status = self._process.wait()
        self._reason.seek(0)
        lines = self._reason.read().splitlines()
        self.close()
        if status != REFUSED or not lines:
            raise UnsupportedFormat(
                f"The Parquet file cannot be decoded: after row {done} the decoder {_ended(status)}."
            )
        reason = json.loads(lines[-1])
        kind, detail = reason["kind"], reason["detail"]
        if kind == "rows":
            self._limits.check_rows(int(detail))
        if kind == "memory":
            remedy = "Write the file with smaller row groups and pages, or send JSONL."
            raise DatasetTooLarge(f"The Parquet file cannot be read after row {done}: {detail}.", remedy=remedy)
        if kind == "row":
            cause = f"In row {detail}: unpacked, it is longer than {self._limits.max_row_bytes} bytes."
            raise MalformedRow(cause, row=int(detail))
        if kind == "decode":
            raise MalformedRow(f"The Parquet file cannot be read {detail}", row=done)
        raise UnsupportedFormat(f"This is not a readable Parquet file: {detail}")


def _environment() -> dict[str, str]:
    """One thread, plain malloc, and none of the service's secrets."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WHENCE_")}
    plain = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1"}
    return kept | plain | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _ended(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


def _end(process: subprocess.Popen[bytes], reason: IO[bytes]) -> None:
    process.kill()
    if process.stdout is not None:
        process.stdout.close()
    process.wait()
    reason.close()
