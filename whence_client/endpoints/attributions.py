"""/v1/attributions"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypedDict, Unpack

from whence_client.endpoints import jobs
from whence_client.errors import UnexpectedResponse
from whence_client.flow import Flow, send
from whence_client.types import AnyAttribution, Attribution, Page, PendingAttribution
from whence_client.wire import ask, discard, get, parse, post

# Short enough for every proxy's patience; what takes longer becomes a job, which is then waited for.
WAIT_S = 30
_ANY: type[Attribution | PendingAttribution] = AnyAttribution  # type: ignore[assignment]  # an annotated union is no type


class Question(TypedDict, total=False):
    """A query's fields, as in the API: exactly one of `prompt`, `messages` and `queries` (a set)."""

    index: str | None
    prompt: str | None
    messages: Sequence[dict[str, str]] | None
    completion: str | None
    generate: dict[str, Any] | None
    contrast: str | None
    span: dict[str, int] | None
    queries: Sequence[dict[str, Any]] | None
    measurement: str | None
    method: str | None
    normalize: str | None
    top_k: int | None
    opponents: bool | None
    tokens: bool | None
    modules: bool | None
    filter: dict[str, Any] | None
    group_by: str | None
    removal: dict[str, Any] | None
    metadata: dict[str, Any] | None


def create(model: str, **question: Unpack[Question]) -> Flow[Attribution]:
    """Which training examples caused this output? A slow answer becomes a job on the server and is waited for."""
    response = yield from send(post("/v1/attributions", {"model": model, **question}, prefer=f"wait={WAIT_S}"))
    if response.status_code != 202:
        return parse(response, Attribution)
    pending = parse(response, PendingAttribution)
    yield from jobs.wait(_job_id(pending))
    return (yield from ask(get(f"/v1/attributions/{pending.id}"), Attribution))


def submit(model: str, **question: Unpack[Question]) -> Flow[Attribution | PendingAttribution]:
    """Ask and do not wait: what comes back is pending, with its `job_id`, unless it was asked before."""
    request = post("/v1/attributions", {"model": model, **question}, prefer="respond-async")
    response = yield from send(request)
    return parse(response, PendingAttribution if response.status_code == 202 else Attribution)


def retrieve(attribution_id: str) -> Flow[Attribution | PendingAttribution]:
    return ask(get(f"/v1/attributions/{attribution_id}"), _ANY)


def list_page(
    *,
    model: str | None = None,
    index: str | None = None,
    since: datetime | None = None,
    cursor: str | None = None,
    limit: int | None = None,
) -> Flow[Page[AnyAttribution]]:
    """One page, newest first."""
    after = None if since is None else since.isoformat()
    return ask(
        get("/v1/attributions", model=model, index=index, since=after, cursor=cursor, limit=limit), Page[AnyAttribution]
    )


def delete(attribution_id: str) -> Flow[None]:
    return discard(f"/v1/attributions/{attribution_id}")


def _job_id(pending: PendingAttribution) -> str:
    if pending.job_id is None:
        raise UnexpectedResponse("The server accepted the question but named no job to wait for.")
    return pending.job_id
