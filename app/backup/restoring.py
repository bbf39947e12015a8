"""restore(): everything is verified before anything is written, and the database appears last.

The files are copied into `<home>/.restoring-…` and a new database is filled beside them. Only when all of that is on
the disk are they renamed into place, the database last: a restore that is interrupted leaves a home without a
database, and the backup as it was. What lay in the home is moved to `<home>/before-restore-<time>/`, never deleted.
On PostgreSQL the rows are inserted in one transaction, after the files.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic.util import CommandError
from sqlalchemy import inspect, text
from sqlalchemy.engine import make_url

from app.backup.copying import Advance, sync_tree
from app.backup.dump import load_table
from app.backup.layout import DATABASE, DamagedBackup, Manifest
from app.backup.sources import Source
from app.database import Database
from app.errors import Conflict
from app.homelock import HomeLock
from app.schema import knows_revision, upgrade
from app.settings import Settings
from app.storage import full_disk_is_named
from engine.durable import sync_directory

LOCK_FILE = "server.lock"
SCRATCH_PREFIX = ".restoring-"
BEFORE_PREFIX = "before-restore-"


@dataclass(frozen=True)
class Restored:
    """aside: where what lay there before is now. missing_models: paths that are not on this machine."""

    manifest: Manifest
    aside: Path | None
    missing_models: list[str]


def restore(settings: Settings, source: Source, *, force: bool, advance: Advance) -> Restored:
    """`advance` is told of bytes, twice as many as the backup has: verified, then copied.

    Raises DamagedBackup, Conflict (something is there already; made by a later version), HomeUnusable,
    InsufficientStorage, OSError.
    """
    manifest = source.manifest
    if not knows_revision(manifest.revision):
        detail = f"The backup was made by Whence {manifest.whence_version}, whose tables this version does not know."
        raise Conflict(detail, remedy="Restore it with that version or a later one.")
    source.verify(advance)
    remedy = "Free space there, then restore again: the backup is as it was."
    with full_disk_is_named("The disk filled up while the backup was restored.", remedy), _home(settings) as home:
        occupied = _occupied(settings, force)
        with _scratch(home) as scratch:
            source.extract(scratch, advance)
            aside = _into_sqlite(settings, manifest, scratch, occupied) if settings.is_sqlite else None
            if not settings.is_sqlite:
                aside = _into_postgresql(settings, manifest, scratch, occupied)
    missing = [path for path in manifest.models if not Path(path).exists()]
    return Restored(manifest, aside, missing)


@contextmanager
def _home(settings: Settings) -> Iterator[Path]:
    """Ours alone: no server may start in it meanwhile."""
    lock = HomeLock(settings.home)
    lock.acquire()
    try:
        yield settings.home
    finally:
        lock.release()


@contextmanager
def _scratch(home: Path) -> Iterator[Path]:
    scratch = home / f"{SCRATCH_PREFIX}{uuid.uuid4().hex[:12]}"
    scratch.mkdir(mode=0o700)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _occupied(settings: Settings, force: bool) -> list[Path]:
    """What has to make room. Raises Conflict where nobody said that it may."""
    found = [path for path in settings.home.iterdir() if path.name != LOCK_FILE]
    found = sorted(path for path in found if not path.name.startswith((SCRATCH_PREFIX, BEFORE_PREFIX)))
    if settings.is_sqlite:
        file = _sqlite_file(settings)
        found += [path for path in _with_companions(file) if path.exists() and path not in found]
    elif _rows_in(settings):
        remedy = "Restore into an empty database (createdb), named by WHENCE_DATABASE_URL; nothing is dropped here."
        raise Conflict("The PostgreSQL database has rows already.", remedy=remedy)
    if found and not force:
        remedy = f"Name an empty one with --home, or --force: what is there is moved to {BEFORE_PREFIX}<time> in it."
        raise Conflict(f"WHENCE_HOME {settings.home} is not empty ({found[0].name}).", remedy=remedy)
    return found


def _rows_in(settings: Settings) -> bool:
    """Tables without rows are what an interrupted restore leaves: they do not count."""
    database = Database(settings.database)
    try:
        with database.engine.connect() as connection:
            names = [name for name in inspect(connection).get_table_names() if name != "alembic_version"]
            quoted = [connection.dialect.identifier_preparer.quote(name) for name in names]
            return any(connection.execute(text(f"SELECT 1 FROM {name} LIMIT 1")).first() for name in quoted)
    finally:
        database.close()


def _sqlite_file(settings: Settings) -> Path:
    return Path(make_url(settings.database).database or "").absolute()


def _with_companions(file: Path) -> list[Path]:
    """The database and what SQLite keeps beside it."""
    return [file.with_name(file.name + ending) for ending in ("", "-wal", "-shm", "-journal")]


def _into_sqlite(settings: Settings, manifest: Manifest, scratch: Path, occupied: list[Path]) -> Path | None:
    final = _sqlite_file(settings)
    final.parent.mkdir(parents=True, exist_ok=True)
    draft = final.with_name(f"{scratch.name}-{final.name}")  # beside it: a rename must not leave the file system
    try:
        _fill(f"sqlite:///{draft}", settings, manifest, scratch)
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        aside = _make_room(settings.home, occupied)
        _move_in(scratch, settings.home)
        draft.rename(final)
        sync_directory(final.parent)
        return aside
    finally:
        for leftover in _with_companions(draft):
            leftover.unlink(missing_ok=True)


def _into_postgresql(settings: Settings, manifest: Manifest, scratch: Path, occupied: list[Path]) -> Path | None:
    aside = _make_room(settings.home, occupied)
    _move_in(scratch, settings.home)
    _fill(settings.database, settings, manifest, scratch)
    return aside


def _fill(url: str, settings: Settings, manifest: Manifest, scratch: Path) -> None:
    """At the revision of the backup, then on to this version's."""
    database = Database(url)
    try:
        upgrade(database, manifest.revision)
        with database.write_engine.begin() as connection:
            for table, rows in manifest.tables.items():
                loaded = load_table(connection, scratch / DATABASE / f"{table}.jsonl", _moved(manifest, settings))
                if loaded != rows:
                    raise DamagedBackup(f"The table {table} of the backup has {loaded} rows, not {rows}.")
        upgrade(database)
        if database.is_sqlite:
            with database.engine.connect() as connection:
                connection.connection.driver_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # type: ignore[union-attr]
    except (CommandError, KeyError, ValueError) as error:
        raise DamagedBackup(f"The rows of the backup cannot be loaded: {error}.") from error
    finally:
        database.close()


