"""/v1/attributions"""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.attributions.prefer import Preference, preference
from app.attributions.schemas import AttributionOut, AttributionPending
from app.attributions.service import _ended
from app.database import Database
from app.dependencies import Services
from app.main import create_app
from app.settings import Settings
from engine.errors import NonFiniteGradient, QueueFull
from tests.app.conftest import wait_for
from tests.app.fakes import FakeEngine
from tests.app.resources import (
    QUESTION,
    add_index,
    add_model,
    assert_problem,
    ready_index,
    wait_for_index,
    wait_for_job,
)


@pytest.fixture
def index(client: TestClient, model_dir: Path) -> dict[str, Any]:
    return ready_index(client, model_dir)


def post(client: TestClient, index: dict[str, Any], /, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    """QUESTION to the model of `index`, with `fields` changed; None leaves a field out."""
    body = {"model": index["model"]} | QUESTION | fields
    body = {name: value for name, value in body.items() if value is not None}
    return client.post("/v1/attributions", json=body, headers=headers)


def submitted(engine: FakeEngine) -> list[tuple[Any, ...]]:
    return [arguments for name, arguments in engine.calls if name == "submit_attribution"]


def test_the_answer_has_the_shape_of_the_contract(client: TestClient, index: dict[str, Any]) -> None:
    response = post(client, index, metadata={"ticket": 7})
    body = response.json()
    assert response.status_code == 200
    AttributionOut.model_validate(body, extra="forbid")
    asked = {"model": index["model"], "index": index["id"], "method": "ekfac", "metadata": {"ticket": 7}}
    assert body.items() >= (asked | {"sign_convention": "positive = proponent", "state": "succeeded"}).items()
    assert body["revision"] == index["revision"]
    assert body["trust"] == {"verdict": "unmeasured", "reason": "no scorecard exists for this index yet"}
    assert body["query"]["completion"] == " In Port Halvern."
    assert body["query"]["tokens"][1].items() >= {"text": "Where", "start": 0, "end": 5, "part": "prompt"}.items()
    steps = ["queue", "tokenize", "gradient", "sketch", "precondition", "search", "explain", "store", "total"]
    assert set(body["timings_ms"]) == set(steps)
    assert (body["timings_ms"]["gradient"], body["timings_ms"]["sketch"]) == (1.0, None)
    assert body["timings_ms"]["total"] >= body["timings_ms"]["store"] > 0
    assert "groups" not in body


def test_hits_carry_their_training_rows(client: TestClient, index: dict[str, Any]) -> None:
    body = post(client, index, prompt="Hello there", completion=" Hi").json()
    best, *_ = body["proponents"]
    assert (best["rank"], best["example_id"], best["text"]) == (1, "row-3", "user: Hi\nassistant: Hello there")
    assert (best["prompt"], best["completion"], best["tags"]) == (None, None, {})
    born = next(hit for hit in body["proponents"] if hit["example_id"] == "born")
    assert born.items() >= {"prompt": "Where was Mira born?", "tags": {"task": "facts"}, "text": None}.items()
    assert "query_token_scores" not in born
    assert [hit["score"] for hit in body["opponents"]] == sorted(hit["score"] for hit in body["opponents"])


def test_what_is_asked_reaches_the_engine(client: TestClient, index: dict[str, Any], engine: FakeEngine) -> None:
    body = post(
        client,
        index,
        index=index["id"],
        method="ekfac",
        normalize="cosine",
        top_k=2,
        opponents=False,
        tokens=True,
        modules=True,
        contrast=" Elsewhere.",
        span={"start": 4, "end": 8},
        filter={"tags": {"task": "facts"}, "exclude_ids": ["born"]},
        group_by="tags.task",
    ).json()
    (_, _, _, query, ask), *_ = submitted(engine)
    assert (query.contrast, query.span.start, query.span.end) == (" Elsewhere.", 4, 8)
    assert (ask.filter.tags, ask.filter.exclude_ids) == ({"task": "facts"}, ("born",))
    assert [hit["example_id"] for hit in body["proponents"]] == ["sea"]
    assert body["opponents"] == []
    assert body["proponents"][0]["module_scores"].keys() == {"layer.0"}
    assert len(body["proponents"][0]["query_token_scores"]) == 1
    assert [(group["key"], group["count"]) for group in body["groups"]] == [("facts", 1)]
    assert body["diagnostics"]["searched"] == 1


def test_the_last_assistant_turn_is_the_completion(client: TestClient, index: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}]
    body = post(client, index, prompt=None, completion=None, messages=messages).json()
    assert (body["query"]["prompt"], body["query"]["completion"]) == ("Hi", "Hello there")


