"""Jobs and their events, as one tenant sees them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from app.database import Repository
from app.errors import NotFound
from app.tables.job import JobRow
from app.tables.job_event import JobEventRow


class JobsRepository(Repository[JobRow]):
    table = JobRow
    noun = "job"

    def lock(self, job_id: str) -> JobRow:
        """The row, held until the transaction ends. Raises NotFound."""
        query = self.rows(JobRow.id == job_id).with_for_update()
        job = self.session.scalars(query, execution_options={"populate_existing": True}).one_or_none()
        if job is None:
            raise NotFound(f"There is no job '{job_id[:60]}'.")
        return job

    def events(self, job_id: str, after: int, limit: int) -> Sequence[JobEventRow]:
        """Events with seq > after, oldest first."""
        query = (
            select(JobEventRow)
            .join(JobRow, JobRow.id == JobEventRow.job_id)
            .where(JobRow.tenant == self.tenant, JobEventRow.job_id == job_id, JobEventRow.seq > after)
            .order_by(JobEventRow.seq)
            .limit(limit)
        )
        return self.session.scalars(query).all()
