"""A worker on a bench: its one kind of job does what the test says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.database import Database
from app.jobs.contract import Done, Handler, JobContext
from app.jobs.queue import JobQueue
from app.jobs.service import JobsService
from app.tables import DEFAULT_TENANT, JobEventRow, JobRow
from app.worker import Worker
from engine.types import Progress
from tests.app.conftest import make_settings

Run = Callable[[JobContext], Done]


class WorkerBench:
    """A worker whose one kind of job does what the test says, and remembers how it was followed."""

    def __init__(self, database: Database, home: Path, **settings: Any) -> None:
        self.database = database
        self.worker = Worker(make_settings(home, **settings), database)
        self.followed: list[tuple[str, Any]] = []
        self.run: Run = lambda _context: Done({"answer": 42}, "outcome")
        self.worker.handlers["test"] = Handler(lambda context: self.run(context), self._follow)

    def _follow(self, _session: Session, job: JobRow, outcome: Any) -> None:
        self.followed.append((job.state, outcome))

    def enqueue(self, kind: str = "test") -> str:
        with self.database.write() as session:
            return JobsService(session, DEFAULT_TENANT).enqueue(kind, {"n": 1}).id

    def job(self, job_id: str) -> JobRow:
        with self.database.read() as session:
            return session.get_one(JobRow, job_id)

    def events(self, job_id: str) -> list[tuple[int, str, Any]]:
        with self.database.read() as session:
            query = select(JobEventRow).where(JobEventRow.job_id == job_id).order_by(JobEventRow.seq)
            return [(event.seq, event.kind, event.data) for event in session.scalars(query)]

    def cancel(self, job_id: str) -> None:
        with self.database.write() as session:
            JobsService(session, DEFAULT_TENANT).cancel(job_id, self.worker.follow)

    def resume(self, job_id: str) -> None:
        with self.database.write() as session:
            JobsService(session, DEFAULT_TENANT).resume(job_id, self.worker.follow)

    def crash(self) -> None:
        """The oldest job as a process killed in the middle of it leaves it, its lease run out."""
        with self.database.write() as session:
            assert JobQueue(session, timedelta(seconds=-1)).claim("dead") is not None

    def lose(self) -> None:
        """Another worker takes over the running job."""
        self.worker.take_over()
        with self.database.write() as session:
            assert JobQueue(session, timedelta(seconds=60)).claim("heir") is not None

    def in_background(self) -> threading.Thread:
        thread = threading.Thread(target=self.worker.run_next)
        thread.start()
        return thread


def at(done: int, phase: str = "sketch", total: int = 10) -> Progress:
    return Progress(done, total, "rows", phase)
