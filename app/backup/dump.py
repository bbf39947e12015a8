"""The tables as JSON lines: what either database can be filled from.

The first line of a file names the columns and how their values are written; every other line is one row. So a dump
can be read by a later version, whose code knows other columns: it is loaded at the revision that it was made at, and
migrated from there.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import JSON, Connection, LargeBinary, Table, column, insert, inspect, select
from sqlalchemy import table as light_table
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.types import NullType, TypeEngine

from app.backup.layout import DamagedBackup
from app.database import Database
from app.tables import Base
from app.tables.base import JsonValue, UtcDateTime

ROWS_AT_ONCE = 500

PLAIN, JSON_VALUE, TIME, BYTES = "plain", "json", "time", "bytes"
TYPES: dict[str, TypeEngine[Any]] = {
    PLAIN: NullType(),
    JSON_VALUE: JsonValue,
    TIME: UtcDateTime(),
    BYTES: LargeBinary(),
}
WRITE: dict[str, Callable[[Any], Any]] = {
    PLAIN: lambda value: value,
    JSON_VALUE: lambda value: value,
    TIME: lambda value: value.isoformat(),
    BYTES: lambda value: base64.b64encode(value).decode(),
}
# What a file raises that is not what write_table wrote, and rows that the table does not take.
NOT_A_DUMP = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, SQLAlchemyError)
READ: dict[str, Callable[[Any], Any]] = WRITE | {TIME: datetime.fromisoformat, BYTES: base64.b64decode}


@contextmanager
def snapshot(database: Database) -> Iterator[Connection]:
    """One moment of the database, however long it is read; writers are not held up.

    SQLite: a read transaction keeps the state of its first SELECT (WAL). PostgreSQL: REPEATABLE READ.
    """
    with database.engine.connect() as connection:
        if not database.is_sqlite:
            connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        yield connection


def tables() -> list[Table]:
    """Every table, those first that others refer to."""
    return Base.metadata.sorted_tables


def write_table(connection: Connection, table: Table, sink: BinaryIO) -> int:
    """The number of rows."""
    kinds = {found.name: _kind(found.type) for found in table.columns}
    sink.write(_line({"table": table.name, "columns": kinds}))
    writers = [WRITE[kind] for kind in kinds.values()]
    rows = 0
    query = select(table).order_by(*table.primary_key.columns).execution_options(yield_per=ROWS_AT_ONCE)
    for row in connection.execute(query):
        pairs = zip(writers, row, strict=True)
        sink.write(_line([None if value is None else write(value) for write, value in pairs]))
        rows += 1
    return rows


def load_table(connection: Connection, path: Path, change: Callable[[str, dict[str, Any]], None]) -> int:
    """Inserts the rows of a dump, each passed through `change(table, row)`. Returns their number.

    Raises DamagedBackup for what is no dump of a table that is there.
    """
    try:
        with path.open("rb") as file:
            return _load(connection, path.stem, file, change)
    except OperationalError:
        raise  # the database's own: it is full, or away
    except NOT_A_DUMP as error:
        cause = " ".join(str(getattr(error, "orig", None) or error).split())[:200]
        raise DamagedBackup(f"The rows in {path.name} of the backup cannot be loaded: {cause}.") from error


def _load(connection: Connection, table: str, file: BinaryIO, change: Callable[[str, dict[str, Any]], None]) -> int:
    head = json.loads(file.readline())
    kinds: dict[str, str] = head["columns"]
    if head["table"] != table:
        raise ValueError(f"they are those of another table, {head['table']!r}")
    _require_columns(connection, head["table"], kinds)
    target = light_table(head["table"], *(column(name, TYPES[kind]) for name, kind in kinds.items()))
    loaded = 0
    while lines := list(islice(file, ROWS_AT_ONCE)):
        rows = [_row(kinds, json.loads(line)) for line in lines]
        for row in rows:
            change(head["table"], row)
        connection.execute(insert(target), rows)
        loaded += len(rows)
    return loaded


def _require_columns(connection: Connection, table: str, names: Iterable[str]) -> None:
    """Asked first: of a table that is not there the databases complain in words of their own. Raises ValueError."""
    known = inspect(connection)
    there = {found["name"] for found in known.get_columns(table)} if known.has_table(table) else set()
    strange = set(names) - there
    if not there or strange:
        raise ValueError(f"the database has no table {table[:100]!r} with columns {sorted(strange)}")


def _row(kinds: dict[str, str], values: list[Any]) -> dict[str, Any]:
    pairs = zip(kinds.items(), values, strict=True)
    return {name: None if value is None else READ[kind](value) for (name, kind), value in pairs}


def _kind(found: TypeEngine[Any]) -> str:
    if isinstance(found, UtcDateTime):
        return TIME
    if isinstance(found, JSON):
        return JSON_VALUE
    return BYTES if isinstance(found, LargeBinary) else PLAIN


def _line(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