def test_the_model_can_be_asked_to_generate(client: TestClient, index: dict[str, Any], engine: FakeEngine) -> None:
    body = post(client, index, completion=None, generate={"max_new_tokens": 5, "temperature": 0.5, "seed": 3}).json()
    generate = submitted(engine)[0][3].generate
    assert (generate.max_new_tokens, generate.temperature, generate.seed) == (5, 0.5, 3)
    assert body["query"]["completion"] == " generated answer"


def test_an_unsigned_method_has_no_opponents(client: TestClient, index: dict[str, Any]) -> None:
    body = post(client, index, method="bm25").json()
    assert (body["signed"], body["opponents"], body["method"]) == (False, [], "bm25")


def test_without_an_index_the_newest_ready_one_answers(
    client: TestClient, index: dict[str, Any], engine: FakeEngine
) -> None:
    newer = wait_for_index(client, add_index(client, index["model"], index["dataset"])["id"])
    engine.gate.clear()
    add_index(client, index["model"], index["dataset"])  # newer still, but not ready
    threading.Timer(0.1, engine.gate.set).start()
    assert post(client, index).json()["index"] == newer["id"]


@pytest.mark.parametrize(
    ("fields", "code", "pointer"),
    [
        ({"messages": [{"role": "user", "content": "x"}]}, "invalid-query", "/prompt"),
        ({"prompt": None}, "invalid-query", "/prompt"),
        ({"completion": None}, "invalid-query", "/completion"),
        ({"generate": {}}, "invalid-query", "/generate"),
        ({"completion": ""}, "empty-completion", "/completion"),
        ({"contrast": ""}, "empty-completion", "/contrast"),
        ({"contrast": " In Port Halvern."}, "invalid-query", "/contrast"),
        ({"span": {"start": 3, "end": 3}}, "invalid-query", "/span"),
        ({"span": {"start": 3, "end": 99}}, "invalid-query", "/span/end"),
        ({"span": {"start": -1, "end": 3}}, "invalid-request", "/span/start"),
        ({"top_k": 0}, "invalid-request", "/top_k"),
        ({"top_k": 10**6}, "invalid-request", "/top_k"),
        ({"group_by": "task"}, "invalid-request", "/group_by"),
        ({"normalize": "l2"}, "invalid-request", "/normalize"),
        ({"prompt": "a\x00b"}, "invalid-request", "/prompt"),
        ({"generate": {"max_new_tokens": 0}, "completion": None}, "invalid-request", "/generate/max_new_tokens"),
        ({"filter": {"tag": {}}}, "invalid-request", "/filter/tag"),
        ({"topk": 3}, "invalid-request", "/topk"),
        ({"method": "ekfca"}, "unknown-method", "/method"),
    ],
)
def test_a_question_that_is_not_well_formed_is_refused(
    client: TestClient, index: dict[str, Any], engine: FakeEngine, fields: dict[str, Any], code: str, pointer: str
) -> None:
    assert_problem(post(client, index, **fields), 422, code, pointer)
    assert submitted(engine) == []


@pytest.mark.parametrize(
    ("messages", "code", "pointer"),
    [
        ([{"role": "user", "content": "Hi"}], "invalid-query", "/messages/0"),
        ([{"role": "assistant", "content": "Hi"}], "invalid-query", "/messages/0"),
        (
            [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}],
            "empty-completion",
            "/messages/1/content",
        ),
        ([], "invalid-request", "/messages"),
    ],
)
def test_messages_must_end_with_an_answer(
    client: TestClient, index: dict[str, Any], messages: list[Any], code: str, pointer: str
) -> None:
    assert_problem(post(client, index, prompt=None, completion=None, messages=messages), 422, code, pointer)


