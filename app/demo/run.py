"""`whence demo` from beginning to end: its home, its service, and what Ctrl-C and the exit code mean."""

from __future__ import annotations

import signal
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from app.commands.console import err, fail
from app.demo import report
from app.demo.background import BackgroundServer
from app.demo.home import new_run, prepare_home
from app.demo.steps import Place, demonstrate
from app.settings import Settings
from whence_client import Whence

FAILED = 1


def run(*, serve: bool, home: Path | None, port: int | None, evaluate: bool = True) -> int:
    """Exit code: 0; 1 when, without a server to stay up, an invented fact's rows are not found. What is measured of
    their trust changes nothing about that.

    Raises what the steps raise; `whence` prints it as one line.
    """
    home = prepare_home(home)
    wanted = Settings().port if port is None else port
    settings = Settings(home=home, host="127.0.0.1", port=wanted, model_roots=None, log_level="warning")
    signal.signal(signal.SIGTERM, _interrupt)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # to its developers, not to users
    with BackgroundServer(settings, any_port=port is None) as server, Whence(server.address, api_key="") as client:
        missed = demonstrate(client, Place(home, new_run(home), serve), evaluate)
        if not serve:
            return _finish(missed)
        return _stay_up(server)


def _finish(missed: Sequence[str]) -> int:
    if not missed:
        return 0
    named = ", ".join(missed)
    fail(f"Fewer than {report.NEEDED} of the rows that taught the answer are in the top {report.TOP} for: {named}.")
    return FAILED


def _stay_up(server: BackgroundServer) -> int:
    try:
        err.print("\nThe service stays up. Ctrl-C stops it.", style="dim")
        while server.alive:
            time.sleep(0.5)
    except KeyboardInterrupt:
        err.print("Stopping …", style="dim")
        return 0
    fail("The service stopped by itself.")
    return FAILED


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt
