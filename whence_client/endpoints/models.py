"""/v1/models"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any

from whence_client.endpoints.paging import collect
from whence_client.flow import Flow
from whence_client.types import Model, Page
from whence_client.wire import ask, discard, get, patch, post

Location = str | PathLike[str]


def create(
    name: str,
    *,
    base: Location,
    adapter: Location | None = None,
    checkpoints: Sequence[Location] | None = None,
    tokenizer: Location | None = None,
    chat_template: str | None = None,
    recipe: dict[str, Any] | None = None,
    dtype: str | None = None,
    quantization: str | None = None,
    metadata: dict[str, Any] | None = None,
) -> Flow[Model]:
    """Register a fine-tuned model. Paths are the server's, below its WHENCE_MODEL_ROOTS."""
    body = {
        "name": name,
        "base": fspath(base),
        "adapter": None if adapter is None else fspath(adapter),
        "checkpoints": None if checkpoints is None else [fspath(path) for path in checkpoints],
        "tokenizer": None if tokenizer is None else fspath(tokenizer),
        "chat_template": chat_template,
        "recipe": recipe,
        "dtype": dtype,
        "quantization": quantization,
        "metadata": metadata,
    }
    return ask(post("/v1/models", body), Model)


def retrieve(model_id: str) -> Flow[Model]:
    return ask(get(f"/v1/models/{model_id}"), Model)


def update(model_id: str, *, metadata: dict[str, Any], if_match: str | None = None) -> Flow[Model]:
    """Replace what is noted on a model. Raises PreconditionFailed when it has changed since `if_match` was its ETag."""
    return ask(patch(f"/v1/models/{model_id}", {"metadata": metadata}, if_match), Model)


def list_page(*, name: str | None = None, cursor: str | None = None, limit: int | None = None) -> Flow[Page[Model]]:
    """One page, newest first; of one name: its versions."""
    return ask(get("/v1/models", name=name, cursor=cursor, limit=limit), Page[Model])


def list_all() -> Flow[list[Model]]:
    """Every model, newest first, page after page."""
    return collect(list_page)


def delete(model_id: str) -> Flow[None]:
    """Raises Conflict while an index uses it, naming the user."""
    return discard(f"/v1/models/{model_id}")
