"""Files of WHENCE_HOME: a full disk has a name, and what is deleted is first moved out of sight."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import InsufficientStorage
from engine.durable import FULL_DISK


@contextmanager
def full_disk_is_named() -> Iterator[None]:
    """Turns the operating system's "no space left" into InsufficientStorage."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK:
            raise InsufficientStorage("The disk filled up while the request was being stored.") from error
        raise


def set_aside(path: Path) -> Path | None:
    """Rename, so that nobody ever opens a half-deleted directory. None when there is none."""
    doomed = path.with_name(f".deleted-{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        return path.rename(doomed)
    except FileNotFoundError:
        return None


def remove_directory(path: Path) -> None:
    """Deletes a directory as if at once; a missing one is fine."""
    doomed = set_aside(path)
    if doomed is not None:
        shutil.rmtree(doomed, ignore_errors=True)
