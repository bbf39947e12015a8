"""Who changed what, and when."""

from __future__ import annotations

from functools import partial

from sqlalchemy import Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Listed, new_id


class AuditEventRow(Listed, Base):
    """One request that changed something.

    `key_id` is null where no key was needed (loopback without keys, the command line); `operation` is the API's
    operation id; `resource_id` is what it made or changed, where that is known.
    """

    __tablename__ = "audit_events"
    __table_args__ = (Index(None, "tenant", "created_at", "id"), Index(None, "tenant", "resource_id"))

    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=partial(new_id, "evt"))
    key_id: Mapped[str | None] = mapped_column(String(40))
    operation: Mapped[str] = mapped_column(String(64))
    resource_id: Mapped[str | None] = mapped_column(String(200))
    path: Mapped[str] = mapped_column(Text)
    status: Mapped[int]
    request_id: Mapped[str | None] = mapped_column(String(128))
    address: Mapped[str | None] = mapped_column(String(64))
