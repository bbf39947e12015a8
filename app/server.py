"""`whence serve` in one object: the app under uvicorn, with a clean start and a clean end."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn
from sqlalchemy.exc import DatabaseError

from app.database import Database
from app.dependencies import Services
from app.errors import recognised
from app.homelock import HomeLock, require_writable
from app.main import create_app
from app.schema import upgrade
from app.settings import Settings

# Event streams end as soon as the server begins to stop; other open connections are waited for this long.
GRACE_SECONDS = 5
# The engine's thread gives the interpreter up at every tensor operation. While requests are refused by the dozen it
# would wait 5 ms, Python's default, to get it back: at four times the capacity that cost a good part of the answers.
SWITCH_SECONDS = 0.0005


class Server(uvicorn.Server):
    """`Server(settings, on_listening=print).run()` serves until SIGINT or SIGTERM.

    Raises HomeUnusable (another process serves this home; it cannot be written to) and AppError (the database is
    damaged, the disk full), each told in one line. `on_listening` is given the address, e.g. http://127.0.0.1:8400,
    once requests are answered.
    """

    def __init__(self, settings: Settings, on_listening: Callable[[str], None] | None = None) -> None:
        _prepare(settings)
        app = create_app(settings)
        self._services: Services = app.state.services
        self._on_listening = on_listening
        sys.setswitchinterval(SWITCH_SECONDS)
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                lifespan="on",
                access_log=False,  # app.middleware writes one, with request ids
                log_level="warning",
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._on_listening is not None and self.started:
            self._on_listening(self._address())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._services.closing.set()
        super().handle_exit(sig, frame)

    def _address(self) -> str:
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _prepare(settings: Settings) -> None:
    """Before anything else starts: a failed start-up would say the same, but with a traceback."""
    require_writable(settings.home)
    if settings.is_sqlite:
        lock = HomeLock(settings.home)
        lock.acquire()
        try:
            _migrate(settings)
        finally:
            lock.release()


def _migrate(settings: Settings) -> None:
    """Raises AppError for a database that is damaged or that nothing can be written to."""
    database = Database(settings.database)
    try:
        upgrade(database)
    except DatabaseError as error:
        raise recognised(error) from error
    finally:
        database.close()
