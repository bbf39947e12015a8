"""Around every request: its id, its log line, its metrics, the last line of defence, limits of URL and body."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from uuid import uuid4

import anyio
import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.dashboard.pages import HEADERS as PAGE_HEADERS
from app.dashboard.pages import is_page
from app.errors import PROBLEM_TYPE_PREFIX, AppError, InvalidRequest, PayloadTooLarge, problem_of
from app.problems import problem_response
from app.settings import Settings
from app.telemetry import Metrics
from app.telemetry.logs import shown_path
from app.telemetry.metrics import known_method

log = structlog.get_logger("whence.http")

REQUEST_ID = "x-request-id"
_GOOD_ID = re.compile(r"^[A-Za-z0-9._:-]{1,128}$")
EVERY_ANSWER = {"X-Content-Type-Options": "nosniff"}
_QUIET = frozenset({"/livez", "/readyz", "/metrics"})  # polled; logged only when they fail
# Of our own bodies: a quote that callers sent is escaped there, so nothing of theirs can look like this.
# Ours name a path alone; the framework's, for a slash too many, the host that the caller made up.
_ELSEWHERE = re.compile(r"^https?://[^/]*(?=/[^/])")
_PROBLEM = re.compile(rb'"type": "%b([a-z0-9-]{1,60})"' % PROBLEM_TYPE_PREFIX.encode())


class RequestContext:
    """Takes the caller's X-Request-ID or makes one; an exception that nothing else handled becomes a
    500 problem here, with the cause in the log only. slow_seconds: a request that takes longer is a warning."""

    def __init__(self, app: ASGIApp, metrics: Metrics, slow_seconds: float = math.inf) -> None:
        self.app = app
        self.metrics = metrics
        self.slow_seconds = slow_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        with (
            structlog.contextvars.bound_contextvars(request_id=exchange.request_id),
            self.metrics.in_flight.track_inprogress(),
        ):
            try:
                await self.app(scope, receive, exchange.send)
            except Exception as error:
                await exchange.fail(error, receive)
            finally:
                self._record(scope, exchange)

    def _record(self, scope: Scope, exchange: _Exchange) -> None:
        seconds = time.perf_counter() - exchange.began
        route = getattr(scope.get("route"), "path", "unmatched")
        self.metrics.observe(scope["method"], route, exchange.status, seconds, exchange.sent_bytes)
        if exchange.problem is not None:
            self.metrics.problem(exchange.problem)
        slow = seconds > self.slow_seconds and not exchange.is_stream
        if scope["path"] in _QUIET and exchange.status < 400 and not slow:
            return
        level = logging.WARNING if slow or exchange.status >= 500 else logging.INFO
        log.log(level, "request", **self._line(scope, exchange, route, seconds), **({"slow": True} if slow else {}))

    def _line(self, scope: Scope, exchange: _Exchange, route: str, seconds: float) -> dict[str, Any]:
        """Who asked for what, and what came of it; never what was in it."""
        line: dict[str, Any] = {}
        principal: Any = scope["state"].get("principal")
        if principal is not None:
            line |= {"tenant": principal.tenant, "key_id": principal.key_id}
        line |= {
            "method": known_method(scope["method"]),
            "route": route,
            "path": shown_path(scope["app"], scope["path"]),
        }
        line |= {"status": exchange.status, "ms": round(seconds * 1000, 1), "bytes_out": exchange.sent_bytes}
        return line | ({"problem": exchange.problem} if exchange.problem else {})


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.began = time.perf_counter()
        self.status = 499  # the client left before an answer began
        self.started = False
        self.sent_bytes = 0
        self.problem: str | None = None
        self.is_stream = False
        self._is_problem = False
        self._scope, self._send = scope, send
        asked = Headers(scope=scope).get(REQUEST_ID, "")
        self.request_id = asked if _GOOD_ID.fullmatch(asked) else f"req_{uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = self.request_id

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID] = self.request_id
            for name, value in (PAGE_HEADERS if is_page(self._scope["path"]) else EVERY_ANSWER).items():
                headers.setdefault(name, value)
            if "location" in headers:
                headers["location"] = _ELSEWHERE.sub("", headers["location"])
            self.is_stream = headers.get("content-type", "").startswith("text/event-stream")
            self._is_problem = headers.get("content-type", "").startswith("application/problem+json")
        else:
            self._look_at(message.get("body", b""))
        await self._send(message)

    def _look_at(self, body: bytes) -> None:
        self.sent_bytes += len(body)
        if self._is_problem and self.problem is None and (found := _PROBLEM.search(body)):
            self.problem = found[1].decode()

    async def fail(self, error: Exception, receive: Receive) -> None:
        body = problem_of(error)
        path = shown_path(self._scope["app"], self._scope["path"])
        if body["status"] == AppError.status:
            log.error("unhandled error", path=path, exc_info=error)
        else:  # it has a name: a database that is away, a full disk
            log.warning("request failed", path=path, cause=str(error).partition("\n")[0])
        if self.started:
            raise error  # too late for a problem: the server must break the connection off
        response = problem_response(self._scope, body)
        await response(self._scope, receive, self.send)


class BodyTooLarge(HTTPException):
    """An HTTPException, because the framework passes those on from inside its body parsing."""

    def __init__(self, limit: int) -> None:
        super().__init__(PayloadTooLarge.status, f"The body is larger than {limit} bytes.")


class AmbiguousLength(AppError):
    status, code, title = 400, "bad-request", "Bad Request"
    remedy = "Send either Content-Length or Transfer-Encoding, not both."

    def __init__(self) -> None:
        super().__init__("The request says with both Content-Length and Transfer-Encoding where its body ends.")


class PlainRequest:
    """Refuses what has two meanings.

    NUL characters: nothing that is stored has one, and PostgreSQL cannot even be asked for it. Two lengths of one body:
    a proxy in front may go by the other one, and take what follows for a request of its own.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and ("\x00" in scope["path"] or b"%00" in scope["query_string"]):
            await _refuse(InvalidRequest("The URL contains a NUL character."), scope, receive, send)
        elif scope["type"] == "http" and _two_lengths(scope):
            # what comes behind it on this connection is not looked at
            await _refuse(AmbiguousLength(), scope, receive, send, {"Connection": "close"})
        else:
            await self.app(scope, receive, send)


