"""`Idempotency-Key` on POST."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from app.dependencies import Services
from app.tables import IdempotencyKeyRow, utc_now
from engine.errors import QueueFull
from tests.app.conftest import wait_for
from tests.app.fakes import FakeEngine
from tests.app.resources import (
    QUESTION,
    add_dataset,
    add_model,
    assert_problem,
    jsonl,
    post_dataset,
    ready_index,
    wait_for_index,
)

KEY = {"Idempotency-Key": "order-66"}


def register(client: TestClient, directory: Path, headers: dict[str, str] = KEY, **fields: Any) -> Any:
    return client.post("/v1/models", json={"name": "bot", "base": str(directory)} | fields, headers=headers)


def test_the_same_request_gets_the_first_answer_again(client: TestClient, model_dir: Path, engine: FakeEngine) -> None:
    first, again = register(client, model_dir), register(client, model_dir)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotent-replay"] == "true"
    assert "idempotent-replay" not in first.headers
    assert len(client.get("/v1/models").json()["data"]) == 1
    assert len(engine.calls) == 1


def test_another_body_is_refused(client: TestClient, model_dir: Path) -> None:
    register(client, model_dir)
    response = register(client, model_dir, name="other")
    assert_problem(response, 422, "idempotency-key-reused", "header:Idempotency-Key")


def test_a_key_counts_for_its_route_only(client: TestClient, model_dir: Path) -> None:
    model = register(client, model_dir).json()["id"]
    dataset = post_dataset(client, jsonl(), headers=KEY).json()["id"]
    response = client.post("/v1/indexes", json={"model": model, "dataset": dataset}, headers=KEY)
    assert response.status_code == 202


def test_a_job_is_started_once(client: TestClient, model_dir: Path) -> None:
    body = {"model": add_model(client, model_dir)["id"], "dataset": add_dataset(client)["id"]}
    first, again = (client.post("/v1/indexes", json=body, headers=KEY) for _ in range(2))
    assert (again.status_code, again.json(), again.headers["location"]) == (
        202,
        first.json(),
        first.headers["location"],
    )
    assert len(client.get("/v1/jobs").json()["data"]) == 1


def test_an_upload_is_known_again_whatever_its_boundary(client: TestClient) -> None:
    first, again = (post_dataset(client, jsonl(), headers=KEY) for _ in range(2))
    assert first.request.headers["content-type"] != again.request.headers["content-type"]
    assert again.json() == first.json()
    assert len(client.get("/v1/datasets").json()["data"]) == 1
    assert_problem(post_dataset(client, jsonl([{"text": "x"}]), headers=KEY), 422, "idempotency-key-reused")
    assert_problem(post_dataset(client, jsonl(), headers=KEY, fields={"name": "b"}), 422, "idempotency-key-reused")


def test_while_the_first_runs_the_second_is_told_to_wait(
    client: TestClient, model_dir: Path, engine: FakeEngine
) -> None:
    body = {"model": ready_index(client, model_dir)["model"]} | QUESTION
    engine.gate.clear()
    answers: list[Any] = []
    first = threading.Thread(target=lambda: answers.append(client.post("/v1/attributions", json=body, headers=KEY)))
    first.start()
    wait_for(lambda: any(name == "submit_attribution" for name, _ in engine.calls), "the first request")
    response = client.post("/v1/attributions", json=body, headers=KEY)
    assert_problem(response, 409, "idempotency-key-in-use")
    assert response.headers["retry-after"] == "1"
    engine.gate.set()
    first.join()
    assert client.post("/v1/attributions", json=body, headers=KEY).json() == answers[0].json()


def test_a_request_that_failed_can_be_sent_again(client: TestClient, model_dir: Path, engine: FakeEngine) -> None:
    body = {"model": ready_index(client, model_dir)["model"]} | QUESTION
    engine.errors["submit_attribution"] = QueueFull("full")
    assert client.post("/v1/attributions", json=body, headers=KEY).status_code == 429
    del engine.errors["submit_attribution"]
    assert client.post("/v1/attributions", json=body, headers=KEY).status_code == 200
    assert register(client, model_dir / "none").status_code == 422
    (model_dir / "none").mkdir()
    (model_dir / "none" / "config.json").write_text("{}")
    assert register(client, model_dir / "none").status_code == 201


def test_a_key_left_by_a_killed_server_is_free_again(client: TestClient, model_dir: Path, services: Services) -> None:
    first = register(client, model_dir)
    age(services, services.settings.max_wait_seconds + 90, status=None)
    again = register(client, model_dir)
    assert again.json()["id"] != first.json()["id"]


def test_a_key_is_forgotten_after_a_day(client: TestClient, model_dir: Path, services: Services) -> None:
    register(client, model_dir)
    age(services, 23.9 * 3600)
    assert register(client, model_dir).headers["idempotent-replay"] == "true"
    age(services, 24.1 * 3600)
    assert register(client, model_dir, name="other").json()["name"] == "other"


def age(services: Services, seconds: float, **values: Any) -> None:
    """As if every key had been used so long ago."""
    then = utc_now() - timedelta(seconds=seconds)
    with services.database.write() as session:
        session.execute(update(IdempotencyKeyRow).values(created_at=then, **values))


@pytest.mark.parametrize("key", ["", "x" * 201, "a\tb"])
def test_a_key_that_is_not_plain_is_refused(client: TestClient, model_dir: Path, key: str) -> None:
    response = register(client, model_dir, headers={"Idempotency-Key": key})
    assert_problem(response, 422, "invalid-idempotency-key", "header:Idempotency-Key")


def test_an_index_ready_meanwhile_still_gives_the_first_answer(client: TestClient, model_dir: Path) -> None:
    body = {"model": add_model(client, model_dir)["id"], "dataset": add_dataset(client)["id"]}
    first = client.post("/v1/indexes", json=body, headers=KEY).json()
    wait_for_index(client, first["id"])
    assert client.post("/v1/indexes", json=body, headers=KEY).json()["state"] == "queued"
