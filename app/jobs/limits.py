"""What a new job must leave: places for others among the tenant's jobs, and space on the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.database import Database
from app.errors import AppError
from app.jobs.contract import ACTIVE
from app.jobs.repository import JobsRepository
from app.settings import Settings
from app.storage import leave_free
from app.tables.job import JobRow

# Jobs take seconds to hours, so nobody knows when one ends; asked for so seldom, the answer costs nothing.
RETRY_AFTER_SECONDS = 10
_KEY = "whence_job_limits"


class TooManyJobs(AppError):
    status, code, title = 429, "too-many-jobs", "Too many jobs"
    remedy = "Wait until one of your jobs has ended, or cancel one; GET /v1/limits shows the limits."


@dataclass(frozen=True)
class _Limits:
    max_jobs: int
    home: Path
    min_free_bytes: int


def limit_jobs(database: Database, settings: Settings) -> None:
    """From now on, all sessions of this database know the limits: no caller of enqueue() can forget them."""
    limits = _Limits(settings.max_jobs_per_tenant, settings.home, settings.min_free_bytes)
    for sessions in (database.readers, database.writers):
        sessions.configure(info={_KEY: limits})


def check_room(session: Session, tenant: str, *, hold: bool = True) -> None:
    """Raises TooManyJobs, InsufficientStorage. hold: nobody else of this tenant enqueues before the transaction ends,
    so that what was counted is still true then."""
    limits: _Limits | None = session.info.get(_KEY)
    if limits is None:
        return
    if hold:
        _take_turns(session, tenant)
    active = JobsRepository(session, tenant).count(JobRow.state.in_(ACTIVE))
    if active >= limits.max_jobs:
        detail = f"{active} jobs of yours are queued or running; this server takes {limits.max_jobs}."
        raise TooManyJobs(detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)}, active=active)
    leave_free(limits.home, 0, limits.min_free_bytes)


def _take_turns(session: Session, tenant: str) -> None:
    """SQLite has one writer anyway. On PostgreSQL two transactions would else both count the last free place."""
    if session.get_bind().dialect.name == "postgresql":
        name = func.hashtextextended(f"whence jobs of {tenant}", 0)
        session.execute(select(func.pg_advisory_xact_lock(name)))
