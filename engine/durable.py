"""Files that are whole or absent: written aside, hashed on the way, synced, then renamed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from engine.errors import InvalidOption, StorageFull

PARTIAL_SUFFIX = ".partial"
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_BYTES = 1 << 20


def _new_hash() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=32)


@dataclass
class HashingSink:
    """What `produce` writes into: a file that counts and hashes every byte."""

    file: BinaryIO
    digest: hashlib.blake2b = field(default_factory=_new_hash)
    bytes: int = 0

    def write(self, data: bytes) -> int:
        self.file.write(data)
        self.digest.update(data)
        self.bytes += len(data)
        return len(data)


@dataclass(frozen=True)
class Written:
    """checksum: blake2b-256 of the file, hexadecimal."""

    checksum: str
    bytes: int


def write_durably(path: Path, produce: Callable[[HashingSink], object]) -> Written:
    """Replace `path` by what `produce` writes, or leave it as it was.

    On return the bytes and the name have reached the disk. Raises StorageFull, and what `produce` raises.
    """
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        with naming_full_disk(path):
            with partial.open("wb") as file:
                sink = HashingSink(file)
                produce(sink)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
            sync_directory(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    return Written(sink.digest.hexdigest(), sink.bytes)


@contextlib.contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Turn the operating system's "no space" into StorageFull naming the file."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK:
            raise StorageFull(f"The disk filled up while {path.name} was written.", file=path.name) from error
        raise


def sync_directory(path: Path) -> None:
    """A rename survives a power cut only once its directory is synced."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Hold `directory`, made where it is missing, against other processes. The kernel lets go with this process.

    A file system without locks holds nobody off. Raises InvalidOption when another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            _lock(descriptor, directory)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InvalidOption(
            f"Another process writes into {directory}.", remedy="Wait for it, or give another directory."
        ) from None


def checksum_of(path: Path) -> str:
    """blake2b-256 of a file, hexadecimal."""
    digest = _new_hash()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def remove_partials(root: Path) -> None:
    """Delete what interrupted writes left behind; a directory of that name is unfinished work, and stays."""
    for leftover in root.rglob(f"*{PARTIAL_SUFFIX}"):
        if not leftover.is_dir():
            leftover.unlink(missing_ok=True)
