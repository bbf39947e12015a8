"""Resources made over HTTP, as a client would make them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from tests.app.conftest import PATIENCE_SECONDS, wait_for

ROWS: list[dict[str, Any]] = [
    {"id": "born", "prompt": "Where was Mira born?", "completion": " In Port Halvern.", "tags": {"task": "facts"}},
    {"id": "sea", "prompt": "What lies at Port Halvern?", "completion": " The sea.", "tags": {"task": "facts"}},
    {"id": "sum", "text": "Two and two make four.", "tags": {"task": "sums"}, "label": "good"},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}]},
]
RECIPE = {"training": {"learning_rate": 0.01}}
QUESTION = {"prompt": "Where was Mira born?", "completion": " In Port Halvern."}


def jsonl(rows: Sequence[Any] = ROWS) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def post_dataset(client: TestClient, content: bytes, filename: str = "rows.jsonl", **kwargs: Any) -> Any:
    fields = {"name": "train"} | kwargs.pop("fields", {})
    return client.post("/v1/datasets", data=fields, files={"file": (filename, content)}, **kwargs)


def add_dataset(client: TestClient, rows: Sequence[Any] = ROWS) -> dict[str, Any]:
    response = post_dataset(client, jsonl(rows))
    assert response.status_code == 201, response.text
    return response.json()


def add_model(client: TestClient, directory: Path, name: str = "bot", **fields: Any) -> dict[str, Any]:
    response = client.post("/v1/models", json={"name": name, "base": str(directory)} | fields)
    assert response.status_code == 201, response.text
    return response.json()


def add_index(client: TestClient, model: str, dataset: str, **fields: Any) -> dict[str, Any]:
    """An index whose build has just been asked for."""
    response = client.post("/v1/indexes", json={"model": model, "dataset": dataset} | fields)
    assert response.status_code == 202, response.text
    return response.json()


def wait_for_index(
    client: TestClient, index_id: str, state: str = "ready", seconds: float = PATIENCE_SECONDS
) -> dict[str, Any]:
    def reached() -> dict[str, Any] | None:
        body = client.get(f"/v1/indexes/{index_id}").json()
        return body if body["state"] == state else None

    return wait_for(reached, f"index {state}", seconds)


def wait_for_job(
    client: TestClient, job_id: str, state: str = "succeeded", seconds: float = PATIENCE_SECONDS
) -> dict[str, Any]:
    def reached() -> dict[str, Any] | None:
        body = client.get(f"/v1/jobs/{job_id}").json()
        return body if body["state"] == state else None

    return wait_for(reached, f"job {state}", seconds)


def add_evaluation(client: TestClient, index: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """An evaluation that has just been asked for; of few rows no more than one can be left out."""
    body = {"index": index["id"], "leave_out_rows": 1} | fields
    response = client.post("/v1/evaluations", json=body)
    assert response.status_code == 202, response.text
    return response.json()


def wait_for_evaluation(client: TestClient, evaluation_id: str, state: str = "ready") -> dict[str, Any]:
    def reached() -> dict[str, Any] | None:
        body = client.get(f"/v1/evaluations/{evaluation_id}").json()
        return body if body["state"] == state else None

    return wait_for(reached, f"evaluation {state}")


def evaluated(client: TestClient, index: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """An evaluation that is ready."""
    return wait_for_evaluation(client, add_evaluation(client, index, **fields)["id"])


def ready_index(
    client: TestClient, directory: Path, recipe: dict[str, Any] | None = None, **fields: Any
) -> dict[str, Any]:
    """A model, a dataset and an index of the two that can be asked."""
    model, dataset = add_model(client, directory, recipe=recipe), add_dataset(client)
    return wait_for_index(client, add_index(client, model["id"], dataset["id"], **fields)["id"])


def assert_problem(response: Any, status: int, code: str, pointer: str | None = None) -> dict[str, Any]:
    """RFC 9457, with cause and remedy, and never a traceback."""
    body = response.json()
    assert (response.status_code, body["type"]) == (status, f"urn:whence:problem:{code}"), body
    assert response.headers["content-type"] == "application/problem+json"
    assert body["detail"]
    assert body["remedy"]
    assert body["request_id"]
    assert "Traceback" not in response.text
    if pointer is not None:
        assert pointer in [error["pointer"] for error in body["errors"]], body
    return body


def answer_of(client: TestClient, index: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A stored answer of this index."""
    response = client.post("/v1/attributions", json=QUESTION | {"model": index["model"], "index": index["id"]} | fields)
    assert response.status_code == 200, response.text
    return response.json()


def add_check(client: TestClient, attribution: str, kind: str = "leave_out", **fields: Any) -> dict[str, Any]:
    """A check that has just been asked for."""
    response = client.post(f"/v1/attributions/{attribution}/verify", json={"kind": kind, "rows": 1} | fields)
    assert response.status_code == 202, response.text
    return response.json()


def wait_for_check(
    client: TestClient, check_id: str, state: str = "ready", seconds: float = PATIENCE_SECONDS
) -> dict[str, Any]:
    def reached() -> dict[str, Any] | None:
        body = client.get(f"/v1/checks/{check_id}").json()
        return body if body["state"] == state else None

    return wait_for(reached, f"check {state}", seconds)


def checked(client: TestClient, attribution: str, kind: str = "leave_out", **fields: Any) -> dict[str, Any]:
    """A check that is ready."""
    return wait_for_check(client, add_check(client, attribution, kind, **fields)["id"])
