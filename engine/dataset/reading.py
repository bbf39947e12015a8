"""Reading a training file line by line: limits, encodings, and errors that name the line."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from engine.errors import MalformedRow


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


def text_lines(source: Path, longest: int) -> Iterator[tuple[int, str, int]]:
    """(1-based number, text with its line end, bytes read so far) of each line; a BOM is dropped. longest: in bytes."""
    done = 0
    with source.open("rb") as handle:
        for number, raw in enumerate(_raw_lines(handle, longest), start=1):
            done += len(raw)
            yield number, _decode(raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw, number), done


def _raw_lines(handle: BinaryIO, longest: int) -> Iterator[bytes]:
    number = 0
    while raw := handle.readline(longest + 1):
        number += 1
        if len(raw) > longest:
            refuse_length(number, longest)
        yield raw


def _decode(raw: bytes, line: int) -> str:
    if b"\x00" in raw:
        refuse_binary(line)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        malformed(f"not valid UTF-8: byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the line", line)


def refuse_binary(line: int) -> NoReturn:
    malformed("there is a NUL byte: the file is binary, or UTF-16 rather than UTF-8", line)


def refuse_length(line: int, longest: int) -> NoReturn:
    malformed(f"the row is longer than {longest} bytes: is a line end or a quote missing?", line)


def malformed(cause: str, line: int) -> NoReturn:
    raise MalformedRow(f"Line {line}: {cause}.", line=line)
