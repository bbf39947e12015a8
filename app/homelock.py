"""One server process a WHENCE_HOME: with SQLite, two would disagree about who runs which job."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class HomeUnusable(RuntimeError):
    """Its message is one line that names the home, the cause and the remedy."""


class HomeInUse(HomeUnusable):
    """By another process, which the message names."""


class HomeNotWritable(HomeUnusable):
    """Nothing can be made there."""


def create_home(home: Path) -> None:
    """Only its owner may look inside: it holds training data."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)


@contextlib.contextmanager
def naming_home(home: Path) -> Iterator[None]:
    """Turns what the operating system says of a home that cannot be made or written into HomeNotWritable."""
    try:
        yield
    except OSError as error:
        raise HomeNotWritable(
            f"WHENCE_HOME {home} cannot be written to: {error.strerror}. "
            "Make it writable (`mount`, `ls -ld` and `df` tell), or give another WHENCE_HOME."
        ) from error


def require_writable(home: Path) -> None:
    """Raises HomeNotWritable. A full disk is writable: room may be made while the server runs."""
    with naming_home(home):
        create_home(home)
        if not os.access(home, os.W_OK | os.X_OK):
            cause = errno.EROFS if os.statvfs(home).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(cause, os.strerror(cause))


class HomeLock:
    """An advisory lock on `<home>/server.lock`. The kernel releases it with the process, kill -9 included."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._file: int | None = None

    def acquire(self) -> None:
        """Raises HomeInUse when another process holds it, HomeNotWritable. Does nothing when this object holds it."""
        if self._file is not None:
            return
        with naming_home(self.home):
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
        with contextlib.suppress(OSError):  # only told to people: a full disk must not keep a server down
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        self._file = file

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
