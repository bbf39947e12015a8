"""Around every request: its id, its log line, its metrics, the last line of defence, limits of URL and body."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import AppError, InvalidRequest, PayloadTooLarge, problem_of
from app.problems import problem_response
from app.settings import Settings
from app.telemetry import Metrics

log = structlog.get_logger("whence.http")

REQUEST_ID = "x-request-id"
_GOOD_ID = re.compile(r"^[A-Za-z0-9._:-]{1,128}$")
_QUIET = frozenset({"/livez", "/readyz", "/metrics"})  # polled; logged only when they fail


class RequestContext:
    """Takes the caller's X-Request-ID or makes one; an exception that nothing else handled becomes a
    500 problem here, with the cause in the log only."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        with structlog.contextvars.bound_contextvars(request_id=exchange.request_id):
            try:
                await self.app(scope, receive, exchange.send)
            except Exception as error:
                await exchange.fail(error, receive)
            finally:
                self._record(scope, exchange)

    def _record(self, scope: Scope, exchange: _Exchange) -> None:
        seconds = time.perf_counter() - exchange.began
        route = getattr(scope.get("route"), "path", "unmatched")
        self.metrics.observe(scope["method"], route, exchange.status, seconds)
        if scope["path"] not in _QUIET or exchange.status >= 400:
            log.info(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=exchange.status,
                ms=round(seconds * 1000, 1),
            )


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.began = time.perf_counter()
        self.status = 499  # the client left before an answer began
        self.started = False
        self._scope, self._send = scope, send
        asked = Headers(scope=scope).get(REQUEST_ID, "")
        self.request_id = asked if _GOOD_ID.match(asked) else f"req_{uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = self.request_id

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            MutableHeaders(scope=message)[REQUEST_ID] = self.request_id
        await self._send(message)

    async def fail(self, error: Exception, receive: Receive) -> None:
        body = problem_of(error)
        log.error("unhandled error", path=self._scope["path"], exc_info=error)
        if self.started:
            raise error  # too late for a problem: the server must break the connection off
        response = problem_response(body, instance=self._scope["path"], request_id=self.request_id)
        await response(self._scope, receive, self.send)


class BodyTooLarge(HTTPException):
    """An HTTPException, because the framework passes those on from inside its body parsing."""

    def __init__(self, limit: int) -> None:
        super().__init__(PayloadTooLarge.status, f"The body is larger than {limit} bytes.")


class PlainUrl:
    """Refuses NUL characters: nothing that is stored has one, and PostgreSQL cannot even be asked for it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and ("\x00" in scope["path"] or b"%00" in scope["query_string"]):
            await _refuse(InvalidRequest("The URL contains a NUL character."), scope, receive, send)
        else:
            await self.app(scope, receive, send)


class BodyLimit:
    """Counts the body as it streams in: a wrong or missing Content-Length does not help."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit = self._limit(headers)
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            # the rest of the body is not read
            await _refuse(_too_large(limit), scope, receive, send, {"Connection": "close"})
            return
        await self.app(scope, _counted(receive, limit), send)

    def _limit(self, headers: Headers) -> int:
        uploads = headers.get("content-type", "").startswith(("multipart/form-data", "application/x-ndjson"))
        return self.settings.max_upload_bytes if uploads else self.settings.max_body_bytes


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {limit} bytes.")


async def _refuse(
    error: AppError, scope: Scope, receive: Receive, send: Send, headers: Mapping[str, str] | None = None
) -> None:
    request_id: Any = scope["state"]["request_id"]
    response = problem_response(problem_of(error), instance=scope["path"], request_id=request_id, headers=headers)
    await response(scope, receive, send)


def _counted(receive: Receive, limit: int) -> Receive:
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise BodyTooLarge(limit)
        return message

    return counted
