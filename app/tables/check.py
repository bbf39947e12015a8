"""A causal check of one stored answer: what changing the training did to it; its files lie in `checks/<id>/`."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Listed, new_id


class CheckRow(Listed, Base):
    """state: queued | running | ready | failed.

    `config`: an engine.causal.checks.CheckConfig; `question`: the engine.types.Query that was answered, its completion
    spelled out; `ranking`: the RankedRow objects of the answer. `study_key` hashes what retrainings are made of: checks
    with the same one share them. Of the CheckResult `effects` and `sets` have columns of their own, for answers are
    shown with them; `outcome` is the rest. new_model_id: the version that unlearning made.
    attribution_id, model_id, dataset_id and index_id are not foreign keys: what was measured outlives them.
    """

    __tablename__ = "checks"
    __table_args__ = (
        Index(None, "tenant", "created_at", "id"),
        Index(None, "attribution_id", "state"),
        Index(None, "index_id", "state"),
        Index(None, "study_key"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=partial(new_id, "chk"))
    name: Mapped[str | None] = mapped_column(String(200))
    attribution_id: Mapped[str] = mapped_column(String(40))
    model_id: Mapped[str] = mapped_column(String(40))
    dataset_id: Mapped[str] = mapped_column(String(40))
    index_id: Mapped[str] = mapped_column(String(40))
    index_revision: Mapped[str] = mapped_column(String(64))
    study_key: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    config: Mapped[dict[str, Any]]
    measurement: Mapped[str] = mapped_column(String(40))
    # Large: read only where they are needed.
    question: Mapped[dict[str, Any]] = mapped_column(deferred=True)
    ranking: Mapped[list[dict[str, Any]]] = mapped_column(deferred=True)
    effects: Mapped[list[dict[str, Any]] | None] = mapped_column(deferred=True)
    sets: Mapped[list[dict[str, Any]] | None] = mapped_column(deferred=True)
    outcome: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)
    new_model_id: Mapped[str | None] = mapped_column(String(40))
    retrainings: Mapped[int | None] = mapped_column(Integer)
    seconds: Mapped[float | None]
    state: Mapped[str] = mapped_column(String(16))
    job_id: Mapped[str | None] = mapped_column(String(40))
    error: Mapped[dict[str, Any] | None]
    finished_at: Mapped[datetime | None]
    # `metadata` is taken by SQLAlchemy on every declarative class.
    user_metadata: Mapped[dict[str, Any] | None] = mapped_column("metadata")
