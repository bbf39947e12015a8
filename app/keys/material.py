"""The text of a key, and what is kept of it.

`whk_<8 characters>_<52 characters>`: the first 12 characters are its prefix, which is shown and finds it; the rest is
256 random bits. Kept is only HMAC-SHA256(the server's secret, the whole key): who reads the database cannot use it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

_SHAPE = re.compile(r"whk_[a-z2-7]{8}_[a-z2-7]{52}")
PREFIX_LENGTH = 12


@dataclass(frozen=True)
class NewKey:
    """`text` is shown once and kept nowhere."""

    text: str = field(repr=False)
    prefix: str
    digest: str


def new_key(secret: bytes) -> NewKey:
    text = f"whk_{_random(5)}_{_random(32)}"
    return NewKey(text, text[:PREFIX_LENGTH], digest_of(secret, text))


def prefix_of(text: str) -> str | None:
    """None for what is no key of ours."""
    return text[:PREFIX_LENGTH] if _SHAPE.fullmatch(text) else None


def digest_of(secret: bytes, text: str) -> str:
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def same(one: str, other: str) -> bool:
    """Takes as long whether the first character differs or the last."""
    return hmac.compare_digest(one.encode(), other.encode())


def _random(count: int) -> str:
    return base64.b32encode(secrets.token_bytes(count)).decode().rstrip("=").lower()
