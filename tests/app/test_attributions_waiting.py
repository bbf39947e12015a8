"""Prefer, jobs that adopt a running answer, clients that leave, many at once."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future
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
from tests.app.questions import post, submitted
from tests.app.resources import (
    assert_problem,
    ready_index,
    wait_for_job,
)


@pytest.fixture
def index(client: TestClient, model_dir: Path) -> dict[str, Any]:
    return ready_index(client, model_dir)


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
