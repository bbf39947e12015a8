"""Rows of `checks`."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.orm import undefer

from app.database import Repository
from app.pagination import PageRequest
from app.tables import CheckRow, ModelRow


class ChecksRepository(Repository[CheckRow]):
    table, noun = CheckRow, "check"

    def matching(self, request: PageRequest, **wanted: str | None) -> tuple[list[CheckRow], str | None]:
        """wanted: name, state, kind, attribution, model, index."""
        columns = {
            "name": CheckRow.name,
            "state": CheckRow.state,
            "kind": CheckRow.kind,
            "attribution": CheckRow.attribution_id,
            "model": CheckRow.model_id,
            "index": CheckRow.index_id,
        }
        return self.page(request, *[columns[name] == value for name, value in wanted.items() if value is not None])

    def ready_of(self, attribution_ids: Collection[str]) -> list[CheckRow]:
        """Those of these answers that have ended well, newest first, with what they measured."""
        ready = self.rows(CheckRow.attribution_id.in_(set(attribution_ids)), CheckRow.state == "ready")
        newest_first = ready.order_by(CheckRow.created_at.desc(), CheckRow.id.desc())
        loaded = newest_first.options(undefer(CheckRow.effects), undefer(CheckRow.sets), undefer(CheckRow.outcome))
        return list(self.session.scalars(loaded))

    def same_study(self, study_key: str, but: str = "") -> list[str]:
        """The ids of those whose retrainings are of this study, newest first."""
        others = self.rows(CheckRow.study_key == study_key, CheckRow.id != but)
        return [found.id for found in self.session.scalars(others.order_by(CheckRow.created_at.desc()))]

    def made_model(self, row: CheckRow) -> str | None:
        """The id of the model that its files are still read for."""
        if row.new_model_id is None:
            return None
        return self.session.scalar(select(ModelRow.id).where(ModelRow.id == row.new_model_id))
