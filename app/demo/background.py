"""The service on a thread of this process, so that the demonstration can be its client."""

from __future__ import annotations

import signal
import socket
from threading import Event, Thread
from types import TracebackType
from typing import Self

from app.commands.serve import CannotListen
from app.errors import Unavailable
from app.server import Server
from app.settings import Settings

START_SECONDS = 60.0
STOP_SECONDS = 30.0


class BackgroundServer:
    """A context manager; `address` is known once it is entered. Raises CannotListen, HomeInUse and Unavailable.

    any_port: another free port will do when the one of the settings is taken.
    """

    def __init__(self, settings: Settings, *, any_port: bool) -> None:
        self._socket = _listen(settings.host, settings.port, any_port)
        self._listening = Event()
        self.address = ""
        self._server = Server(settings, on_listening=self._announced)
        self._thread = Thread(target=self._serve, name="whence-server", daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def __enter__(self) -> Self:
        self._thread.start()
        self._listening.wait(START_SECONDS)
        if not self.address:
            self._stop()
            raise Unavailable("The service did not start.", remedy="The lines above say why; then run the demo again.")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _announced(self, address: str) -> None:
        self.address = address
        self._listening.set()

    def _serve(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._listening.set()  # a server that failed to start must not be waited for

    def _stop(self) -> None:
        self._server.handle_exit(signal.SIGINT, None)
        self._thread.join(STOP_SECONDS)
        self._socket.close()


def _listen(host: str, port: int, any_port: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if any_port:
            return _listen(host, 0, any_port=False)
        raise CannotListen(host, port, error) from None
