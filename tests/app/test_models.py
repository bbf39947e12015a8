"""/v1/models"""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from engine.config import Recipe, TemplateConfig
from tests.app.fakes import FakeEngine
from tests.app.resources import add_dataset, add_index, add_model, assert_problem, wait_for_index


def test_registering_says_what_was_learned(client: TestClient, model_dir: Path) -> None:
    response = client.post("/v1/models", json={"name": " bot ", "base": str(model_dir)})
    body = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == f"/v1/models/{body['id']}"
    assert body["id"].startswith("mdl_")
    learned = {"parameters": 1000, "trained_parameters": 100, "trained_modules": 4, "context_length": 128}
    assert body.items() >= ({"name": "bot", "version": 1, "base": str(model_dir), "adapter": None} | learned).items()
    assert body["coverage"]["share"] == 0.9
    assert body["warnings"] == ["The recipe is unknown: token-sum gradients."]
    assert body["created_at"].endswith("Z")
    assert client.get(f"/v1/models/{body['id']}").json() == body


def test_the_same_name_again_is_the_next_version(client: TestClient, model_dir: Path) -> None:
    assert [add_model(client, model_dir, name)["version"] for name in ("a", "a", "b", "a")] == [1, 2, 1, 3]


def test_the_engine_gets_the_paths_resolved_and_the_recipe_whole(
    client: TestClient, model_dir: Path, engine: FakeEngine
) -> None:
    for name in ("epoch-1", "epoch-2"):
        (model_dir.parent / name).mkdir()
    recipe = {
        "reduction": "batch_token_mean",
        "template": {"eos": False, "assistant_turns": "all"},
        "steps": [[0, 1], [2]],
        "details": {"lr": 0.1},
    }
    body = add_model(client, Path("model"), adapter="epoch-2", checkpoints=["epoch-1", "./epoch-2"], recipe=recipe)
    (config,) = engine.calls[0][1]
    root = model_dir.parent
    assert (config.base, config.adapter) == (str(model_dir), str(root / "epoch-2"))
    assert config.checkpoints == (str(root / "epoch-1"), str(root / "epoch-2"))
    template = TemplateConfig(eos=False, assistant_turns="all")
    assert config.recipe == Recipe("batch_token_mean", template, steps=((0, 1), (2,)), details={"lr": 0.1})
    assert body["checkpoints"] == list(config.checkpoints)
    assert body["recipe"]["steps"] == [[0, 1], [2]]


def test_models_are_listed_newest_first_in_pages(client: TestClient, model_dir: Path) -> None:
    ids = [add_model(client, model_dir)["id"] for _ in range(3)]
    first = client.get("/v1/models", params={"limit": 2}).json()
    rest = client.get("/v1/models", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [row["id"] for row in first["data"] + rest["data"]] == ids[::-1]
    assert rest["next_cursor"] is None


def test_a_model_in_use_is_not_deleted_and_the_user_is_named(client: TestClient, model_dir: Path) -> None:
    model, dataset = add_model(client, model_dir), add_dataset(client)
    index = add_index(client, model["id"], dataset["id"])
    wait_for_index(client, index["id"])
    body = assert_problem(client.delete(f"/v1/models/{model['id']}"), 409, "in-use")
    assert body["used_by"] == index["id"]
    assert index["id"] in body["detail"]
    assert client.delete(f"/v1/indexes/{index['id']}").status_code == 204
    assert client.delete(f"/v1/models/{model['id']}").status_code == 204
    assert_problem(client.get(f"/v1/models/{model['id']}"), 404, "not-found")
    assert (model_dir / "config.json").exists()


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"bse": "x"}, "/bse"),
        ({"name": ""}, "/name"),
        ({"name": "a\x00b"}, "/name"),
        ({"dtype": "int8"}, "/dtype"),
        ({"recipe": {"reduction": "sum"}}, "/recipe/reduction"),
        ({"recipe": {"template": {"bos": True}}}, "/recipe/template/bos"),
        ({"recipe": {"steps": [[-1]]}}, "/recipe/steps/0/0"),
        ({"recipe": {"details": {"note": "a\x00b"}}}, "/recipe/details"),
    ],
)
def test_a_wrong_field_is_pointed_at(client: TestClient, model_dir: Path, change: dict, pointer: str) -> None:
    response = client.post("/v1/models", json={"name": "bot", "base": str(model_dir)} | change)
    assert_problem(response, 422, "invalid-request", pointer)


def test_a_failed_registration_leaves_no_model(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_problem(client.post("/v1/models", json={"name": "bot", "base": "empty"}), 422, "not-a-model", "/base")
    assert client.get("/v1/models").json() == {"data": [], "next_cursor": None}
