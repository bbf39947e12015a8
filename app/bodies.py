"""What the request and response schemas of every resource share."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Request
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, StringConstraints
from starlette.datastructures import FormData

from app.storage import full_disk_is_named

MAX_DEPTH = 64  # of JSON that is kept as it came: every later step walks it, some by recursion


class RequestBody(BaseModel):
    """A field that is not known is an error: a misspelt option must never be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _storable(value: str) -> str:
    if "\x00" in value:
        raise ValueError("text must not contain NUL characters")
    _check_surrogates(value)
    return value


def _check_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("text must not contain half of a surrogate pair") from None


def _storable_json(value: dict[str, Any]) -> dict[str, Any]:
    """What PostgreSQL cannot keep as JSON is refused on every database."""
    _check_depth(value, MAX_DEPTH)
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    _check_surrogates(text)
    if "\\u0000" in text:
        raise ValueError("text must not contain NUL characters")
    return value


def _check_depth(value: Any, room: int) -> None:
    if room < 0:
        raise ValueError(f"objects and lists must not be nested deeper than {MAX_DEPTH} levels")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_depth(item, room - 1)


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("the moment lies before year 1 or after year 9999 in UTC") from None


JsonObject = Annotated[dict[str, Any], AfterValidator(_storable_json)]
PlainText = Annotated[str, AfterValidator(_storable)]
Name = Annotated[PlainText, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]
PathText = Annotated[PlainText, StringConstraints(min_length=1, max_length=4096)]

Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


async def read_form(request: Request) -> FormData:
    """The multipart body; read once, however often it is asked for. Uploads are spooled to the temporary directory."""
    with full_disk_is_named():
        return await request.form(max_files=1, max_fields=8)


class FieldProblem(BaseModel):
    pointer: str
    message: str


class Problem(BaseModel):
    """RFC 9457. `type` is stable; more fields may name the facts (line, rows, serves, …)."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None
    request_id: str | None = None
    errors: list[FieldProblem] = []
    remedy: str | None = None


_MEANINGS = {
    400: "The body cannot be read",
    401: "No API key, or one that does not hold",
    403: "The key lacks the scope",
    404: "No such resource",
    408: "The body did not come in time",
    409: "The state of things forbids it",
    412: "It has changed since the caller saw it",
    413: "The body is too large",
    415: "The body is of a kind that this route does not take",
    422: "The request asks for something impossible",
    429: "Too much at once; see Retry-After",
    500: "What is stored is damaged",
    503: "The engine or the database is not available",
    507: "The disk is full",
}


_PROBLEM_CONTENT = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route: the problems it can answer with."""
    return {status: {"description": _MEANINGS[status], "content": _PROBLEM_CONTENT} for status in statuses}
