"""/v1/attributions/batches: many questions in one file, answered by a job."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.batches.schemas import BatchOut
from app.database import Database
from app.dependencies import Services
from app.jobs.queue import JobQueue
from app.main import create_app
from engine.errors import EngineUnavailable, NonFiniteGradient, QueueFull
from tests.app.conftest import make_settings, wait_for
from tests.app.fakes import FakeEngine
from tests.app.questions import post, submitted
from tests.app.resources import (
    QUESTION,
    RECIPE,
    add_index,
    assert_problem,
    evaluated,
    ready_index,
    wait_for_index,
    wait_for_job,
)

BATCHES = "/v1/attributions/batches"


@pytest.fixture
def index(client: TestClient, model_dir: Path) -> dict[str, Any]:
    return ready_index(client, model_dir, recipe=RECIPE)


def questions(count: int, **fields: Any) -> list[dict[str, Any]]:
    """Each asks something else."""
    return [{"prompt": f"Question {n}", "completion": " Mira", "custom_id": f"q{n}"} | fields for n in range(count)]


def send(client: TestClient, lines: list[Any] | bytes, /, headers: Any = None, **fields: Any) -> Any:
    text = lines if isinstance(lines, bytes) else "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = {"file": ("questions.jsonl", text)}
    return client.post(BATCHES, files=file, data=fields, headers=headers)


def ready(client: TestClient, sent: Any) -> dict[str, Any]:
    assert sent.status_code == 202, sent.text
    wait_for_job(client, sent.json()["job_id"])
    return client.get(f"{BATCHES}/{sent.json()['id']}").json()


def results(client: TestClient, batch: dict[str, Any], **params: Any) -> list[dict[str, Any]]:
    response = client.get(f"{BATCHES}/{batch['id']}/results", params=params)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/x-ndjson"), response.text
    return [json.loads(line) for line in response.text.splitlines()]


def stripped(answer: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from asking to asking."""
    return {name: value for name, value in answer.items() if name not in ("id", "created_at", "timings_ms")}


def test_questions_in_the_body_are_answered_like_those_of_a_file(client: TestClient, index: dict[str, Any]) -> None:
    asked = [*questions(2), {"prompt": "no completion"}]
    of_file = results(client, ready(client, send(client, asked, index=index["id"], top_k="3")))
    sent = client.post("/v1/attributions/batch", json={"index": index["id"], "top_k": 3, "queries": asked})
    of_body = results(client, ready(client, sent))
    assert [line["status"] for line in of_body] == [200, 200, 422]
    assert [stripped(line["body"]) for line in of_body[:2]] == [stripped(line["body"]) for line in of_file[:2]]
    assert of_body[2]["problem"]["errors"] == of_file[2]["problem"]["errors"]


def test_bodies_that_are_no_batch_are_refused(client: TestClient, index: dict[str, Any]) -> None:
    for body, pointer in (
        ({"index": index["id"]}, "/queries"),
        ({"index": index["id"], "queries": []}, "/queries"),
        ({"queries": ["Where?"]}, "/queries/0"),
        ({"queries": questions(1), "tpo_k": 3}, "/tpo_k"),
        ([], ""),
    ):
        assert_problem(client.post(BATCHES, json=body), 422, "invalid-request", pointer=pointer)
    broken = client.post(BATCHES, content=b"{", headers={"Content-Type": "application/json"})
    assert_problem(broken, 422, "invalid-request")


