"""Request ids, log lines, metrics, and the size limit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from app.main import create_app
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine

LIMIT = 2048


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    settings = make_settings(tmp_path, max_body_bytes=LIMIT, max_upload_bytes=2 * LIMIT, log_level="info")
    app = create_app(settings, FakeEngine())

    @app.post("/size/{name}")
    async def size(name: str, request: Request) -> int:
        return len(await request.body())

    return app


def test_a_request_id_is_made_when_none_is_given(client: TestClient) -> None:
    first, second = (client.get("/livez").headers["x-request-id"] for _ in range(2))
    assert first.startswith("req_")
    assert first != second


def test_the_callers_request_id_is_kept(client: TestClient) -> None:
    assert client.get("/livez", headers={"X-Request-ID": "trace-1"}).headers["x-request-id"] == "trace-1"


@pytest.mark.parametrize("bad", ["a" * 129, "two words", "new\tline", ""])
def test_a_request_id_that_would_spoil_the_log_is_replaced(client: TestClient, bad: str) -> None:
    assert client.get("/livez", headers={"X-Request-ID": bad}).headers["x-request-id"].startswith("req_")


def test_each_request_is_one_log_line_with_its_id(client: TestClient, capsys: pytest.CaptureFixture[str]) -> None:
    client.get("/v1/jobs?limit=1", headers={"X-Request-ID": "trace-2"})
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (line,) = [line for line in lines if line["event"] == "request"]
    assert (line["request_id"], line["method"], line["path"], line["status"]) == ("trace-2", "GET", "/v1/jobs", 200)
    assert line["ms"] > 0


def test_polling_is_not_logged(client: TestClient, capsys: pytest.CaptureFixture[str]) -> None:
    client.get("/livez")
    assert "livez" not in capsys.readouterr().err


def test_requests_are_counted_by_route_not_by_path(client: TestClient) -> None:
    for name in ("a", "b"):
        client.post(f"/size/{name}", content=b"x")
    client.get("/nowhere")
    metrics = client.get("/metrics").text
    assert 'whence_http_requests_total{method="POST",route="/size/{name}",status="200"} 2.0' in metrics
    assert 'whence_http_requests_total{method="GET",route="unmatched",status="404"} 1.0' in metrics
    assert 'whence_http_request_duration_seconds_count{method="POST",route="/size/{name}"} 2.0' in metrics


def test_a_body_at_the_limit_passes(client: TestClient) -> None:
    assert client.post("/size/a", content=b"x" * LIMIT).json() == LIMIT


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(client: TestClient) -> None:
    answer = client.post("/size/a", content=b"x" * (LIMIT + 1))
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:whence:problem:payload-too-large"
    assert str(LIMIT) in answer.json()["detail"]
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_a_body_without_a_length_is_counted_as_it_comes(client: TestClient) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(4):
            yield b"x" * (LIMIT // 2)

    answer = client.post("/size/a", content=chunks())
    assert answer.status_code == 413
    assert answer.json()["type"] == "urn:whence:problem:payload-too-large"


@pytest.mark.parametrize("length", ["many", "-1", "1"])
def test_a_false_length_does_not_get_around_the_limit(client: TestClient, length: str) -> None:
    answer = client.post("/size/a", content=b"x" * (LIMIT + 1), headers={"Content-Length": length})
    assert answer.status_code == 413


def test_what_a_traceback_logs_holds_no_headers(app: FastAPI, capsys: pytest.CaptureFixture[str]) -> None:
    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("the cause")

    with TestClient(app) as client:
        client.get("/broken", headers={"X-Secret": "s3cret"})
    logged = capsys.readouterr().err
    assert "the cause" in logged
    assert "s3cret" not in logged


FORM = {"Content-Type": "multipart/form-data; boundary=b"}


def test_uploads_have_their_own_limit(client: TestClient) -> None:
    """A form of that size is looked at, and then found to be none."""
    assert client.post("/v1/datasets", content=b"x" * (2 * LIMIT), headers=FORM).status_code == 400
    assert client.post("/v1/datasets", content=b"x" * (2 * LIMIT + 1), headers=FORM).status_code == 413


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=b", "application/x-ndjson", "MULTIPART/FORM-DATA"])
def test_a_body_that_is_held_in_memory_is_no_upload_whatever_it_calls_itself(client: TestClient, kind: str) -> None:
    answer = client.post("/size/a", content=b"x" * (LIMIT + 1), headers={"Content-Type": kind})
    assert answer.status_code == 413
    assert client.post("/size/a", content=b"x" * LIMIT, headers={"Content-Type": kind}).status_code == 200
