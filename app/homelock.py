"""One server process a WHENCE_HOME: with SQLite, two would disagree about who runs which job."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class HomeInUse(RuntimeError):
    """Its message is one line that names the home and the process."""


def create_home(home: Path) -> None:
    """Only its owner may look inside: it holds training data."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)


class HomeLock:
    """An advisory lock on `<home>/server.lock`. The kernel releases it with the process, kill -9 included."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._file: int | None = None

    def acquire(self) -> None:
        """Raises HomeInUse when another process holds it. Does nothing when this object holds it."""
        if self._file is not None:
            return
        create_home(self.home)
        file = os.open(self.home / "server.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 32).decode(errors="replace").strip() or "unknown"
            os.close(file)
            raise HomeInUse(
                f"WHENCE_HOME {self.home} is in use by another whence server (process {holder}): "
                "stop that one, or give this one another WHENCE_HOME."
            ) from None
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        self._file = file

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
