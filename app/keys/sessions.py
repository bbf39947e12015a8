"""A login at the page: a cookie that names the key it was opened with, signed, for some hours.

The key itself is not in it, and revoking the key ends the session.
"""

from __future__ import annotations

import time

from app.keys.material import digest_of, same

COOKIE = "whence_session"


def session_token(secret: bytes, key_id: str, until: int) -> str:
    """until: Unix time in seconds."""
    return f"{key_id}.{until}.{_signature(secret, key_id, until)}"


def key_of_session(secret: bytes, token: str) -> str | None:
    """The id of the key that opened it; None for what was not signed here, or has ended."""
    key_id, _, rest = token.partition(".")
    until, _, signature = rest.partition(".")
    if not until.isdecimal() or not until.isascii() or len(until) > 12 or int(until) <= time.time():
        return None
    return key_id if same(signature, _signature(secret, key_id, int(until))) else None


def _signature(secret: bytes, key_id: str, until: int) -> str:
    return digest_of(secret, f"session of {key_id} until {until}")
