"""Files, hashed as they are copied."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from app.backup.layout import Copied
from engine.durable import READ_BYTES, sync_directory

Advance = Callable[[int], object]


def files_of(directory: Path) -> list[Path]:
    """Every file below it, sorted. Raises OSError: a directory that vanishes meanwhile is never taken for an empty
    one."""

    def give_up(error: OSError) -> None:
        raise error

    walked = os.walk(directory, onerror=give_up)
    return sorted(Path(folder) / name for folder, _, names in walked for name in names)


def copy_file(source: Path, target: Path, advance: Advance) -> Copied:
    """Written, synced, readable by its owner alone."""
    with source.open("rb") as file:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return copy_stream(file, target, advance)


def copy_stream(source: BinaryIO, target: Path | None, advance: Advance) -> Copied:
    """None: only read."""
    digest, size = hashlib.blake2b(digest_size=32), 0
    sink = None if target is None else os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        while block := source.read(READ_BYTES):
            digest.update(block)
            size += len(block)
            if sink is not None:
                _write_all(sink, block)
            advance(len(block))
        if sink is not None:
            os.fsync(sink)
    finally:
        if sink is not None:
            os.close(sink)
    return Copied(bytes=size, checksum=digest.hexdigest())


def _write_all(file: int, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(file, rest) :]


def sync_tree(directory: Path) -> None:
    """The names in it reach the disk; the files have been synced one by one."""
    for folder, _, _ in os.walk(directory):
        sync_directory(Path(folder))
