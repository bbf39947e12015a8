"""Writes down every request that changed something, before its answer leaves: what is acknowledged is on record."""

from __future__ import annotations

import re
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.audit_log.service import AuditLog
from app.database import Database
from app.keys.scopes import SAFE_METHODS, only_computes
from app.principal import Principal
from app.telemetry.logs import shown_path

log = structlog.get_logger("whence.audit")

# Of what was made: our answers begin with it. Long work answers with its job in Location.
LONGEST_ADDRESS = 64  # proxies say what they like; an event that cannot be stored would be lost
_OWN_ID = re.compile(rb'\{"id":"([a-z]+_[a-z2-7]{20})"')


class AuditRecording:
    def __init__(self, app: ASGIApp, database: Database) -> None:
        self.app = app
        self.database = database

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        changes = scope["type"] == "http" and scope["method"] not in SAFE_METHODS
        if not changes or only_computes(scope["path"]) or "principal" not in scope["state"]:
            await self.app(scope, receive, send)
            return
        answer = _Answer(self.database, scope, send)
        await self.app(scope, receive, answer.send)


class _Answer:
    """Holds the head of an answer back until its first bytes are known and the event is written."""

    def __init__(self, database: Database, scope: Scope, send: Send) -> None:
        self.database = database
        self.scope = scope
        self._send = send
        self._head: Message | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._head = message
            return
        if self._head is not None:
            head, self._head = self._head, None
            status: int = head["status"]
            if status < 400:
                await run_in_threadpool(self._record, status, _resource(self.scope, head, message.get("body", b"")))
            await self._send(head)
        await self._send(message)

    def _record(self, status: int, resource_id: str | None) -> None:
        """The change is made already: a log that cannot be written is told to the operator, not to the caller."""
        scope = self.scope
        principal: Principal = scope["state"]["principal"]
        try:
            with self.database.write() as session:
                AuditLog(session, principal.tenant).add(
                    _operation(scope),
                    scope["path"],
                    status,
                    key_id=principal.key_id,
                    resource_id=resource_id,
                    request_id=scope["state"].get("request_id"),
                    address=scope["client"][0][:LONGEST_ADDRESS] if scope.get("client") else None,
                )
        except SQLAlchemyError as error:
            path, cause = shown_path(scope["app"], scope["path"]), str(error).splitlines()[0]
            log.error("a change is missing in the audit log", path=path, cause=cause)


def _operation(scope: Scope) -> str:
    route = scope.get("route")
    name: Any = getattr(route, "operation_id", None) or getattr(route, "name", None)
    return str(name or scope["method"])[:64]


def _resource(scope: Scope, head: Message, body: bytes) -> str | None:
    """The id in the path, else that of what was made."""
    for value in (scope.get("path_params") or {}).values():
        return str(value)[:200]
    if found := _OWN_ID.match(body):
        return found[1].decode()
    location = Headers(raw=head["headers"]).get("location")
    return location.rpartition("/")[2][:200] if location else None
