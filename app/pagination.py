"""Keyset pages: newest first by (created_at, id), with an opaque cursor."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel

from app.errors import BadCursor

DEFAULT_LIMIT, MAX_LIMIT = 50, 200


Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """`next_cursor` is null on the last page."""

    data: list[Item]
    next_cursor: str | None = None


@dataclass(frozen=True)
class PageRequest:
    cursor: str | None
    limit: int


def page_request(
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Rows a page.")] = DEFAULT_LIMIT,
) -> PageRequest:
    return PageRequest(cursor, limit)


def encode_cursor(*key: str | int | float) -> str:
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, length: int) -> list[str | int | float]:
    """The key that `encode_cursor` was given. Raises BadCursor for anything else."""
    try:
        key = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise bad_cursor(cursor) from error
    if not isinstance(key, list) or len(key) != length or not all(map(_is_part, key)):
        raise bad_cursor(cursor)
    return key


def decode_place(cursor: str) -> int:
    """Of a list in a fixed order: how many of it were shown. Raises BadCursor."""
    (place,) = decode_cursor(cursor, 1)
    if not isinstance(place, int) or not 0 <= place < 2**63:
        raise bad_cursor(cursor)
    return place


def _is_part(part: Any) -> bool:
    """What `encode_cursor` is given: numbers, and ids and timestamps in plain ASCII."""
    if isinstance(part, str):
        return part.isascii() and part.isprintable()
    return type(part) in (int, float)


def bad_cursor(cursor: str) -> BadCursor:
    return BadCursor(f"'{cursor[:60]}' is not a cursor of this list.", pointer="query:cursor")


def encode_position(created_at: datetime, row_id: str) -> str:
    return encode_cursor(created_at.isoformat(), row_id)


def decode_position(cursor: str) -> tuple[datetime, str]:
    """(created_at, id) of the last row of the page before."""
    moment, row_id = decode_cursor(cursor, 2)
    try:
        created_at = datetime.fromisoformat(str(moment))
        if created_at.tzinfo is None:
            raise bad_cursor(cursor)
        return created_at.astimezone(UTC), str(row_id)
    except (ValueError, OverflowError) as error:
        raise bad_cursor(cursor) from error
