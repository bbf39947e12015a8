"""/v1/indexes"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from whence_client.download import download
from whence_client.endpoints.paging import collect
from whence_client.flow import Flow
from whence_client.types import Index, IndexEstimate, Page, SelfInfluence
from whence_client.wire import ask, discard, get, patch, post, post_file


def build(
    *,
    model: str,
    dataset: str,
    name: str | None = None,
    method: str | None = None,
    checkpoints: str | Sequence[str] | None = None,
    options: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
) -> Flow[Index]:
    """Start a build; the answer's `job_id` is the job to wait for."""
    body = _body(model, dataset, name, method, checkpoints, options)
    return ask(post("/v1/indexes", body | {"metadata": metadata}), Index)


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


def update(
    index_id: str, *, name: str | None = None, metadata: dict[str, Any] | None = None, if_match: str | None = None
) -> Flow[Index]:
    """Name an index that has no name, or replace what is noted on it. Raises PreconditionFailed when it has changed
    since `if_match` was its ETag, and Conflict for a second name."""
    return ask(patch(f"/v1/indexes/{index_id}", {"name": name, "metadata": metadata}, if_match), Index)


def list_page(
    *,
    name: str | None = None,
    state: str | None = None,
    model: str | None = None,
    dataset: str | None = None,
    cursor: str | None = None,
    limit: int | None = None,
) -> Flow[Page[Index]]:
    """One page, newest first; of one name: its versions."""
    wanted = {"name": name, "state": state, "model": model, "dataset": dataset}
    return ask(get("/v1/indexes", cursor=cursor, limit=limit, **wanted), Page[Index])


def list_all() -> Flow[list[Index]]:
    """Every index, newest first, page after page."""
    return collect(list_page)


def delete(index_id: str) -> Flow[None]:
    """Raises Conflict while it is being built."""
    return discard(f"/v1/indexes/{index_id}")


def export(index_id: str, file: str | PathLike[str]) -> Flow[Path]:
    """Write the index and its rows to one file, for another server. The file is there when it is whole."""
    return download(get(f"/v1/indexes/{index_id}/export"), Path(file))


def import_(file: str | PathLike[str], *, model: str, name: str | None = None) -> Flow[Index]:
    """Take in an exported index. `model`: the id of the same model on this server; Conflict where it is another."""
    return ask(post_file("/v1/indexes/import", Path(file), model=model, name=name), Index)


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