def _moved(manifest: Manifest, settings: Settings) -> Callable[[str, dict[str, Any]], None]:
    """Jobs that wait to read an upload, and models whose adapter a check made, are told where it lies now."""

    def moved(path: Any, before: Path, after: Path) -> str | None:
        inside = isinstance(path, str) and Path(path).is_relative_to(before)
        return str(after / Path(path).relative_to(before)) if inside else None

    uploads, checks = Path(manifest.home) / "uploads", Path(manifest.home).resolve() / "checks"

    def change(table: str, row: dict[str, Any]) -> None:
        if table == "jobs" and (path := moved((row.get("payload") or {}).get("path"), uploads, settings.uploads_dir)):
            row["payload"] = row["payload"] | {"path": path}
        if table == "models" and (path := moved(row.get("adapter"), checks, settings.checks_dir.resolve())):
            row["adapter"] = path

    return change


def _make_room(home: Path, occupied: list[Path]) -> Path | None:
    if not occupied:
        return None
    aside = home / f"{BEFORE_PREFIX}{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:4]}"
    aside.mkdir(mode=0o700)
    for path in occupied:
        shutil.move(path, aside / path.name)
    sync_directory(home)
    return aside


def _move_in(scratch: Path, home: Path) -> None:
    sync_tree(scratch)
    for path in sorted(scratch.iterdir()):
        if path.name != DATABASE:
            path.rename(home / path.name)
    sync_directory(home)