def test_every_line_is_answered_in_its_order(client: TestClient, index: dict[str, Any]) -> None:
    sent = send(client, questions(40), model=index["model"], top_k="2")
    BatchOut.model_validate(sent.json(), extra="forbid")
    assert sent.headers["location"] == f"/v1/jobs/{sent.json()['job_id']}"
    batch = ready(client, sent)
    counted = {"state": "ready", "lines": 40, "succeeded": 40, "failed": 0, "index": index["id"], "top_k": 2}
    assert batch.items() >= counted.items()
    found = results(client, batch)
    assert [(line["line"], line["custom_id"], line["status"]) for line in found] == [
        (n + 1, f"q{n}", 200) for n in range(40)
    ]
    assert all(set(line) == {"line", "custom_id", "status", "body"} for line in found)
    assert [line["body"]["query"]["prompt"] for line in found] == [f"Question {n}" for n in range(40)]
    assert all(len(line["body"]["proponents"]) == 2 for line in found)
    job = client.get(f"/v1/jobs/{sent.json()['job_id']}").json()
    assert (job["kind"], job["result"]["succeeded"], job["progress"]["done"]) == ("attribution.batch", 40, 40)


def test_an_answer_of_a_batch_is_that_of_a_request(client: TestClient, index: dict[str, Any]) -> None:
    batch = ready(client, send(client, [QUESTION], index=index["id"]))
    (line,) = results(client, batch)
    single = post(client, index, headers={"Cache-Control": "no-cache"}).json()
    assert stripped(line["body"]) == stripped(single)
    assert client.get(f"/v1/attributions/{line['body']['id']}").json() == line["body"]


def test_results_have_todays_trust(client: TestClient, index: dict[str, Any]) -> None:
    batch = ready(client, send(client, [QUESTION], index=index["id"]))
    assert results(client, batch)[0]["body"]["trust"]["verdict"] == "unmeasured"
    evaluated(client, index)
    (line,) = results(client, batch)
    assert line["body"]["trust"]["verdict"] == "trusted"
    assert client.get(f"/v1/attributions/{line['body']['id']}").json() == line["body"]


def test_what_was_asked_before_is_not_computed_again(
    client: TestClient, index: dict[str, Any], engine: FakeEngine
) -> None:
    earlier = post(client, index).json()["id"]
    twice = {"prompt": "Who?", "completion": " Mira"}
    batch = ready(client, send(client, [QUESTION, twice, twice], index=index["id"]))
    first, second, third = (line["body"]["id"] for line in results(client, batch))
    assert (first, second) == (earlier, third)
    assert len(submitted(engine)) == 2
    again = ready(client, send(client, [twice], index=index["id"]))
    assert results(client, again)[0]["body"]["id"] == second
    assert len(client.get("/v1/attributions").json()["data"]) == 2


def test_a_line_that_is_wrong_fails_alone(client: TestClient, index: dict[str, Any]) -> None:
    lines: list[Any] = [
        json.dumps(QUESTION),
        "",
        "{not json",
        "[1]",
        json.dumps(QUESTION | {"top_k": 0, "custom_id": "zero"}),
        json.dumps(QUESTION | {"topk": 3}),
        json.dumps({"prompt": "x", "custom_id": "nothing to explain"}),
        json.dumps(QUESTION | {"index": "idx_none"}),
        json.dumps(QUESTION | {"custom_id": 7}),
        "[" * 100_000,
        "   ",
        json.dumps(QUESTION | {"completion": "Ünïcode  ok"}, ensure_ascii=False),
    ]
    batch = ready(client, send(client, "\n".join(lines).encode(), model=index["model"]))
    assert (batch["lines"], batch["succeeded"], batch["failed"]) == (10, 2, 8)
    found = results(client, batch)
    assert [line["line"] for line in found] == [1, 3, 4, 5, 6, 7, 8, 9, 10, 12]
    assert [line["status"] for line in found] == [200, 422, 422, 422, 422, 422, 404, 422, 422, 200]
    problems = {line["line"]: line["problem"] for line in found if "problem" in line}
    assert all(problem["detail"] and problem["remedy"] for problem in problems.values())
    assert [problems[n]["errors"][0]["pointer"] for n in (5, 6, 7, 9)] == [
        "/top_k",
        "/topk",
        "/completion",
        "/custom_id",
    ]
    assert [found[n]["custom_id"] for n in (3, 5)] == ["zero", "nothing to explain"]
    assert found[-1]["body"]["query"]["completion"] == "Ünïcode  ok"


