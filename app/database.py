"""Sessions on SQLite and PostgreSQL alike, and the base repository with the only tenant filter."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import quote

from sqlalchemy import ColumnElement, Connection, Engine, Select, create_engine, event, func, select, tuple_
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.orm import Session, sessionmaker

from app.errors import NotFound
from app.pagination import PageRequest, decode_position, encode_position
from app.tables.base import Base, Listed

SQLITE_BUSY_SECONDS = 30
# More than the 40 threads that serve requests, plus the job threads: a request never waits for a connection.
POOL_SIZE, POOL_OVERFLOW = 10, 50
# hide_parameters: errors are logged, and their messages would quote the prompts and rows of the statement.
OPTIONS: dict[str, Any] = {"pool_size": POOL_SIZE, "max_overflow": POOL_OVERFLOW, "hide_parameters": True}


class Database:
    """`with database.write() as session:` commits at its end; `read()` never writes.

    On SQLite a write begins with BEGIN IMMEDIATE, so it never fails half way with a lock it
    cannot upgrade, and synchronous=FULL makes an acknowledged write survive kill -9 and power loss.
    """

    def __init__(self, url: str, *, look_only: bool = False) -> None:
        """look_only: an SQLite file that no server has open is read as it lies there, without lock or journal: for a
        disk that is full or read-only, where SQLite cannot make what it otherwise needs beside the file."""
        self.is_sqlite = make_url(url).get_backend_name() == "sqlite"
        if self.is_sqlite and look_only:
            url = f"sqlite:///file:{quote(make_url(url).database or '')}?immutable=1&uri=true"
        self.engine = _sqlite_engine(url) if self.is_sqlite else create_engine(url, pool_pre_ping=True, **OPTIONS)
        self.write_engine = self.engine.execution_options(whence_write=True)
        self.readers = sessionmaker(self.engine, expire_on_commit=False)
        self.writers = sessionmaker(self.write_engine, expire_on_commit=False)

    @contextmanager
    def read(self) -> Iterator[Session]:
        with self.readers() as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        with self.writers.begin() as session:
            yield session

    def close(self) -> None:
        self.engine.dispose()


def _sqlite_engine(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": SQLITE_BUSY_SECONDS, "check_same_thread": False}, **OPTIONS)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN comes too late; _begin emits it
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("whence_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    _forget_read_only(engine)
    return engine


def _forget_read_only(engine: Engine) -> None:
    """What SQLite opened while the disk was read-only stays so, and is shared by all connections of the process. So
    after each refusal they are closed, those in use as soon as they are not: the next one finds the disk as it is."""
    era = 0

    @event.listens_for(engine, "connect")
    def _opened(_connection: Any, record: Any) -> None:
        record.info["era"] = era

    @event.listens_for(engine, "checkin")
    def _returned(_connection: Any, record: Any) -> None:
        if record.info.get("era") != era:
            record.invalidate()

    @event.listens_for(engine, "handle_error")
    def _refused(context: ExceptionContext) -> None:
        nonlocal era
        if getattr(context.original_exception, "sqlite_errorname", "").startswith("SQLITE_READONLY"):
            era += 1
            engine.dispose()


Row = TypeVar("Row", bound=Listed)


class Repository(Generic[Row]):
    """Rows of one table that belong to one tenant. Subclasses set `table` and `noun`, and start
    every query from `rows()`."""

    table: ClassVar[type[Any]]
    noun: ClassVar[str]

    def __init__(self, session: Session, tenant: str) -> None:
        self.session = session
        self.tenant = tenant

    def rows(self, *where: ColumnElement[bool]) -> Select[Row]:
        """The only place that filters by tenant."""
        return select(self.table).where(self.table.tenant == self.tenant, *where)

    def find(self, row_id: str) -> Row | None:
        return self.session.scalars(self.rows(self.table.id == row_id)).one_or_none()

    def get(self, row_id: str) -> Row:
        """Raises NotFound, for another tenant's id too."""
        row = self.find(row_id)
        if row is None:
            raise NotFound(f"There is no {self.noun} '{row_id[:60]}'.")
        return row

    def some(self, row_ids: Collection[str]) -> dict[str, Row]:
        """Those of these that exist, by id."""
        return {row.id: row for row in self.session.scalars(self.rows(self.table.id.in_(set(row_ids))))}

    def first(self, *where: ColumnElement[bool]) -> Row | None:
        """The newest row."""
        newest = (self.table.created_at.desc(), self.table.id.desc())
        return self.session.scalars(self.rows(*where).order_by(*newest).limit(1)).first()

    def count(self, *where: ColumnElement[bool]) -> int:
        return self.session.scalar(select(func.count()).select_from(self.rows(*where).subquery())) or 0

    def page(self, request: PageRequest, *where: ColumnElement[bool]) -> tuple[list[Row], str | None]:
        """One page, newest first, and the cursor of the next one."""
        key = tuple_(self.table.created_at, self.table.id)
        query = self.rows(*where).order_by(self.table.created_at.desc(), self.table.id.desc())
        if request.cursor is not None:
            query = query.where(key < decode_position(request.cursor))
        rows = list(self.session.scalars(query.limit(request.limit + 1)))
        if len(rows) <= request.limit:
            return rows, None
        last = rows[request.limit - 1]
        return rows[: request.limit], encode_position(last.created_at, last.id)

    def add(self, row: Row) -> Row:
        """Inserts the row for this tenant; its id and defaults are set on return."""
        row.tenant = self.tenant
        self.session.add(row)
        self.session.flush()
        return row

    def delete(self, row: Row) -> None:
        self.session.delete(row)
        self.session.flush()


def main(arguments: list[str]) -> int:
    """`python -m app.database check`: 0 when migrations at head give exactly the tables of the code."""
    from app.schema import differences_from_migrations  # here: app.schema needs this module

    if arguments != ["check"]:
        print("usage: python -m app.database check", file=sys.stderr)
        return 2
    differences = differences_from_migrations(Base.metadata)
    for difference in differences:
        print(f"not in the migrations: {difference}", file=sys.stderr)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
