"""An alias: a name that a tenant points at one of its indexes, and may point at another one later."""

from __future__ import annotations

from datetime import datetime
from functools import partial

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Listed, new_id, utc_now


class AliasRow(Listed, Base):
    """`version` counts its targets, from 1. `previous_index_id` is no foreign key: the history outlives the index."""

    __tablename__ = "aliases"
    __table_args__ = (
        UniqueConstraint("tenant", "name"),
        Index(None, "tenant", "created_at", "id"),
        Index(None, "index_id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=partial(new_id, "als"))
    name: Mapped[str] = mapped_column(String(63))
    version: Mapped[int] = mapped_column(default=1)
    index_id: Mapped[str] = mapped_column(ForeignKey("indexes.id"))
    previous_index_id: Mapped[str | None] = mapped_column(String(40))
    moved_at: Mapped[datetime] = mapped_column(default=utc_now)
