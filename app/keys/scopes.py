"""What a key may do: `<resource>:read` and `<resource>:write`, told by a request's path and method alone.

Because the path decides, a new route below /v1 is guarded from its first day: one whose resource is not listed here
is refused to everybody but `admin`, and a test fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

ADMIN = "admin"  # everything, within the key's own tenant
READ, WRITE = "read", "write"

# Second part of a path → the resource that its scopes name. None: any key will do.
RESOURCES: dict[str, str | None] = {
    "models": "models",
    "datasets": "datasets",
    "indexes": "indexes",
    "aliases": "indexes",
    "evaluations": "evaluations",
    "attributions": "attributions",
    "checks": "attributions",
    "jobs": "jobs",
    "keys": "keys",
    "audit-log": "audit_log",
    "status": "status",
    "methods": None,
    "limits": None,
}
ONLY_READ = {"audit_log", "status"}
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# They compute, but change nothing.
_READING_POSTS = re.compile(r"/v1/(indexes|evaluations|attributions/[^/]+/verify)/estimate/?")

SCOPES = (
    *(
        f"{resource}:{action}"
        for resource in dict.fromkeys(RESOURCES.values())
        if resource is not None
        for action in ((READ,) if resource in ONLY_READ else (READ, WRITE))
    ),
    f"*:{READ}",
    f"*:{WRITE}",
    ADMIN,
)


def required_scope(method: str, path: str) -> str | None:
    """None: any key will do."""
    if path == "/metrics":
        return f"status:{READ}"
    parts = path.strip("/").split("/")
    if parts[0] == "ui":
        return f"{_of_page(parts)}:{action(method, path)}"
    if parts[0] != "v1" or len(parts) < 2:
        return None
    resource = RESOURCES.get(parts[1], ADMIN)
    if resource is None or resource == ADMIN:
        return resource
    return f"{resource}:{action(method, path)}"


def _of_page(parts: list[str]) -> str:
    """The pages are about resources too; asking and comparing are about answers."""
    return (RESOURCES.get(parts[1]) if len(parts) > 1 else None) or "attributions"


def action(method: str, path: str) -> str:
    return READ if method in SAFE_METHODS or only_computes(path) else WRITE


def only_computes(path: str) -> bool:
    """Whether a POST to it changes nothing."""
    return _READING_POSTS.fullmatch(path) is not None


def grants(held: Iterable[str], wanted: str | None) -> bool:
    """True when a key with the scopes `held` may do what `wanted` names."""
    if wanted is None:
        return True
    kind = wanted.partition(":")[2]
    return not {wanted, f"*:{kind}", ADMIN}.isdisjoint(held) if kind else wanted in held or ADMIN in held
