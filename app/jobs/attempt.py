"""One attempt at one job, in one worker thread: runs the handler, and writes behind the fence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.database import Database
from app.errors import AppError, Unavailable, problem_of, recognised
from app.jobs.contract import CANCELLED, CANCELLING, FAILED, QUEUED, SUCCEEDED, Done, Handler, JobContext
from app.jobs.events import append, change_state
from app.jobs.progress import Meter, advance
from app.jobs.queue import Fence, Fenced, JobQueue
from app.tables.job import JobRow
from app.telemetry.traces import ORIGIN
from engine.errors import Cancelled, EngineError
from engine.types import Progress

log = structlog.get_logger("whence.jobs")

Json = dict[str, Any]
FIRST_PAUSE_SECONDS = 0.1
OUTAGES = 6  # of the database, one soon after the other, that the work is begun again after
RELEASED, LOST = "released", "lost"


class Released(Cancelled):
    """The server is stopping: the job goes back to the queue."""


class Attempt:
    """The worker's beat thread calls beat() and release(); all else runs in the attempt's own thread.

    outcome: the state it ended the job with, RELEASED (back to the queue), or LOST: nothing it wrote counted.
    """

    def __init__(
        self,
        database: Database,
        handler: Handler,
        job: JobRow,
        *,
        lease: timedelta,
        future: Future[Any] | None = None,
        on_progress: Callable[[Progress], None] = lambda _progress: None,
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
            payload={name: value for name, value in job.payload.items() if name != ORIGIN},
            attempt=job.attempt,
            checkpoint=self.checkpoint,
            message=self.message,
            transaction=self.transaction,
            future=future,
        )
        self.outcome = LOST
        self._on_progress = on_progress
        self._meter = Meter()
        self._stop: Cancelled | None = None

    def run(self) -> None:
        try:
            done = self._handled()
        except Fenced:
            log.warning("job lost to another worker")
        except Exception as error:
            self._stopped(error)
        else:
            self._succeeded(done.result, done.outcome)

    def _handled(self) -> Done:
        """Runs the handler. When a connection is cut under it, it is run again, and goes on from what it kept, as it
        would after a crash: a database that restarts must not fail the jobs of the minute."""
        outages, latest = 0, time.monotonic()
        while True:
            try:
                return self.handler.run(self.context)
            except Exception as error:
                outages = 1 if time.monotonic() - latest > self.lease.total_seconds() else outages + 1
                if not isinstance(recognised(error), Unavailable) or outages > OUTAGES:
                    raise
                log.warning("the database went away under a job, which begins again", outages=outages)
            time.sleep(FIRST_PAUSE_SECONDS * 2 ** (outages - 1))
            self._raise_if_stopped()
            latest = time.monotonic()

    def checkpoint(self, progress: Progress) -> None:
        """See JobContext.checkpoint. A database that is away for a moment does not stop the work."""
        self._raise_if_stopped()
        self._on_progress(progress)
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
        for pause in self._pauses():
            try:
                with self._held() as (session, job):
                    change_state(session, job, state, result=result, error=error)
                    follow(self.handler, session, job, outcome)
                break
            except OperationalError as away:
                if not pause or isinstance(self._stop, Released):
                    raise
                log.warning("the end of a job cannot be written yet", state=state, error=str(away.orig))
                time.sleep(pause)
        self.outcome = state

    def _pauses(self) -> Iterator[float]:
        """Hours of work must not be lost to a database that is away for a moment. Once the lease is over another
        worker may have the job, and then it is for that one to end it: the last of the pauses is 0."""
        deadline, pause = time.monotonic() + self.lease.total_seconds(), FIRST_PAUSE_SECONDS
        while time.monotonic() + pause < deadline:
            yield pause
            pause *= 2
        yield 0.0

    def _requeue(self) -> None:
        with self._held() as (session, job):
            ended = CANCELLED if job.state == CANCELLING else QUEUED
            job.attempts_without_progress = max(0, job.attempts_without_progress - 1)
            change_state(session, job, ended)
            follow(self.handler, session, job, None)
        self.outcome = RELEASED if ended == QUEUED else ended

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
    """The detail of a caller's mistake may quote their rows: it is in the job, not in the log."""
    body = problem_of(error)
    if isinstance(error, (EngineError, AppError)):
        log.warning("job failed", code=error.code, detail=body["detail"] if body["status"] >= 500 else None)
    else:
        log.error("job failed", exc_info=error)
