"""Unfinished jobs of a tenant are bounded, exactly, on both databases; and a new one leaves some of the disk free."""

from __future__ import annotations

import shutil
import threading
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from app.database import Database
from app.dependencies import Services
from app.errors import InsufficientStorage
from app.jobs.limits import TooManyJobs, limit_jobs
from app.jobs.service import JobsService
from app.main import create_app
from app.settings import Settings
from app.tables import DEFAULT_TENANT, AttributionRow, JobRow
from tests.app.conftest import make_settings, wait_for
from tests.app.fakes import FakeEngine
from tests.app.questions import post, submitted
from tests.app.resources import (
    RECIPE,
    ROWS,
    add_dataset,
    add_index,
    add_model,
    assert_problem,
    jsonl,
    post_dataset,
    ready_index,
    wait_for_index,
    wait_for_job,
)

LIMIT = 3


@pytest.fixture
def limited(database: Database, tmp_path: Path) -> Database:
    (tmp_path / "home").mkdir()
    limit_jobs(database, make_settings(tmp_path, max_jobs_per_tenant=LIMIT))
    return database


def enqueue(database: Database, tenant: str = DEFAULT_TENANT, **options: Any) -> str:
    with database.write() as session:
        return JobsService(session, tenant).enqueue("test", {}, **options).id


def count(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(JobRow)) or 0


def end(database: Database, job_id: str, state: str = "succeeded") -> None:
    with database.write() as session:
        session.execute(update(JobRow).where(JobRow.id == job_id).values(state=state))


def test_queued_and_running_jobs_count_ended_ones_and_other_tenants_do_not(limited: Database) -> None:
    first, second, _ = (enqueue(limited) for _ in range(LIMIT))
    end(limited, second, "running")
    with pytest.raises(TooManyJobs) as refused:
        enqueue(limited)
    assert int(refused.value.headers["Retry-After"]) >= 1
    assert refused.value.context == {"active": LIMIT}
    enqueue(limited, tenant="another")
    end(limited, second, "cancelling")
    with pytest.raises(TooManyJobs):
        enqueue(limited)
    end(limited, first)
    enqueue(limited)
    with pytest.raises(TooManyJobs):
        enqueue(limited)


def test_a_resumed_job_needs_a_place_too(limited: Database) -> None:
    ended = enqueue(limited)
    end(limited, ended, "failed")
    for _ in range(LIMIT):
        enqueue(limited)
    with pytest.raises(TooManyJobs), limited.write() as session:
        JobsService(session, DEFAULT_TENANT).resume(ended, lambda *_: None)
    with limited.read() as session:
        assert session.get_one(JobRow, ended).state == "failed"


