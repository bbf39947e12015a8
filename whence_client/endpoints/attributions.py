"""/v1/attributions"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypedDict, Unpack

from whence_client.endpoints import jobs
from whence_client.errors import UnexpectedResponse
from whence_client.flow import Flow, send
from whence_client.types import Attribution, Job, Page
from whence_client.wire import ask, discard, get, parse, post

# Short enough for every proxy's patience; what takes longer becomes a job, which is then waited for.
WAIT_S = 30


class Question(TypedDict, total=False):
    """A query's fields, as in the API: exactly one of `prompt` and `messages`."""

    index: str | None
    prompt: str | None
    messages: Sequence[dict[str, str]] | None
    completion: str | None
    generate: dict[str, Any] | None
    contrast: str | None
    span: dict[str, int] | None
    method: str | None
    normalize: str | None
    top_k: int | None
    opponents: bool | None
    tokens: bool | None
    modules: bool | None
    filter: dict[str, Any] | None
    group_by: str | None
    metadata: dict[str, Any] | None


def create(model: str, **question: Unpack[Question]) -> Flow[Attribution]:
    """Which training examples caused this output? A slow answer becomes a job on the server and is waited for."""
    response = yield from send(post("/v1/attributions", {"model": model, **question}, prefer=f"wait={WAIT_S}"))
    if response.status_code != 202:
        return parse(response, Attribution)
    finished = yield from jobs.wait(_job_id(parse(response, dict[str, Any])))
    return (yield from retrieve(_attribution_id(finished, parse(response, dict[str, Any]))))


def submit(model: str, **question: Unpack[Question]) -> Flow[Job]:
    """Ask as a job; when it is done, `attributions.retrieve(job.result["attribution_id"])`."""
    response = yield from send(post("/v1/attributions", {"model": model, **question}, prefer="respond-async"))
    return (yield from jobs.retrieve(_job_id(parse(response, dict[str, Any]))))


def retrieve(attribution_id: str) -> Flow[Attribution]:
    return ask(get(f"/v1/attributions/{attribution_id}"), Attribution)


def list_page(
    *,
    model: str | None = None,
    index: str | None = None,
    since: datetime | None = None,
    cursor: str | None = None,
    limit: int | None = None,
) -> Flow[Page[Attribution]]:
    """One page, newest first."""
    after = None if since is None else since.isoformat()
    return ask(
        get("/v1/attributions", model=model, index=index, since=after, cursor=cursor, limit=limit), Page[Attribution]
    )


def delete(attribution_id: str) -> Flow[None]:
    return discard(f"/v1/attributions/{attribution_id}")


def _job_id(accepted: dict[str, Any]) -> str:
    job_id = accepted.get("job_id")
    if not isinstance(job_id, str):
        raise UnexpectedResponse("The server accepted the question but named no job_id to wait for.")
    return job_id


def _attribution_id(finished: Job, accepted: dict[str, Any]) -> str:
    found = (finished.result or {}).get("attribution_id") or accepted.get("id")
    if not isinstance(found, str):
        raise UnexpectedResponse(f"The job {finished.id} succeeded but names no attribution.")
    return found
