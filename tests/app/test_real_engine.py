"""The service with the real engine on a tiny model: the main job, and the bad input only an engine can find."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from safetensors.numpy import load_file, save_file

from app.engine_client import LocalEngine
from app.main import create_app
from engine import durable
from engine.errors import StorageFull
from tests import factories
from tests.app.conftest import make_settings
from tests.app.resources import (
    add_dataset,
    add_index,
    add_model,
    assert_problem,
    wait_for_index,
    wait_for_job,
)

ROWS = factories.sentences(12)
RECIPE = {"reduction": "token_sum"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    llama = factories.llama(hidden=8, layers=1)
    factories.save_base(root / "base", llama)
    for seed in (1, 2):
        factories.save_adapter(root / f"epoch-{seed}", llama, seed, r=2)
    factories.save_adapter(root / "other", factories.llama(hidden=16), 1)
    return root / "base"


@pytest.fixture
def client(base: Path, tmp_path: Path) -> Iterator[TestClient]:
    settings = make_settings(tmp_path, model_roots=(base.parent, tmp_path))
    with TestClient(create_app(settings, LocalEngine(device="cpu"))) as client:
        yield client


def tuned(client: TestClient, base: Path, name: str = "bot", **fields: Any) -> dict[str, Any]:
    paths = [str(base.parent / f"epoch-{seed}") for seed in (1, 2)]
    return add_model(client, base, name, **({"checkpoints": paths, "recipe": RECIPE} | fields))


def ask(client: TestClient, model: str, row: int = 3, **fields: Any) -> Any:
    question = {"prompt": ROWS[row]["prompt"], "completion": ROWS[row]["completion"]}
    return client.post("/v1/attributions", json={"model": model} | question | fields)


def test_register_build_ask(client: TestClient, base: Path) -> None:
    model = tuned(client, base)
    assert len(model["checkpoints"]) == 2 and model["trained_modules"] == 14
    dataset = add_dataset(client, ROWS)
    estimate = client.post("/v1/indexes/estimate", json={"model": model["id"], "dataset": dataset["id"]})
    assert estimate.status_code == 200, estimate.text
    index = wait_for_index(client, add_index(client, model["id"], dataset["id"])["id"])
    assert index["method"] == "ekfac" and index["rows"] == 12
    response = ask(client, model["id"], tokens=True, modules=True, group_by="tags.parity")
    assert response.status_code == 200, response.text
    answer = response.json()
    top = answer["proponents"][0]
    assert top["example_id"] == "ex-3" and top["prompt"] == ROWS[3]["prompt"]
    assert sum(top["position_shares"]) == pytest.approx(top["score"], rel=1e-2)
    assert sum(top["module_scores"].values()) == pytest.approx(top["score"], rel=1e-2)
    assert {group["key"] for group in answer["groups"]} == {"0", "1"}
    assert answer["trust"]["verdict"] == "unmeasured"
    assert answer["tuned_minus_base"] is not None
    odd = client.get(f"/v1/indexes/{index['id']}/self-influence", params={"limit": 3}).json()
    assert len(odd["data"]) == 3


def test_generate_contrast_and_span(client: TestClient, base: Path) -> None:
    model = tuned(client, base)
    wait_for_index(client, add_index(client, model["id"], add_dataset(client, ROWS)["id"])["id"])
    generated = client.post(
        "/v1/attributions", json={"model": model["id"], "prompt": "the cat", "generate": {"max_new_tokens": 5}}
    )
    assert generated.status_code == 200, generated.text
    assert generated.json()["query"]["completion"]
    contrast = ask(client, model["id"], contrast=" home").json()
    assert contrast["measurement"]["kind"] == "contrastive_log_prob"
    span = ask(client, model["id"], span={"start": 1, "end": 3}).json()
    assert span["measurement"]["tokens"] == 2


def test_log_odds_a_set_and_a_removal(client: TestClient, base: Path) -> None:
    model = tuned(client, base)
    options = {"exponent": 1.0, "ensemble_power": 0.0}
    index = add_index(client, model["id"], add_dataset(client, ROWS)["id"], options=options)
    wait_for_index(client, index["id"])
    odds = ask(client, model["id"], measurement="log_odds", top_k=12, removal={"tags": {"parity": "1"}}).json()
    assert odds["measurement"]["kind"] == "log_odds"
    scores = {hit["position"]: hit["score"] for hit in odds["proponents"] + odds["opponents"]}
    assert odds["removal"]["rows"] == 6 and odds["removal"]["predicted_change"] is not None
    assert odds["removal"]["score"] == pytest.approx(sum(scores[i] for i in range(1, 12, 2)), rel=1e-2)
    members = [{"prompt": ROWS[i]["prompt"], "completion": ROWS[i]["completion"]} for i in (1, 4)]
    body = {"model": model["id"], "queries": members, "tokens": True}
    response = client.post("/v1/attributions", json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["measurement"]["kind"] == "mean_log_prob"
    assert {token["member"] for token in answer["query"]["tokens"]} == {0, 1}
    top = answer["proponents"][0]
    assert sum(top["query_token_scores"]) == pytest.approx(top["score"], rel=1e-2)
    refused = ask(client, model["id"], method="bm25", removal={"ids": ["ex-1"]})
    assert_problem(refused, 422, "invalid-option", "/removal")


def test_self_influence_that_no_index_holds_names_the_reason(client: TestClient, base: Path) -> None:
    model = tuned(client, base)
    index = wait_for_index(client, add_index(client, model["id"], add_dataset(client, ROWS)["id"], method="bm25")["id"])
    problem = assert_problem(client.get(f"/v1/indexes/{index['id']}/self-influence"), 422, "invalid-option")
    assert "no score on itself" in problem["detail"]


def test_an_adapter_of_another_base(client: TestClient, base: Path) -> None:
    body = {"name": "bot", "base": str(base), "adapter": str(base.parent / "other")}
    assert_problem(client.post("/v1/models", json=body), 422, "adapter-base-mismatch")


def test_pickled_weights_and_no_model(client: TestClient, base: Path, tmp_path: Path) -> None:
    pickled = factories.save_base(tmp_path / "pickled", factories.llama(hidden=8, layers=1))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    assert_problem(client.post("/v1/models", json={"name": "a", "base": str(pickled)}), 422, "unsafe-weights")
    (tmp_path / "empty").mkdir()
    assert_problem(client.post("/v1/models", json={"name": "b", "base": str(tmp_path / "empty")}), 422, "not-a-model")


def failed(client: TestClient, index_id: str) -> dict[str, Any]:
    job = client.get(f"/v1/indexes/{index_id}").json()["job_id"]
    return wait_for_job(client, job, "failed")["error"]


def test_a_row_without_a_token_to_predict(client: TestClient, base: Path) -> None:
    model = tuned(client, base)
    dataset = add_dataset(client, [{"id": "long", "prompt": "cat " * 30, "completion": " sat"}])
    index = add_index(client, model["id"], dataset["id"], options={"max_length": 8})
    error = failed(client, index["id"])
    assert error["type"].endswith("no-loss-token") and "'long'" in error["detail"] and error["remedy"]


def test_nan_in_a_gradient(client: TestClient, base: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in (base.parent / "epoch-1").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(broken / "adapter_model.safetensors")
    first = sorted(weights)[0]
    weights[first] = np.full_like(weights[first], np.nan)
    save_file(weights, broken / "adapter_model.safetensors")
    model = tuned(client, base, checkpoints=[str(broken)])
    index = add_index(client, model["id"], add_dataset(client, ROWS)["id"], method="graddot")
    error = failed(client, index["id"])
    assert error["type"].endswith("non-finite-gradient") and "row" in error["detail"]


def test_a_query_longer_than_the_context(client: TestClient, base: Path) -> None:
    model = tuned(client, base)
    wait_for_index(client, add_index(client, model["id"], add_dataset(client, ROWS)["id"])["id"])
    long = client.post("/v1/attributions", json={"model": model["id"], "prompt": "cat " * 40, "completion": " sat"})
    assert_problem(long, 422, "context-overflow")
    generate = {"model": model["id"], "prompt": "cat " * 25, "generate": {"max_new_tokens": 60}}
    assert_problem(client.post("/v1/attributions", json=generate), 422, "context-overflow")


def test_an_index_of_another_model(client: TestClient, base: Path) -> None:
    first = tuned(client, base)
    index = wait_for_index(client, add_index(client, first["id"], add_dataset(client, ROWS)["id"])["id"])
    second = tuned(client, base, "other", checkpoints=[str(base.parent / "epoch-1")])
    assert_problem(ask(client, second["id"], index=index["id"]), 409, "fingerprint-mismatch")


def test_a_model_that_changed_on_disk_since_its_index_was_built(base: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in base.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    settings = make_settings(tmp_path, model_roots=(tmp_path,))
    with TestClient(create_app(settings, LocalEngine(device="cpu"))) as client:
        model = add_model(client, copy, recipe=RECIPE)
        index = add_index(client, model["id"], add_dataset(client, ROWS)["id"], options={"allow_partial": True})
        wait_for_index(client, index["id"])
        assert ask(client, model["id"]).status_code == 200
    weights = load_file(copy / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, copy / "model.safetensors", {"format": "pt"})
    with TestClient(create_app(settings, LocalEngine(device="cpu"))) as client:
        assert_problem(ask(client, model["id"], row=4), 409, "fingerprint-mismatch")


def test_a_full_disk_fails_the_job_and_a_resume_finishes_it(
    client: TestClient, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tuned(client, base)
    real = durable.write_durably
    calls = iter(range(10**6))

    def full(path: Path, produce: Any) -> Any:
        if next(calls) > 9:
            raise StorageFull(f"The disk filled up while {path.name} was written.")
        return real(path, produce)

    for module in ("engine.store", "engine.shard", "engine.manifest"):
        monkeypatch.setattr(f"{module}.write_durably", full)
    options = {"shard_rows": 3, "curvature_rows": 12}
    index = add_index(client, model["id"], add_dataset(client, ROWS)["id"], options=options)
    error = failed(client, index["id"])
    assert error["type"].endswith("storage-full") and "Free space" in error["remedy"]
    monkeypatch.undo()
    job = client.get(f"/v1/indexes/{index['id']}").json()["job_id"]
    assert client.post(f"/v1/jobs/{job}/resume").status_code == 202
    wait_for_index(client, index["id"])
    assert ask(client, model["id"]).json()["proponents"][0]["example_id"] == "ex-3"


def test_every_method_can_be_built_and_asked(client: TestClient, base: Path) -> None:
    model = tuned(client, base)
    dataset = add_dataset(client, ROWS)
    slow = ("lissa", "astra")  # thousands of passes a query: tests/engine/test_solved_methods.py
    listed = client.get("/v1/methods").json()["data"]
    for method in (m["name"] for m in listed if not m["needs"] and m["name"] not in slow):
        index = wait_for_index(client, add_index(client, model["id"], dataset["id"], method=method)["id"])
        answer = ask(client, model["id"], index=index["id"]).json()
        assert answer["method"] == method and answer["diagnostics"]["total"] == 12
        if method in ("ekfac", "kfac", "gradcos"):  # in the others a larger or likelier row may outdo the query itself
            assert answer["proponents"][0]["example_id"] == "ex-3"


def test_the_cli_and_the_http_answer_agree(client: TestClient, base: Path, tmp_path: Path) -> None:
    """Acceptance 6: `whence score` and the service, on the same rows, within DESIGN §2.4."""
    from typer.testing import CliRunner

    from app.cli import app as cli

    model = tuned(client, base, recipe=None)
    index = wait_for_index(client, add_index(client, model["id"], add_dataset(client, ROWS)["id"])["id"])
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    queries = [{"id": f"q{i}", "prompt": ROWS[i]["prompt"], "completion": ROWS[i]["completion"]} for i in (3, 7)]
    (tmp_path / "queries.jsonl").write_text("\n".join(json.dumps(query) for query in queries))
    checkpoints = [part for seed in (1, 2) for part in ("--checkpoint", str(base.parent / f"epoch-{seed}"))]
    files = ["--dataset", str(tmp_path / "train.jsonl"), "--queries", str(tmp_path / "queries.jsonl")]
    out = tmp_path / "scores.npz"
    arguments = ["score", "--base", str(base), *checkpoints, *files, "--method", "ekfac", "--out", str(out)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    with np.load(out) as scores:
        assert scores["scores"].shape == (2, 12) and scores["scores"].dtype == np.float32
        by_id = dict(zip(scores["example_ids"].tolist(), scores["scores"][0], strict=True))
    hits = ask(client, model["id"], index=index["id"], top_k=12).json()
    scale = float(by_id["ex-3"])  # a self-score bounds the tolerance
    for hit in (*hits["proponents"], *hits["opponents"]):
        assert hit["score"] == pytest.approx(float(by_id[hit["example_id"]]), abs=2e-3 * scale)
