"""A stored answer."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Listed, new_id


class AttributionRow(Listed, Base):
    """state: running | succeeded | failed | cancelled. `result`: the answer as the API gives it,
    but for its trust, which is joined when it is shown.

    `cache_key` hashes (index revision, request): results are pure functions of the two.
    model_id and index_id are not foreign keys: an answer outlives the index that gave it.
    """

    __tablename__ = "attributions"
    __table_args__ = (
        Index(None, "tenant", "created_at", "id"),
        Index(None, "tenant", "cache_key"),
        Index(None, "model_id"),
        Index(None, "index_id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=partial(new_id, "att"))
    model_id: Mapped[str] = mapped_column(String(40))
    index_id: Mapped[str] = mapped_column(String(40))
    state: Mapped[str] = mapped_column(String(16))
    method: Mapped[str | None] = mapped_column(String(64))
    revision: Mapped[str | None] = mapped_column(String(64))
    cache_key: Mapped[str | None] = mapped_column(String(64))
    request: Mapped[dict[str, Any]]
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    # `metadata` is taken by SQLAlchemy on every declarative class.
    request_metadata: Mapped[dict[str, Any] | None] = mapped_column("metadata")
    job_id: Mapped[str | None] = mapped_column(String(40))
    finished_at: Mapped[datetime | None]