def test_of_many_at_once_no_more_are_let_in_than_there_are_places(limited: Database) -> None:
    """Each transaction stays open a moment after it counted: without taking turns all would count the same."""
    outcomes: list[str] = []
    start = threading.Barrier(12)

    def one() -> None:
        start.wait()
        try:
            with limited.write() as session:
                JobsService(session, DEFAULT_TENANT).enqueue("test", {})
                threading.Event().wait(0.05)
            outcomes.append("in")
        except TooManyJobs:
            outcomes.append("refused")

    threads = [threading.Thread(target=one) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["in"] * LIMIT + ["refused"] * (12 - LIMIT)
    assert count(limited) == LIMIT


def test_tenants_do_not_wait_for_each_other(limited: Database) -> None:
    """Only SQLite has but one writer."""
    if limited.is_sqlite:
        pytest.skip("one writer")
    with limited.write() as session:
        JobsService(session, "one").enqueue("test", {})
        other = threading.Thread(target=enqueue, args=(limited, "two"))
        other.start()
        other.join(5)
        assert not other.is_alive()


def test_what_was_waited_for_is_let_in_and_counts(limited: Database) -> None:
    for _ in range(LIMIT - 1):
        enqueue(limited)
    enqueue(limited, adopted_by="worker", waited=True)
    enqueue(limited, adopted_by="worker", waited=True)
    with pytest.raises(TooManyJobs):
        enqueue(limited)


Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What the disk has free."""
    state = {"free": 10 << 30}
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(20 << 30, 0, state["free"]))
    return state


def test_a_nearly_full_disk_takes_no_new_jobs(limited: Database, disk: dict[str, int]) -> None:
    disk["free"] = (256 << 20) - 1
    with pytest.raises(InsufficientStorage) as refused:
        enqueue(limited)
    assert refused.value.context["min_free_bytes"] == 256 << 20
    disk["free"] = 256 << 20
    enqueue(limited)


@pytest.fixture
def settings(tmp_path: Path, store: str) -> Settings:
    """One place."""
    return make_settings(tmp_path, database_url=store, max_jobs_per_tenant=1)


@pytest.fixture
def busy(client: TestClient, model_dir: Path, engine: FakeEngine) -> Iterator[dict[str, Any]]:
    """A ready index, while another one's build holds the only place."""
    index = ready_index(client, model_dir, recipe=RECIPE)
    engine.gate.clear()
    add_index(client, index["model"], index["dataset"])
    yield index
    engine.gate.set()


def refused(response: Any) -> None:
    problem = assert_problem(response, 429, "too-many-jobs")
    assert int(response.headers["retry-after"]) >= 1
    assert problem["active"] == 1


def test_a_check_is_refused_and_leaves_nothing(client: TestClient, busy: dict[str, Any], engine: FakeEngine) -> None:
    engine.gate.set()  # a question is no job
    wait_for(lambda: all(job["state"] == "succeeded" for job in client.get("/v1/jobs").json()["data"]))
    answer = post(client, busy).json()
    engine.gate.clear()
    add_index(client, busy["model"], busy["dataset"])
    refused(client.post(f"/v1/attributions/{answer['id']}/verify", json={"kind": "tail_patch", "learning_rate": 0.1}))
    assert client.get("/v1/checks").json()["data"] == []


def test_builds_evaluations_and_large_uploads_are_refused_and_leave_nothing(
    client: TestClient, busy: dict[str, Any], services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(client.post("/v1/indexes", json={"model": busy["model"], "dataset": busy["dataset"]}))
    refused(client.post("/v1/evaluations", json={"index": busy["id"], "leave_out_rows": 1}))
    monkeypatch.setitem(vars(services.settings), "max_inline_rows_bytes", 10)
    refused(post_dataset(client, jsonl()))
    assert len(client.get("/v1/indexes").json()["data"]) == 2
    assert client.get("/v1/evaluations").json()["data"] == []
    assert len(client.get("/v1/datasets").json()["data"]) == 1
    assert list(services.settings.uploads_dir.iterdir()) == []


def test_respond_async_is_refused_before_anything_is_computed(
    client: TestClient, busy: dict[str, Any], engine: FakeEngine
) -> None:
    before = len(submitted(engine))
    refused(post(client, busy, headers={"Prefer": "respond-async"}))
    assert len(submitted(engine)) == before
    assert client.get("/v1/attributions").json()["data"] == []


def test_a_question_whose_wait_ran_out_becomes_a_job_all_the_same(
    client: TestClient, busy: dict[str, Any], engine: FakeEngine
) -> None:
    response = post(client, busy, headers={"Prefer": "wait=1"})
    assert response.status_code == 202
    engine.gate.set()
    wait_for_job(client, response.json()["job_id"])


def test_stored_answers_and_small_uploads_need_no_place(
    client: TestClient, model_dir: Path, engine: FakeEngine
) -> None:
    index = ready_index(client, model_dir)
    assert post(client, index).status_code == 200
    engine.gate.clear()
    add_index(client, index["model"], index["dataset"])
    assert post(client, index, headers={"Prefer": "respond-async"}).status_code == 200
    assert post_dataset(client, jsonl(ROWS[:2])).status_code == 201
    engine.gate.set()


def test_the_place_is_free_again_when_the_job_has_ended(
    client: TestClient, busy: dict[str, Any], engine: FakeEngine
) -> None:
    engine.gate.set()
    wait_for(lambda: all(job["state"] == "succeeded" for job in client.get("/v1/jobs").json()["data"]))
    wait_for_index(client, add_index(client, busy["model"], busy["dataset"])["id"])


def test_many_respond_asyncs_at_once_get_one_place(
    app: FastAPI, client: TestClient, model_dir: Path, engine: FakeEngine, services: Services
) -> None:
    index = ready_index(client, model_dir)
    engine.gate.clear()
    statuses: list[int] = []

    def one(number: int) -> None:
        response = post(client, index, prompt=f"Question {number}", headers={"Prefer": "respond-async"})
        statuses.append(response.status_code)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [202] + [429] * 7
    with services.database.read() as session:
        assert len(session.scalars(select(AttributionRow)).all()) == 1
    engine.gate.set()


def test_uploads_leave_the_disk_its_floor(
    client: TestClient, services: Services, model_dir: Path, disk: dict[str, int]
) -> None:
    model, dataset = add_model(client, model_dir), add_dataset(client)
    disk["free"] = services.settings.min_free_bytes + 10
    problem = assert_problem(post_dataset(client, jsonl()), 507, "storage-full")
    assert problem["free_bytes"] == disk["free"] and problem["needed_bytes"] > 10
    assert list(services.settings.uploads_dir.iterdir()) == []
    disk["free"] = services.settings.min_free_bytes - 1
    assert_problem(
        client.post("/v1/indexes", json={"model": model["id"], "dataset": dataset["id"]}), 507, "storage-full"
    )
    assert client.get("/v1/indexes").json()["data"] == []


def test_an_import_is_held_to_the_floor_too(
    client: TestClient, services: Services, tmp_path: Path, disk: dict[str, int]
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(jsonl())
    disk["free"] = services.settings.min_free_bytes + 10
    body = {"name": "a", "uri": str(tmp_path / "rows.jsonl")}
    assert_problem(client.post("/v1/datasets", json=body), 507, "storage-full")


def test_create_app_sets_the_limits(settings: Settings) -> None:
    """So that enqueue() anywhere in the service is held to them."""
    app = create_app(settings, FakeEngine())
    with TestClient(app):
        database = app.state.services.database
        app.state.services.worker.stop()
        enqueue(database)
        with pytest.raises(TooManyJobs):
            enqueue(database)
