"""Input that only an attacker or a fuzzer sends is refused with a problem, like any other bad input."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.app.resources import assert_problem, jsonl, post_dataset

HALF = "\ud800"  # half of a surrogate pair: JSON can spell it, no encoding can carry it
DEEP = json.loads("[" * 400 + "]" * 400)
QUESTION = {"model": "m", "prompt": "a", "completion": "b"}
INDEX = {"model": "m", "dataset": "d"}


def post(client: TestClient, path: str, body: Any) -> Any:
    return client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/v1/attributions", QUESTION | {"index": HALF}, "/index"),
        ("/v1/attributions", QUESTION | {"prompt": HALF}, "/prompt"),
        ("/v1/attributions", QUESTION | {"filter": {"tags": {"a": HALF}}}, "/filter/tags/a"),
        ("/v1/attributions", QUESTION | {"metadata": {"a": HALF}}, "/metadata"),
        ("/v1/attributions", QUESTION | {"metadata": {"a": DEEP}}, "/metadata"),
        ("/v1/indexes", INDEX | {"options": {"modules": [HALF]}}, "/options"),
        ("/v1/indexes", INDEX | {"options": {HALF: 1}}, "/options"),
        ("/v1/indexes", INDEX | {"options": {"damping": DEEP}}, "/options"),
        ("/v1/indexes", INDEX | {"checkpoints": [HALF]}, "/checkpoints/list[constrained-str]/0"),
        ("/v1/models", {"name": "a", "base": HALF}, "/base"),
        ("/v1/datasets", {"name": "a", "uri": HALF}, "/uri"),
    ],
)
def test_text_that_cannot_be_stored_and_json_too_deep_are_refused(
    client: TestClient, path: str, body: Any, pointer: str
) -> None:
    problem = assert_problem(post(client, path, body), 422, "invalid-request")
    assert pointer.split("/")[1] in problem["errors"][0]["pointer"]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/datasets", "/v1/indexes", "/v1/attributions"])
def test_a_body_nested_beyond_what_can_be_parsed_is_refused(client: TestClient, path: str) -> None:
    response = client.post(path, content=b"[" * 100_000, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)
    assert response.json()["remedy"]


CURSORS = [
    b"[" * 40_000,
    b'["2024-01-01T00:00:00+00:00","\\ud800"]',
    b'["2024-01-01T00:00:00+00:00","\\u0000"]',
    b'["0001-01-01T00:00:00+23:59","a"]',
    b'["9999-12-31T23:59:59-23:59","a"]',
    b"[1e400]",
]


@pytest.mark.parametrize("cursor", CURSORS, ids=lambda cursor: cursor[:44].decode())
@pytest.mark.parametrize("path", ["/v1/models", "/v1/jobs", "/v1/attributions"])
def test_a_forged_cursor_is_a_bad_cursor(client: TestClient, path: str, cursor: bytes) -> None:
    response = client.get(path, params={"cursor": base64.urlsafe_b64encode(cursor).decode()})
    assert_problem(response, 422, "bad-cursor", "query:cursor")


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_moment_outside_the_calendar_is_refused(client: TestClient, moment: str) -> None:
    response = client.get("/v1/attributions", params={"since": moment})
    assert_problem(response, 422, "invalid-request", "query:since")


@pytest.mark.parametrize("job", ["%F1%94%A9%95", "a%0d%0aX-Evil:1", "%ff"])
def test_resuming_a_job_whose_id_fits_no_header_is_not_found(client: TestClient, job: str) -> None:
    assert_problem(client.post(f"/v1/jobs/{job}/resume"), 404, "not-found")


def test_control_characters_of_a_filename_are_dropped(client: TestClient) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nfoo\r\n--x\r\nContent-Disposition: form-data; '
    body = head + b'name="file"; filename="a.\x00jsonl"\r\n\r\n' + jsonl() + b"\r\n--x--\r\n"
    response = client.post("/v1/datasets", content=body, headers={"content-type": "multipart/form-data; boundary=x"})
    assert (response.status_code, response.json()["source"]) == (201, "a.jsonl")


def test_a_filename_of_control_characters_alone_is_no_name(client: TestClient) -> None:
    assert post_dataset(client, jsonl(), "\u0085").json()["source"] == "upload"


@pytest.mark.parametrize(
    "path",
    ["/v1/models/%00", "/v1/jobs?kind=%00", "/v1/attributions?model=%00", "/v1/datasets/ds_x/examples?tag.%00=a"],
)
def test_a_nul_character_in_the_url_is_refused(client: TestClient, path: str) -> None:
    assert_problem(client.get(path), 422, "invalid-request")
