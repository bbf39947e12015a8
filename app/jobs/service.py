"""Start, look at, cancel and resume jobs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from app.errors import Conflict, InUse
from app.jobs.contract import ACTIVE, CANCELLED, CANCELLING, ENDED, FAILED, QUEUED, RUNNING, SUCCEEDED
from app.jobs.events import append, change_state
from app.jobs.limits import check_room
from app.jobs.repository import JobsRepository
from app.pagination import PageRequest
from app.tables.base import utc_now
from app.tables.job import JobRow
from app.tables.job_event import JobEventRow
from app.telemetry.traces import origin

Follow = Callable[[Session, JobRow, Any], None]

# Between the commit of an adopted job and Worker.adopt() lie milliseconds; beats renew it from there.
ADOPTION_LEASE = timedelta(seconds=60)


class JobsService:
    """`follow` (services.worker.follow) lets the job's resource follow a change of state."""

    def __init__(self, session: Session, tenant: str) -> None:
        self.session = session
        self.tenant = tenant
        self.jobs = JobsRepository(session, tenant)

    def enqueue(
        self,
        kind: str,
        payload: dict[str, Any],
        *,
        resource_id: str | None = None,
        adopted_by: str | None = None,
        waited: bool = False,
    ) -> JobRow:
        """Inserts the job in the caller's transaction. `adopted_by`: the id of this process's worker,
        which already runs the computation and is told by Worker.adopt() after the commit.

        Raises TooManyJobs, InsufficientStorage. Not when the caller has `waited` for the computation: what was let in
        and paid for is not thrown away. It counts, though, so that others wait for it.
        """
        if not waited:
            check_room(self.session, self.tenant)
        job = self.jobs.add(JobRow(kind=kind, payload=payload | origin(), resource_id=resource_id))
        change_state(self.session, job, QUEUED)
        if adopted_by is not None:
            job.attempt, job.attempts_without_progress = 1, 1
            job.worker_id, job.lease_until = adopted_by, utc_now() + ADOPTION_LEASE
            change_state(self.session, job, RUNNING)
        return job

    def get(self, job_id: str) -> JobRow:
        return self.jobs.get(job_id)

    def find(self, job_id: str) -> JobRow | None:
        return self.jobs.find(job_id)

    def some(self, job_ids: Collection[str]) -> dict[str, JobRow]:
        """Those of these that exist, by id."""
        return self.jobs.some(job_ids)

    def page(self, request: PageRequest, *, kind: str | None, state: str | None) -> tuple[list[JobRow], str | None]:
        where = [JobRow.kind == kind] if kind else []
        where += [JobRow.state == state] if state else []
        return self.jobs.page(request, *where)

    def events(self, job_id: str, *, after: int, limit: int) -> Sequence[JobEventRow]:
        return self.jobs.events(job_id, after, limit)

    def active_for(self, resource_id: str) -> JobRow | None:
        """The newest unfinished job of a resource, if there is one."""
        return self.jobs.first(JobRow.resource_id == resource_id, JobRow.state.in_(ACTIVE))

    def cancel(self, job_id: str, follow: Follow) -> JobRow:
        """A queued job is cancelled at once, a running one at its next checkpoint; twice is once."""
        job = self.jobs.lock(job_id)
        if job.state in (SUCCEEDED, FAILED):
            raise Conflict(f"Job {job.id} has already ended: {job.state}.", remedy="There is nothing left to cancel.")
        if job.state == QUEUED:
            self._change(job, CANCELLED, follow)
        elif job.state == RUNNING:
            self._change(job, CANCELLING, follow)
        return job

    def resume(self, job_id: str, follow: Follow) -> JobRow:
        """A failed or cancelled job is queued again; what it finished is kept by its handler. Raises Conflict,
        TooManyJobs, InsufficientStorage."""
        job = self.jobs.lock(job_id)
        if job.state not in (FAILED, CANCELLED):
            raise Conflict(
                f"Job {job.id} is {job.state}; only a failed or cancelled job can be resumed.",
                remedy="Wait for it to end, or start a new job.",
            )
        check_room(self.session, self.tenant)
        job.attempts_without_progress = 0
        self._change(job, QUEUED, follow)
        return job

    def delete(self, job_id: str) -> None:
        """Forgets an ended job and its events."""
        job = self.jobs.lock(job_id)
        if job.state not in ENDED:
            raise InUse(f"Job {job.id} is {job.state}.", remedy="Cancel it first and wait until it has ended.")
        self.jobs.delete(job)

    def say(self, job_id: str, text: str) -> None:
        """Adds a message to the job's events."""
        append(self.session, self.jobs.lock(job_id), "message", {"text": text})

    def _change(self, job: JobRow, state: str, follow: Follow) -> None:
        change_state(self.session, job, state)
        follow(self.session, job, None)
