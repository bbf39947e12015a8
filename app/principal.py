"""Who asks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from app.keys.scopes import ADMIN
from app.tables.base import DEFAULT_TENANT


@dataclass(frozen=True)
class Principal:
    """Whose rows a request sees, and what it may do with them. `key_id` is None where no key is needed."""

    tenant: str
    key_id: str | None
    scopes: frozenset[str]
    expires_at: datetime | None = None


# Of a server without keys, on loopback.
ANYBODY = Principal(DEFAULT_TENANT, None, frozenset({ADMIN}))
