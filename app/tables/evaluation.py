"""An evaluation: how well an index's scores predict retraining; its files lie in `evaluations/<id>/`."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Listed, new_id


class EvaluationRow(Listed, Base):
    """state: queued | running | ready | failed.

    `config`: an engine.evaluate.scorecard.EvaluationConfig, `questions`: its EvaluationQuery objects, as JSON; `asked`:
    how many. `source`: where they come from, in words. `study_key` hashes what retrainings are made of: evaluations
    with the same one share them. `scorecard` is null until ready; `verdicts`: of the index's own method, by question.
    model_id, dataset_id and index_id are not foreign keys: evidence outlives the index that it is about.
    """

    __tablename__ = "evaluations"
    __table_args__ = (
        Index(None, "tenant", "created_at", "id"),
        Index(None, "index_id", "state"),
        Index(None, "model_id", "dataset_id", "state"),
        Index(None, "study_key"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=partial(new_id, "evl"))
    name: Mapped[str | None] = mapped_column(String(200))
    model_id: Mapped[str] = mapped_column(String(40))
    dataset_id: Mapped[str] = mapped_column(String(40))
    index_id: Mapped[str] = mapped_column(String(40))
    index_revision: Mapped[str] = mapped_column(String(64))
    study_key: Mapped[str] = mapped_column(String(64))
    config: Mapped[dict[str, Any]]
    asked: Mapped[int] = mapped_column(Integer)
    source: Mapped[str] = mapped_column(Text)
    measurement: Mapped[str] = mapped_column(String(16))
    # Large: read only where they are needed.
    questions: Mapped[list[dict[str, Any]]] = mapped_column(deferred=True)
    scorecard: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)
    verdicts: Mapped[dict[str, Any] | None]
    retrainings: Mapped[int | None] = mapped_column(Integer)
    seconds: Mapped[float | None]
    state: Mapped[str] = mapped_column(String(16))
    job_id: Mapped[str | None] = mapped_column(String(40))
    error: Mapped[dict[str, Any] | None]
    ready_at: Mapped[datetime | None]
    # `metadata` is taken by SQLAlchemy on every declarative class.
    user_metadata: Mapped[dict[str, Any] | None] = mapped_column("metadata")
