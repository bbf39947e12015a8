"""Claims jobs, runs them, beats. One Worker a process, with a few threads."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.database import Database
from app.errors import problem
from app.jobs.attempt import Attempt, follow
from app.jobs.contract import CANCELLED, CANCELLING, FAILED, RUNNING, Handler
from app.jobs.events import JOBS_QUEUED, change_state
from app.jobs.queue import Fence, JobQueue
from app.settings import Settings
from app.tables.job import JobRow
from app.telemetry import Metrics, Traces
from app.telemetry.attempts import WatchedAttempt, watched_attempt

log = structlog.get_logger("whence.worker")

LONG_KINDS = ("index.build", "evaluation.run", "check.run", "attribution.batch")
STOP_SECONDS = 10.0
ERROR_SECONDS = 5.0  # a database that is away, or not migrated yet, is not asked in a hurry


class News:
    """Wakes every waiting thread. Each compares with what it had seen before it last looked for work:
    with a plain Event, one thread's clear() could swallow what another was about to wait for."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = threading.Condition()

    def tell(self) -> None:
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def wait_beyond(self, seen: int, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.count != seen, timeout=seconds)


class Worker:
    """`id` names this process in the jobs it holds."""

    def __init__(
        self, settings: Settings, database: Database, metrics: Metrics | None = None, traces: Traces | None = None
    ) -> None:
        self.metrics, self.traces = metrics or Metrics(), traces or Traces()
        self.id = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.settings = settings
        self.database = database
        self.handlers: dict[str, Handler] = {}
        self.lease = timedelta(seconds=settings.lease_seconds)
        self._attempts: dict[str, Attempt] = {}
        self._lock = threading.Lock()
        self._news = News()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        event.listen(database.writers, "after_commit", self._committed)

    def start(self, handlers: Mapping[str, Handler]) -> None:
        """Starts the beat and the job threads. The last of several job threads leaves long kinds alone,
        so that small jobs never wait for an index build, an evaluation or a check."""
        self.handlers = dict(handlers)
        self._spawn("whence-beat", self._beat)
        count = self.settings.worker_threads
        for number in range(count):
            excluding = LONG_KINDS if count > 1 and number == count - 1 else ()
            self._spawn(f"whence-job-{number}", self._serve, excluding)

    def take_over(self) -> None:
        """Frees every job a dead process left running. Only for a process that is alone on its database."""
        with self.database.write() as session:
            JobQueue(session, self.lease).expire_all()

    def stop(self) -> None:
        """Asks every attempt to stop at its next checkpoint; its job goes back to the queue."""
        self._stopping.set()
        self._news.tell()
        for attempt in self._running():
            attempt.release()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in list(self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))

    def adopt(self, job_id: str, future: Future[Any]) -> None:
        """Runs a job that was enqueued with `adopted_by=worker.id`, around a computation under way."""
        with self.database.write() as session:
            job = JobQueue(session, self.lease).hold(Fence(job_id, self.id, 1))
        self._spawn(f"whence-{job_id}", self._run, job, future)

    def follow(self, session: Session, job: JobRow, outcome: Any) -> None:
        """Lets the resource of `job` follow its state, inside the caller's transaction."""
        handler = self.handlers.get(job.kind)
        if handler is not None:
            follow(handler, session, job, outcome)

    def run_next(self, excluding: Sequence[str] = ()) -> bool:
        """Claims one job and runs it to its end in this thread; False when there was none."""
        job = self._claim(excluding)
        if job is not None and job.state == RUNNING:
            self._run(job, None)
        return job is not None

    def _claim(self, excluding: Sequence[str]) -> JobRow | None:
        with self.database.write() as session:
            job = JobQueue(session, self.lease).claim(self.id, excluding)
            if job is None:
                return None
            self._begin(session, job)
            return job

    def _begin(self, session: Session, job: JobRow) -> None:
        """What the claimer finds: a job to run, or one that only has to be ended."""
        if job.state == CANCELLING:
            change_state(session, job, CANCELLED)
        elif job.kind not in self.handlers:
            change_state(session, job, FAILED, error=_no_handler(job))
        elif job.attempts_without_progress > self.settings.max_attempts_without_progress:
            change_state(session, job, FAILED, error=_gave_up(job))
        else:
            change_state(session, job, RUNNING)
        self.follow(session, job, None)

    def busy(self) -> int:
        """Jobs that this process runs now."""
        return len(self._attempts)

    def _run(self, job: JobRow, future: Future[Any] | None) -> None:
        try:
            with watched_attempt(self.metrics, self.traces, job) as watch:
                attempt = self._attempt(job, future, watch)
                try:
                    attempt.run()
                finally:
                    watch.outcome = attempt.outcome
        finally:
            with self._lock:
                self._attempts.pop(job.id, None)

    def _attempt(self, job: JobRow, future: Future[Any] | None, watch: WatchedAttempt) -> Attempt:
        """Known to the beat from here on; told at once when the server is stopping."""
        handler = self.handlers[job.kind]
        attempt = Attempt(self.database, handler, job, lease=self.lease, future=future, on_progress=watch.progress)
        with self._lock:
            self._attempts[job.id] = attempt
        if self._stopping.is_set():
            attempt.release()
        return attempt

    def _serve(self, excluding: Sequence[str]) -> None:
        while True:
            seen = self._news.count
            if self._stopping.is_set():
                return
            try:
                pause = 0.0 if self.run_next(excluding) else self.settings.poll_seconds
            except SQLAlchemyError as error:
                log.warning("the queue cannot be read", cause=str(error).splitlines()[0])
                pause = ERROR_SECONDS
            except Exception:
                log.exception("job thread met an error")
                pause = ERROR_SECONDS
            if pause:
                self._news.wait_beyond(seen, pause)

    def _committed(self, session: Session) -> None:
        """A job queued by this process starts at once, not at the next poll."""
        if session.info.pop(JOBS_QUEUED, False):
            self._news.tell()

    def _beat(self) -> None:
        while not self._stopping.wait(self.settings.beat_seconds):
            for attempt in self._running():
                try:
                    attempt.beat()
                except Exception:
                    log.exception("beat not written")

    def _running(self) -> list[Attempt]:
        with self._lock:
            return list(self._attempts.values())

    def _spawn(self, name: str, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
        with self._lock:
            thread.start()
            self._threads = [known for known in self._threads if known.is_alive()] + [thread]


def _gave_up(job: JobRow) -> dict[str, Any]:
    tries = job.attempts_without_progress - 1
    detail = f"The work was interrupted {tries} times without getting further."
    remedy = "Look in the server's log for what ended it (memory, a crash), then resume the job."
    return problem("no-progress", "Job made no progress", 500, detail, remedy)


def _no_handler(job: JobRow) -> dict[str, Any]:
    detail = f"This server has no handler for jobs of kind '{job.kind}'."
    return problem("unknown-job-kind", "Unknown kind of job", 500, detail, "Upgrade the server, then resume the job.")
