"""An index: model × dataset × method; its files lie in `indexes/<id>/`."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, String, UniqueConstraint
from sqlalchemy import Index as TableIndex
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Listed, new_id


class IndexRow(Listed, Base):
    """state: queued | building | ready | failed | stale. `version` counts the indexes of one name, from 1.

    `config`: the engine.config.IndexConfig asked for, as JSON. What the build reported
    (engine.types.IndexInfo) fills the columns from `rows` on; they are null until it is ready. `chosen_by`: the
    evaluation that `auto` took the method from.
    """

    __tablename__ = "indexes"
    __table_args__ = (
        UniqueConstraint("tenant", "name", "version"),
        TableIndex(None, "tenant", "created_at", "id"),
        TableIndex(None, "model_id", "state"),
        TableIndex(None, "dataset_id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=partial(new_id, "idx"))
    name: Mapped[str | None] = mapped_column(String(200))
    version: Mapped[int | None]
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    method: Mapped[str] = mapped_column(String(64))
    chosen_by: Mapped[str | None] = mapped_column(String(40))
    config: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16))
    job_id: Mapped[str | None] = mapped_column(String(40))
    error: Mapped[dict[str, Any] | None]
    ready_at: Mapped[datetime | None]
    rows: Mapped[int | None] = mapped_column(BigInteger)
    dims: Mapped[int | None] = mapped_column(BigInteger)
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    sketched: Mapped[bool | None]
    checkpoints: Mapped[int | None]
    serves: Mapped[list[str]] = mapped_column(default=list)
    coverage: Mapped[dict[str, Any] | None]
    fingerprints: Mapped[dict[str, Any] | None]
    options: Mapped[dict[str, Any] | None]
    timings_s: Mapped[dict[str, Any] | None]
    revision: Mapped[str | None] = mapped_column(String(64))
    warnings: Mapped[list[str]] = mapped_column(default=list)
    # `metadata` is taken by SQLAlchemy on every declarative class.
    user_metadata: Mapped[dict[str, Any] | None] = mapped_column("metadata")
