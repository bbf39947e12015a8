"""Training files as streams of raw rows. Nothing is held but the row being read."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import DatasetPathNotFound, MalformedRow, UnsupportedFormat

# A longer row is a damaged file (a missing line end, an unclosed quote), not a training example.
MAX_ROW_BYTES = 16 * 2**20
CHUNK_BYTES = 2**16
PARQUET_BATCH_ROWS = 1024
NOT_BLANK = re.compile(r"\S")
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True)
class RawRow:
    """A row as the file has it. line: 1-based, None where the format has no lines.

    done: how far the file is read, in the unit of its `RawRows`.
    """

    value: Any
    line: int | None
    done: int


@dataclass(frozen=True)
class RawRows:
    """All rows of one file, read lazily, once. total is in `unit`: "bytes" or "rows"."""

    format: str
    rows: Iterator[RawRow]
    total: int
    unit: str


def open_rows(source: Path, format: str | None) -> RawRows:
    """Read `source` as `format`, or as what its name and first bytes say.

    Raises DatasetPathNotFound, UnsupportedFormat; while iterating also MalformedRow.
    """
    if not source.is_file():
        raise DatasetPathNotFound(f"There is no file at '{source}'.")
    chosen = format or detect_format(source)
    if chosen not in FORMATS:
        raise UnsupportedFormat(f"'{chosen}' is not a dataset format; known are {', '.join(FORMATS)}.")
    return FORMATS[chosen](source)


def detect_format(source: Path) -> str:
    """The format by name; a `.json` file that holds one object a line is JSONL. Raises UnsupportedFormat."""
    with source.open("rb") as handle:
        head = handle.read(4096)
    first = head.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    by_name = SUFFIXES.get(source.suffix.lower())
    if by_name == "json" and first == b"{":
        return "jsonl"
    if by_name:
        return by_name
    if head.startswith(b"PAR1"):
        return "parquet"
    by_content = {b"{": "jsonl", b"[": "json"}.get(first)
    if by_content:
        return by_content
    raise UnsupportedFormat(f"Neither the name '{source.name}' nor the first bytes tell a known dataset format.")


def _jsonl(source: Path) -> RawRows:
    def rows() -> Iterator[RawRow]:
        for number, line, done in _text_lines(source):
            if line.strip():
                yield RawRow(_load_json(line, number), number, done)

    return RawRows("jsonl", rows(), source.stat().st_size, "bytes")


def _load_json(text: str, line: int) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        _malformed(f"not valid JSON: {error.msg} at column {error.colno}", line)
    except (ValueError, RecursionError) as error:
        _malformed(f"not valid JSON: {error}", line)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _text_lines(source: Path) -> Iterator[tuple[int, str, int]]:
    """(1-based number, text with its line end, bytes read so far) of each line; a BOM is dropped."""
    done = 0
    with source.open("rb") as handle:
        for number, raw in enumerate(_raw_lines(handle), start=1):
            done += len(raw)
            yield number, _decode(raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw, number), done


def _raw_lines(handle: BinaryIO) -> Iterator[bytes]:
    number = 0
    while raw := handle.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(raw) > MAX_ROW_BYTES:
            _too_long(number)
        yield raw


def _decode(raw: bytes, line: int) -> str:
    if b"\x00" in raw:
        _binary(line)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        _malformed(f"not valid UTF-8: byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the line", line)


def _json(source: Path) -> RawRows:
    return RawRows("json", _JsonList(source).rows(), source.stat().st_size, "bytes")


class _JsonList:
    """The objects of one JSON list, decoded one after the other from a sliding window of the file."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._decoder = json.JSONDecoder(parse_constant=_refuse_constant)
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._window, self._at = "", 0  # what is decoded, and how far into it we are
        self._line = 1  # the line of self._at
        self._done = 0
        self._ended = False

    def rows(self) -> Iterator[RawRow]:
        with self._source.open("rb") as self._handle:
            if not self._next():
                return
            self._expect("[", "the file must be a list of rows: [{…}, {…}]")
            if self._next() == "]":
                self._advance(self._at + 1)
            else:
                yield from self._items()
            if self._next():
                _malformed("there is text after the list's end", self._line)

    def _items(self) -> Iterator[RawRow]:
        while True:
            if self._next() != "{":
                _malformed("each item of the list must be an object: {…}", self._line)
            line = self._line
            yield RawRow(self._item(), line, self._done)
            if self._next() == "]":
                return self._advance(self._at + 1)
            self._expect(",", "expected ',' or ']' after an item")

    def _item(self) -> Any:
        """One object. The window doubles until the object is whole, so that decoding stays linear."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._window, self._at)
            except json.JSONDecodeError as error:
                line = self._line + self._window.count("\n", self._at, error.pos)
                if self._more(len(self._window)):
                    continue
                _malformed(f"not valid JSON: {error.msg} at column {error.colno}", line)
            except (ValueError, RecursionError) as error:
                _malformed(f"not valid JSON: {error}", self._line)
            self._advance(end)
            return value

    def _expect(self, mark: str, otherwise: str) -> None:
        if self._next() != mark:
            _malformed(otherwise, self._line)
        self._advance(self._at + 1)

    def _next(self) -> str:
        """The next character that is not white space (not consumed); "" at the end."""
        while not (found := NOT_BLANK.search(self._window, self._at)):
            self._advance(len(self._window))
            if not self._more(CHUNK_BYTES):
                return ""
        self._advance(found.start())
        return found.group()

    def _advance(self, to: int) -> None:
        self._line += self._window.count("\n", self._at, to)
        self._at = to

    def _more(self, size: int) -> bool:
        """Read at least `size` bytes more; False at the end of the file."""
        if self._ended:
            return False
        self._window, self._at = self._window[self._at :], 0
        if len(self._window) > MAX_ROW_BYTES:
            _too_long(self._line)
        raw = self._handle.read(max(size, CHUNK_BYTES))
        self._ended = not raw
        self._done += len(raw)
        self._window += self._decode(raw, self._line + self._window.count("\n"))
        return not self._ended

    def _decode(self, raw: bytes, line: int) -> str:
        if b"\x00" in raw:
            _binary(line + raw.count(b"\n", 0, raw.index(b"\x00")))
        try:
            return self._utf8.decode(raw, final=self._ended)
        except UnicodeDecodeError as error:
            _malformed("not valid UTF-8", line + error.object.count(b"\n", 0, error.start))


def _csv(source: Path) -> RawRows:
    return RawRows("csv", _csv_rows(source), source.stat().st_size, "bytes")


def _csv_rows(source: Path) -> Iterator[RawRow]:
    csv.field_size_limit(MAX_ROW_BYTES)  # process-wide in Python; the default (128 KiB) refuses long texts
    done = 0

    def lines() -> Iterator[str]:
        nonlocal done
        for _, line, read in _text_lines(source):
            done = read
            yield line

    reader = csv.reader(lines(), strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            _malformed(f"not valid CSV: {error}", line)
        if cells is None:
            return
        if not cells:
            continue
        if header is None:
            header = _csv_header(cells, line)
        else:
            yield RawRow(_csv_row(header, cells, line), line, done)


def _csv_header(cells: list[str], line: int) -> list[str]:
    header = [cell.strip() for cell in cells]
    if not {"prompt", "completion", "text"} & set(header):
        found = ", ".join(f"'{name}'" for name in header[:8])
        _malformed(f"the header has no column named prompt, completion or text; it has {found}", line)
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        _malformed(f"the header names '{repeated[0]}' twice", line)
    return header


def _csv_row(header: list[str], cells: list[str], line: int) -> dict[str, Any]:
    """Empty cells count as absent, except those that the row's shape needs."""
    if len(cells) != len(header):
        _malformed(f"there are {len(cells)} cells, but the header names {len(header)} columns", line)
    row = {name: cell for name, cell in zip(header, cells, strict=True) if cell}
    if "text" not in row:
        for name in ("prompt", "completion") if "completion" in header else ("text",):
            if name in header:
                row.setdefault(name, "")
    return row


