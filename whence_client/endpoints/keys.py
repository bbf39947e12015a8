"""/v1/keys, /v1/audit-log"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from whence_client.endpoints.paging import collect
from whence_client.flow import Flow, Request
from whence_client.types import AuditEvent, Key, NewKey, Page
from whence_client.wire import ask, discard, get


def create(name: str, scopes: Sequence[str], *, expires_at: datetime | None = None) -> Flow[NewKey]:
    """A key of your tenant; its text is in the answer and nowhere else. It may do no more than yours."""
    body = {"name": name, "scopes": list(scopes)}
    if expires_at is not None:
        body["expires_at"] = expires_at.isoformat()
    # Never repeated by itself: the server keeps no answer that holds a key.
    return ask(Request("POST", "/v1/keys", json=body), NewKey)


def retrieve(key_id: str) -> Flow[Key]:
    return ask(get(f"/v1/keys/{key_id}"), Key)


def list_page(*, cursor: str | None = None, limit: int | None = None) -> Flow[Page[Key]]:
    """One page, newest first, revoked ones too."""
    return ask(get("/v1/keys", cursor=cursor, limit=limit), Page[Key])


def list_all() -> Flow[list[Key]]:
    """Every key, newest first, page after page."""
    return collect(list_page)


def revoke(key_id: str) -> Flow[None]:
    """The next request with it is refused."""
    return discard(f"/v1/keys/{key_id}")


def audit_log(
    *,
    key: str | None = None,
    resource: str | None = None,
    since: datetime | None = None,
    cursor: str | None = None,
    limit: int | None = None,
) -> Flow[Page[AuditEvent]]:
    """Who changed what, newest first."""
    moment = None if since is None else since.isoformat()
    request = get("/v1/audit-log", key=key, resource=resource, since=moment, cursor=cursor, limit=limit)
    return ask(request, Page[AuditEvent])
