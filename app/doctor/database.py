"""The database itself, and the secret that its keys are made with."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from app.doctor.findings import Finding, Store
from app.errors import InsufficientStorage, ReadOnlyStorage, recognised
from app.schema import current_revision, head_revision
from app.secret import FILE as SECRET
from app.secret import REMEDY, SHORTEST


def check_pages(store: Store) -> Iterator[Finding]:
    """SQLite's own check of its file; PostgreSQL looks after its own."""
    if not store.database.is_sqlite:
        return
    try:
        with store.database.engine.connect() as connection:
            said = [str(row[0]) for row in connection.execute(text("PRAGMA quick_check(5)"))]
    except DatabaseError as error:
        if isinstance(recognised(error), (InsufficientStorage, ReadOnlyStorage)):
            raise  # nothing is known of its pages then
        said = [str(error.orig)]
    if said != ["ok"]:
        remedy = "Restore the last backup: whence restore SRC --force (the damaged home is kept aside)."
        yield Finding("database-damaged", store.database.engine.url.database or "", said[0], remedy, stops=True)


def check_migrations(store: Store) -> Iterator[Finding]:
    found, head = current_revision(store.database), head_revision()
    if found != head:
        what = f"The database is at revision {found or 'none'}; this version of Whence needs {head}."
        remedy = "Run `whence migrate` (or install the version of Whence that the database was made by)."
        yield Finding("migrations", "database", what, remedy, stops=True)


def check_secret(store: Store) -> Iterator[Finding]:
    """Absent where no key was ever made, or WHENCE_SECRET is set."""
    path = store.settings.home / SECRET
    if store.settings.secret is None and path.is_file() and (size := path.stat().st_size) < SHORTEST:
        yield Finding("secret-damaged", store.shown(path), f"It holds only {size} bytes.", REMEDY)
