"""The queue itself: one row a job (DESIGN §6)."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Listed, new_id


class JobRow(Listed, Base):
    """state: queued | running | cancelling | succeeded | failed | cancelled.

    `attempt` is the fence: a worker's write counts only while the row still has its attempt.
    `progress_marker` is the furthest point any attempt reached; `attempts_without_progress`
    counts claims since it last moved. `last_seq` numbers the job's events.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index(None, "tenant", "created_at", "id"),
        Index(None, "state", "created_at"),
        Index(None, "resource_id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=partial(new_id, "job"))
    kind: Mapped[str] = mapped_column(String(32))
    resource_id: Mapped[str | None] = mapped_column(String(40))
    state: Mapped[str] = mapped_column(String(16), default="queued")
    payload: Mapped[dict[str, Any]]
    progress: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    attempt: Mapped[int] = mapped_column(default=0)
    attempts_without_progress: Mapped[int] = mapped_column(default=0)
    progress_marker: Mapped[dict[str, Any] | None]
    worker_id: Mapped[str | None] = mapped_column(Text)
    lease_until: Mapped[datetime | None]
    last_seq: Mapped[int] = mapped_column(default=0)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
