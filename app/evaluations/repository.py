"""Rows of `evaluations`."""

from __future__ import annotations

from sqlalchemy import select

from app.database import Repository
from app.pagination import PageRequest
from app.tables import EvaluationRow, IndexRow


class EvaluationsRepository(Repository[EvaluationRow]):
    table, noun = EvaluationRow, "evaluation"

    def matching(self, request: PageRequest, **wanted: str | None) -> tuple[list[EvaluationRow], str | None]:
        """wanted: name, state, model, dataset, index."""
        columns = {
            "name": EvaluationRow.name,
            "state": EvaluationRow.state,
            "model": EvaluationRow.model_id,
            "dataset": EvaluationRow.dataset_id,
            "index": EvaluationRow.index_id,
        }
        return self.page(request, *[columns[name] == value for name, value in wanted.items() if value is not None])

    def newest_ready(self, index_id: str, revision: str | None = None) -> EvaluationRow | None:
        where = [EvaluationRow.index_id == index_id, EvaluationRow.state == "ready"]
        where += [EvaluationRow.index_revision == revision] if revision else []
        return self.first(*where)

    def with_candidates(self, model_id: str, dataset_id: str) -> list[EvaluationRow]:
        """Ready ones of these two that had something to choose from, newest first."""
        where = (EvaluationRow.model_id == model_id, EvaluationRow.dataset_id == dataset_id)
        ready = self.rows(*where, EvaluationRow.state == "ready")
        newest_first = ready.order_by(EvaluationRow.created_at.desc(), EvaluationRow.id.desc())
        return [row for row in self.session.scalars(newest_first) if row.config["candidates"]]

    def same_study(self, row: EvaluationRow) -> list[str]:
        """The ids of others whose retrainings are this one's too, newest first."""
        others = self.rows(EvaluationRow.study_key == row.study_key, EvaluationRow.id != row.id)
        return [found.id for found in self.session.scalars(others.order_by(EvaluationRow.created_at.desc()))]

    def user(self, evaluation_id: str) -> str | None:
        """The id of an index whose method it chose."""
        return self.session.scalar(select(IndexRow.id).where(IndexRow.chosen_by == evaluation_id).limit(1))