def test_a_method_that_the_index_cannot_serve_is_a_conflict_with_the_list(
    client: TestClient, index: dict[str, Any]
) -> None:
    problem = assert_problem(post(client, index, method="repsim"), 409, "method-not-served", "/method")
    assert problem["serves"] == index["serves"]
    assert "bm25" in problem["detail"]


def test_a_model_without_a_ready_index_is_a_conflict(client: TestClient, model_dir: Path) -> None:
    model = add_model(client, model_dir)
    problem = assert_problem(post(client, {"model": model["id"]}), 409, "index-unavailable", "/index")
    assert "POST /v1/indexes" in problem["remedy"]


def test_an_index_of_another_model_is_refused(client: TestClient, index: dict[str, Any], model_dir: Path) -> None:
    other = add_model(client, model_dir)
    problem = assert_problem(
        post(client, {"model": other["id"]}, index=index["id"]), 409, "fingerprint-mismatch", "/index"
    )
    assert index["model"] in problem["detail"]


def test_an_unknown_model_or_index_is_not_found(client: TestClient, index: dict[str, Any]) -> None:
    assert_problem(post(client, {"model": "mdl_x"}), 404, "not-found")
    assert_problem(post(client, index, index="idx_x"), 404, "not-found")


def test_a_full_queue_says_when_to_come_back(client: TestClient, index: dict[str, Any], engine: FakeEngine) -> None:
    engine.errors["submit_attribution"] = QueueFull("64 queries are waiting.", retry_after_s=2.2)
    response = post(client, index)
    assert_problem(response, 429, "queue-full")
    assert response.headers["retry-after"] == "3"


def test_an_engine_error_is_a_problem_and_leaves_nothing(
    client: TestClient, index: dict[str, Any], engine: FakeEngine
) -> None:
    engine.errors["attribution"] = NonFiniteGradient("NaN in the gradient of layer 3.")
    assert_problem(post(client, index), 422, "non-finite-gradient")
    assert client.get("/v1/attributions").json()["data"] == []


