"""Small disks of their own: full and read-only homes are real here, not patched."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BALLAST = "ballast"
BLOCK = 4096
KIB, MIB = 1 << 10, 1 << 20


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """`place`, with a tmpfs of so many bytes on it. Skips the test where mounting is refused."""
    place.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def enlarge(disk: Path, size: int) -> None:
    _mount("-o", f"remount,size={size}", str(disk))


@contextmanager
def read_only(place: Path) -> Iterator[None]:
    """Nothing below `place` can be written. What is open already stays as it was opened."""
    _mount("--bind", str(place), str(place))
    _mount("-o", "remount,bind,ro", str(place))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is refused here: {done.stderr.strip()}")


def fill_up(disk: Path, leave: int = 0) -> None:
    """Takes all the room but `leave` bytes, however many others write meanwhile."""
    make_room(disk)
    file = os.open(disk / BALLAST, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        for size in (256 * KIB, BLOCK):
            with contextlib.suppress(OSError):
                while os.write(file, bytes(size)):
                    pass
        os.ftruncate(file, max(0, os.fstat(file).st_size - leave))
    finally:
        os.close(file)


def make_room(disk: Path) -> None:
    (disk / BALLAST).unlink(missing_ok=True)
