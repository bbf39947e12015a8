"""Migrations as code: one Alembic history for SQLite and PostgreSQL, found beside the package.

Alembic is imported by what uses it: it takes a tenth of a second, and importing the service does without.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, MetaData, text

from app.database import Database
from app.errors import Conflict

if TYPE_CHECKING:
    from alembic.config import Config

SCRIPTS = Path(__file__).resolve().parent.parent / "migrations"
_MIGRATION_LOCK = 0x5748454E4345  # any number all servers of one PostgreSQL agree on


def upgrade(database: Database, revision: str = "head") -> None:
    """Brings the database to `revision`; does nothing when it is there. All or nothing. Raises Conflict: see below."""
    from alembic import command

    require_known(database)
    with _migrating(database) as connection:
        command.upgrade(_config(connection), revision)


def downgrade(database: Database, revision: str) -> None:
    from alembic import command

    with _migrating(database) as connection:
        command.downgrade(_config(connection), revision)


def new_revision(database: Database, number: str, message: str) -> None:
    """Writes migrations/versions/<number>_<message>.py from what the code has and the database lacks."""
    from alembic import command

    with _migrating(database) as connection:
        command.revision(_config(connection), message, rev_id=number, autogenerate=True)


def head_revision() -> str:
    from alembic.script import ScriptDirectory

    head = ScriptDirectory(str(SCRIPTS)).get_current_head()
    assert head is not None
    return head


def knows_revision(revision: str) -> bool:
    """False for one of a later version."""
    from alembic.script import ScriptDirectory

    return any(found.revision == revision for found in ScriptDirectory(str(SCRIPTS)).walk_revisions())


def current_revision(database: Database) -> str | None:
    """None for a database that was never migrated."""
    from alembic.migration import MigrationContext

    with database.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def require_known(database: Database) -> None:
    """Raises Conflict when a later version of Whence has migrated the database."""
    revision = current_revision(database)
    if revision is not None and not knows_revision(revision):
        remedy = "Install that version again, or restore a backup that was made before it: whence restore."
        raise Conflict(
            f"The database has the tables of a later version of Whence (revision {revision}).", remedy=remedy
        )


def is_at_head(database: Database) -> bool:
    return current_revision(database) == head_revision()


def differences(connection: Connection, metadata: MetaData) -> list[Any]:
    """What autogenerate would change to get from this database to `metadata`."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    return compare_metadata(MigrationContext.configure(connection, opts=COMPARE), metadata)


def differences_from_migrations(metadata: MetaData) -> list[Any]:
    """The same for a fresh SQLite database that has just been migrated to head."""
    with tempfile.TemporaryDirectory() as directory:
        database = Database(f"sqlite:///{directory}/migrated.sqlite3")
        try:
            upgrade(database)
            with database.engine.connect() as connection:
                return differences(connection, metadata)
        finally:
            database.close()


COMPARE = {"compare_type": True, "compare_server_default": True}


class _migrating:
    """One connection with one write transaction. On SQLite foreign keys are off inside: batch operations
    rebuild tables, and dropping the old one would delete what refers to it. On PostgreSQL servers that
    start together wait for each other."""

    def __init__(self, database: Database) -> None:
        self._is_sqlite = database.is_sqlite
        self._connection = database.write_engine.connect()

    def __enter__(self) -> Connection:
        if self._is_sqlite:
            self._foreign_keys("OFF")
        self._transaction = self._connection.begin()
        if not self._is_sqlite:
            self._connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._transaction.rollback() if kind else self._transaction.commit()
        finally:
            if self._is_sqlite:
                self._foreign_keys("ON")
            self._connection.close()

    def _foreign_keys(self, state: str) -> None:
        # Past SQLAlchemy: the pragma does nothing inside a transaction, and SQLAlchemy would begin one.
        driver_connection: Any = self._connection.connection.dbapi_connection
        driver_connection.execute(f"PRAGMA foreign_keys={state}")


def _config(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
