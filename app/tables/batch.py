"""A batch: many questions in one file, answered by a job; its files lie in `batches/<id>/`."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import BigInteger, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Listed, new_id


class BatchRow(Listed, Base):
    """state: queued | running | ready | failed | cancelled.

    `lines`: questions in the file; `succeeded` and `failed` count those with a result. `defaults`: what a line may
    leave out; its index is the one that an alias pointed at when the batch was made. index_id is no foreign key: a
    batch outlives the index, but not while it runs.
    """

    __tablename__ = "batches"
    __table_args__ = (
        Index(None, "tenant", "created_at", "id"),
        Index(None, "index_id", "state"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=partial(new_id, "bat"))
    source: Mapped[str] = mapped_column(Text)
    defaults: Mapped[dict[str, Any]]
    model_id: Mapped[str | None] = mapped_column(String(40))
    index_id: Mapped[str | None] = mapped_column(String(40))
    state: Mapped[str] = mapped_column(String(16))
    lines: Mapped[int] = mapped_column(BigInteger)
    succeeded: Mapped[int] = mapped_column(BigInteger, default=0)
    failed: Mapped[int] = mapped_column(BigInteger, default=0)
    job_id: Mapped[str | None] = mapped_column(String(40))
    error: Mapped[dict[str, Any] | None]
    finished_at: Mapped[datetime | None]