def test_a_line_that_is_too_long_fails_alone(tmp_path: Path, model_dir: Path) -> None:
    with TestClient(create_app(make_settings(tmp_path, max_body_bytes=2000), FakeEngine())) as client:
        index = ready_index(client, model_dir)
        long = QUESTION | {"prompt": "x" * 5000}
        batch = ready(client, send(client, [QUESTION, long, QUESTION | {"top_k": 1}], model=index["model"]))
        assert [line["status"] for line in results(client, batch)] == [200, 413, 200]


def test_what_the_engine_cannot_answer_fails_its_line(
    client: TestClient, index: dict[str, Any], engine: FakeEngine
) -> None:
    engine.errors["attribution"] = NonFiniteGradient("NaN in the gradient of layer 3.")
    batch = ready(client, send(client, [QUESTION], index=index["id"]))
    assert results(client, batch)[0]["problem"]["type"] == "urn:whence:problem:non-finite-gradient"
    engine.errors["attribution"] = ZeroDivisionError("a bug")
    batch = ready(client, send(client, [QUESTION], index=index["id"]))
    (line,) = results(client, batch)
    assert (line["status"], "a bug" in line["problem"]["detail"]) == (500, False)


def test_what_every_line_would_meet_stops_the_batch_which_can_be_resumed(
    client: TestClient, index: dict[str, Any], engine: FakeEngine
) -> None:
    engine.errors["submit_attribution"] = EngineUnavailable("No torch here.")
    sent = send(client, questions(3), index=index["id"]).json()
    wait_for_job(client, sent["job_id"], "failed")
    failed = client.get(f"{BATCHES}/{sent['id']}").json()
    assert (failed["state"], failed["error"]["status"], failed["failed"]) == ("failed", 503, 0)
    del engine.errors["submit_attribution"]
    client.post(f"/v1/jobs/{sent['job_id']}/resume")
    wait_for_job(client, sent["job_id"])
    assert (
        client.get(f"{BATCHES}/{sent['id']}").json().items()
        >= {"state": "ready", "succeeded": 3, "error": None}.items()
    )


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 422, "invalid-request"),
        (b"\n \n\t\n", 422, "invalid-request"),
        (b'{"prompt": "\xff"}\n', 422, "invalid-request"),
        ('{"prompt": "x"}\n'.encode("utf-16"), 422, "invalid-request"),
        (b'{"prompt": "\xc3', 422, "invalid-request"),
        (b"{}\n" * 6, 413, "payload-too-large"),
    ],
)
def test_a_file_that_is_no_batch_is_refused_and_leaves_nothing(
    tmp_path: Path, content: bytes, status: int, code: str
) -> None:
    settings = make_settings(tmp_path, max_batch_lines=5)
    with TestClient(create_app(settings, FakeEngine())) as client:
        assert_problem(send(client, content), status, code)
        assert client.get(BATCHES).json()["data"] == []
        assert client.get("/v1/jobs").json()["data"] == []
        assert not settings.batches_dir.exists() or list(settings.batches_dir.iterdir()) == []


def test_defaults_that_no_line_could_use_are_refused_at_once(client: TestClient, index: dict[str, Any]) -> None:
    other = {"method": "tracin", "index": index["id"]}
    for fields, status, code in (
        ({"model": "mdl_none"}, 404, "not-found"),
        ({"index": "nobody"}, 404, "not-found"),
        ({"top_k": "0"}, 422, "invalid-request"),
        ({"top_k": "5000"}, 422, "invalid-request"),
        ({"method": "magic"}, 422, "unknown-method"),
        (other, 409, "method-not-served"),
        ({"topk": "5"}, 422, "invalid-request"),
    ):
        assert_problem(send(client, [QUESTION], **fields), status, code)
    assert_problem(client.post(BATCHES, data={"model": index["model"]}), 415, "unsupported-media-type")
    assert_problem(client.post(BATCHES, files={"model": (None, "x")}), 422, "invalid-request", "/file")
    assert_problem(client.post(BATCHES, json=QUESTION), 422, "invalid-request", "/queries")
    plain = client.post(BATCHES, content=b"x", headers={"Content-Type": "text/plain"})
    assert_problem(plain, 415, "unsupported-media-type")
    assert client.get(BATCHES).json()["data"] == []


