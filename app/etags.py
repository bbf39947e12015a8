"""ETags: a resource that has not changed is not sent again (304), and one that has is not changed unseen (412).

A route answers conditionally when it is declared with `**tagged(...)`, on a router whose route_class is
TaggedRoute; its endpoint does nothing for it. A strong ETag is the hash of what is sent, so it needs no column
and cannot be forgotten when an answer gains a field, or an attribution its trust.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel

from app.bodies import problems
from app.errors import AppError
from app.idempotency import IdempotentRoute

CACHE_CONTROL = "private, no-cache"  # may be kept by its reader, who asks each time whether it still holds
_TEXT = {"schema": {"type": "string"}}
_HEADERS = {
    "ETag": {"description": "Strong: the hash of the body.", **_TEXT},
    "Cache-Control": {"description": f"`{CACHE_CONTROL}`", **_TEXT},
}


class PreconditionFailed(AppError):
    status, code, title = 412, "precondition-failed", "Changed meanwhile"
    remedy = "Read the resource again, look at what changed, and send its new ETag in If-Match."


def tagged(*statuses: int) -> dict[str, Any]:
    """`responses=` and more of a GET that answers conditionally; `statuses`: the problems it can answer with."""
    responses: dict[int | str, dict[str, Any]] = {
        200: {"headers": _HEADERS},
        304: {"description": "What the caller has still holds", "headers": _HEADERS},
    }
    return {"responses": responses | problems(*statuses), "dependencies": [Depends(_if_none_match)]}


def _if_none_match(
    if_none_match: Annotated[
        str | None, Header(description="ETags of what the caller has: 304 when one of them holds.")
    ] = None,
) -> None:
    """Declares the header; TaggedRoute reads it."""


class TaggedRoute(IdempotentRoute):
    """Adds ETags to the GETs that declare a 304; a POST may carry an Idempotency-Key."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if 304 not in self.responses:
            return handle

        async def conditional(request: Request) -> Response:
            return _tagged(await handle(request), request.headers.get("if-none-match"))

        return conditional


def _tagged(response: Response, if_none_match: str | None) -> Response:
    """The response with its ETag, or that it still holds."""
    if response.status_code != 200:
        return response
    etag = _etag(json.loads(bytes(response.body)))
    headers = {"ETag": etag, "Cache-Control": CACHE_CONTROL}
    if if_none_match is not None and _names(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return response


def etag_of(shown: BaseModel) -> str:
    """The ETag of a resource as GET would give it now."""
    return _etag(shown.model_dump(mode="json"))


def _etag(content: Any) -> str:
    """Of the JSON's content: equal content is sent as equal bytes."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f'"{hashlib.sha256(canonical.encode()).hexdigest()[:40]}"'


def _names(header: str, etag: str) -> bool:
    """True when a list of ETags, or `*`, covers `etag`. If-None-Match compares weakly (RFC 9110): W/ is ignored."""
    given = [item.strip().removeprefix("W/") for item in header.split(",")]
    return etag in given or given == ["*"]


@dataclass(frozen=True)
class Preconditions:
    """What must hold for a change to be made: the headers of a PUT or PATCH."""

    if_match: str | None
    if_none_match: str | None = None

    def check(self, current: str | None) -> None:
        """`current`: the resource's ETag, None when there is none yet; within the transaction that changes it.
        Raises PreconditionFailed."""
        if self.if_match is not None and not self._matches(self.if_match, current):
            cause = "There is no such resource" if current is None else "The resource has changed since"
            raise PreconditionFailed(f"{cause}: its ETag is not {self.if_match[:80]}.", pointer="header:If-Match")
        if self.if_none_match is not None and current is not None and _names(self.if_none_match, current):
            detail = "The resource exists already, and the request was to make a new one."
            raise PreconditionFailed(detail, pointer="header:If-None-Match")

    @staticmethod
    def _matches(header: str, current: str | None) -> bool:
        """If-Match compares strongly: a weak ETag never matches."""
        given = [item.strip() for item in header.split(",")]
        return current is not None and (current in given or given == ["*"])


IfMatch = Annotated[
    str | None, Header(description="ETag of what the caller has seen: 412 when the resource has changed since.")
]


def _for_change(if_match: IfMatch = None) -> Preconditions:
    return Preconditions(if_match)


def _for_put(
    if_match: IfMatch = None,
    if_none_match: Annotated[str | None, Header(description="`*`: only make, never move; 412 when it exists.")] = None,
) -> Preconditions:
    return Preconditions(if_match, if_none_match)


ForChange = Annotated[Preconditions, Depends(_for_change)]
ForPut = Annotated[Preconditions, Depends(_for_put)]
