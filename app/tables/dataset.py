"""A dataset's metadata; its rows lie in `datasets/<sha256>/rows.arrow`."""

from __future__ import annotations

from functools import partial
from typing import Any

from sqlalchemy import BigInteger, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Listed, new_id


class DatasetRow(Listed, Base):
    """state: loading | ready | failed. `source`: the file or URI it is, or was, read from."""

    __tablename__ = "datasets"
    __table_args__ = (Index(None, "tenant", "created_at", "id"), Index(None, "sha256"))

    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=partial(new_id, "ds"))
    name: Mapped[str] = mapped_column(String(200))
    state: Mapped[str] = mapped_column(String(16))
    source: Mapped[str | None] = mapped_column(Text)
    format: Mapped[str | None] = mapped_column(String(16))
    rows: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(String(64))
    warnings: Mapped[list[str]] = mapped_column(default=list)
    error: Mapped[dict[str, Any] | None]
    job_id: Mapped[str | None] = mapped_column(String(40))
    # `metadata` is taken by SQLAlchemy on every declarative class.
    user_metadata: Mapped[dict[str, Any] | None] = mapped_column("metadata")
