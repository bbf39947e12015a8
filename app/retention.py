"""`WHENCE_KEEP_DAYS`: what has ended and is older is deleted in the background, a little at a time.

Stored answers and what was checked of them, ended jobs with their events, batches with their files. Never what runs,
and never what others are made of: models, datasets, indexes and evaluations stay until somebody deletes them, and so
does a check whose files a model is read from.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from sqlalchemy import ColumnElement, and_, delete, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.database import Database
from app.jobs.contract import ENDED
from app.settings import Settings
from app.storage import remove_directory
from app.tables import AttributionRow, BatchRow, CheckRow, JobRow, ModelRow, utc_now

log = structlog.get_logger("whence.retention")

EVERY_SECONDS = 3600.0
ROWS_AT_ONCE = 200  # so that nobody waits long for SQLite's one writer
STOP_SECONDS = 10.0
_LOCK = 0x57484E4B  # any number all servers of one PostgreSQL agree on

Table = type[AttributionRow] | type[BatchRow] | type[CheckRow] | type[JobRow]


class Retention:
    """One thread a process; of the processes of one database one deletes at a time. Does nothing unless `keep_days` is
    set. clock: what time it is."""

    def __init__(self, settings: Settings, database: Database, clock: Callable[[], datetime] = utc_now) -> None:
        self.settings, self.database, self.clock = settings, database, clock
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self.settings.keep_days:
            self._thread = threading.Thread(target=self._serve, name="whence-retention", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """At the end of the transaction under way."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def run_once(self) -> dict[str, int]:
        """Deletes all that is too old by now; how many of each kind."""
        if not self.settings.keep_days:
            return {}
        before = self.clock() - timedelta(days=self.settings.keep_days)
        # Jobs last: one is deleted no sooner than what it worked for.
        tables: tuple[Table, ...] = (BatchRow, CheckRow, AttributionRow, JobRow)
        return {table.__tablename__: self._delete_all(table, before) for table in tables}

    def _delete_all(self, table: Table, before: datetime) -> int:
        deleted = 0
        while not self._stopping.is_set() and (gone := self._delete_some(table, before)):
            deleted += len(gone)
            if table in (BatchRow, CheckRow):
                folder = self.settings.batches_dir if table is BatchRow else self.settings.checks_dir
                for row_id in gone:
                    remove_directory(folder / row_id)
        return deleted

    def _delete_some(self, table: Table, before: datetime) -> list[str]:
        """The oldest of them, in one small transaction; nothing when another process is at it."""
        with self.database.write() as session:
            if not _alone(session):
                return []
            old = _old(table, before)
            oldest = select(table.id).where(old).order_by(table.created_at).limit(ROWS_AT_ONCE)
            # The condition once more: on PostgreSQL a job may have been resumed since it was selected.
            doomed = delete(table).where(table.id.in_(oldest.scalar_subquery()), old).returning(table.id)
            return list(session.scalars(doomed))

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                deleted = {kind: count for kind, count in self.run_once().items() if count}
                if deleted:
                    log.info("old rows deleted", keep_days=self.settings.keep_days, **deleted)
            except SQLAlchemyError as error:
                log.warning("retention: the database does not answer", cause=str(error).splitlines()[0])
            except Exception:
                log.exception("retention met an error")
            self._stopping.wait(EVERY_SECONDS)


def _alone(session: Session) -> bool:
    """SQLite has one process and one writer; on PostgreSQL the lock goes with the transaction."""
    if session.get_bind().dialect.name != "postgresql":
        return True
    return bool(session.scalar(select(func.pg_try_advisory_xact_lock(_LOCK))))


def _old(table: Table, before: datetime) -> ColumnElement[bool]:
    """Ended, and longer ago than that."""
    ended = table.state.in_(ENDED) if table is JobRow else table.state.not_in(("queued", "running"))
    old = and_(ended, func.coalesce(table.finished_at, table.created_at) < before)
    if table is not CheckRow:
        return old
    read = select(ModelRow.id).where(ModelRow.id == CheckRow.new_model_id).exists()
    return and_(old, ~read)
