"""A job's state changes and its event log: always written together, in the caller's transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from app.jobs.contract import ENDED, FAILED, QUEUED, RUNNING, SUCCEEDED
from app.tables.base import utc_now
from app.tables.job import JobRow
from app.tables.job_event import JobEventRow

# Set on a session that queued a job: the worker of this process wakes when it commits.
JOBS_QUEUED = "whence_jobs_queued"


def append(session: Session, job: JobRow, kind: str, data: dict[str, Any]) -> None:
    """The caller holds the job's row (it has just updated or locked it): seq has no gaps and no doubles."""
    job.last_seq += 1
    session.add(JobEventRow(job_id=job.id, tenant=job.tenant, seq=job.last_seq, kind=kind, data=data))


def change_state(
    session: Session,
    job: JobRow,
    state: str,
    *,
    result: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
) -> None:
    """Moves the job to `state` and logs it; an ended job gets its `end` event too."""
    job.state = state
    data: dict[str, Any] = {"state": state, "attempt": job.attempt}
    if state in (RUNNING, SUCCEEDED, FAILED):
        job.result, job.error = result, error
    if state == QUEUED:
        session.info[JOBS_QUEUED] = True
        job.result = job.error = job.finished_at = job.lease_until = job.worker_id = None
    if state == RUNNING:
        job.started_at = job.started_at or utc_now()
    if error is not None:
        data["error"] = error
    append(session, job, "state", data)
    if state in ENDED:
        job.finished_at, job.lease_until, job.worker_id = utc_now(), None, None
        append(session, job, "end", {"state": state})
    session.flush()
