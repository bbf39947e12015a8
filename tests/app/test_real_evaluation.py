"""An evaluation with the real engine on a tiny fine-tune: estimate, job, scorecard, and trust in an answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.engine_client import LocalEngine
from app.main import create_app
from engine.causal.train import train_lora
from engine.config import Lora, Training
from tests import factories
from tests.app.conftest import make_settings
from tests.app.resources import add_dataset, add_index, add_model, wait_for_index, wait_for_job

PATIENCE_SECONDS = 240.0  # its training processes load torch first
ROWS = factories.sentences(16, seed=3, longest=3)
TRAINING = Training(epochs=1, batch_size=8, learning_rate=0.02, lora=Lora(rank=2, alpha=4), epsilon=1e-3)
LEAST: dict[str, Any] = {
    "rows": 4, "half_subsets": 3, "half_seeds": 1, "drop_subsets": 2, "drop_share": 0.1, "leave_out_queries": 0,
    "directions": 0,
}  # fmt: skip


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    factories.save_base(tmp_path / "base", factories.llama(hidden=8, layers=1))
    rows = list(factories.dataset(tmp_path / "data", ROWS))
    train_lora(tmp_path / "base", rows, tmp_path / "run", TRAINING)
    with TestClient(create_app(make_settings(tmp_path), LocalEngine(device="cpu"))) as client:
        yield client


@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE_SECONDS)
def test_estimate_evaluate_ask(client: TestClient, tmp_path: Path) -> None:
    model = add_model(client, tmp_path / "base", adapter=str(tmp_path / "run" / "epoch-1"))
    assert model["recipe"]["training"]["epochs"] == 1
    index = wait_for_index(
        client, add_index(client, model["id"], add_dataset(client, ROWS)["id"], method="graddot")["id"]
    )
    body = {"index": index["id"]} | LEAST
    cost = client.post("/v1/evaluations/estimate", json=body)
    assert cost.status_code == 200, cost.text
    assert cost.json()["retrainings"] > LEAST["half_subsets"]
    ready = _evaluated(client, body)
    assert ready["index_revision"] == index["revision"]
    assert (ready["questions"], ready["source"]) == (4, "4 rows of the dataset, asked as questions")
    assert {"graddot", "bm25", "repsim", "length", "random"} <= {m["name"] for m in ready["scorecard"]["methods"]}
    row = ROWS[3]
    asked = {"model": model["id"], "prompt": row["prompt"], "completion": row["completion"]}
    trust = client.post("/v1/attributions", json=asked).json()["trust"]
    assert (trust["scorecard"], trust["verdict"]) == (ready["id"], ready["verdicts"]["composition"])
    assert f"whence evaluate {index['id']}" in (trust["remedy"] or "")
    larger = body | {"half_subsets": 4}
    assert client.post("/v1/evaluations/estimate", json=larger).json()["retrainings"] == 1


def _evaluated(client: TestClient, body: dict[str, Any]) -> dict[str, Any]:
    made = client.post("/v1/evaluations", json=body)
    assert made.status_code == 202, made.text
    wait_for_job(client, made.json()["job_id"], seconds=PATIENCE_SECONDS)
    return client.get(f"/v1/evaluations/{made.json()['id']}").json()
