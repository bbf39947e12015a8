"""Rows of `indexes`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select

from app.database import Repository
from app.pagination import PageRequest
from app.tables import AttributionRow, BatchRow, CheckRow, EvaluationRow, IndexRow


@dataclass(frozen=True)
class IndexName:
    """What lists say of an index."""

    id: str
    name: str | None
    version: int | None
    method: str


class IndexesRepository(Repository[IndexRow]):
    table, noun = IndexRow, "index"

    def add(self, row: IndexRow) -> IndexRow:
        """With the next version of its name."""
        if row.name is not None:
            row.version = self._next_version(row.name)
        return super().add(row)

    def name(self, row: IndexRow, name: str) -> None:
        row.name, row.version = name, self._next_version(name)

    def _next_version(self, name: str) -> int:
        highest = self.rows(IndexRow.name == name).with_only_columns(func.max(IndexRow.version))
        return (self.session.scalar(highest) or 0) + 1

    def matching(
        self, request: PageRequest, *, name: str | None, state: str | None, model: str | None, dataset: str | None
    ) -> tuple[list[IndexRow], str | None]:
        columns = (IndexRow.name, IndexRow.state, IndexRow.model_id, IndexRow.dataset_id)
        wanted = zip(columns, (name, state, model, dataset), strict=True)
        return self.page(request, *[column == value for column, value in wanted if value is not None])

    def names(self, where: ColumnElement[bool], limit: int) -> dict[str, IndexName]:
        """Newest first, by id."""
        newest = (IndexRow.created_at.desc(), IndexRow.id.desc())
        columns = (IndexRow.id, IndexRow.name, IndexRow.version, IndexRow.method)
        found = self.session.execute(self.rows(where).with_only_columns(*columns).order_by(*newest).limit(limit))
        return {row.id: IndexName(row.id, row.name, row.version, row.method) for row in found}

    def newest_ready(self, model_id: str) -> IndexRow | None:
        return self.first(IndexRow.model_id == model_id, IndexRow.state == "ready")

    def ready_counts(self, model_ids: Collection[str]) -> dict[str, int]:
        """How many ready indexes each of these models has; one without any is left out."""
        ready = self.rows(IndexRow.model_id.in_(set(model_ids)), IndexRow.state == "ready")
        counted = ready.with_only_columns(IndexRow.model_id, func.count()).group_by(IndexRow.model_id)
        return {row[0]: row[1] for row in self.session.execute(counted)}

    def running_evaluation(self, index_id: str) -> str | None:
        """The id of an evaluation of this index that is not done yet."""
        running = select(EvaluationRow.id).where(
            EvaluationRow.index_id == index_id, EvaluationRow.state.in_(("queued", "running"))
        )
        return self.session.scalar(running.limit(1))

    def running_check(self, index_id: str) -> str | None:
        """The id of a check of one of its answers that is not done yet."""
        running = select(CheckRow.id).where(CheckRow.index_id == index_id, CheckRow.state.in_(("queued", "running")))
        return self.session.scalar(running.limit(1))

    def running_attribution(self, index_id: str) -> str | None:
        """The id of an attribution that a job is computing on this index."""
        running = select(AttributionRow.id).where(
            AttributionRow.index_id == index_id, AttributionRow.state == "running"
        )
        return self.session.scalar(running.limit(1))

    def running_batch(self, index_id: str) -> str | None:
        """The id of a batch whose lines are answered by this index."""
        running = select(BatchRow.id).where(BatchRow.index_id == index_id, BatchRow.state.in_(("queued", "running")))
        return self.session.scalar(running.limit(1))
