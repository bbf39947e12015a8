"""One index as one file: a tar of the index, its rows and `export.json`, read and written strictly.

    export.json          what the others are, and the size and blake2b-256 of each: always the first
    index/…              manifest.json, curvature, shards, as they lie below `indexes/<id>/`
    dataset/rows.arrow   the rows, so that hits can show their text

Deterministic: sorted, stored, no times, no owners: the same index always gives the same bytes. The archive is read
block by block by the few lines below: what a general reader would understand (links, devices, long names, sparse
files, compression) is refused with the first header that is not a plain file of a name and size that export.json
declared, so that nothing is ever read into memory or written to disk that was not announced.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.bodies import JsonObject, Name, PlainText
from app.errors import InvalidRequest, PayloadTooLarge
from engine.errors import CorruptIndex
from engine.integrity import INDEX_FILE, MANIFEST_FILE

HEADER, ROWS, INDEX = "export.json", "dataset/rows.arrow", "index/"
VERSION = 1
BLOCK = tarfile.BLOCKSIZE
CHUNK_BYTES = 1 << 20
MAX_HEADER_BYTES = 8 << 20
MAX_MEMBERS = 100_000
LONGEST_NAME = 100  # what fits in a header without extensions


class InvalidArchive(InvalidRequest):
    code, title = "invalid-archive", "Not an exported index"
    remedy = "Send a file as GET /v1/indexes/{id}/export gave it, unchanged; export it again if it was damaged."


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Member(_Part):
    bytes: int = Field(ge=0, lt=2**63)
    checksum: Digest


class ExportedModel(_Part):
    name: Name
    version: int
    fingerprint: PlainText


class ExportedDataset(_Part):
    name: Name
    sha256: Digest
    rows: int = Field(ge=1, lt=2**63)
    format: PlainText | None
    warnings: list[PlainText]


class Export(_Part):
    """export.json."""

    whence_export: Literal[1] = VERSION
    name: Name | None
    method: PlainText
    revision: PlainText
    config: JsonObject
    sketched: bool
    fingerprints: dict[str, str]
    model: ExportedModel
    dataset: ExportedDataset
    members: dict[str, Member] = Field(max_length=MAX_MEMBERS)

    @model_validator(mode="after")
    def _names_only_what_an_index_has(self) -> Export:
        if missing := {ROWS, INDEX + MANIFEST_FILE} - self.members.keys():
            raise ValueError(f"{min(missing)} is not among its members")
        for name in self.members:
            if not (name in (ROWS, INDEX + MANIFEST_FILE) or is_index_file(name)):
                raise ValueError(f"{name[:80]!r} is no file of an index")
        return self

    @property
    def bytes(self) -> int:
        return sum(member.bytes for member in self.members.values())


def is_index_file(name: str) -> bool:
    return name.startswith(INDEX) and INDEX_FILE.fullmatch(name.removeprefix(INDEX)) is not None


# --- writing ---


@dataclass(frozen=True)
class Archive:
    """An export, ready to be sent. files: name in the archive → where it lies."""

    export: Export
    files: Mapping[str, Path]

    def header(self) -> bytes:
        return self.export.model_dump_json(indent=1).encode() + b"\n"

    @property
    def bytes(self) -> int:
        sizes = [len(self.header()), *(member.bytes for member in self.export.members.values())]
        return sum(BLOCK + _padded(size) for size in sizes) + 2 * BLOCK

    def __iter__(self) -> Iterator[bytes]:
        """The tar's bytes. Raises CorruptIndex before its end when a file is not what it was: a damaged index never
        leaves as a whole one."""
        header = self.header()
        yield _tar_header(HEADER, len(header)) + header + _padding(len(header))
        for name in sorted(self.files):
            member = self.export.members[name]
            yield _tar_header(name, member.bytes)
            yield from _contents(name, self.files[name], member)
            yield _padding(member.bytes)
        yield bytes(2 * BLOCK)


def _contents(name: str, path: Path, member: Member) -> Iterator[bytes]:
    digest, left = hashlib.blake2b(digest_size=32), member.bytes
    with path.open("rb") as file:
        while chunk := file.read(min(left, CHUNK_BYTES)):
            digest.update(chunk)
            left -= len(chunk)
            yield chunk
    if left or digest.hexdigest() != member.checksum:
        raise CorruptIndex(f"The file {name} is damaged: its checksum differs from the recorded one.", file=name)


def _tar_header(name: str, size: int) -> bytes:
    if len(name) > LONGEST_NAME:
        raise ValueError(f"{name!r} is too long a name for an archive")
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    return info.tobuf(tarfile.GNU_FORMAT)  # sizes of 8 GB and more included, in one block


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _padding(size: int) -> bytes:
    return bytes(_padded(size) - size)


# --- reading ---


class ArchiveReader:
    """Reads an archive that anybody may have made. Raises InvalidArchive, PayloadTooLarge."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self._file = file
        found = self._next()
        if found is None or found[0] != HEADER:
            raise _invalid(f"its first member is not {HEADER}")
        if found[1] > MAX_HEADER_BYTES:
            raise PayloadTooLarge(f"{HEADER} says that it has {found[1]} bytes; {MAX_HEADER_BYTES} are the most.")
        self.export = _parsed(self._whole(found[1]))
        if self.export.bytes > max_bytes:
            raise PayloadTooLarge(f"The archive holds {self.export.bytes} bytes; {max_bytes} are the most.")

    def extract(self, root: Path) -> None:
        """Writes every member below `root`, a new directory, checked against export.json as it is read."""
        seen: set[str] = set()
        while (found := self._next()) is not None:
            name, size = found
            member = self.export.members.get(name)
            if member is None:
                raise _invalid(f"its member {name[:80]!r} is not in {HEADER}")
            if name in seen:
                raise _invalid(f"its member {name!r} is there twice")
            if size != member.bytes:
                raise _invalid(f"its member {name!r} has {size} bytes, not {member.bytes}")
            seen.add(name)
            self._copy(name, member, root / name)
        if missing := self.export.members.keys() - seen:
            raise _invalid(f"its member {min(missing)!r} is missing")

    def _copy(self, name: str, member: Member, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.blake2b(digest_size=32)
        with target.open("xb") as copy:
            for chunk in self._chunks(member.bytes):
                digest.update(chunk)
                copy.write(chunk)
        if digest.hexdigest() != member.checksum:
            raise _invalid(f"its member {name!r} is damaged: the checksum differs")

    def _next(self) -> tuple[str, int] | None:
        """Name and size of the next member; None at the end."""
        block = self._exactly(BLOCK)
        if block == bytes(BLOCK):
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.TarError, ValueError) as error:
            raise _invalid(f"its header cannot be read: {error}") from error
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.size < 0:
            raise _invalid(f"its member {info.name[:80]!r} is not a plain file")
        return info.name, info.size

    def _whole(self, size: int) -> bytes:
        return b"".join(self._chunks(size))

    def _chunks(self, size: int) -> Iterator[bytes]:
        """`size` bytes and the padding behind them."""
        left = size
        while left:
            chunk = self._exactly(min(left, CHUNK_BYTES))
            left -= len(chunk)
            yield chunk
        self._exactly(_padded(size) - size)

    def _exactly(self, size: int) -> bytes:
        found = self._file.read(size)
        if len(found) != size:
            raise _invalid("it ends in the middle")
        return found


def _parsed(text: bytes) -> Export:
    try:
        return Export.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part)[:80] for part in first["loc"]) or HEADER
        raise _invalid(f"{HEADER} cannot be read: {where}: {first['msg']}") from error
    except RecursionError as error:
        raise _invalid(f"{HEADER} is nested too deeply") from error


def _invalid(reason: str, **context: Any) -> InvalidArchive:
    shown = re.sub(r"[^\x20-\x7e]", "?", reason)
    return InvalidArchive(f"The file is not an exported index: {shown}.", pointer="/file", **context)
