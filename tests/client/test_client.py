"""Requests as the API wants them, answers typed, problems as exceptions."""

from __future__ import annotations

import json

import httpx
import pytest

import whence_client as wc
from whence_client import Whence

ANSWER = {
    "id": "att_1",
    "model": "mdl_1",
    "index": "idx_1",
    "method": "ekfac",
    "measurement": {"kind": "log_prob", "value": -1.5, "tokens": 3},
    "query": {"prompt": "Who?", "completion": " Ada.", "tokens": [{"text": " Ada", "start": 0, "end": 4}]},
    "proponents": [{"rank": 1, "example_id": "row-0", "score": 2.5, "percentile": 99.0, "new_field": 1}],
    "trust": {"verdict": "unmeasured", "reason": "no scorecard"},
    "tuned_minus_base": 4.2,
}


def test_a_question_is_sent_without_what_was_not_said(kind, script):
    server = script(httpx.Response(200, json=ANSWER))
    answer = kind.call(server, lambda c: c.ask("mdl_1", prompt="Who?", completion=" Ada.", top_k=3))
    assert json.loads(server.bodies[0] or server.requests[0].content) == {
        "model": "mdl_1",
        "prompt": "Who?",
        "completion": " Ada.",
        "top_k": 3,
    }
    assert answer.proponents[0].score == 2.5
    assert answer.proponents[0].model_extra == {"new_field": 1}


PENDING = {"id": "att_1", "state": "running", "model": "mdl_1", "index": "idx_1", "job_id": "job_1"}


def test_a_question_that_became_a_job_is_waited_for(kind, script):
    server = script(
        httpx.Response(202, json=PENDING),
        httpx.Response(200, json={"id": "job_1", "kind": "attribution", "state": "succeeded", "result": {}}),
        httpx.Response(200, json=ANSWER),
    )
    assert kind.call(server, lambda c: c.ask("mdl_1", prompt="Who?", completion=" Ada.")).id == "att_1"
    assert server.requests[0].headers["Prefer"].startswith("wait=")
    assert [r.url.path for r in server.requests] == ["/v1/attributions", "/v1/jobs/job_1", "/v1/attributions/att_1"]


def test_submit_asks_for_a_job(kind, script):
    server = script(httpx.Response(202, json=PENDING))
    pending = kind.call(server, lambda c: c.attributions.submit("mdl_1", prompt="a", completion="b"))
    assert (pending.id, pending.job_id) == ("att_1", "job_1")
    assert server.requests[0].headers["Prefer"] == "respond-async"


def test_submit_gives_an_answer_that_was_stored_already(kind, script):
    answer = kind.call(
        script(httpx.Response(200, json=ANSWER)), lambda c: c.attributions.submit("m", prompt="a", completion="b")
    )
    assert answer.proponents[0].example_id == "row-0"


def test_a_list_holds_answers_and_pending_questions(kind, script):
    server = script(httpx.Response(200, json={"data": [PENDING, ANSWER], "next_cursor": None}))
    pending, answer = kind.call(server, lambda c: c.attributions.list(model="mdl_1")).data
    assert isinstance(pending, wc.PendingAttribution)
    assert isinstance(answer, wc.Attribution)


def test_an_upload_streams_the_file_and_repeats_the_same_bytes(kind, tmp_path, no_sleep):
    file = tmp_path / "train.jsonl"
    file.write_text('{"text": "one"}\n' * 20_000)
    bodies: list[bytes] = []

    async def receive(request: httpx.Request) -> httpx.Response:
        bodies.append(await request.aread())
        return answer()

    def take(request: httpx.Request) -> httpx.Response:
        bodies.append(request.read())
        return answer()

    def answer() -> httpx.Response:
        ready = {"id": "ds_1", "name": "train", "rows": 20_000, "state": "ready"}
        return httpx.Response(503) if len(bodies) == 1 else httpx.Response(201, json=ready)

    server = receive if kind.awaited else take
    assert kind.call(server, lambda c: c.datasets.upload(file)).rows == 20_000
    assert bodies[0] == bodies[1]
    assert b'name="name"\r\n\r\ntrain\r\n' in bodies[0]
    assert bodies[0].count(b'{"text": "one"}') == 20_000