def test_a_line_that_names_its_own_model_or_index_is_asked_there(client: TestClient, index: dict[str, Any]) -> None:
    other = wait_for_index(client, add_index(client, index["model"], index["dataset"])["id"])
    lines = [QUESTION, QUESTION | {"index": other["id"]}, QUESTION | {"model": index["model"]}]
    batch = ready(client, send(client, lines, index=index["id"]))
    assert [line["body"]["index"] for line in results(client, batch)] == [index["id"], other["id"], other["id"]]


def test_one_batch_asks_one_index_wherever_the_alias_moves(
    client: TestClient, index: dict[str, Any], engine: FakeEngine
) -> None:
    other = wait_for_index(client, add_index(client, index["model"], index["dataset"])["id"])
    client.put("/v1/aliases/prod", json={"index": index["id"]})
    engine.gate.clear()
    sent = send(client, questions(5), index="prod")
    client.put("/v1/aliases/prod", json={"index": other["id"]})
    problem = assert_problem(client.delete(f"/v1/indexes/{index['id']}"), 409, "in-use")
    assert problem["used_by"] == sent.json()["id"]
    engine.gate.set()
    batch = ready(client, sent)
    assert {line["body"]["index"] for line in results(client, batch)} == {index["id"]}
    assert client.delete(f"/v1/indexes/{index['id']}").status_code == 204
    assert len(results(client, batch)) == 5


def test_results_are_whole_or_asked_for_in_part(client: TestClient, index: dict[str, Any], engine: FakeEngine) -> None:
    post(client, index)
    engine.gate.clear()
    sent = send(client, [QUESTION, *questions(3)], index=index["id"]).json()
    wait_for(lambda: client.get(f"{BATCHES}/{sent['id']}").json()["succeeded"] == 1, "the first result")
    assert client.get(f"{BATCHES}/{sent['id']}").json()["state"] == "running"
    problem = assert_problem(client.get(f"{BATCHES}/{sent['id']}/results"), 409, "not-ready")
    assert problem["job_id"] == sent["job_id"]
    assert len(results(client, sent, partial=True)) == 1
    assert_problem(client.delete(f"{BATCHES}/{sent['id']}"), 409, "in-use")
    engine.gate.set()
    wait_for_job(client, sent["job_id"])
    assert len(results(client, sent)) == 4


def test_a_cancelled_batch_goes_on_where_it_was(client: TestClient, index: dict[str, Any], engine: FakeEngine) -> None:
    post(client, index)
    engine.gate.clear()
    sent = send(client, [QUESTION, *questions(3)], index=index["id"]).json()
    wait_for(lambda: client.get(f"{BATCHES}/{sent['id']}").json()["succeeded"] == 1, "the first result")
    client.post(f"/v1/jobs/{sent['job_id']}/cancel")
    wait_for_job(client, sent["job_id"], "cancelled")
    assert client.get(f"{BATCHES}/{sent['id']}").json()["state"] == "cancelled"
    engine.gate.set()
    client.post(f"/v1/jobs/{sent['job_id']}/resume")
    wait_for_job(client, sent["job_id"])
    assert [line["line"] for line in results(client, sent)] == [1, 2, 3, 4]


def test_a_worker_that_lost_the_job_writes_nothing_more(
    client: TestClient, index: dict[str, Any], engine: FakeEngine, services: Services
) -> None:
    engine.gate.clear()
    sent = send(client, questions(3), index=index["id"]).json()
    wait_for(lambda: len(submitted(engine)) == 3, "the questions")
    services.worker.take_over()
    with services.database.write() as session:
        claimed = JobQueue(session, timedelta(seconds=60)).claim("heir")
        assert claimed is not None
    engine.gate.set()
    wait_for(lambda: not services.worker._attempts, "the end of the lost attempt")
    assert results(client, sent, partial=True) == []
    assert client.get("/v1/attributions").json()["data"] == []


