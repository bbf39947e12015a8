"""/v1/attributions"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.attributions.schemas import AttributionOut
from engine.errors import NonFiniteGradient, QueueFull
from tests.app.fakes import FakeEngine
from tests.app.questions import post, submitted
from tests.app.resources import (
    add_index,
    add_model,
    assert_problem,
    ready_index,
    wait_for_index,
)

MEMBER = {"prompt": "a", "completion": " b"}
ALONE = {"prompt": None, "completion": None}


@pytest.fixture
def index(client: TestClient, model_dir: Path) -> dict[str, Any]:
    return ready_index(client, model_dir)


def test_the_answer_has_the_shape_of_the_contract(client: TestClient, index: dict[str, Any]) -> None:
    response = post(client, index, metadata={"ticket": 7})
    body = response.json()
    assert response.status_code == 200
    AttributionOut.model_validate(body, extra="forbid")
    asked = {"model": index["model"], "index": index["id"], "method": "ekfac", "metadata": {"ticket": 7}}
    assert body.items() >= (asked | {"sign_convention": "positive = proponent", "state": "succeeded"}).items()
    assert body["revision"] == index["revision"]
    assert body["trust"]["verdict"] == "unmeasured"
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
        search="flat",
    ).json()
    (_, _, _, query, ask), *_ = submitted(engine)
    assert ask.search == "flat" and (body["diagnostics"]["search"], body["diagnostics"]["recall_at_10"]) == (
        "flat",
        None,
    )
    assert (query.contrast, query.span.start, query.span.end) == (" Elsewhere.", 4, 8)
    assert (ask.filter.tags, ask.filter.exclude_ids) == ({"task": "facts"}, ("born",))
    assert [hit["example_id"] for hit in body["proponents"]] == ["sea"]
    assert body["opponents"] == []
    assert body["proponents"][0]["module_scores"].keys() == {"layer.0"}
    assert len(body["proponents"][0]["query_token_scores"]) == len(body["query"]["tokens"])
    assert [(group["key"], group["count"]) for group in body["groups"]] == [("facts", 1)]
    assert body["diagnostics"]["searched"] == 1


def test_what_is_measured_and_taken_out_reaches_the_engine(
    client: TestClient, index: dict[str, Any], engine: FakeEngine
) -> None:
    removal = {"tags": {"task": "facts"}, "ids": ["sum"]}
    body = post(client, index, measurement="log_odds", removal=removal).json()
    (_, _, _, query, ask), *_ = submitted(engine)
    assert query.measurement == "log_odds"
    assert (ask.removal.tags, ask.removal.ids) == ({"task": "facts"}, ("sum",))
    assert body["measurement"]["kind"] == "log_odds"
    assert body["removal"].keys() == {"rows", "score", "predicted_change"} and body["removal"]["rows"] == 3
    AttributionOut.model_validate(body, extra="forbid")
    plain = post(client, index).json()
    assert "removal" not in plain and "members" not in plain["query"]
    assert plain["id"] != body["id"]


def test_a_set_of_queries_is_asked_as_one(client: TestClient, index: dict[str, Any], engine: FakeEngine) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}]
    members = [
        {"prompt": "one", "completion": " two", "contrast": " three", "span": {"start": 0, "end": 2}},
        {"messages": turns},
    ]
    body = post(client, index, prompt=None, completion=None, queries=members, measurement="log_odds").json()
    query = submitted(engine)[0][3]
    assert (query.prompt, query.completion, query.measurement, len(query.members)) == (None, None, "log_odds", 2)
    assert (query.members[0].contrast, query.members[0].span.end) == (" three", 2)
    assert query.members[1].messages[1].content == "Hello there"
    assert body["measurement"]["kind"] == "mean_log_odds"
    assert body["query"]["members"][1] == {"prompt": "Hi", "completion": "Hello there"}
    AttributionOut.model_validate(body, extra="forbid")


def test_a_query_set_has_a_path_of_its_own(client: TestClient, index: dict[str, Any]) -> None:
    members = [{"prompt": "one", "completion": " two"}, {"prompt": "three", "completion": " four"}]
    answered = post(client, index, prompt=None, completion=None, queries=members).json()
    body = {"model": index["model"], "queries": members}
    again = client.post("/v1/attributions/query-set", json=body).json()
    assert again["proponents"] == answered["proponents"] and again["measurement"]["kind"] == "mean_log_prob"
    alone = client.post("/v1/attributions/query-set", json={"model": index["model"], "prompt": "a", "completion": " b"})
    assert_problem(alone, 422, "invalid-request", pointer="/queries")


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
        ({"search": "ivf"}, "invalid-request", "/search"),
        ({"prompt": "a\x00b"}, "invalid-request", "/prompt"),
        ({"generate": {"max_new_tokens": 0}, "completion": None}, "invalid-request", "/generate/max_new_tokens"),
        ({"filter": {"tag": {}}}, "invalid-request", "/filter/tag"),
        ({"topk": 3}, "invalid-request", "/topk"),
        ({"method": "ekfca"}, "unknown-method", "/method"),
        ({"measurement": "odds"}, "invalid-request", "/measurement"),
        ({"removal": {}}, "invalid-request", "/removal"),
        ({"removal": {"tag": {"a": "b"}}}, "invalid-request", "/removal/tag"),
        ({"queries": [MEMBER]}, "invalid-query", "/prompt"),
        (ALONE | {"queries": []}, "invalid-request", "/queries"),
        (ALONE | {"queries": [MEMBER] * 65}, "invalid-request", "/queries"),
        (ALONE | {"queries": [MEMBER], "span": {"start": 0, "end": 1}}, "invalid-query", "/span"),
        (ALONE | {"queries": [MEMBER, {"completion": " b"}]}, "invalid-query", "/queries/1/prompt"),
        (ALONE | {"queries": [MEMBER, {"prompt": "a"}]}, "invalid-query", "/queries/1/completion"),
        (ALONE | {"queries": [MEMBER, MEMBER | {"contrast": " b"}]}, "invalid-query", "/queries/1/contrast"),
        (ALONE | {"queries": [MEMBER | {"span": {"start": 1, "end": 9}}]}, "invalid-query", "/queries/0/span/end"),
        (ALONE | {"queries": [MEMBER | {"generate": {}}]}, "invalid-request", "/queries/0/generate"),
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
    monkeypatch.setattr("tests.app.fakes.scores_of", lambda rows, _text: [float("nan")] * len(rows))
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
    assert (count(state="succeeded"), count(state="failed")) == (3, 0)
    assert_problem(client.get("/v1/attributions", params={"state": "odd"}), 422, "invalid-request", "query:state")
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