def test_all_pages_are_collected(kind, script):
    def model(n: int) -> dict[str, str]:
        return {"id": f"mdl_{n}", "name": "m", "base": "b"}

    server = script(
        httpx.Response(200, json={"data": [model(2), model(1)], "next_cursor": "abc"}),
        httpx.Response(200, json={"data": [model(0)], "next_cursor": None}),
    )
    assert [m.id for m in kind.call(server, lambda c: c.models.all())] == ["mdl_2", "mdl_1", "mdl_0"]
    assert server.requests[1].url.params["cursor"] == "abc"


def test_ids_with_slashes_stay_one_path_segment(kind, script):
    server = script(httpx.Response(200, json={"id": "a/b c", "text": "t"}))
    kind.call(server, lambda c: c.datasets.example("ds_1", "a/b c"))
    assert server.requests[0].url.raw_path == b"/v1/datasets/ds_1/examples/a%2Fb%20c"


def test_tags_filter_examples(kind, script):
    server = script(httpx.Response(200, json={"data": [], "next_cursor": None}))
    kind.call(server, lambda c: c.datasets.examples("ds_1", tags={"task": "qa"}, query="moon"))
    assert dict(server.requests[0].url.params) == {"tag.task": "qa", "query": "moon"}


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, wc.ValidationFailed),
        (401, wc.Unauthorized),
        (403, wc.Forbidden),
        (404, wc.NotFound),
        (409, wc.Conflict),
        (418, wc.APIError),
        (422, wc.ValidationFailed),
        (500, wc.ServerError),
        (507, wc.ServerError),
    ],
)
def test_each_problem_has_its_class_and_typed_fields(kind, script, status, error):
    body = {
        "type": "urn:whence:problem:bad-row",
        "title": "Bad row",
        "status": status,
        "detail": "line 3",
        "remedy": "Mend it.",
        "request_id": "req_1",
        "errors": [{"pointer": "/file", "message": "not JSON"}],
        "line": 3,
    }
    server = script(httpx.Response(status, json=body, headers={"Content-Type": "application/problem+json"}))
    with pytest.raises(error) as caught:
        kind.call(server, lambda c: c.models.get("mdl_1"))
    assert type(caught.value) is error
    assert caught.value.problem.errors[0].pointer == "/file"
    assert caught.value.problem.model_extra == {"line": 3}
    assert str(caught.value) == "Bad row: line 3 (/file: not JSON) — Mend it."


def test_a_proxys_page_becomes_a_problem_with_the_bare_status(kind, script):
    server = script(httpx.Response(500, text="<html>oops"))
    with pytest.raises(wc.ServerError, match=r"HTTP 500 .*GET http://whence\.test/v1/models/x"):
        kind.call(server, lambda c: c.models.get("x"))


@pytest.mark.parametrize("body", [b"<html>", b'{"hello": 1}'])
def test_an_answer_from_another_service_is_told_as_such(kind, script, body):
    server = script(httpx.Response(200, content=body))
    with pytest.raises(wc.UnexpectedResponse, match="Whence server"):
        kind.call(server, lambda c: c.models.get("x"))


def test_a_redirect_is_not_followed_with_the_key(kind, script):
    server = script(httpx.Response(307, headers={"Location": "https://elsewhere.test/"}))
    with pytest.raises(wc.UnexpectedResponse, match=r"elsewhere\.test"):
        kind.call(server, lambda c: c.models.get("x"))


def test_address_and_key_come_from_the_environment(monkeypatch, script):
    monkeypatch.setenv("WHENCE_URL", "whence.example:9000/")
    monkeypatch.setenv("WHENCE_API_KEY", "key_abc")
    server = script(httpx.Response(200, json={"data": []}))
    with Whence(transport=httpx.MockTransport(server)) as client:
        assert client.methods() == []
    assert str(server.requests[0].url) == "http://whence.example:9000/v1/methods"
    assert server.requests[0].headers["Authorization"] == "Bearer key_abc"


def test_an_unusable_address_is_a_clear_error():
    with Whence("http://[broken") as client, pytest.raises(wc.ConnectionFailed):
        client.models.get("x")
