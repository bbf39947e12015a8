"""What the pages about jobs show, loaded from the service."""

from __future__ import annotations

from dataclasses import dataclass

from app.dashboard.running.views_jobs import EventView, JobView, event_views, job_view
from app.dependencies import Services
from app.jobs.service import JobsService
from app.pagination import PageRequest

PAGE = 25
LATEST = 200  # events shown: the newest ones; all of them are one link away


@dataclass(frozen=True)
class JobsPage:
    jobs: list[JobView]
    next_cursor: str | None

    @property
    def active(self) -> bool:
        return any(job.active for job in self.jobs)


@dataclass(frozen=True)
class JobPage:
    """events: newest first; earlier: whether there are more."""

    job: JobView
    events: list[EventView]
    earlier: bool


def load_jobs(services: Services, tenant: str, *, kind: str | None, state: str | None, cursor: str | None) -> JobsPage:
    """Raises BadCursor."""
    with services.database.read() as session:
        rows, following = JobsService(session, tenant).page(PageRequest(cursor, PAGE), kind=kind, state=state)
        return JobsPage([job_view(row) for row in rows], following)


def load_job(services: Services, tenant: str, job_id: str) -> JobPage:
    """Raises NotFound."""
    with services.database.read() as session:
        jobs = JobsService(session, tenant)
        job = jobs.get(job_id)
        after = max(0, job.last_seq - LATEST)
        events = jobs.events(job_id, after=after, limit=LATEST)
        return JobPage(job_view(job), event_views(events)[::-1], after > 0)


def load_job_of(services: Services, tenant: str, job_id: str | None) -> JobView | None:
    """The job that works for a resource; None where it is forgotten."""
    if job_id is None:
        return None
    with services.database.read() as session:
        job = JobsService(session, tenant).find(job_id)
        return None if job is None else job_view(job)
