"""/v1/indexes"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from engine.config import IndexOptions
from engine.errors import NonFiniteGradient
from tests.app.fakes import FakeEngine
from tests.app.resources import (
    add_dataset,
    add_index,
    add_model,
    assert_problem,
    ready_index,
    wait_for_index,
    wait_for_job,
)


def test_a_build_is_a_job_and_the_index_follows_it(client: TestClient, model_dir: Path, engine: FakeEngine) -> None:
    engine.gate.clear()
    model, dataset = add_model(client, model_dir), add_dataset(client)
    body = {"model": model["id"], "dataset": dataset["id"], "name": "first"}
    response = client.post("/v1/indexes", json=body)
    queued = response.json()
    assert (response.status_code, queued["state"]) == (202, "queued")
    assert response.headers["location"] == f"/v1/jobs/{queued['job_id']}"
    assert queued.items() >= (body | {"method": "auto", "rows": None, "coverage": None}).items()
    wait_for_index(client, queued["id"], "building")
    engine.gate.set()
    ready = wait_for_index(client, queued["id"])
    learned = {"method": "ekfac", "rows": 4, "bytes": 400, "options": {"projection_dim": 0}, "sketched": False}
    assert ready.items() >= learned.items()
    assert ready["coverage"]["share"] == 0.9
    assert ready["fingerprints"]["dataset"] == dataset["sha256"]
    assert {"ekfac", "bm25"} <= set(ready["serves"])
    job = wait_for_job(client, queued["job_id"])
    assert (job["kind"], job["result"]["index"]) == ("index.build", queued["id"])


def test_options_go_where_they_belong(client: TestClient, model_dir: Path, engine: FakeEngine) -> None:
    (model_dir.parent / "epoch-1").mkdir()
    model = add_model(client, model_dir, checkpoints=["epoch-1"])
    options = {"projection_dim": 16, "modules": ["q_proj$"], "damping": 0.2}
    fields = {"method": "ekfac", "checkpoints": ["epoch-1"], "options": options}
    index = add_index(client, model["id"], add_dataset(client)["id"], **fields)
    wait_for_index(client, index["id"])
    config = next(arguments[2] for name, arguments in engine.calls if name == "build_index")
    assert config.options == IndexOptions(projection_dim=16, modules=("q_proj$",))
    assert (config.method, config.method_options, config.checkpoints) == ("ekfac", {"damping": 0.2}, ("epoch-1",))
    assert index["options"].items() >= options.items()


def test_checkpoints_of_the_same_name_are_told_apart_by_place(
    client: TestClient, model_dir: Path, engine: FakeEngine
) -> None:
    for epoch in ("e1", "e2"):
        (model_dir.parent / epoch / "adapter").mkdir(parents=True)
    model = add_model(client, model_dir, adapter="e2/adapter", checkpoints=["e1/adapter"])
    dataset = add_dataset(client)["id"]
    wait_for_index(client, add_index(client, model["id"], dataset, checkpoints=["e2/adapter"])["id"])
    config = next(arguments[2] for name, arguments in engine.calls if name == "build_index")
    assert config.checkpoints == ("adapter#1",)
    body = {"model": model["id"], "dataset": dataset, "checkpoints": ["adapter"]}
    problem = assert_problem(client.post("/v1/indexes", json=body), 422, "invalid-option", "/checkpoints/0")
    assert "names several of them" in problem["detail"]


@pytest.mark.parametrize(
    ("change", "code", "pointer", "detail"),
    [
        ({"method": "ekfca"}, "unknown-method", "/method", "'ekfac'"),
        ({"options": {"projection_dims": 8}}, "invalid-option", "/options/projection_dims", "'projection_dim'"),
        ({"options": {"dampin": 8}}, "invalid-option", "/options/dampin", "'damping'"),
        ({"method": "bm25", "options": {"damping": 1}}, "invalid-option", "/options/damping", "has no option"),
        ({"options": {"damping": "high"}}, "invalid-option", "/options/damping", "damping"),
        ({"options": {"dtype": "int4"}}, "invalid-option", "/options/dtype", "float16"),
        ({"options": {"token_budget": 0}}, "invalid-option", "/options/token_budget", "greater"),
        ({"options": {"projection_dim": -1}}, "invalid-option", "/options/projection_dim", "projection_dim"),
        ({"options": {"max_length": "many"}}, "invalid-option", "/options/max_length", "integer"),
        ({"options": {"modules": ["("]}}, "invalid-option", "/options/modules", "regular expression"),
        ({"checkpoints": ["epoch-9"]}, "invalid-option", "/checkpoints/0", "epoch-9"),
        ({"checkpoints": []}, "invalid-option", "/checkpoints", "empty"),
        ({"checkpoints": "last"}, "invalid-request", None, ""),
        ({"methd": "ekfac"}, "invalid-request", "/methd", ""),
    ],
)
def test_what_is_wrong_is_refused_at_once_with_the_nearest_name(
    client: TestClient, model_dir: Path, change: dict[str, Any], code: str, pointer: str | None, detail: str
) -> None:
    body = {"model": add_model(client, model_dir)["id"], "dataset": add_dataset(client)["id"]} | change
    for path in ("/v1/indexes", "/v1/indexes/estimate"):
        problem = assert_problem(client.post(path, json=body), 422, code, pointer)
        assert detail in problem["detail"]
    assert client.get("/v1/indexes").json()["data"] == []


def test_an_unknown_model_or_dataset_is_not_found(client: TestClient, model_dir: Path) -> None:
    model, dataset = add_model(client, model_dir)["id"], add_dataset(client)["id"]
    for body in ({"model": "mdl_x", "dataset": dataset}, {"model": model, "dataset": "ds_x"}):
        assert_problem(client.post("/v1/indexes", json=body), 404, "not-found")


def test_an_estimate_costs_nothing(client: TestClient, model_dir: Path) -> None:
    body = {"model": add_model(client, model_dir)["id"], "dataset": add_dataset(client)["id"]}
    estimate = client.post("/v1/indexes/estimate", json=body)
    assert (estimate.status_code, estimate.json()["rows"], estimate.json()["basis"]) == (200, 4, "counted rows")
    assert client.get("/v1/indexes").json()["data"] == []


def test_a_failed_build_says_why_and_can_be_resumed(client: TestClient, model_dir: Path, engine: FakeEngine) -> None:
    engine.errors["build_index"] = NonFiniteGradient("NaN in the gradient of layer 3.")
    index = add_index(client, add_model(client, model_dir)["id"], add_dataset(client)["id"])
    failed = wait_for_index(client, index["id"], "failed")
    assert failed["error"]["type"] == "urn:whence:problem:non-finite-gradient"
    assert "layer 3" in failed["error"]["detail"]
    del engine.errors["build_index"]
    assert client.post(f"/v1/jobs/{index['job_id']}/resume").status_code in (200, 202)
    assert wait_for_index(client, index["id"])["error"] is None


def test_a_cancelled_build_is_a_failed_index(client: TestClient, model_dir: Path, engine: FakeEngine) -> None:
    engine.gate.clear()
    index = add_index(client, add_model(client, model_dir)["id"], add_dataset(client)["id"])
    wait_for_index(client, index["id"], "building")
    client.post(f"/v1/jobs/{index['job_id']}/cancel")
    assert wait_for_index(client, index["id"], "failed")["error"]["type"] == "urn:whence:problem:cancelled"


def test_an_index_being_built_is_not_deleted_and_the_job_is_named(
    client: TestClient, model_dir: Path, engine: FakeEngine
) -> None:
    engine.gate.clear()
    index = add_index(client, add_model(client, model_dir)["id"], add_dataset(client)["id"])
    problem = assert_problem(client.delete(f"/v1/indexes/{index['id']}"), 409, "in-use")
    assert problem["used_by"] == index["job_id"]


def test_deleting_an_index_removes_its_files(client: TestClient, model_dir: Path, tmp_path: Path) -> None:
    index = ready_index(client, model_dir)
    assert (tmp_path / "home" / "indexes" / index["id"] / "manifest.json").exists()
    assert client.delete(f"/v1/indexes/{index['id']}").status_code == 204
    assert list((tmp_path / "home" / "indexes").iterdir()) == []
    assert_problem(client.get(f"/v1/indexes/{index['id']}"), 404, "not-found")


def test_indexes_are_listed_newest_first(client: TestClient, model_dir: Path) -> None:
    model, dataset = add_model(client, model_dir)["id"], add_dataset(client)["id"]
    ids = [add_index(client, model, dataset)["id"] for _ in range(3)]
    assert [row["id"] for row in client.get("/v1/indexes").json()["data"]] == ids[::-1]


def test_self_influence_ranks_rows_with_their_texts(client: TestClient, model_dir: Path) -> None:
    path = f"/v1/indexes/{ready_index(client, model_dir)['id']}/self-influence"
    rows = client.get(path, params={"limit": 2}).json()["data"]
    assert [row["rank"] for row in rows] == [1, 2]
    assert rows[0]["score"] >= rows[1]["score"]
    assert (
        rows[0].items() >= {"example_id": "born", "prompt": "Where was Mira born?", "tags": {"task": "facts"}}.items()
    )
    lowest = client.get(path, params={"order": "asc", "limit": 1}).json()["data"][0]
    assert (lowest["example_id"], lowest["label"]) == ("sum", "good")
    assert_problem(client.get(path, params={"order": "up"}), 422, "invalid-request", "query:order")
    assert_problem(client.get(path, params={"limit": 0}), 422, "invalid-request", "query:limit")


def test_self_influence_pages_through_all_rows(client: TestClient, model_dir: Path) -> None:
    index = ready_index(client, model_dir)
    path, cursor, seen = f"/v1/indexes/{index['id']}/self-influence", None, []
    for _ in range(index["rows"]):
        page = client.get(path, params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += page["data"]
        if (cursor := page["next_cursor"]) is None:
            break
    assert [row["rank"] for row in seen] == list(range(1, index["rows"] + 1))
    assert {row["position"] for row in seen} == set(range(index["rows"]))
    assert [row["score"] for row in seen] == sorted((row["score"] for row in seen), reverse=True)
    assert_problem(client.get(path, params={"cursor": "nonsense"}), 422, "bad-cursor", "query:cursor")


def test_self_influence_of_an_index_that_is_not_ready_is_a_conflict(
    client: TestClient, model_dir: Path, engine: FakeEngine
) -> None:
    engine.gate.clear()
    index = add_index(client, add_model(client, model_dir)["id"], add_dataset(client)["id"])
    problem = assert_problem(client.get(f"/v1/indexes/{index['id']}/self-influence"), 409, "index-unavailable")
    assert problem["job_id"] == index["job_id"]
