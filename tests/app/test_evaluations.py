"""/v1/evaluations, with the fake engine behind them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from engine.errors import StorageFull
from tests.app.conftest import wait_for
from tests.app.fakes import FakeEngine
from tests.app.resources import (
    RECIPE,
    ROWS,
    add_dataset,
    add_evaluation,
    add_index,
    add_model,
    assert_problem,
    evaluated,
    ready_index,
    wait_for_evaluation,
    wait_for_index,
    wait_for_job,
)

QUERIES = [{"prompt": "Where was Mira born?", "completion": " In Port Halvern."}, {"prompt": "a", "completion": " b"}]


@pytest.fixture
def index(client: TestClient, model_dir: Path) -> dict[str, Any]:
    """Ready, of a model whose training is known."""
    return ready_index(client, model_dir, recipe=RECIPE)


def evaluations(engine: FakeEngine, call: str = "evaluate") -> list[tuple[Any, ...]]:
    return [arguments for name, arguments in engine.calls if name == call]


def test_an_evaluation_is_a_job_and_ends_with_a_scorecard(
    client: TestClient, index: dict[str, Any], engine: FakeEngine
) -> None:
    engine.gate.clear()
    body = {"index": index["id"], "name": "first", "queries": QUERIES, "half_subsets": 6, "leave_out_rows": 1}
    response = client.post("/v1/evaluations", json=body)
    queued = response.json()
    assert (response.status_code, queued["state"]) == (202, "queued")
    assert response.headers["location"] == f"/v1/jobs/{queued['job_id']}"
    asked = {"index": index["id"], "model": index["model"], "dataset": index["dataset"], "name": "first"}
    assert queued.items() >= (asked | {"questions": 2, "verdicts": None, "index_revision": index["revision"]}).items()
    assert queued["id"].startswith("evl_")
    wait_for_evaluation(client, queued["id"], "running")
    engine.gate.set()
    ready = wait_for_evaluation(client, queued["id"])
    assert ready["verdicts"] == {"composition": "trusted", "this_run": "trusted"}
    assert (ready["retrainings"], ready["seconds"], ready["error"]) == (12, 12.5, None)
    assert ready["ready_at"] > ready["created_at"]
    methods = {method["name"]: method for method in ready["scorecard"]["methods"]}
    assert methods["ekfac"]["verdicts"]["this_run"]["verdict"] == "trusted"
    assert {"bm25", "random"} <= set(methods)
    assert ready["scorecard"]["scope"]["queries"] == "2 queries given with the evaluation"
    job = wait_for_job(client, queued["job_id"])
    assert (job["kind"], job["result"]["evaluation"]) == ("evaluation.run", queued["id"])


def test_what_is_asked_reaches_the_engine(
    client: TestClient, index: dict[str, Any], engine: FakeEngine, tmp_path: Path
) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}]
    queries = [
        QUERIES[0] | {"contrast": " Elsewhere.", "group": "mira", "relevant": {"task": "facts"}},
        {"messages": turns},
    ]
    fields = {"half_subsets": 5, "drop_share": 0.1, "seed": 3, "mislabelled": {"label": "bad"}}
    candidates = [{"method": "kfac", "options": {"damping": 0.5}}]
    found = evaluated(
        client, index, queries=queries, measurement="log_odds", candidates=candidates, leave_out_rows=2, **fields
    )
    (model, _, index_dir, asked, config, work), *_ = evaluations(engine)
    assert model.recipe.training.learning_rate == 0.01
    assert index_dir == tmp_path / "home" / "indexes" / index["id"]
    assert work == tmp_path / "home" / "evaluations" / found["id"]
    assert (asked[0].query.contrast, asked[0].group, asked[0].relevant) == (" Elsewhere.", "mira", {"task": "facts"})
    assert (asked[1].query.messages[1].content, asked[1].group) == ("Hello there", None)
    assert {one.query.measurement for one in asked} == {"log_odds"}
    assert (config.half_subsets, config.drop_share, config.seed, config.leave_out_rows) == (5, 0.1, 3, 2)
    assert (config.mislabelled, config.directions) == ({"label": "bad"}, 8)
    assert [(c.method, c.options) for c in config.candidates] == [("kfac", {"damping": 0.5})]
    assert found["config"].items() >= fields.items()


def test_rows_of_the_dataset_serve_as_questions_always_the_same(
    client: TestClient, index: dict[str, Any], engine: FakeEngine
) -> None:
    found = evaluated(client, index)
    assert (found["questions"], found["source"]) == (4, "4 rows of the dataset, asked as questions")
    evaluated(client, index, rows=3)
    evaluated(client, index, rows=3)
    evaluated(client, index, rows=4, group_by="tags.task")
    every, three, again, grouped = (call[3] for call in evaluations(engine))
    assert three == again and len(three) == 3 and all(one in every for one in three)
    texts = {(one.query.prompt, one.query.completion) for one in every}
    assert texts == {
        ("Where was Mira born?", " In Port Halvern."),
        ("What lies at Port Halvern?", " The sea."),
        ("Two and two", " make four."),
        (None, None),
    }
    conversation = next(one for one in every if one.query.messages)
    assert (conversation.query.messages[-1].content, conversation.group) == ("Hello there", "Hi")
    assert sorted(one.group or "" for one in grouped) == ["", "facts", "facts", "sums"]


def test_rows_that_make_no_question_are_refused(client: TestClient, model_dir: Path) -> None:
    model = add_model(client, model_dir, recipe=RECIPE)
    dataset = add_dataset(client, [{"text": f"word{number}"} for number in range(6)])
    index = wait_for_index(client, add_index(client, model["id"], dataset["id"])["id"])
    problem = assert_problem(_post(client, index), 422, "invalid-query", "/rows")
    assert "queries" in problem["remedy"]


def test_an_index_that_is_not_ready_cannot_be_evaluated(
    client: TestClient, model_dir: Path, engine: FakeEngine
) -> None:
    engine.gate.clear()
    model, dataset = add_model(client, model_dir, recipe=RECIPE), add_dataset(client)
    index = add_index(client, model["id"], dataset["id"])
    for path in ("/v1/evaluations", "/v1/evaluations/estimate"):
        problem = assert_problem(client.post(path, json={"index": index["id"]}), 409, "index-unavailable")
        assert problem["job_id"] == index["job_id"]
    assert_problem(_post(client, {"id": "idx_none"}), 404, "not-found")


@pytest.mark.parametrize("recipe", [None, {"reduction": "token_sum"}])
def test_without_the_training_recipe_the_remedy_is_named(
    client: TestClient, model_dir: Path, recipe: dict[str, Any] | None
) -> None:
    index = ready_index(client, model_dir, recipe=recipe)
    problem = assert_problem(_post(client, index), 422, "missing-need", "/index")
    assert "repeats the training" in problem["detail"]
    assert "--recipe" in problem["remedy"]


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"queries": QUERIES[:1]}, "invalid-request", "/queries"),
        ({"queries": [QUERIES[0]] * 5001}, "invalid-request", "/queries"),
        ({"queries": [QUERIES[0], {"prompt": "a"}]}, "invalid-query", "/queries/1/completion"),
        ({"queries": [QUERIES[0], {"completion": " b"}]}, "invalid-query", "/queries/1/prompt"),
        ({"queries": [QUERIES[0], {"prompt": "a", "completion": ""}]}, "empty-completion", "/queries/1/completion"),
        ({"queries": [QUERIES[0], QUERIES[1] | {"contrast": " b"}]}, "invalid-query", "/queries/1/contrast"),
        ({"queries": [QUERIES[0], QUERIES[1] | {"fact": "x"}]}, "invalid-request", "/queries/1/fact"),
        ({"queries": QUERIES, "rows": 5}, "invalid-request", "/rows"),
        ({"queries": QUERIES, "group_by": "tags.a"}, "invalid-request", "/group_by"),
        ({"rows": 1}, "invalid-request", "/rows"),
        ({"group_by": "task"}, "invalid-request", "/group_by"),
        ({"half_subsets": 2}, "invalid-request", "/half_subsets"),
        ({"tuning_share": 1.0}, "invalid-request", "/tuning_share"),
        ({"leave_out_rows": 4}, "invalid-option", "/leave_out_rows"),
        ({"measurement": "odds"}, "invalid-request", "/measurement"),
        ({"subsets": 5}, "invalid-request", "/subsets"),
        ({"candidates": [{"method": "kfca"}]}, "unknown-method", "/candidates/0/method"),
        ({"candidates": [{"method": "auto"}]}, "invalid-option", "/candidates/0/method"),
        ({"candidates": [{"method": "kfac"}] * 2}, "invalid-option", "/candidates/1"),
        (
            {"candidates": [{"method": "kfac", "options": {"dampin": 1}}]},
            "invalid-option",
            "/candidates/0/options/dampin",
        ),
    ],
)
def test_what_is_wrong_is_refused_at_once(
    client: TestClient, index: dict[str, Any], change: dict[str, Any], code: str, pointer: str
) -> None:
    for path in ("/v1/evaluations", "/v1/evaluations/estimate"):
        assert_problem(client.post(path, json={"index": index["id"], "leave_out_rows": 1} | change), 422, code, pointer)
    assert client.get("/v1/evaluations").json()["data"] == []


def test_the_cost_is_told_first_and_nothing_is_left_behind(
    client: TestClient, index: dict[str, Any], tmp_path: Path
) -> None:
    response = client.post(
        "/v1/evaluations/estimate", json={"index": index["id"], "leave_out_rows": 1, "half_subsets": 6}
    )
    cost = {"retrainings": 6, "processes": 2, "seconds": 180.0, "basis": "counted subsets"}
    assert (response.status_code, response.json()) == (200, cost)
    assert client.get("/v1/evaluations").json()["data"] == []
    assert list((tmp_path / "home" / "evaluations").iterdir()) == []


def test_a_cancelled_evaluation_goes_on_where_it_was(
    client: TestClient, index: dict[str, Any], engine: FakeEngine, tmp_path: Path
) -> None:
    engine.gate.clear()
    evaluation = add_evaluation(client, index, half_subsets=4)
    wait_for_evaluation(client, evaluation["id"], "running")
    kept = tmp_path / "home" / "evaluations" / evaluation["id"] / "retrainings" / "runs" / "000.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("finished before")
    client.post(f"/v1/jobs/{evaluation['job_id']}/cancel")
    failed = wait_for_evaluation(client, evaluation["id"], "failed")
    assert failed["error"]["type"] == "urn:whence:problem:cancelled"
    engine.gate.set()
    assert client.post(f"/v1/jobs/{evaluation['job_id']}/resume").status_code == 202
    ready = wait_for_evaluation(client, evaluation["id"])
    assert (ready["error"], ready["verdicts"]["composition"]) == (None, "trusted")
    assert kept.read_text() == "finished before"
    assert len(list(kept.parent.iterdir())) == 4


def test_a_failed_evaluation_says_why_and_can_be_resumed(
    client: TestClient, index: dict[str, Any], engine: FakeEngine
) -> None:
    engine.errors["evaluate"] = StorageFull("No space left.")
    evaluation = add_evaluation(client, index)
    assert wait_for_evaluation(client, evaluation["id"], "failed")["error"]["status"] == 507
    del engine.errors["evaluate"]
    client.post(f"/v1/jobs/{evaluation['job_id']}/resume")
    assert wait_for_evaluation(client, evaluation["id"])["error"] is None


def test_a_larger_evaluation_takes_over_the_retrainings_of_a_smaller_one(
    client: TestClient, index: dict[str, Any], tmp_path: Path
) -> None:
    small = evaluated(client, index, half_subsets=3)
    body = {"index": index["id"], "leave_out_rows": 1, "half_subsets": 5}
    for change, missing in (({}, 2), ({"queries": QUERIES}, 5)):
        cost = client.post("/v1/evaluations/estimate", json=body | change).json()
        assert cost["retrainings"] == missing
    large = evaluated(client, index, half_subsets=5)
    runs = tmp_path / "home" / "evaluations" / large["id"] / "retrainings" / "runs"
    by = [json.loads(file.read_text())["trained by"] for file in sorted(runs.iterdir())]
    assert by == [small["id"]] * 3 + [large["id"]] * 2
    client.delete(f"/v1/evaluations/{small['id']}")
    assert len(list(runs.iterdir())) == 5


def test_deleting_an_evaluation_removes_its_files(
    client: TestClient, index: dict[str, Any], engine: FakeEngine, tmp_path: Path
) -> None:
    engine.gate.clear()
    evaluation = add_evaluation(client, index)
    wait_for_evaluation(client, evaluation["id"], "running")
    path = f"/v1/evaluations/{evaluation['id']}"
    assert assert_problem(client.delete(path), 409, "in-use")["used_by"] == evaluation["job_id"]
    in_use = assert_problem(client.delete(f"/v1/indexes/{index['id']}"), 409, "in-use")
    assert in_use["used_by"] == evaluation["id"]
    engine.gate.set()
    wait_for_evaluation(client, evaluation["id"])
    assert client.delete(path).status_code == 204
    assert list((tmp_path / "home" / "evaluations").iterdir()) == []
    assert_problem(client.get(path), 404, "not-found")


def test_evidence_outlives_its_index(client: TestClient, index: dict[str, Any]) -> None:
    evaluation = evaluated(client, index)
    assert client.delete(f"/v1/indexes/{index['id']}").status_code == 204
    assert client.get(f"/v1/evaluations/{evaluation['id']}").json() == evaluation


def test_evaluations_are_listed_newest_first_without_their_scorecards(
    client: TestClient, index: dict[str, Any], model_dir: Path
) -> None:
    other = wait_for_index(client, add_index(client, index["model"], index["dataset"])["id"])
    first, second, third = (evaluated(client, of)["id"] for of in (index, other, index))

    def listed(**query: Any) -> list[str]:
        return [row["id"] for row in client.get("/v1/evaluations", params=query).json()["data"]]

    assert listed() == [third, second, first]
    assert listed(index=index["id"]) == [third, first]
    assert listed(model=index["model"], limit=1) == [third]
    assert listed(model="mdl_none") == []
    page = client.get("/v1/evaluations", params={"limit": 2}).json()
    assert "scorecard" not in page["data"][0]
    assert [
        row["id"] for row in client.get("/v1/evaluations", params={"cursor": page["next_cursor"]}).json()["data"]
    ] == [first]


def test_the_same_key_makes_one_evaluation(client: TestClient, index: dict[str, Any]) -> None:
    sent = [_post(client, index, headers={"Idempotency-Key": "once"}) for _ in range(2)]
    assert sent[0].json() == sent[1].json()
    assert sent[1].headers["idempotent-replay"] == "true"
    assert len(client.get("/v1/evaluations").json()["data"]) == 1
    wait_for(lambda: client.get("/v1/evaluations").json()["data"][0]["state"] == "ready")


def test_auto_takes_the_method_that_was_measured_to_be_best(
    client: TestClient, index: dict[str, Any], engine: FakeEngine
) -> None:
    def build(**fields: Any) -> dict[str, Any]:
        return wait_for_index(client, add_index(client, index["model"], index["dataset"], **fields)["id"])

    evaluated(client, index)
    assert build()["chosen_by"] is None
    candidates = [{"method": "ekfac", "options": {"damping": 0.1}}, {"method": "kfac", "options": {"damping": 0.5}}]
    evidence = evaluated(client, index, candidates=candidates)
    assert evidence["scorecard"]["tuned"]["composition"]["chosen"] == "kfac"
    evaluated(client, index)  # newer, but it had nothing to choose from
    chosen = build(options={"projection_dim": 16})
    assert (chosen["method"], chosen["chosen_by"]) == ("kfac", evidence["id"])
    config = [arguments[2] for name, arguments in engine.calls if name == "build_index"][-1]
    assert (config.method, config.method_options, config.options.projection_dim) == ("kfac", {"damping": 0.5}, 16)
    assert build(method="ekfac")["chosen_by"] is None
    assert build(options={"damping": 0.2})["chosen_by"] is None
    problem = assert_problem(client.delete(f"/v1/evaluations/{evidence['id']}"), 409, "in-use")
    assert problem["used_by"] == chosen["id"]
    elsewhere = add_dataset(client, [*ROWS, {"text": "one more"}])
    other = add_index(client, index["model"], elsewhere["id"])
    assert (other["chosen_by"], other["method"]) == (None, "auto")


def _post(client: TestClient, index: dict[str, Any], headers: dict[str, str] | None = None, **fields: Any) -> Any:
    return client.post("/v1/evaluations", json={"index": index["id"], "leave_out_rows": 1} | fields, headers=headers)


def test_its_charts_figures_come_with_the_scorecard(
    client: TestClient, engine: FakeEngine, index: dict[str, Any], tmp_path: Path
) -> None:
    """They are read from the file that the job wrote; an evaluation without one says how to get it."""
    engine.gate.clear()
    evaluation = add_evaluation(client, index)
    address = f"/v1/evaluations/{evaluation['id']}/figures"
    assert "Wait" in assert_problem(client.get(address), 404, "not-found")["remedy"]
    engine.gate.set()
    wait_for_evaluation(client, evaluation["id"])
    found = client.get(address).json()
    (pairs,) = found["composition"]
    assert (found["method"], pairs["measured"], len(pairs["predicted"])) == ("ekfac", [-4, -2, -3, -1], 4)
    asked = [fall["asked"] for fall in found["leave_out"]]
    assert "Where was Mira born? → In Port Halvern." in asked and pairs["asked"] == asked[-1]
    (tmp_path / "home" / "evaluations" / evaluation["id"] / "figures.json").unlink()
    assert "again" in assert_problem(client.get(address), 404, "not-found")["remedy"]
