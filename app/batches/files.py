"""A batch on disk: `input.jsonl` as it was sent, and `results.jsonl`, to which the job appends.

Results stand in the order of the file and are only ever appended, so how many there are says where to go on.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from app.errors import FilesDamaged, InvalidRequest, PayloadTooLarge
from app.storage import full_disk_is_named
from engine.durable import naming_full_disk, sync_directory

CHUNK_BYTES = 1 << 20
INPUT = "input.jsonl"
SUCCEEDED = b'{"status": 200,'
RESULT = b'{"status": '


@dataclass(frozen=True)
class Line:
    """`number` counts every line of the file, from 1; `raw` is None for one that is longer than allowed."""

    number: int
    raw: bytes | None


@dataclass
class Tally:
    succeeded: int = 0
    failed: int = 0

    @property
    def done(self) -> int:
        return self.succeeded + self.failed


class BatchFiles:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.input = directory / INPUT
        self.results = directory / "results.jsonl"

    def save(self, file: BinaryIO, max_lines: int) -> int:
        """Keeps the upload; on return it has reached the disk. How many questions it has: blank lines are none.

        Raises InvalidRequest (empty, not UTF-8), PayloadTooLarge, InsufficientStorage.
        """
        counted, decoder = _LineCount(), codecs.getincrementaldecoder("utf-8")()
        with full_disk_is_named():
            self.directory.mkdir(parents=True)
            with self.input.open("wb") as copy:
                while chunk := file.read(CHUNK_BYTES):
                    _check_utf8(decoder, chunk, counted)
                    counted.add(chunk)
                    if counted.lines > max_lines:
                        raise PayloadTooLarge(f"The file has more than {max_lines} lines.", max_batch_lines=max_lines)
                    copy.write(chunk)
                _check_utf8(decoder, b"", counted)
                copy.flush()
                os.fsync(copy.fileno())
            sync_directory(self.directory)
            sync_directory(self.directory.parent)
        if counted.lines == 0:
            raise InvalidRequest("The file has no questions.", pointer="/file")
        return counted.lines

    def lines(self, longest: int) -> Iterator[Line]:
        """The questions in order. longest: bytes of a line that is read at all."""
        with self.input.open("rb") as file:
            number = 0
            while raw := file.readline(longest + 2):
                number += 1
                cut = len(raw) == longest + 2 and not raw.endswith(b"\n")  # also one that ends in many returns
                if cut or len(raw.rstrip(b"\r\n")) > longest:
                    if not _skip_rest(file, raw):
                        yield Line(number, None)
                elif raw.strip():
                    yield Line(number, raw)

    def resume(self) -> Tally:
        """What an earlier attempt left: how many results are whole. What was torn is cut off."""
        tally, whole = Tally(), 0
        if not self.results.exists():
            return tally
        with self.results.open("r+b") as file:
            for raw in file:
                if _result(raw) is None:
                    break
                whole += len(raw)
                tally = _counted(tally, raw)
            file.truncate(whole)
            os.fsync(file.fileno())
        return tally

    def append(self, results: Sequence[dict[str, Any]]) -> None:
        """On return they have reached the disk. Each begins with `status`. Raises StorageFull."""
        new = not self.results.exists()
        with naming_full_disk(self.results), self.results.open("ab") as file:
            for result in results:
                file.write(json.dumps(result).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync_directory(self.directory)

    def read(self) -> Iterator[dict[str, Any]]:
        """The results so far: one that is just being written is left out. Raises FilesDamaged."""
        if not self.results.exists():
            return
        with self.results.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if not raw.endswith(b"\n"):
                    return
                result = _result(raw)
                if result is None:
                    raise FilesDamaged(
                        f"Line {number} of {self.results.name} of batch {self.directory.name} is damaged."
                    )
                yield result


class _LineCount:
    """Counts lines that are not blank, chunk by chunk."""

    def __init__(self) -> None:
        self._ended = 0
        self._begun = False
        self.breaks = 0

    @property
    def lines(self) -> int:
        return self._ended + self._begun

    def add(self, chunk: bytes) -> None:
        *ended, last = chunk.split(b"\n")
        for piece in ended:
            self._ended += self._begun or bool(piece.strip())
            self._begun = False
        self.breaks += len(ended)
        self._begun = self._begun or bool(last.strip())


def _check_utf8(decoder: codecs.IncrementalDecoder, chunk: bytes, counted: _LineCount) -> None:
    try:
        decoder.decode(chunk, final=not chunk)
    except UnicodeDecodeError as error:
        number = counted.breaks + chunk[: max(0, error.start)].count(b"\n") + 1
        detail = f"The file is not UTF-8: near line {number}."
        raise InvalidRequest(detail, remedy="Send JSONL encoded as UTF-8.", pointer="/file", line=number) from error


def _skip_rest(file: BinaryIO, raw: bytes) -> bool:
    """Reads on to the end of the line; True when all of it is blank."""
    blank = not raw.strip()
    while raw and not raw.endswith(b"\n"):
        raw = file.readline(CHUNK_BYTES)
        blank = blank and not raw.strip()
    return blank


def _result(raw: bytes) -> dict[str, Any] | None:
    """None for what `append` has not written so."""
    try:
        value = json.loads(raw) if raw.startswith(RESULT) and raw.endswith(b"}\n") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not {"line", "custom_id", "status"} <= value.keys():
        return None
    body = value.get("body", value.get("problem"))
    needed = ("index", "revision") if "body" in value else ()
    return value if isinstance(body, dict) and all(isinstance(body.get(name), str) for name in needed) else None


def _counted(tally: Tally, raw: bytes) -> Tally:
    succeeded = raw.startswith(SUCCEEDED)
    return Tally(tally.succeeded + succeeded, tally.failed + (not succeeded))
