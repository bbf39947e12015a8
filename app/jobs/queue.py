"""The queue as workers see it: claim, hold, expire. Every write is conditional (DESIGN §6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, case, or_, select, update
from sqlalchemy.orm import Session

from app.jobs.contract import CANCELLING, QUEUED, RUNNING
from app.tables.base import utc_now
from app.tables.job import JobRow
from engine.errors import Cancelled


class Fenced(Cancelled):
    """Another worker owns the job now; whatever this one still does must not be written."""


@dataclass(frozen=True)
class Fence:
    """What makes a worker's write count: the row still has this worker and this attempt."""

    job_id: str
    worker_id: str
    attempt: int

    def holds(self) -> ColumnElement[bool]:
        return and_(
            JobRow.id == self.job_id,
            JobRow.worker_id == self.worker_id,
            JobRow.attempt == self.attempt,
            JobRow.state.in_((RUNNING, CANCELLING)),
        )


class JobQueue:
    """Workers serve every tenant, so nothing here filters by one."""

    def __init__(self, session: Session, lease: timedelta) -> None:
        self.session = session
        self.lease = lease

    def claim(self, worker_id: str, excluding: Sequence[str] = ()) -> JobRow | None:
        """Takes the oldest job that is queued, or whose worker has been silent for a lease.

        One conditional UPDATE: of two workers that try, one gets the row. A `cancelling` job keeps its
        state, so the claimer knows that only the end is left to write.
        """
        free = _claimable(excluding)
        oldest = select(JobRow.id).where(free).order_by(JobRow.created_at, JobRow.id).limit(1)
        claimed = (
            update(JobRow)
            .where(JobRow.id == oldest.with_for_update(skip_locked=True).scalar_subquery(), free)
            .values(
                state=case((JobRow.state == CANCELLING, CANCELLING), else_=RUNNING),
                worker_id=worker_id,
                lease_until=utc_now() + self.lease,
                attempt=JobRow.attempt + 1,
                attempts_without_progress=JobRow.attempts_without_progress + 1,
            )
            .returning(JobRow)
        )
        return self.session.scalars(claimed, execution_options=_FRESH).one_or_none()

    def hold(self, fence: Fence) -> JobRow:
        """Renews the lease and returns the row, locked until the transaction ends. Raises Fenced."""
        renewed = update(JobRow).where(fence.holds()).values(lease_until=utc_now() + self.lease).returning(JobRow)
        job = self.session.scalars(renewed, execution_options=_FRESH).one_or_none()
        if job is None:
            raise Fenced(f"job {fence.job_id} is no longer attempt {fence.attempt} of this worker")
        return job

    def expire_all(self) -> None:
        """Ends every lease at once. Only for a process that knows it is alone (it holds the home's lock)."""
        past = utc_now() - timedelta(seconds=1)
        self.session.execute(update(JobRow).where(JobRow.state.in_((RUNNING, CANCELLING))).values(lease_until=past))


_FRESH = {"synchronize_session": False, "populate_existing": True}


def _claimable(excluding: Sequence[str]) -> ColumnElement[bool]:
    silent = and_(JobRow.state.in_((RUNNING, CANCELLING)), JobRow.lease_until < utc_now())
    free = or_(JobRow.state == QUEUED, silent)
    return and_(free, JobRow.kind.not_in(excluding)) if excluding else free