def _parquet(source: Path) -> RawRows:
    try:
        file = pq.ParquetFile(source)
    except (pa.ArrowException, OSError) as error:
        raise UnsupportedFormat(f"This is not a readable Parquet file: {error}") from error
    return RawRows("parquet", _parquet_rows(file), file.metadata.num_rows, "rows")


def _parquet_rows(file: pq.ParquetFile) -> Iterator[RawRow]:
    done = 0
    batches = file.iter_batches(batch_size=PARQUET_BATCH_ROWS)
    while True:
        try:
            batch = next(batches, None)
            values = batch.to_pylist() if batch is not None else None
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise MalformedRow(f"The Parquet file cannot be read after row {done}: {error}", row=done) from error
        if values is None:
            return
        for value in values:
            done += 1
            yield RawRow(_parquet_row(value), None, done)


def _parquet_row(value: dict[str, Any]) -> dict[str, Any]:
    """Drop nulls (a Parquet column is there for every row); a map column comes as pairs."""
    row = {key: cell for key, cell in value.items() if cell is not None}
    if isinstance(row.get("tags"), list):
        row["tags"] = dict(row["tags"])
    return row


def _binary(line: int) -> NoReturn:
    _malformed("there is a NUL byte: the file is binary, or UTF-16 rather than UTF-8", line)


def _too_long(line: int) -> NoReturn:
    _malformed(f"the row is longer than {MAX_ROW_BYTES // 2**20} MiB: is a line end or a quote missing?", line)


def _malformed(cause: str, line: int) -> NoReturn:
    raise MalformedRow(f"Line {line}: {cause}.", line=line)


FORMATS: dict[str, Callable[[Path], RawRows]] = {"jsonl": _jsonl, "json": _json, "csv": _csv, "parquet": _parquet}
