"""`whence doctor`: the store of a server, checked and repaired, straight on its files and its database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError, SQLAlchemyError

from app.commands.console import clean, out, print_json
from app.commands.options import Json
from app.commands.progress import PhaseBars
from app.commands.serve import Home
from app.database import Database
from app.doctor.findings import Finding, Store
from app.doctor.run import Repaired, examine, repair
from app.errors import AppError, Conflict, NotFound, Unavailable, recognised
from app.homelock import HomeInUse, HomeLock
from app.settings import Settings

FOUND = 1


def doctor(
    repair_: Annotated[
        bool, typer.Option("--repair", help="Repair what can be repaired; the server has to be stopped.")
    ] = False,
    home: Home = None,
    json_: Json = False,
) -> int:
    """Check the store of a server: checksums, files against the database, rows without jobs. Exit code 1: something is
    wrong. Beside a running server it only reads."""
    settings = Settings() if home is None else Settings(home=home)
    with opened(settings) as database, PhaseBars() as bars:
        store = Store(settings, database, tell=bars.show)
        outcome = _repaired(store) if repair_ else examine(store)
    if isinstance(outcome, Repaired):
        _print_repaired(outcome, json_)
        return FOUND if outcome.left else 0
    _print_found(outcome, json_)
    return FOUND if outcome else 0


def _repaired(store: Store) -> Repaired:
    with _alone(store.settings):
        return repair(store)


@contextmanager
def opened(settings: Settings) -> Iterator[Database]:
    """The database of a server that is there already. Raises NotFound, Unavailable."""
    if settings.is_sqlite and not Path(make_url(settings.database).database or "").is_file():
        remedy = "Set WHENCE_HOME or --home to that of a server; `whence serve` makes a new one."
        raise NotFound(f"There is no database of a server in {settings.home}.", remedy=remedy)
    database = _readable(settings)
    try:
        yield database
    except SQLAlchemyError as error:
        named = recognised(error)
        if isinstance(named, AppError) and type(named) is not Unavailable:
            raise named from error
        cause = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise Unavailable(
            f"The database cannot be used: {cause}.", remedy="See that it runs and can be reached."
        ) from error
    finally:
        database.close()


def _readable(settings: Settings) -> Database:
    """On a disk that is full or read-only SQLite can make nothing beside its file. The file is then looked at as it is,
    where it is all there is: no journal of a server lies beside it."""
    database = Database(settings.database)
    try:
        if database.is_sqlite:
            database.engine.connect().close()
    except DatabaseError as error:
        file = Path(make_url(settings.database).database or "")
        journal = file.with_name(file.name + "-wal")
        shut_out = getattr(error.orig, "sqlite_errorname", "") in ("SQLITE_IOERR_SHMSIZE", "SQLITE_CANTOPEN")
        if shut_out and not (journal.exists() and journal.stat().st_size):
            database.close()
            return Database(settings.database, look_only=True)
    return database


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """On SQLite: no server may run meanwhile. On PostgreSQL every repair looks again before it acts."""
    if not settings.is_sqlite:
        yield
        return
    lock = HomeLock(settings.home)
    try:
        lock.acquire()
    except HomeInUse:
        detail = f"A server is running on {settings.home}: beside it doctor only reads."
        raise Conflict(detail, remedy="Stop the server, then run `whence doctor --repair` again.") from None
    try:
        yield
    finally:
        lock.release()


def _print_found(found: Sequence[Finding], as_json: bool) -> None:
    if as_json:
        print_json({"ok": not found, "findings": [finding.to_json() for finding in found]})
        return
    for finding in found:
        _print_line(finding, finding.remedy)
    count = len(found)
    repairable = sum(finding.repair is not None for finding in found)
    summary = "Nothing is wrong." if not found else f"{count} {'finding' if count == 1 else 'findings'}"
    if found:
        summary += f"; `whence doctor --repair` can repair {repairable}." if repairable else "."
    out.print(summary, highlight=False)


def _print_repaired(repaired: Repaired, as_json: bool) -> None:
    if as_json:
        done: list[Any] = [finding.to_json() | {"done": said} for finding, said in repaired.done]
        left: list[Any] = [finding.to_json() | {"why": said} for finding, said in repaired.left]
        print_json({"ok": not left, "repaired": done, "left": left})
        return
    for finding, said in repaired.done:
        _print_line(finding, f"Repaired: {said}")
    for finding, said in repaired.left:
        _print_line(finding, f"Not repaired: {said} {finding.remedy}")
    if not repaired.done and not repaired.left:
        out.print("Nothing is wrong.", highlight=False)
    else:
        out.print(f"{len(repaired.done)} repaired, {len(repaired.left)} left.", highlight=False)


def _print_line(finding: Finding, then: str) -> None:
    out.print(clean(f"{finding.kind}  {finding.subject}  {finding.what} {then}"), soft_wrap=True)
