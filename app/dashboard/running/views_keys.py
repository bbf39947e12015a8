"""API keys, what they may do and what they did, in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.dashboard.words import moment
from app.keys.scopes import ADMIN, ONLY_READ, READ, RESOURCES, WRITE, grants
from app.tables import ApiKeyRow, AuditEventRow, utc_now

ABOUT = {
    "models": "registering models",
    "datasets": "uploading and reading training rows",
    "indexes": "building indexes; their aliases",
    "evaluations": "measuring trust",
    "attributions": "asking, and reading answers",
    "jobs": "following, cancelling and resuming work",
    "keys": "making and revoking keys",
    "audit_log": "who changed what",
    "status": "what the server is doing",
}


@dataclass(frozen=True)
class KeyForm:
    """What was typed. days: how long the key lasts; empty: until it is revoked."""

    name: str = ""
    scopes: tuple[str, ...] = ()
    days: str = ""


@dataclass(frozen=True)
class Box:
    """One scope to tick; granted: whether the asker has it to give."""

    scope: str
    action: str
    granted: bool


@dataclass(frozen=True)
class ScopeRow:
    name: str
    about: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class KeyView:
    id: str
    name: str
    prefix: str
    scopes: tuple[str, ...]
    tenant: str
    state: str
    created: str
    expires: str
    used: str
    holds: bool
    own: bool


@dataclass(frozen=True)
class AuditView:
    when: str
    who: str
    key_id: str | None
    did: str
    resource_id: str | None
    path: str
    status: int
    address: str


@dataclass(frozen=True)
class AuditFilter:
    key: str = ""
    resource: str = ""
    since: str = ""


def scope_rows(held: Iterable[str]) -> list[ScopeRow]:
    """Everything first, then resource by resource."""
    held = frozenset(held)

    def box(scope: str, action: str) -> Box:
        return Box(scope, action, grants(held, scope))

    every = [
        ScopeRow("everything", "the whole service, keys included", (box(ADMIN, "admin"),)),
        ScopeRow("all resources", "", (box(f"*:{READ}", READ), box(f"*:{WRITE}", WRITE))),
    ]
    names = dict.fromkeys(name for name in RESOURCES.values() if name is not None)
    actions = {name: (READ,) if name in ONLY_READ else (READ, WRITE) for name in names}
    return every + [
        ScopeRow(
            name.replace("_", " "), ABOUT.get(name, ""), tuple(box(f"{name}:{action}", action) for action in allowed)
        )
        for name, allowed in actions.items()
    ]


def key_view(row: ApiKeyRow, asker: str | None) -> KeyView:
    state = "revoked" if row.revoked_at else "expired" if row.expires_at and row.expires_at <= utc_now() else "holds"
    return KeyView(
        id=row.id,
        name=row.name,
        prefix=row.prefix,
        scopes=tuple(row.scopes),
        tenant=row.tenant,
        state=state,
        created=moment(row.created_at),
        expires=moment(row.expires_at) if row.expires_at else "when revoked",
        used=moment(row.last_used_at) if row.last_used_at else "never",
        holds=state == "holds",
        own=row.id == asker,
    )


def audit_views(rows: Sequence[AuditEventRow]) -> list[AuditView]:
    return [
        AuditView(
            when=moment(row.created_at),
            who=row.key_id or "no key was needed",
            key_id=row.key_id,
            did=row.operation.replace("_", " "),
            resource_id=row.resource_id,
            path=row.path,
            status=row.status,
            address=row.address or "–",
        )
        for row in rows
    ]
