"""/v1/aliases"""

from __future__ import annotations

from urllib.parse import quote

from whence_client.aliases import Alias
from whence_client.endpoints.paging import collect
from whence_client.flow import Flow, Request, send
from whence_client.types import Page
from whence_client.wire import ask, given, parse, require_success


def put(name: str, *, index: str, if_match: str | None = None, only_new: bool = False) -> Flow[Alias]:
    """Make the alias, or point it at another index at once.

    if_match: the `etag` of the alias as it was seen; only_new: make it, never move it. Raises PreconditionFailed when
    it has changed since, or exists.
    """
    headers = given({"If-Match": if_match, "If-None-Match": "*" if only_new else None})
    return _tagged(Request("PUT", _path(name), json={"index": index}, headers=headers))


def retrieve(name: str) -> Flow[Alias]:
    return _tagged(Request("GET", _path(name)))


def list_page(*, cursor: str | None = None, limit: int | None = None) -> Flow[Page[Alias]]:
    """One page, newest first; without etags."""
    return ask(Request("GET", "/v1/aliases", params=given({"cursor": cursor, "limit": limit})), Page[Alias])


def list_all() -> Flow[list[Alias]]:
    """Every alias, newest first, page after page."""
    return collect(list_page)


def delete(name: str, *, if_match: str | None = None) -> Flow[None]:
    """Forget the alias; its index stays."""
    require_success((yield from send(Request("DELETE", _path(name), headers=given({"If-Match": if_match})))))


def _path(name: str) -> str:
    return f"/v1/aliases/{quote(name, safe='')}"


def _tagged(request: Request) -> Flow[Alias]:
    response = yield from send(request)
    return parse(response, Alias).model_copy(update={"etag": response.headers.get("ETag")})
