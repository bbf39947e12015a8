"""Metadata, names and versions: given when a resource is made, changed with PATCH, filtered by in lists."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.amending import MAX_METADATA_BYTES
from app.database import Database
from app.main import create_app
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.resources import (
    RECIPE,
    add_dataset,
    add_evaluation,
    add_index,
    add_model,
    assert_problem,
    evaluated,
    jsonl,
    post_dataset,
    ready_index,
    wait_for_index,
)

NOTE = {"ticket": 7, "who": ["Ünï"], "nested": {"deep": None}}


@pytest.fixture
def index(client: TestClient, model_dir: Path) -> dict[str, Any]:
    return ready_index(client, model_dir, recipe=RECIPE)


@pytest.fixture
def paths(client: TestClient, index: dict[str, Any]) -> dict[str, str]:
    return {
        "model": f"/v1/models/{index['model']}",
        "dataset": f"/v1/datasets/{index['dataset']}",
        "index": f"/v1/indexes/{index['id']}",
        "evaluation": f"/v1/evaluations/{evaluated(client, index)['id']}",
    }


def test_metadata_given_at_first_is_given_back(client: TestClient, model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(jsonl())
    model = add_model(client, model_dir, recipe=RECIPE, metadata=NOTE)
    dataset = post_dataset(client, jsonl(), fields={"metadata": json.dumps(NOTE)}).json()
    imported = client.post("/v1/datasets", json={"name": "d", "uri": str(tmp_path / "rows.jsonl"), "metadata": NOTE})
    index = wait_for_index(client, add_index(client, model["id"], dataset["id"], metadata=NOTE)["id"])
    evaluation = add_evaluation(client, index, metadata=NOTE)
    for kind, body in (("models", model), ("datasets", dataset), ("datasets", imported.json()), ("indexes", index)):
        assert body["metadata"] == NOTE, kind
        assert client.get(f"/v1/{kind}/{body['id']}").json()["metadata"] == NOTE
        assert NOTE in [row["metadata"] for row in client.get(f"/v1/{kind}").json()["data"]]
    assert evaluation["metadata"] == NOTE
    assert "metadata" not in evaluation["config"]
    assert client.get("/v1/evaluations").json()["data"][0]["metadata"] == NOTE


def test_a_large_dataset_keeps_its_metadata(tmp_path: Path) -> None:
    with TestClient(create_app(make_settings(tmp_path, max_inline_rows_bytes=0), FakeEngine())) as client:
        response = post_dataset(client, jsonl(), fields={"metadata": json.dumps(NOTE)})
        assert (response.status_code, response.json()["metadata"]) == (202, NOTE)


def test_what_is_noted_is_replaced_kept_and_taken_away(client: TestClient, paths: dict[str, str]) -> None:
    for kind, path in paths.items():
        before = client.get(path).json()
        assert before["metadata"] is None
        noted = client.patch(path, json={"metadata": NOTE})
        assert (noted.status_code, noted.json()) == (200, before | {"metadata": NOTE}), kind
        assert client.get(path).headers["etag"] == noted.headers["etag"], kind
        assert client.patch(path, json={}).json()["metadata"] == NOTE
        assert client.patch(path, json={"metadata": {"other": 1}}).json()["metadata"] == {"other": 1}
        assert client.patch(path, json={"metadata": None}).json() == before


def test_two_that_change_it_do_not_overwrite_each_other_unseen(client: TestClient, paths: dict[str, str]) -> None:
    for path in paths.values():
        seen = {"If-Match": client.get(path).headers["etag"]}
        first = client.patch(path, json={"metadata": {"n": 1}}, headers=seen)
        assert first.status_code == 200
        assert_problem(client.patch(path, json={"metadata": {"n": 2}}, headers=seen), 412, "precondition-failed")
        assert client.get(path).json()["metadata"] == {"n": 1}
        again = client.patch(path, json={"metadata": {"n": 2}}, headers={"If-Match": first.headers["etag"]})
        assert again.json()["metadata"] == {"n": 2}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"metadata": {"text": "x" * MAX_METADATA_BYTES}}, "/metadata"),
        ({"metadata": [1]}, "/metadata"),
        ({"metadata": {"nul": "\x00"}}, "/metadata"),
        ({"state": "ready"}, "/state"),
        ({"name": None}, "/name"),
        ({"name": ""}, "/name"),
    ],
)
def test_what_cannot_be_noted_is_refused(
    client: TestClient, index: dict[str, Any], body: dict[str, Any], pointer: str
) -> None:
    for path in (f"/v1/models/{index['model']}", f"/v1/datasets/{index['dataset']}", f"/v1/indexes/{index['id']}"):
        assert_problem(client.patch(path, json=body), 422, "invalid-request", pointer)


def test_the_bound_counts_bytes_not_letters(client: TestClient, index: dict[str, Any]) -> None:
    path, room = f"/v1/models/{index['model']}", MAX_METADATA_BYTES - len('{"t": ""}')
    assert client.patch(path, json={"metadata": {"t": "x" * room}}).status_code == 200
    assert client.patch(path, json={"metadata": {"t": "ü" * (room // 2)}}).status_code == 200
    assert client.patch(path, json={"metadata": {"t": "ü" * (room // 2 + 1)}}).status_code == 422
    fields = {"metadata": json.dumps({"t": "x" * (room + 1)})}
    assert_problem(post_dataset(client, jsonl(), fields=fields), 422, "invalid-request", "/metadata")
    assert_problem(post_dataset(client, jsonl(), fields={"metadata": "{no"}), 422, "invalid-request", "/metadata")


def test_names_change_where_they_are_only_names(client: TestClient, paths: dict[str, str]) -> None:
    for kind in ("dataset", "evaluation"):
        assert client.patch(paths[kind], json={"name": "renamed"}).json()["name"] == "renamed"
    assert_problem(client.patch(paths["model"], json={"name": "renamed"}), 422, "invalid-request", "/name")
    named = client.patch(paths["index"], json={"name": "facts"}).json()
    assert (named["name"], named["version"]) == ("facts", 1)
    assert client.patch(paths["index"], json={"name": "facts"}).json() == named
    assert_problem(client.patch(paths["index"], json={"name": "other"}), 409, "conflict", "/name")


def test_indexes_of_one_name_are_counted(client: TestClient, index: dict[str, Any]) -> None:
    def add(name: str | None) -> int | None:
        fields = {} if name is None else {"name": name}
        return add_index(client, index["model"], index["dataset"], **fields)["version"]

    assert [add("a"), add("a"), add("b"), add(None), add("a")] == [1, 2, 1, None, 3]
    assert index["version"] is None
    assert client.patch(f"/v1/indexes/{index['id']}", json={"name": "b"}).json()["version"] == 2


def test_versions_taken_at_once_differ_on_either_database(database: Database, tmp_path: Path, model_dir: Path) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    with TestClient(create_app(make_settings(tmp_path, database_url=url), FakeEngine())) as client:
        index = ready_index(client, model_dir)
        versions: list[int] = []

        def add() -> None:
            versions.append(add_index(client, index["model"], index["dataset"], name="same")["version"])

        threads = [threading.Thread(target=add) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(versions) == [1, 2, 3, 4, 5, 6]
        path = f"/v1/indexes/{index['id']}"
        named = client.patch(path, json={"name": "same", "metadata": NOTE}, headers={"If-Match": "*"}).json()
        assert (named["version"], named["metadata"]) == (7, NOTE)
        listed = client.get("/v1/indexes", params={"name": "same", "limit": 3}).json()
        assert len(listed["data"]) == 3
        assert listed["next_cursor"]


def test_lists_are_filtered(client: TestClient, model_dir: Path, engine: FakeEngine) -> None:
    first, second = (add_model(client, model_dir, name=name, recipe=RECIPE) for name in ("one", "two"))
    train, other = add_dataset(client), post_dataset(client, jsonl(), fields={"name": "other"}).json()
    index = wait_for_index(client, add_index(client, first["id"], train["id"], name="i")["id"])
    engine.gate.clear()
    building = add_index(client, second["id"], other["id"])
    evaluation = add_evaluation(client, index, name="e")

    def found(resource: str, **params: str) -> list[str]:
        response = client.get(f"/v1/{resource}", params=params)
        assert response.status_code == 200, response.text
        return [row["id"] for row in response.json()["data"]]

    assert found("models", name="one") == [first["id"]]
    assert found("models", name="none") == []
    assert found("datasets", name="other", state="ready") == [other["id"]]
    assert found("datasets", state="failed") == []
    assert found("indexes", name="i", state="ready", model=first["id"], dataset=train["id"]) == [index["id"]]
    assert found("indexes", dataset=other["id"]) == [building["id"]]
    assert found("indexes", model=first["id"], dataset=other["id"]) == []
    assert found("evaluations", name="e", model=first["id"], dataset=train["id"], index=index["id"]) == [
        evaluation["id"]
    ]
    assert found("evaluations", state="failed") == []
    assert found("jobs", kind="evaluation.run") == [evaluation["job_id"]]
    for path in ("datasets", "indexes", "evaluations", "jobs"):
        refused = client.get(f"/v1/{path}", params={"state": "odd"})
        assert_problem(refused, 422, "invalid-request", "query:state")
    engine.gate.set()
