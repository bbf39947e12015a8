"""How exceptions leave over HTTP: RFC 9457 `application/problem+json` with the request id; below /ui, a page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from app.dashboard.pages import is_page, problem_page
from app.errors import AppError, FieldError, PayloadTooLarge, problem, problem_of
from engine.errors import EngineError, QueueFull

log = structlog.get_logger("whence.problems")


class ProblemResponse(Response):
    media_type = "application/problem+json"

    def render(self, content: Any) -> bytes:
        # replace: a refusal may quote half of a surrogate pair, which no encoding can carry
        return json.dumps(content, ensure_ascii=False, default=str).encode(errors="replace")


def problem_response(scope: Scope, body: dict[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """The refusal of a request; a page where a person sees it."""
    request = Request(scope)
    if is_page(request.url.path):
        return problem_page(body, request, headers)
    body = body | {"instance": request.url.path, "request_id": scope["state"].get("request_id")}
    return ProblemResponse(body, status_code=body["status"], headers=dict(headers or {}))


def install_problem_handlers(app: FastAPI) -> None:
    app.add_exception_handler(AppError, _app_error)
    app.add_exception_handler(EngineError, _engine_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


def _respond(request: Request, body: dict[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return problem_response(request.scope, body, headers)


async def _app_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AppError)
    return _respond(request, problem_of(error), error.headers)


async def _engine_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, EngineError)
    body = problem_of(error)
    if body["status"] >= 500:
        log.error("engine error", exc_info=error)
    headers = {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))} if isinstance(error, QueueFull) else None
    return _respond(request, body, headers)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [FieldError(_pointer(item), message_of(item)) for item in error.errors()]
    detail = "; ".join(f"{e.pointer or 'body'}: {e.message}" for e in errors[:3])
    remedy = "Correct the named fields; /docs shows the schema."
    return _respond(request, problem("invalid-request", "Invalid request", 422, detail, remedy, errors))


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: 404 for no route, 405, 400 for a body that cannot be read, 413."""
    assert isinstance(error, HTTPException)
    if error.status_code == PayloadTooLarge.status:
        return _respond(request, problem_of(PayloadTooLarge(str(error.detail))), {"Connection": "close"})
    title = HTTPStatus(error.status_code).phrase
    code = title.lower().replace(" ", "-")
    remedy = _REMEDIES.get(error.status_code)
    return _respond(request, problem(code, title, error.status_code, str(error.detail), remedy), error.headers)


_REMEDIES = {
    400: "Check that the body is what its Content-Type says.",
    404: "Check the path; /docs lists every route.",
    405: "Check the method; the Allow header lists those this path takes.",
    408: "Send the body without long pauses; GET /v1/limits shows how long they may be.",
}


def _pointer(item: dict[str, Any]) -> str:
    """Of a body that is no JSON, pydantic's location is a character's place: it points nowhere."""
    return "" if item.get("type") == "json_invalid" else pointer_of(item["loc"])


def message_of(found: Mapping[str, Any]) -> str:
    """What pydantic says of one wrong value, without naming the exception it came from."""
    return str(found["msg"]).removeprefix("Value error, ")


def pointer_of(location: Sequence[str | int]) -> str:
    """("body", "options", "dtype") → "/options/dtype"; ("query", "limit") → "query:limit"."""
    part, *rest = location or ("body",)
    if part == "body":
        return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in rest)
    return f"{part}:{'.'.join(str(step) for step in rest)}"
