"""A registered model: where its files lie and what registering learned."""

from __future__ import annotations

from functools import partial
from typing import Any

from sqlalchemy import BigInteger, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Listed, new_id


class ModelRow(Listed, Base):
    """`recipe`, `coverage` are engine.config.Recipe and engine.types.Coverage as JSON."""

    __tablename__ = "models"
    __table_args__ = (
        UniqueConstraint("tenant", "name", "version"),
        Index(None, "tenant", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=partial(new_id, "mdl"))
    name: Mapped[str] = mapped_column(String(200))
    version: Mapped[int] = mapped_column(default=1)
    base: Mapped[str] = mapped_column(Text)
    adapter: Mapped[str | None] = mapped_column(Text)
    checkpoints: Mapped[list[str]] = mapped_column(default=list)
    tokenizer: Mapped[str | None] = mapped_column(Text)
    chat_template: Mapped[str | None] = mapped_column(Text)
    recipe: Mapped[dict[str, Any] | None]
    dtype: Mapped[str] = mapped_column(String(16))
    quantization: Mapped[str | None] = mapped_column(String(16))
    fingerprint: Mapped[str] = mapped_column(String(64))
    parameters: Mapped[int] = mapped_column(BigInteger)
    trained_parameters: Mapped[int] = mapped_column(BigInteger)
    trained_modules: Mapped[int]
    context_length: Mapped[int]
    coverage: Mapped[dict[str, Any]]
    warnings: Mapped[list[str]] = mapped_column(default=list)
    # `metadata` is taken by SQLAlchemy on every declarative class.
    user_metadata: Mapped[dict[str, Any] | None] = mapped_column("metadata")