def test_figures_that_are_not_finite_become_null(
    client: TestClient, index: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.app.fakes._scores", lambda rows, _text: [float("nan")] * len(rows))
    body = post(client, index).json()
    assert body["proponents"][0]["score"] is None


# Stored answers


def test_answers_are_kept_listed_filtered_and_deleted(client: TestClient, index: dict[str, Any]) -> None:
    answers = [post(client, index, prompt=f"Question {number}").json() for number in range(3)]
    assert client.get(f"/v1/attributions/{answers[0]['id']}").json() == answers[0]
    assert client.get("/v1/attributions").json()["data"] == answers[::-1]
    first = client.get("/v1/attributions", params={"limit": 2}).json()
    rest = client.get("/v1/attributions", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert first["data"] + rest["data"] == answers[::-1]

    def count(**params: str) -> int:
        return len(client.get("/v1/attributions", params=params).json()["data"])

    assert (count(model=index["model"]), count(model="mdl_x")) == (3, 0)
    assert (count(index=index["id"]), count(index="idx_x")) == (3, 0)
    later = datetime.now(UTC) + timedelta(seconds=1)
    assert (count(since=answers[1]["created_at"]), count(since=later.isoformat())) == (2, 0)
    assert_problem(client.get("/v1/attributions", params={"since": "yesterday"}), 422, "invalid-request", "query:since")
    assert client.delete(f"/v1/attributions/{answers[0]['id']}").status_code == 204
    assert_problem(client.get(f"/v1/attributions/{answers[0]['id']}"), 404, "not-found")


def test_the_same_question_is_answered_from_the_store(
    client: TestClient, index: dict[str, Any], engine: FakeEngine
) -> None:
    first, again = post(client, index), post(client, index, index=index["id"])
    assert (first.headers["x-whence-cache"], again.headers["x-whence-cache"]) == ("miss", "hit")
    assert again.json() == first.json()
    assert len(submitted(engine)) == 1
    assert post(client, index, top_k=3).headers["x-whence-cache"] == "miss"
    fresh = post(client, index, headers={"Cache-Control": "no-cache"})
    assert fresh.headers["x-whence-cache"] == "miss"
    assert fresh.json()["id"] != first.json()["id"]


def test_another_index_answers_anew(client: TestClient, index: dict[str, Any]) -> None:
    post(client, index)
    wait_for_index(client, add_index(client, index["model"], index["dataset"])["id"])
    assert post(client, index).headers["x-whence-cache"] == "miss"


def test_an_answer_outlives_its_index(client: TestClient, index: dict[str, Any]) -> None:
    answer = post(client, index).json()
    assert client.delete(f"/v1/indexes/{index['id']}").status_code == 204
    assert client.get(f"/v1/attributions/{answer['id']}").json() == answer


# Prefer


def test_respond_async_hands_the_running_computation_to_a_job(
    client: TestClient, index: dict[str, Any], engine: FakeEngine
) -> None:
    engine.gate.clear()
    response = post(client, index, headers={"Prefer": "respond-async"}, metadata={"n": 1})
    pending = response.json()
    assert (response.status_code, pending["state"]) == (202, "running")
    AttributionPending.model_validate(pending, extra="forbid")
    assert response.headers["location"] == f"/v1/jobs/{pending['job_id']}"
    assert response.headers["preference-applied"] == "respond-async"
    assert client.get(f"/v1/attributions/{pending['id']}").json() == pending
    assert_problem(client.delete(f"/v1/attributions/{pending['id']}"), 409, "in-use")
    problem = assert_problem(client.delete(f"/v1/indexes/{index['id']}"), 409, "in-use")
    assert problem["used_by"] == pending["id"]
    engine.gate.set()
    job = wait_for_job(client, pending["job_id"])
    answer = client.get(f"/v1/attributions/{pending['id']}").json()
    AttributionOut.model_validate(answer, extra="forbid")
    assert (job["kind"], job["result"]["attribution"]) == ("attribution", pending["id"])
    assert (answer["metadata"], answer["created_at"]) == ({"n": 1}, pending["created_at"])
    assert len(submitted(engine)) == 1


def test_a_wait_that_runs_out_adopts_the_computation_without_repeating_it(
    client: TestClient, index: dict[str, Any], engine: FakeEngine
) -> None:
    engine.gate.clear()
    began = time.monotonic()
    response = post(client, index, headers={"Prefer": "wait=1"})
    assert 0.9 < time.monotonic() - began < 5
    assert (response.status_code, response.headers["preference-applied"]) == (202, "wait=1")
    engine.gate.set()
    wait_for_job(client, response.json()["job_id"])
    assert client.get(f"/v1/attributions/{response.json()['id']}").json()["proponents"]
    assert len(submitted(engine)) == 1


def test_a_wait_that_suffices_answers_at_once(client: TestClient, index: dict[str, Any]) -> None:
    response = post(client, index, headers={"Prefer": "respond-async, wait=5"})
    assert (response.status_code, "preference-applied" in response.headers) == (200, False)


def test_an_adopted_computation_that_fails_fails_its_job(
    client: TestClient, index: dict[str, Any], engine: FakeEngine
) -> None:
    engine.gate.clear()
    engine.errors["attribution"] = NonFiniteGradient("NaN in the gradient of layer 3.")
    pending = post(client, index, headers={"Prefer": "respond-async"}).json()
    engine.gate.set()
    wait_for_job(client, pending["job_id"], "failed")
    failed = client.get(f"/v1/attributions/{pending['id']}").json()
    assert (failed["state"], failed["error"]["type"]) == ("failed", "urn:whence:problem:non-finite-gradient")
    assert client.delete(f"/v1/attributions/{pending['id']}").status_code == 204


def test_an_adopted_computation_can_be_cancelled(client: TestClient, index: dict[str, Any], engine: FakeEngine) -> None:
    engine.gate.clear()
    pending = post(client, index, headers={"Prefer": "respond-async"}).json()
    client.post(f"/v1/jobs/{pending['job_id']}/cancel")
    wait_for_job(client, pending["job_id"], "cancelled")
    assert client.get(f"/v1/attributions/{pending['id']}").json()["state"] == "cancelled"


def test_after_a_restart_the_job_computes_what_was_lost(settings: Settings, model_dir: Path) -> None:
    engine = FakeEngine()
    with TestClient(create_app(settings, engine)) as client:
        index = ready_index(client, model_dir)
        engine.gate.clear()
        pending = post(client, index, headers={"Prefer": "respond-async"}).json()
    revived = FakeEngine()
    with TestClient(create_app(settings, revived)) as client:
        wait_for_job(client, pending["job_id"])
        answer = client.get(f"/v1/attributions/{pending['id']}").json()
    assert answer["state"] == "succeeded"
    assert answer["proponents"][0]["example_id"] == "born"


def test_a_job_waits_for_a_place_in_a_full_queue(
    client: TestClient, index: dict[str, Any], engine: FakeEngine, services: Services
) -> None:
    engine.gate.clear()
    pending = post(client, index, headers={"Prefer": "respond-async"}).json()
    client.post(f"/v1/jobs/{pending['job_id']}/cancel")
    wait_for_job(client, pending["job_id"], "cancelled")
    engine.gate.set()
    engine.errors["submit_attribution"] = QueueFull("full", retry_after_s=0.02)
    before = len(submitted(engine))
    client.post(f"/v1/jobs/{pending['job_id']}/resume")
    wait_for(lambda: len(submitted(engine)) >= before + 3, "three tries")
    del engine.errors["submit_attribution"]
    wait_for_job(client, pending["job_id"])


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, Preference(60.0, None)),
        ("respond-async", Preference(0.0, "respond-async")),
        ("Respond-Async", Preference(0.0, "respond-async")),
        ("wait=5", Preference(5.0, "wait=5")),
        ("respond-async, wait=5", Preference(5.0, "wait=5")),
        ('wait="5"', Preference(5.0, "wait=5")),
        ("wait=500", Preference(60.0, "wait=500")),
        ("wait=-1", Preference(60.0, None)),
        ("wait=soon, return=minimal", Preference(60.0, None)),
    ],
)
def test_preferences_are_read_as_the_rfc_says(header: str | None, expected: Preference) -> None:
    assert preference(header, 60.0) == expected


