"""JSON files: one object a line, or one list of objects."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from engine.dataset.limits import DatasetLimits
from engine.dataset.reading import RawRow, RawRows, malformed, refuse_binary, refuse_length, text_lines

CHUNK_BYTES = 2**16
NOT_BLANK = re.compile(r"\S")


def read_jsonl(source: Path, limits: DatasetLimits) -> RawRows:
    """A line that is no JSON is refused, and the next one can be read all the same: a generator would have ended."""

    def row(found: tuple[int, str, int]) -> RawRow:
        number, line, done = found
        return RawRow(_load_json(line, number), number, done)

    lines = (found for found in text_lines(source, limits.max_row_bytes) if found[1].strip())
    return RawRows("jsonl", map(row, lines), source.stat().st_size, "bytes")


def _load_json(text: str, line: int) -> Any:
    try:
        return json.loads(text, parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        malformed(f"not valid JSON: {error.msg} at column {error.colno}", line)
    except (ValueError, RecursionError) as error:
        malformed(f"not valid JSON: {error}", line)


def refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def read_json_list(source: Path, limits: DatasetLimits) -> RawRows:
    return RawRows("json", JsonList(source, limits.max_row_bytes).rows(), source.stat().st_size, "bytes")


class JsonList:
    """The objects of one JSON list, decoded one after the other from a sliding window of the file. longest: of an
    object, in bytes."""

    def __init__(self, source: Path, longest: int) -> None:
        self._source, self._longest = source, longest
        self._decoder = json.JSONDecoder(parse_constant=refuse_constant)
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
                malformed("there is text after the list's end", self._line)

    def _items(self) -> Iterator[RawRow]:
        while True:
            if self._next() != "{":
                malformed("each item of the list must be an object: {…}", self._line)
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
                malformed(f"not valid JSON: {error.msg} at column {error.colno}", line)
            except (ValueError, RecursionError) as error:
                malformed(f"not valid JSON: {error}", self._line)
            self._advance(end)
            return value

    def _expect(self, mark: str, otherwise: str) -> None:
        if self._next() != mark:
            malformed(otherwise, self._line)
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
        if len(self._window) > self._longest:
            refuse_length(self._line, self._longest)
        raw = self._handle.read(max(size, CHUNK_BYTES))
        self._ended = not raw
        self._done += len(raw)
        self._window += self._decode(raw, self._line + self._window.count("\n"))
        return not self._ended

    def _decode(self, raw: bytes, line: int) -> str:
        if b"\x00" in raw:
            refuse_binary(line + raw.count(b"\n", 0, raw.index(b"\x00")))
        try:
            return self._utf8.decode(raw, final=self._ended)
        except UnicodeDecodeError as error:
            malformed("not valid UTF-8", line + error.object.count(b"\n", 0, error.start))