def _two_lengths(scope: Scope) -> bool:
    names = [name for name, _ in scope["headers"]]
    return b"content-length" in names and b"transfer-encoding" in names


class BodyTooSlow(HTTPException):
    """As above."""

    def __init__(self, seconds: float) -> None:
        detail = f"Nothing more of the body came for {seconds:g} seconds."
        super().__init__(HTTPStatus.REQUEST_TIMEOUT, detail, {"Connection": "close"})


# Routes that take their body to the disk piece by piece. All others hold it in memory, whatever its type says it is.
UPLOADS = {
    "/v1/datasets": "multipart/form-data",
    "/ui/datasets": "multipart/form-data",
    "/v1/indexes/import": "multipart/form-data",
    "/v1/attributions/batch": "multipart/form-data",
    "/v1/attributions/batches": "multipart/form-data",
}


class BodyLimit:
    """Counts the body as it streams in: a wrong or missing Content-Length does not help. And one that trickles, or
    stops, does not hold its connection, thread and file for ever."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit = self._limit(scope["path"], headers)
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            # the rest of the body is not read
            await _refuse(_too_large(limit), scope, receive, send, {"Connection": "close"})
            return
        await self.app(scope, _counted(receive, limit, self.settings.max_body_idle_seconds), send)

    def _limit(self, path: str, headers: Headers) -> int:
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        return self.settings.max_upload_bytes if UPLOADS.get(path) == kind else self.settings.max_body_bytes


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {limit} bytes.")


async def _refuse(
    error: AppError, scope: Scope, receive: Receive, send: Send, headers: Mapping[str, str] | None = None
) -> None:
    response = problem_response(scope, problem_of(error), headers)
    await response(scope, receive, send)


def _counted(receive: Receive, limit: int, patience: float) -> Receive:
    received, whole = 0, False

    async def counted() -> Message:
        nonlocal received, whole
        if whole:  # what comes now is the news that the client has left: no hurry
            return await receive()
        try:
            with anyio.fail_after(patience):
                message = await receive()
        except TimeoutError:
            raise BodyTooSlow(patience) from None
        whole = not message.get("more_body", False)
        received += len(message.get("body", b""))
        if received > limit:
            raise BodyTooLarge(limit)
        return message

    return counted
