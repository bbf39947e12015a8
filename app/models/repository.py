"""Rows of `models`."""

from __future__ import annotations

from sqlalchemy import func, select

from app.database import Repository
from app.tables import AttributionRow, IndexRow, ModelRow


class ModelsRepository(Repository[ModelRow]):
    table, noun = ModelRow, "model"

    def next_version(self, name: str) -> int:
        highest = self.rows(ModelRow.name == name).with_only_columns(func.max(ModelRow.version))
        return (self.session.scalar(highest) or 0) + 1

    def user(self, model_id: str) -> str | None:
        """The id of something that still needs this model."""
        index = select(IndexRow.id).where(IndexRow.model_id == model_id).limit(1)
        running = select(AttributionRow.id).where(
            AttributionRow.model_id == model_id, AttributionRow.state == "running"
        )
        return self.session.scalar(index) or self.session.scalar(running.limit(1))
