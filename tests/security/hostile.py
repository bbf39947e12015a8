"""What the attacks have in common: a canary that dies when code is run, a socket nobody should call, raw HTTP."""

from __future__ import annotations

import pickle
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Canary:
    """`written` once a pickle of `payload` was loaded, or the Python of `code` was run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def written(self) -> bool:
        return self.path.exists()

    @property
    def payload(self) -> bytes:
        return pickle.dumps(_Opened(str(self.path)))

    @property
    def code(self) -> str:
        return f"open({str(self.path)!r}, 'w')\n"


class _Opened:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


class Listener:
    """A server inside the walls, which only this machine can reach."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]

    @property
    def was_called(self) -> bool:
        return bool(select.select([self._socket], [], [], 0.2)[0])

    def close(self) -> None:
        self._socket.close()


@contextmanager
def listening() -> Iterator[Listener]:
    listener = Listener()
    try:
        yield listener
    finally:
        listener.close()


def exchange(address: str, sent: bytes, seconds: float = 2.0) -> tuple[bytes, bool]:
    """(everything that came back, whether the server closed the connection)."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(sent)
        found = b""
        try:
            while piece := connection.recv(65536):
                found += piece
        except TimeoutError:
            return found, False
    return found, True


def refused(address: str, sent: bytes) -> tuple[int, bytes]:
    """(status, whole answer) of a request that says `Connection: close`."""
    found, _ = exchange(address, sent)
    return int(found.split(b" ", 2)[1]) if found else 0, found
