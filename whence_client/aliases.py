"""Aliases, typed."""

from __future__ import annotations

from datetime import datetime

from whence_client.resource import Resource


class Alias(Resource):
    """A name that points at `index`; `version` counts its targets. `etag`: what `if_match` takes; None in lists."""

    name: str
    index: str
    version: int | None = None
    previous_index: str | None = None
    created_at: datetime | None = None
    moved_at: datetime | None = None
    etag: str | None = None