def test_concurrent_questions_are_all_answered(app: FastAPI, client: TestClient, index: dict[str, Any]) -> None:
    statuses: list[int] = []

    def one(number: int) -> None:
        statuses.append(post(client, index, prompt=f"Question {number}").status_code)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 8
    assert len(client.get("/v1/attributions").json()["data"]) == 8


def test_a_client_that_leaves_takes_its_waiting_question_back() -> None:
    future: Future[Any] = Future()

    async def leave() -> None:
        waiting = asyncio.create_task(_ended(future, 60))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(leave())
    assert future.cancelled()


def test_the_whole_way_works_on_either_database(database: Database, settings: Settings, model_dir: Path) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    with TestClient(create_app(settings.model_copy(update={"database_url": url}), FakeEngine())) as client:
        index = ready_index(client, model_dir)
        first, again = (post(client, index, metadata={"n": [1, None]}) for _ in range(2))
        assert (first.status_code, again.headers["x-whence-cache"]) == (200, "hit")
        assert again.json() == first.json()
        pending = post(client, index, top_k=1, headers={"Prefer": "respond-async", "Idempotency-Key": "k"}).json()
        wait_for_job(client, pending["job_id"])
        listed = client.get("/v1/attributions", params={"since": first.json()["created_at"]}).json()["data"]
        assert [answer["id"] for answer in listed] == [pending["id"], first.json()["id"]]
        assert post(client, index, top_k=1, headers={"Idempotency-Key": "k"}).json() == pending
        assert_problem(client.delete(f"/v1/models/{index['model']}"), 409, "in-use")
        assert client.delete(f"/v1/indexes/{index['id']}").status_code == 204
        assert client.delete(f"/v1/datasets/{index['dataset']}").status_code == 204
        assert client.delete(f"/v1/models/{index['model']}").status_code == 204
