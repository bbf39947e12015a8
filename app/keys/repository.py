"""Rows of `api_keys`."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from app.database import Repository
from app.tables import ApiKeyRow


class KeysRepository(Repository[ApiKeyRow]):
    table, noun = ApiKeyRow, "key"


# A key says which tenant a request belongs to: until it is found there is none to filter by.


def key_by_prefix(session: Session, prefix: str) -> ApiKeyRow | None:
    return session.scalars(select(ApiKeyRow).where(ApiKeyRow.prefix == prefix)).one_or_none()


def key_by_id(session: Session, key_id: str) -> ApiKeyRow | None:
    return session.get(ApiKeyRow, key_id)


def any_key(session: Session) -> bool:
    """Revoked and expired ones too: a service that had keys never opens again by itself."""
    return session.scalar(select(ApiKeyRow.id).limit(1)) is not None


def mark_used(session: Session, key_id: str, now: datetime, since: datetime) -> None:
    """Unless somebody has marked it after `since`."""
    stale = or_(ApiKeyRow.last_used_at.is_(None), ApiKeyRow.last_used_at < since)
    session.execute(update(ApiKeyRow).where(ApiKeyRow.id == key_id, stale).values(last_used_at=now))
