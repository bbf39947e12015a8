"""What a job handler is given and what it gives back. Handlers are listed in app.handlers.

A resource's service starts a job in its own transaction:

    job = JobsService(session, tenant).enqueue("index.build", {"index": row.id}, resource_id=row.id)
    row.job_id = job.id

and, when the computation already runs in this process (an attribution whose `Prefer: wait` ran out),
asks for it to be adopted instead of queued:

    job = JobsService(session, tenant).enqueue(..., adopted_by=services.worker.id)
    ...                                    # after the commit
    services.worker.adopt(job.id, future)  # the handler finds it in context.future
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.tables.job import JobRow
from engine.types import Progress

QUEUED, RUNNING, CANCELLING = "queued", "running", "cancelling"
SUCCEEDED, FAILED, CANCELLED = "succeeded", "failed", "cancelled"
ACTIVE = (QUEUED, RUNNING, CANCELLING)
ENDED = (SUCCEEDED, FAILED, CANCELLED)


@dataclass(frozen=True)
class JobContext:
    """One attempt at one job.

    checkpoint(progress) is the engine's CheckpointFn: it raises engine.errors.Cancelled when the job
    was cancelled, released (shutdown) or lost to another worker. transaction() is a write session
    that exists only while this attempt still owns the job. message(text) adds an event.
    """

    job_id: str
    kind: str
    tenant: str
    payload: dict[str, Any]
    attempt: int
    checkpoint: Callable[[Progress], None]
    message: Callable[[str], None]
    transaction: Callable[[], AbstractContextManager[Session]]
    future: Future[Any] | None = None


@dataclass(frozen=True)
class Done:
    """`result` is stored and shown; `outcome` is handed to `follow` as it is (e.g. an IndexInfo)."""

    result: dict[str, Any]
    outcome: Any = None


@dataclass(frozen=True)
class Handler:
    """run(context) does the work in a worker thread. Any exception it raises fails the job.

    follow(session, job, outcome) is called inside the very transaction that changes the job's state
    (queued on resume, running, succeeded, failed, cancelled), so that the resource's row can never
    disagree with its job. `outcome` is Done.outcome when the job succeeded, else None;
    job.error holds the problem object when it failed.
    """

    run: Callable[[JobContext], Done]
    follow: Callable[[Session, JobRow, Any], None]