def test_a_batch_stands_in_line_behind_those_who_wait(
    client: TestClient, index: dict[str, Any], engine: FakeEngine
) -> None:
    engine.errors["submit_attribution"] = QueueFull("full", retry_after_s=0.02)
    sent = send(client, questions(2), index=index["id"]).json()
    wait_for(lambda: len(submitted(engine)) >= 3, "three tries")
    del engine.errors["submit_attribution"]
    wait_for_job(client, sent["job_id"])
    assert client.get(f"{BATCHES}/{sent['id']}").json()["succeeded"] == 2


@pytest.mark.parametrize(
    ("max_queue", "share", "window", "asked"), [(64, None, 5, 5), (6, None, 50, 3), (1, None, 50, 1), (64, 8, 50, 4)]
)
def test_only_a_window_of_questions_is_in_the_engine(
    tmp_path: Path, model_dir: Path, max_queue: int, share: int | None, window: int, asked: int
) -> None:
    engine = FakeEngine()
    settings = make_settings(tmp_path, max_queue=max_queue, max_queue_per_tenant=share, batch_window=window)
    with TestClient(create_app(settings, engine)) as client:
        index = ready_index(client, model_dir)
        engine.gate.clear()
        sent = send(client, questions(20), index=index["id"]).json()
        wait_for(lambda: len(submitted(engine)) == asked, "a full window")
        wait_for(lambda: client.get(f"/v1/jobs/{sent['job_id']}").json()["progress"], "a checkpoint")
        assert len(submitted(engine)) == asked
        engine.gate.set()
        wait_for_job(client, sent["job_id"])
        assert len(submitted(engine)) == 20


def test_a_deleted_batch_leaves_its_answers(client: TestClient, index: dict[str, Any], services: Services) -> None:
    batch = ready(client, send(client, [QUESTION], index=index["id"]))
    (line,) = results(client, batch)
    assert client.delete(f"{BATCHES}/{batch['id']}").status_code == 204
    assert list(services.settings.batches_dir.iterdir()) == []
    assert_problem(client.get(f"{BATCHES}/{batch['id']}"), 404, "not-found")
    assert_problem(client.get(f"{BATCHES}/{batch['id']}/results"), 404, "not-found")
    assert client.get(f"/v1/attributions/{line['body']['id']}").status_code == 200


def test_the_same_upload_with_its_key_is_one_batch(client: TestClient, index: dict[str, Any]) -> None:
    first, again = (send(client, [QUESTION], index=index["id"], headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert (again.json(), again.headers["idempotent-replay"]) == (first.json(), "true")
    assert len(client.get(BATCHES).json()["data"]) == 1


@pytest.fixture
def on_either(database: Database, tmp_path: Path, model_dir: Path) -> Iterator[tuple[TestClient, dict[str, Any]]]:
    url = database.engine.url.render_as_string(hide_password=False)
    with TestClient(create_app(make_settings(tmp_path, database_url=url), FakeEngine())) as client:
        yield client, ready_index(client, model_dir)


def test_the_whole_way_works_on_either_database(on_either: tuple[TestClient, dict[str, Any]]) -> None:
    client, index = on_either
    batches = [ready(client, send(client, [*questions(9, top_k=k), {}], index=index["id"])) for k in (1, 2)]
    for batch in batches:
        assert batch.items() >= {"state": "ready", "succeeded": 9, "failed": 1}.items()
        assert [line["line"] for line in results(client, batch)] == list(range(1, 11))
    assert [batch["id"] for batch in client.get(BATCHES).json()["data"]] == [b["id"] for b in reversed(batches)]
    assert client.get(BATCHES, params={"limit": 1}).json()["next_cursor"]
    assert client.delete(f"{BATCHES}/{batches[0]['id']}").status_code == 204
