"""Files of WHENCE_HOME: a full disk has a name, and what is deleted is first moved out of sight."""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import DatabaseError

from app.errors import InsufficientStorage, recognised
from engine.errors import StorageFull


@contextmanager
def full_disk_is_named(
    detail: str = "The disk filled up while the request was being stored.", remedy: str | None = None
) -> Iterator[None]:
    """Turns the operating system's "no space left", and SQLite's, into InsufficientStorage."""
    try:
        yield
    except (OSError, DatabaseError) as error:
        if isinstance(recognised(error), (StorageFull, InsufficientStorage)):
            raise InsufficientStorage(detail, remedy=remedy) from error
        raise


def leave_free(directory: Path, needed: int, floor: int) -> None:
    """Raises InsufficientStorage when `needed` bytes more on this disk would leave less than `floor` free."""
    free = shutil.disk_usage(directory).free
    if free - needed < floor:
        detail = f"{free} bytes are free; this needs {needed}, and {floor} must stay free (WHENCE_MIN_FREE_BYTES)."
        raise InsufficientStorage(detail, free_bytes=free, needed_bytes=needed, min_free_bytes=floor)


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


UNDECIDED = ".undecided-"


@contextmanager
def undecided(path: Path) -> Iterator[None]:
    """While it is being decided whether a row owns `path`: files and rows cannot be changed in one step.

    A mark lies beside it meanwhile. A server that is killed in between finds the mark when it starts, and removes what
    no row owns. Only what is marked: of a home that is served with the wrong database nothing is removed.
    """
    path.with_name(UNDECIDED + path.name).mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        unmark(path)


def unmark(path: Path) -> None:
    """It has been decided."""
    shutil.rmtree(path.with_name(UNDECIDED + path.name), ignore_errors=True)


def marked(directory: Path) -> list[Path]:
    """What `undecided` was interrupted on, below this directory."""
    found = directory.iterdir() if directory.is_dir() else iter(())
    return [directory / path.name.removeprefix(UNDECIDED) for path in found if path.name.startswith(UNDECIDED)]


# What only an operation that was interrupted leaves: how its name begins → which operation.
LEFTOVER_PREFIXES = {
    UNDECIDED: "a change",
    ".deleted-": "a deletion",
    ".incoming-": "an upload",
    ".importing-": "an import",
    ".estimate-": "an estimate",
    ".restoring-": "a restore",
}


def is_leftover(path: Path) -> str:
    """The prefix that tells; empty for what is no leftover."""
    return next((prefix for prefix in LEFTOVER_PREFIXES if path.name.startswith(prefix)), "")


def leftovers(*directories: Path) -> list[Path]:
    """What lies directly in one of them. Certain only for a process that is alone: others may be at work on it."""
    found = [path for directory in directories if directory.is_dir() for path in directory.iterdir()]
    return sorted(path for path in found if is_leftover(path))


def remove_in_background(paths: Sequence[Path]) -> threading.Thread | None:
    """Deletes exactly these, while the server already answers: large ones may take minutes."""
    if not paths:
        return None

    def remove() -> None:
        for path in paths:
            shutil.rmtree(path, ignore_errors=True)

    thread = threading.Thread(target=remove, name="whence-sweep", daemon=True)
    thread.start()
    return thread
