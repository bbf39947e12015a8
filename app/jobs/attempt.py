"""One attempt at one job, in one worker thread: runs the handler, and writes behind the fence."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.database import Database
from app.errors import AppError, problem_of
from app.jobs.contract import CANCELLED, CANCELLING, FAILED, QUEUED, SUCCEEDED, Handler, JobContext
from app.jobs.events import append, change_state
from app.jobs.progress import Meter, advance
from app.jobs.queue import Fence, Fenced, JobQueue
from app.tables.job import JobRow
from engine.errors import Cancelled, EngineError
from engine.types import Progress

log = structlog.get_logger("whence.jobs")

Json = dict[str, Any]


class Released(Cancelled):
    """The server is stopping: the job goes back to the queue."""


class Attempt:
    """The worker's beat thread calls beat() and release(); all else runs in the attempt's own thread."""

    def __init__(
        self,
        database: Database,
        handler: Handler,
        job: JobRow,
        *,
        lease: timedelta,
        future: Future[Any] | None = None,
    ) -> None:
        assert job.worker_id is not None
        self.database = database
        self.handler = handler
        self.lease = lease
        self.fence = Fence(job.id, job.worker_id, job.attempt)
        self.context = JobContext(
            job_id=job.id,
            kind=job.kind,
            tenant=job.tenant,
            payload=job.payload,
            attempt=job.attempt,
            checkpoint=self.checkpoint,
            message=self.message,
            transaction=self.transaction,
            future=future,
        )
        self._meter = Meter()
        self._stop: Cancelled | None = None

    def run(self) -> None:
        try:
            done = self.handler.run(self.context)
        except Fenced:
            log.warning("job lost to another worker")
        except Exception as error:
            self._stopped(error)
        else:
            self._succeeded(done.result, done.outcome)

    def checkpoint(self, progress: Progress) -> None:
        """See JobContext.checkpoint. A database that is away for a moment does not stop the work."""
        self._raise_if_stopped()
        if self._meter.due(progress):
            try:
                self._report(progress)
            except OperationalError as error:
                log.warning("progress not written", error=str(error.orig))
        self._raise_if_stopped()

    def message(self, text: str) -> None:
        with self._held() as (session, job):
            append(session, job, "message", {"text": text})

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        with self._held() as (session, _job):
            yield session

    def beat(self) -> None:
        """Renews the lease; notices cancellation and a lost fence for checkpoints that are not due."""
        try:
            with self._held() as (_session, job):
                self._notice(job)
        except Fenced as fenced:
            self._stop = fenced

    def release(self) -> None:
        self._stop = self._stop or Released("the server is stopping")

    def _report(self, progress: Progress) -> None:
        with self._held() as (session, job):
            job.progress = snapshot = self._meter.snapshot(progress)
            marker = advance(job.progress_marker, progress)
            if marker is not None:
                job.progress_marker, job.attempts_without_progress = marker, 0
            if self._meter.event_due(progress):
                append(session, job, "progress", snapshot)
            self._notice(job)

    def _notice(self, job: JobRow) -> None:
        if job.state == CANCELLING:
            self._stop = self._stop or Cancelled("the job was cancelled")

    def _raise_if_stopped(self) -> None:
        if self._stop is not None:
            raise self._stop

    def _succeeded(self, result: Json, outcome: Any) -> None:
        try:
            self._end(SUCCEEDED, result=result, outcome=outcome)
        except Fenced:
            log.warning("job lost to another worker at its end")
        except Exception as error:
            self._stopped(error)

    def _stopped(self, error: Exception) -> None:
        """The handler did not finish: requeued on shutdown, else cancelled or failed."""
        try:
            if isinstance(self._stop, Released):
                self._requeue()
            elif isinstance(error, Cancelled):
                self._end(CANCELLED)
            else:
                _log_failure(error)
                self._end(FAILED, error=problem_of(error))
        except Fenced:
            log.warning("job lost to another worker at its end")

    def _end(self, state: str, *, result: Json | None = None, error: Json | None = None, outcome: Any = None) -> None:
        with self._held() as (session, job):
            change_state(session, job, state, result=result, error=error)
            follow(self.handler, session, job, outcome)
        log.info("job ended", state=state)

    def _requeue(self) -> None:
        with self._held() as (session, job):
            ended = CANCELLED if job.state == CANCELLING else QUEUED
            job.attempts_without_progress = max(0, job.attempts_without_progress - 1)
            change_state(session, job, ended)
            follow(self.handler, session, job, None)
        log.info("job released", state=ended)

    @contextmanager
    def _held(self) -> Iterator[tuple[Session, JobRow]]:
        with self.database.write() as session:
            yield session, JobQueue(session, self.lease).hold(self.fence)


def follow(handler: Handler, session: Session, job: JobRow, outcome: Any) -> None:
    """Lets the resource follow its job. A success that cannot be recorded is a failure of the job;
    the other ends must be recorded in any case, or the job would be taken up for ever."""
    if job.state == SUCCEEDED:
        handler.follow(session, job, outcome)
        return
    try:
        with session.begin_nested():
            handler.follow(session, job, outcome)
    except Exception:
        log.exception("the resource did not follow its job", state=job.state)


def _log_failure(error: Exception) -> None:
    if isinstance(error, (EngineError, AppError)):
        log.warning("job failed", code=error.code, detail=error.detail)
    else:
        log.error("job failed", exc_info=error)
