"""Rows of `indexes`."""

from __future__ import annotations

from sqlalchemy import select

from app.database import Repository
from app.tables import AttributionRow, EvaluationRow, IndexRow


class IndexesRepository(Repository[IndexRow]):
    table, noun = IndexRow, "index"

    def newest_ready(self, model_id: str) -> IndexRow | None:
        return self.first(IndexRow.model_id == model_id, IndexRow.state == "ready")

    def running_evaluation(self, index_id: str) -> str | None:
        """The id of an evaluation of this index that is not done yet."""
        running = select(EvaluationRow.id).where(
            EvaluationRow.index_id == index_id, EvaluationRow.state.in_(("queued", "running"))
        )
        return self.session.scalar(running.limit(1))

    def running_attribution(self, index_id: str) -> str | None:
        """The id of an attribution that a job is computing on this index."""
        running = select(AttributionRow.id).where(
            AttributionRow.index_id == index_id, AttributionRow.state == "running"
        )
        return self.session.scalar(running.limit(1))
