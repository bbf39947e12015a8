"""/v1/datasets"""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.parse import quote

from whence_client.endpoints.paging import collect
from whence_client.flow import Flow
from whence_client.types import Dataset, Example, Page
from whence_client.wire import ask, discard, get, patch, post, post_file


def upload(
    file: str | PathLike[str], *, name: str | None = None, metadata: dict[str, Any] | None = None
) -> Flow[Dataset]:
    """Stream a JSONL, JSON, CSV or Parquet file to the server. A large one answers `loading`: wait for its `job_id`."""
    path = Path(file)
    noted = None if metadata is None else json.dumps(metadata)
    return ask(post_file("/v1/datasets", path, name=name or path.stem, metadata=noted), Dataset)


def register(name: str, *, uri: str, metadata: dict[str, Any] | None = None) -> Flow[Dataset]:
    """A dataset the server can read itself, below its roots."""
    return ask(post("/v1/datasets", {"name": name, "uri": uri, "metadata": metadata}), Dataset)


def retrieve(dataset_id: str) -> Flow[Dataset]:
    return ask(get(f"/v1/datasets/{dataset_id}"), Dataset)


def update(
    dataset_id: str, *, name: str | None = None, metadata: dict[str, Any] | None = None, if_match: str | None = None
) -> Flow[Dataset]:
    """Rename it, or replace what is noted on it. Raises PreconditionFailed when it has changed since `if_match` was
    its ETag."""
    return ask(patch(f"/v1/datasets/{dataset_id}", {"name": name, "metadata": metadata}, if_match), Dataset)


def list_page(
    *, name: str | None = None, state: str | None = None, cursor: str | None = None, limit: int | None = None
) -> Flow[Page[Dataset]]:
    """One page, newest first."""
    return ask(get("/v1/datasets", name=name, state=state, cursor=cursor, limit=limit), Page[Dataset])


def list_all() -> Flow[list[Dataset]]:
    """Every dataset, newest first, page after page."""
    return collect(list_page)


def delete(dataset_id: str) -> Flow[None]:
    """Raises Conflict while an index uses it, naming the user."""
    return discard(f"/v1/datasets/{dataset_id}")


def examples(
    dataset_id: str,
    *,
    cursor: str | None = None,
    limit: int | None = None,
    query: str | None = None,
    tags: dict[str, str] | None = None,
    label: str | None = None,
) -> Flow[Page[Example]]:
    """Rows in order; `query` searches their text, every tag given must match, and so must the label."""
    wanted = {"query": query, "label": label} | {f"tag.{key}": value for key, value in (tags or {}).items()}
    return ask(get(f"/v1/datasets/{dataset_id}/examples", cursor=cursor, limit=limit, **wanted), Page[Example])


def example(dataset_id: str, example_id: str) -> Flow[Example]:
    return ask(get(f"/v1/datasets/{dataset_id}/examples/{quote(example_id, safe='')}"), Example)
