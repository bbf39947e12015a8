"""The `Prefer` header (RFC 7240): how long the client wants to wait for its answer."""

from __future__ import annotations

import re
from dataclasses import dataclass

_WAIT = re.compile(r"^wait\s*=\s*\"?(\d{1,9})\"?$", re.IGNORECASE)


@dataclass(frozen=True)
class Preference:
    """seconds: how long to wait before a job takes over; 0: it takes over at once.

    applied: what `Preference-Applied` says when a job takes over.
    """

    seconds: float
    applied: str | None


def preference(header: str | None, longest: float) -> Preference:
    """What cannot be understood is ignored, as the RFC asks."""
    wishes = [wish.strip() for wish in (header or "").split(",")]
    waits = [int(found[1]) for wish in wishes if (found := _WAIT.match(wish))]
    if waits:
        return Preference(min(float(waits[0]), longest), f"wait={waits[0]}")
    if any(wish.lower() == "respond-async" for wish in wishes):
        return Preference(0.0, "respond-async")
    return Preference(longest, None)
