"""/v1/indexes"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whence_client.endpoints.paging import collect
from whence_client.flow import Flow
from whence_client.types import Index, IndexEstimate, Page, SelfInfluence
from whence_client.wire import ask, discard, get, post


def build(
    *,
    model: str,
    dataset: str,
    name: str | None = None,
    method: str | None = None,
    checkpoints: str | Sequence[str] | None = None,
    options: dict[str, Any] | None = None,
) -> Flow[Index]:
    """Start a build; the answer's `job_id` is the job to wait for."""
    return ask(post("/v1/indexes", _body(model, dataset, name, method, checkpoints, options)), Index)


def estimate(
    *,
    model: str,
    dataset: str,
    method: str | None = None,
    checkpoints: str | Sequence[str] | None = None,
    options: dict[str, Any] | None = None,
) -> Flow[IndexEstimate]:
    """Time, memory and disk a build would take; nothing is built."""
    return ask(post("/v1/indexes/estimate", _body(model, dataset, None, method, checkpoints, options)), IndexEstimate)


def retrieve(index_id: str) -> Flow[Index]:
    return ask(get(f"/v1/indexes/{index_id}"), Index)


def list_page(*, cursor: str | None = None, limit: int | None = None) -> Flow[Page[Index]]:
    """One page, newest first."""
    return ask(get("/v1/indexes", cursor=cursor, limit=limit), Page[Index])


def list_all() -> Flow[list[Index]]:
    """Every index, newest first, page after page."""
    return collect(list_page)


def delete(index_id: str) -> Flow[None]:
    """Raises Conflict while it is being built."""
    return discard(f"/v1/indexes/{index_id}")


def self_influence(
    index_id: str, *, order: str = "desc", cursor: str | None = None, limit: int | None = None
) -> Flow[Page[SelfInfluence]]:
    """One page of the rows by how much they influence themselves: mislabelled and odd ones first (`desc`)."""
    path = f"/v1/indexes/{index_id}/self-influence"
    return ask(get(path, order=order, cursor=cursor, limit=limit), Page[SelfInfluence])


def _body(
    model: str,
    dataset: str,
    name: str | None,
    method: str | None,
    checkpoints: str | Sequence[str] | None,
    options: dict[str, Any] | None,
) -> dict[str, Any]:
    chosen = checkpoints if checkpoints is None or isinstance(checkpoints, str) else list(checkpoints)
    body = {"model": model, "dataset": dataset, "name": name, "method": method}
    return body | {"checkpoints": chosen, "options": options}
