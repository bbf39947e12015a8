"""/v1/attributions"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict, Unpack

from whence_client.batches import Batch, BatchResult
from whence_client.download import download
from whence_client.endpoints import jobs
from whence_client.errors import UnexpectedResponse
from whence_client.flow import Flow, Request, send
from whence_client.types import AnyAttribution, Attribution, Page, PendingAttribution
from whence_client.wire import ask, discard, get, parse, parse_text, post, post_file, require_success

# Short enough for every proxy's patience; what takes longer becomes a job, which is then waited for.
WAIT_S = 30
BATCHES = "/v1/attributions/batches"
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
    search: str | None
    metadata: dict[str, Any] | None


def create(model: str | None = None, **question: Unpack[Question]) -> Flow[Attribution]:
    """Which training examples caused this output? A slow answer becomes a job on the server and is waited for.

    model: may be left out when `index` names an index or an alias."""
    return (yield from _answered("/v1/attributions", {"model": model, **question}))


def query_set(
    members: Sequence[dict[str, Any]], model: str | None = None, **question: Unpack[Question]
) -> Flow[Attribution]:
    """Which examples drive a behaviour: the mean over the queries is explained. Each is a `prompt` (or `messages`) with
    its `completion`; everything else is as in `create`."""
    return (yield from _answered("/v1/attributions/query-set", {"model": model, **question, "queries": members}))


def _answered(path: str, body: dict[str, Any]) -> Flow[Attribution]:
    response = yield from send(post(path, body, prefer=f"wait={WAIT_S}"))
    if response.status_code != 202:
        return parse(response, Attribution)
    pending = parse(response, PendingAttribution)
    yield from jobs.wait(_job_id(pending))
    return (yield from ask(get(f"/v1/attributions/{pending.id}"), Attribution))


def submit(model: str | None = None, **question: Unpack[Question]) -> Flow[Attribution | PendingAttribution]:
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
    state: str | None = None,
    cursor: str | None = None,
    limit: int | None = None,
) -> Flow[Page[AnyAttribution]]:
    """One page, newest first. state: running, succeeded, failed or cancelled."""
    after = None if since is None else since.isoformat()
    wanted = {"model": model, "index": index, "since": after, "state": state}
    return ask(get("/v1/attributions", **wanted, cursor=cursor, limit=limit), Page[AnyAttribution])


def delete(attribution_id: str) -> Flow[None]:
    return discard(f"/v1/attributions/{attribution_id}")


def batch(
    file: str | PathLike[str],
    *,
    model: str | None = None,
    index: str | None = None,
    method: str | None = None,
    top_k: int | None = None,
) -> Flow[Batch]:
    """Ask every line of a JSONL file; the answer's `job_id` is the job to wait for.

    A line: the fields of a question, and a `custom_id` of your own. model and index (an id or an alias) are for lines
    that name neither; method and top_k for those that leave them out.
    """
    fields = {"model": model, "index": index, "method": method, "top_k": None if top_k is None else str(top_k)}
    return ask(post_file(BATCHES, Path(file), **fields), Batch)


def batch_of(
    questions: Sequence[dict[str, Any]],
    *,
    model: str | None = None,
    index: str | None = None,
    method: str | None = None,
    top_k: int | None = None,
) -> Flow[Batch]:
    """As `batch`, with the questions in the request itself."""
    body = {"queries": questions, "model": model, "index": index, "method": method, "top_k": top_k}
    return ask(post("/v1/attributions/batch", body), Batch)


def retrieve_batch(batch_id: str) -> Flow[Batch]:
    return ask(get(f"{BATCHES}/{batch_id}"), Batch)


def list_batches(*, cursor: str | None = None, limit: int | None = None) -> Flow[Page[Batch]]:
    """One page, newest first."""
    return ask(get(BATCHES, cursor=cursor, limit=limit), Page[Batch])


def batch_results(batch_id: str, *, partial: bool = False) -> Flow[list[BatchResult]]:
    """All results at once, in the order of the file; a large batch is better saved with `save_batch_results`.

    partial: those there are. Without it raises Conflict until the batch is ready.
    """
    response = yield from send(get(f"{BATCHES}/{batch_id}/results", partial=partial or None))
    require_success(response)
    return [parse_text(line, BatchResult) for line in response.text.split("\n") if line]


def save_batch_results(batch_id: str, file: str | PathLike[str], *, partial: bool = False) -> Flow[Path]:
    """The results as JSONL, streamed to `file`, which is there only when it is whole."""
    asked = "?partial=true" if partial else ""
    return download(Request("GET", f"{BATCHES}/{batch_id}/results{asked}"), Path(file))


def delete_batch(batch_id: str) -> Flow[None]:
    """Forget the batch and its results; the answers stay. Raises Conflict while it runs."""
    return discard(f"{BATCHES}/{batch_id}")


def _job_id(pending: PendingAttribution) -> str:
    if pending.job_id is None:
        raise UnexpectedResponse("The server accepted the question but named no job to wait for.")
    return pending.job_id
