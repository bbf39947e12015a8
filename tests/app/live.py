"""The service behind a real socket, for what cannot be tested in process: the blocking client and the commands."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from app.engine_client import EngineClient
from app.main import create_app
from app.settings import Settings


@contextmanager
def serving(settings: Settings, engine: EngineClient) -> Iterator[str]:
    """The address of the running service."""
    app = create_app(settings, engine)
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="error", access_log=False, timeout_graceful_shutdown=2)
    )
    thread = threading.Thread(target=server.run, name="test-server")
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        app.state.services.closing.set()
        server.should_exit = True
        thread.join(10)
