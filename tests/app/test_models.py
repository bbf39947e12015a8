"""/v1/models"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.dependencies import Services
from app.models.service import config_of
from app.paths import PathPolicy
from app.settings import Settings
from app.tables import ModelRow
from engine.causal.recipe import save_recipe
from engine.config import Lora, ModelConfig, Recipe, TemplateConfig, Training
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


@pytest.mark.parametrize(
    "training",
    [
        Training(),
        Training(optimizer="adafactor", schedule="cosine", max_grad_norm=None, lora=None),
        Training(seed=(1 << 63) - 1, betas=(0.5, 0.25), accumulation=3, lora=Lora(4, 0.5, ("q_proj", "v_proj"))),
    ],
)
def test_training_is_stored_and_given_back_as_it_was(
    client: TestClient, services: Services, model_dir: Path, engine: FakeEngine, training: Training
) -> None:
    recipe = Recipe("example_mean", max_length=9, training=training, details={"note": ["é", 1.5, None]})
    body = add_model(client, model_dir, recipe=asdict(recipe))
    assert body["recipe"] == json.loads(json.dumps(asdict(recipe)))
    assert client.get(f"/v1/models/{body['id']}").json()["recipe"] == body["recipe"]
    assert described(engine).recipe == recipe
    with services.database.read() as session:
        row = session.get(ModelRow, body["id"])
        assert row is not None
        assert config_of(row, PathPolicy(())).recipe == recipe


def described(engine: FakeEngine) -> ModelConfig:
    return next(arguments[0] for name, arguments in engine.calls if name == "describe_model")


def test_a_recipe_of_an_older_version_has_no_training(client: TestClient, services: Services, model_dir: Path) -> None:
    """What the table holds from before `training` came."""
    body = add_model(client, model_dir, recipe={"reduction": "example_mean"})
    with services.database.write() as session:
        row = session.get(ModelRow, body["id"])
        assert row is not None
        row.recipe = {"reduction": "example_mean", "template": {}, "max_length": None, "steps": None, "details": {}}
    with services.database.read() as session:
        row = session.get(ModelRow, body["id"])
        assert row is not None
        assert config_of(row, PathPolicy(())).recipe == Recipe("example_mean")


@pytest.mark.parametrize("above", [False, True])
def test_the_recipe_beside_the_adapter_is_taken_and_said_so(
    client: TestClient, model_dir: Path, engine: FakeEngine, above: bool
) -> None:
    run = model_dir.parent / "run"
    adapter = run / "epoch-2"
    adapter.mkdir(parents=True)
    recipe = Recipe("example_mean", training=Training(seed=4))
    place = run if above else adapter
    save_recipe(place / "recipe.json", recipe)
    body = add_model(client, model_dir, adapter=str(adapter))
    assert described(engine).recipe == recipe
    assert body["recipe"]["training"]["seed"] == 4
    assert body["warnings"] == [f"the recipe was taken from {place}"]


def test_a_recipe_in_the_request_wins(client: TestClient, model_dir: Path, engine: FakeEngine) -> None:
    save_recipe(model_dir / "recipe.json", Recipe("example_mean"))
    body = add_model(client, model_dir, recipe={"reduction": "token_sum"})
    assert described(engine).recipe == Recipe("token_sum")
    assert body["warnings"] == []


def test_a_hugging_face_run_beside_the_adapter_is_taken_with_what_it_leaves_open(
    client: TestClient, model_dir: Path
) -> None:
    run = model_dir.parent / "run"
    (run / "checkpoint-4").mkdir(parents=True)
    state = {"global_step": 4, "max_steps": 4, "num_train_epochs": 2, "train_batch_size": 2, "log_history": []}
    (run / "checkpoint-4" / "trainer_state.json").write_text(json.dumps(state))
    (run / "training_args.bin").write_bytes(b"a pickle")
    body = add_model(client, model_dir, adapter=str(run / "checkpoint-4"))
    assert (body["recipe"]["reduction"], body["recipe"]["training"]["epochs"]) == ("token_sum", 2)
    assert "seed" in body["recipe"]["details"]["unknown"]
    told = " ".join(body["warnings"])
    for part in (f"taken from {run / 'checkpoint-4'}", "token sums", "learning_rate", "training_args.bin"):
        assert part in told


def test_a_recipe_that_cannot_be_used_is_named_and_not_used(client: TestClient, model_dir: Path) -> None:
    for content, told in (
        ('{"ingredients": []}', "ingredients"),
        ('{"training": {"epochs": -1}}', "training.epochs"),
        ('{"details": {"note": "a\\u0000"}}', "NUL"),
        ("[" * 100_000, "recipe.json"),
    ):
        (model_dir / "recipe.json").write_text(content)
        body = add_model(client, model_dir)
        assert body["recipe"] is None
        assert told in body["warnings"][0]
        assert "unknown" in body["warnings"][1]


def test_no_recipe_outside_the_roots_is_read(client: TestClient, model_dir: Path, settings: Settings) -> None:
    root = settings.roots[0]
    outside = root.parent / f"{root.name}-outside"
    outside.mkdir()
    save_recipe(outside / "recipe.json", Recipe("example_mean"))
    adapter = model_dir.parent / "run" / "epoch-1"
    adapter.mkdir(parents=True)
    (adapter.parent / "recipe.json").symlink_to(outside / "recipe.json")
    assert add_model(client, model_dir, adapter=str(adapter))["recipe"] is None
    save_recipe(root.parent / "recipe.json", Recipe("example_mean"))
    assert add_model(client, model_dir, adapter=str(root))["recipe"] is None
    (root.parent / "recipe.json").unlink()


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
        ({"recipe": {"training": {"learning_rte": 0.1}}}, "/recipe/training/learning_rte"),
        ({"recipe": {"training": {"learning_rate": -1}}}, "/recipe/training/learning_rate"),
        ({"recipe": {"training": {"schedule": "wavy"}}}, "/recipe/training/schedule"),
        ({"recipe": {"training": {"warmup_share": 1.5}}}, "/recipe/training/warmup_share"),
        ({"recipe": {"training": {"epochs": 0}}}, "/recipe/training/epochs"),
        ({"recipe": {"training": {"seed": 1 << 63}}}, "/recipe/training/seed"),
        ({"recipe": {"training": {"betas": [0.9, 1.0]}}}, "/recipe/training/betas/1"),
        ({"recipe": {"training": {"max_grad_norm": 0}}}, "/recipe/training/max_grad_norm"),
        ({"recipe": {"training": {"optimizer": ""}}}, "/recipe/training/optimizer"),
        ({"recipe": {"training": {"lora": {"rank": 0}}}}, "/recipe/training/lora/rank"),
        ({"recipe": {"training": {"lora": {"targets": []}}}}, "/recipe/training/lora/targets"),
        ({"recipe": {"training": {"lora": {"dropout": 0.1}}}}, "/recipe/training/lora/dropout"),
    ],
)
def test_a_wrong_field_is_pointed_at(client: TestClient, model_dir: Path, change: dict, pointer: str) -> None:
    response = client.post("/v1/models", json={"name": "bot", "base": str(model_dir)} | change)
    assert_problem(response, 422, "invalid-request", pointer)


def test_a_failed_registration_leaves_no_model(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_problem(client.post("/v1/models", json={"name": "bot", "base": "empty"}), 422, "not-a-model", "/base")
    assert client.get("/v1/models").json() == {"data": [], "next_cursor": None}
