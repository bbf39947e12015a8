"""Rows of `models`."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select

from app.database import Repository
from app.pagination import PageRequest
from app.tables import AttributionRow, IndexRow, ModelRow


@dataclass(frozen=True)
class ModelName:
    """What lists say of a model."""

    id: str
    name: str
    version: int


class ModelsRepository(Repository[ModelRow]):
    table, noun = ModelRow, "model"

    def next_version(self, name: str) -> int:
        highest = self.rows(ModelRow.name == name).with_only_columns(func.max(ModelRow.version))
        return (self.session.scalar(highest) or 0) + 1

    def matching(self, request: PageRequest, *, name: str | None) -> tuple[list[ModelRow], str | None]:
        return self.page(request, *([] if name is None else [ModelRow.name == name]))

    def names(self, where: ColumnElement[bool], limit: int) -> dict[str, ModelName]:
        """Newest first, by id; without the recipes, which may be long."""
        newest = (ModelRow.created_at.desc(), ModelRow.id.desc())
        columns = (ModelRow.id, ModelRow.name, ModelRow.version)
        found = self.session.execute(self.rows(where).with_only_columns(*columns).order_by(*newest).limit(limit))
        return {row.id: ModelName(row.id, row.name, row.version) for row in found}

    def user(self, model_id: str) -> str | None:
        """The id of something that still needs this model."""
        index = select(IndexRow.id).where(IndexRow.model_id == model_id).limit(1)
        running = select(AttributionRow.id).where(
            AttributionRow.model_id == model_id, AttributionRow.state == "running"
        )
        return self.session.scalar(index) or self.session.scalar(running.limit(1))
