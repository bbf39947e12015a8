"""An API key: who may do what, for which tenant. The key itself is nowhere: only its HMAC."""

from __future__ import annotations

from datetime import datetime
from functools import partial

from sqlalchemy import Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Listed, new_id


class ApiKeyRow(Listed, Base):
    """`prefix` is the part of the key that may be shown, and finds it; `digest` is the HMAC-SHA256 of the whole key.

    A revoked key keeps its row: the audit log names it.
    """

    __tablename__ = "api_keys"
    __table_args__ = (UniqueConstraint("prefix"), Index(None, "tenant", "created_at", "id"))

    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=partial(new_id, "key"))
    name: Mapped[str] = mapped_column(String(200))
    prefix: Mapped[str] = mapped_column(String(32))
    digest: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[str]]
    created_by: Mapped[str | None] = mapped_column(String(40))
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
