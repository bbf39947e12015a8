"""`whence serve`, `whence migrate`, `whence demo`."""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy.exc import OperationalError, ProgrammingError

from app.commands.console import err, facts, out, print_json, print_json_line, warn
from app.commands.options import Json
from app.database import Database
from app.homelock import require_writable
from app.keys.service import KeyRing
from app.schema import current_revision, require_known, upgrade
from app.settings import Settings

Home = Annotated[Path | None, typer.Option(file_okay=False, help="Default: WHENCE_HOME.", show_default=False)]
Port = Annotated[
    int | None, typer.Option(min=0, max=65535, help="Default: WHENCE_PORT; 0 takes a free one.", show_default=False)
]
ANYONE = "anyone who can reach this address could read and delete everything on this server"


def serve(
    host: Annotated[str | None, typer.Option(help="Default: WHENCE_HOST.", show_default=False)] = None,
    port: Port = None,
    home: Home = None,
    model_root: Annotated[
        list[Path] | None, typer.Option(file_okay=False, exists=True, help="Models may lie below it; may be repeated.")
    ] = None,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help=f"Leave loopback although there are no API keys: {ANYONE}.")
    ] = False,
    json_: Json = False,
) -> None:
    """Serve the API and the page at /ui until Ctrl-C."""
    roots = tuple(model_root) if model_root else None
    settings = _settings(host=host, port=port, home=home, model_roots=roots, without_keys=without_keys or None)
    if settings.home.exists():
        require_writable(settings.home)  # first: a database that cannot be opened has no keys either
    keys = _has_keys(settings)
    _keep_to_loopback(settings, keys)
    _require_known_tables(settings)
    _require_free_port(settings)
    from app.server import Server  # here: the commands that talk to a server need none of it

    Server(settings.for_serving(), on_listening=lambda address: _announce(address, settings, json_, keys)).run()


def migrate(home: Home = None, json_: Json = False) -> None:
    """Bring the database to this version's tables; does nothing when it is there."""
    settings = _settings(home=home)
    require_writable(settings.home)
    database = Database(settings.database)
    try:
        before = current_revision(database)
        upgrade(database)
        after = current_revision(database)
    finally:
        database.close()
    if json_:
        print_json({"before": before, "after": after})
    else:
        out.print(
            f"The database is at {after} (it was {'already there' if before == after else before or 'empty'}).",
            highlight=False,
        )


def demo(
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Keep the server up afterwards.")] = True,
    evaluate: Annotated[
        bool, typer.Option("--evaluate/--no-evaluate", help="Measure how far to trust the answers: about two minutes.")
    ] = True,
    home: Home = None,
    port: Port = None,
) -> int:
    """Fine-tune a small model, index it, ask three questions over HTTP, measure their trust, then serve the page."""
    from app import demo as demonstration  # here: it needs the engine

    return demonstration.run(serve=serve, home=home, port=port, evaluate=evaluate)


def _settings(**given: Any) -> Settings:
    return Settings(**{name: value for name, value in given.items() if value is not None})


def _has_keys(settings: Settings) -> bool:
    """A database that is not there, or has no tables yet, has no keys."""
    database = Database(settings.database)
    try:
        if settings.is_sqlite and not Path(str(database.engine.url.database)).exists():
            return False
        return current_revision(database) is not None and KeyRing(settings, database).has_keys()
    except (OperationalError, ProgrammingError):
        return False
    finally:
        database.close()


def _require_known_tables(settings: Settings) -> None:
    """Before anything else starts: a failed start-up would say the same, but with a traceback. Raises Conflict."""
    database = Database(settings.database)
    try:
        if not settings.is_sqlite or Path(str(database.engine.url.database)).exists():
            require_known(database)
    except (OperationalError, ProgrammingError):
        pass  # the server says what is wrong with its database, at /readyz too
    finally:
        database.close()


def _keep_to_loopback(settings: Settings, keys: bool) -> None:
    if settings.is_loopback or keys:
        return
    if not settings.without_keys:
        raise typer.BadParameter(
            f"{settings.host} is reachable from other machines and this server has no API keys: {ANYONE}. "
            "Make one with `whence keys create NAME`, or leave --host out.",
            param_hint="--host",
        )
    warn(f"Serving {settings.host} without API keys: {ANYONE}.")


def _require_free_port(settings: Settings) -> None:
    """Before anything else starts; between this and the server's own bind lies a moment, in which uvicorn refuses."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise CannotListen(settings.host, settings.port, error) from None


class CannotListen(RuntimeError):
    """Its message is one line with the remedy."""

    def __init__(self, host: str, port: int, error: OSError) -> None:
        if error.errno == errno.EADDRINUSE:
            cause = (
                f"Port {port} on {host} is taken by another program. Choose another with --port (0 takes a free one)."
            )
        elif error.errno == errno.EACCES:
            cause = f"Port {port} needs rights this user lacks. Choose one above 1023 with --port."
        else:
            cause = f"Cannot listen on {host}: {error.strerror}. Give an address of this machine with --host."
        super().__init__(cause)


def _announce(address: str, settings: Settings, as_json: bool, keys: bool) -> None:
    if as_json:
        print_json_line({"url": address, "home": str(settings.home)})
        return
    who = "requests need an API key" if keys else "open to this machine: there are no API keys (whence keys create)"
    places = [("Whence", address), ("page", f"{address}/ui"), ("API", f"{address}/docs"), ("home", settings.home)]
    out.print(facts([*places, ("access", who)]))
    err.print("Ctrl-C stops it.", style="dim")
