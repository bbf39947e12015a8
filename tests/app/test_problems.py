"""Every refusal over HTTP is problem+json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx2 import Response
from pydantic import BaseModel

from app.errors import InUse
from app.problems import pointer_of
from engine.errors import CorruptIndex, QueueFull, UnknownMethod


class Body(BaseModel):
    number: int
    nested: list[dict[str, int]] = []


RAISED: dict[str, Exception] = {
    "in-use": InUse("Index 'idx_1' is used by 'job_1'.", used_by="job_1"),
    "queue-full": QueueFull("64 queries are waiting.", retry_after_s=2.3),
    "unknown-method": UnknownMethod("There is no method 'ekfca'; did you mean 'ekfac'?", pointer="/method"),
    "corrupt-index": CorruptIndex("shards/00001.faiss: checksum differs."),
    "internal-error": RuntimeError("secret"),
}


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    @app.get("/raise/{name}")
    def raise_(name: str) -> None:
        raise RAISED[name]

    @app.post("/body")
    def body(body: Body, limit: int = 1) -> Body:
        return body

    with TestClient(app) as client:
        yield client


def problem(answer: Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert {"type", "title", "status", "detail", "instance", "request_id", "errors", "remedy"} <= set(told)
    assert told["status"] == status
    assert told["type"] == f"urn:whence:problem:{code}"
    assert told["request_id"] == answer.headers["x-request-id"]
    return told


@pytest.mark.parametrize(
    ("code", "status"),
    [("in-use", 409), ("queue-full", 429), ("unknown-method", 422), ("corrupt-index", 500), ("internal-error", 500)],
)
def test_each_kind_of_exception_is_a_problem(client: TestClient, code: str, status: int) -> None:
    told = problem(client.get(f"/raise/{code}"), status, code)
    assert told["instance"] == f"/raise/{code}"
    assert told["remedy"]


def test_an_unexpected_exception_shows_nothing_but_the_request_id(client: TestClient) -> None:
    answer = client.get("/raise/internal-error", headers={"X-Request-ID": "mine"})
    assert "secret" not in answer.text and "Traceback" not in answer.text
    assert problem(answer, 500, "internal-error")["request_id"] == "mine"


def test_a_full_queue_says_when_to_come_back(client: TestClient) -> None:
    assert client.get("/raise/queue-full").headers["retry-after"] == "3"


def test_facts_stand_beside_the_standard_fields(client: TestClient) -> None:
    assert client.get("/raise/in-use").json()["used_by"] == "job_1"


def test_an_invalid_body_names_each_field(client: TestClient) -> None:
    answer = client.post("/body?limit=x", json={"nested": [{"a": 1}, {"b": "c"}]})
    errors = problem(answer, 422, "invalid-request")["errors"]
    assert {error["pointer"] for error in errors} == {"/number", "/nested/1/b", "query:limit"}
    assert all(error["message"] for error in errors)


def test_a_body_that_is_no_json_is_refused(client: TestClient) -> None:
    """Where it breaks is the place of a character, which is no pointer into the body."""
    answer = client.post("/body", content=b"{", headers={"Content-Type": "application/json"})
    assert [error["pointer"] for error in problem(answer, 422, "invalid-request")["errors"]] == [""]


def test_no_route(client: TestClient) -> None:
    assert "/docs" in problem(client.get("/v1/nothing"), 404, "not-found")["remedy"]


def test_wrong_method(client: TestClient) -> None:
    answer = client.put("/body")
    problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("location", "pointer"),
    [
        (("body", "options", "dtype"), "/options/dtype"),
        (("body", "rows", 3), "/rows/3"),
        (("body", "a/b~c"), "/a~1b~0c"),
        (("body",), ""),
        (("query", "limit"), "query:limit"),
        ((), ""),
    ],
)
def test_pointers(location: tuple[str | int, ...], pointer: str) -> None:
    assert pointer_of(location) == pointer
