"""/livez /readyz /metrics /v1/status /v1/limits"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text

from app import __version__, schema
from app.database import Database
from app.dependencies import Services
from app.engine_client import LocalEngine
from app.jobs.service import JobsService
from app.main import create_app
from app.settings import Settings
from app.telemetry import facts
from app.telemetry.status import EngineStatus, Status
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.observed import GPU, BusyEngine, figures


def test_livez(client: TestClient) -> None:
    assert client.get("/livez").json() == {"status": "ok"}


def test_ready_when_the_database_answers_and_is_at_head(client: TestClient) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ready", "checks": {"database": "ok", "migrations": "at head"}}


def test_not_ready_when_migrations_are_behind(client: TestClient, services: Services) -> None:
    with services.database.write() as session:
        session.execute(text("DELETE FROM alembic_version"))
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert "whence migrate" in answer.json()["remedy"]
    assert answer.json()["checks"]["migrations"] == "not at head"


def test_not_ready_but_alive_when_the_database_is_away(tmp_path: Path) -> None:
    nowhere = f"postgresql://nobody@/none?host={tmp_path}"
    with TestClient(create_app(make_settings(tmp_path, database_url=nowhere), FakeEngine())) as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 503
        assert client.get("/readyz").json()["checks"] == {"database": "unreachable"}
        assert client.get("/v1/jobs").status_code == 503
        assert client.get("/v1/jobs").json()["type"] == "urn:whence:problem:unavailable"
        assert client.get("/metrics").status_code == 503  # who asks cannot be found out


@pytest.mark.postgres
def test_a_postgresql_server_waits_for_whence_migrate(postgres_url: str, tmp_path: Path) -> None:
    app = create_app(make_settings(tmp_path, database_url=postgres_url), FakeEngine())
    with TestClient(app) as client:
        assert client.get("/readyz").status_code == 503
        database = Database(postgres_url)
        schema.upgrade(database)
        database.close()
        assert client.get("/readyz").status_code == 200
        assert client.get("/v1/status").json()["database"]["kind"] == "postgresql"


def test_status(client: TestClient, services: Services, settings: Settings) -> None:
    services.worker.stop()
    with services.database.write() as session:
        JobsService(session, "anyone").enqueue("test", {})
    answer = client.get("/v1/status").json()
    Status.model_validate(answer, extra="forbid")
    assert answer["version"] == __version__ and answer["uptime_s"] > 0 and answer["oldest_queued_s"] >= 0
    assert 0 < answer["disk"]["free_bytes"] <= answer["disk"]["total_bytes"]
    database = answer["database"]
    assert database["kind"] == ("sqlite" if settings.is_sqlite else "postgresql")
    assert (database["answers"], database["migrated"]) == (True, True)
    assert 0 <= database["connections_in_use"] <= database["connections_limit"] == 60
    none = dict.fromkeys(("running", "cancelling", "succeeded", "failed", "cancelled"), 0)
    assert answer["jobs"] == none | {"queued": 1}
    assert answer["worker"] == {"threads": settings.worker_threads, "jobs_running": 0}
    assert (answer["engine"]["device"], answer["engine"]["models_loaded"]) == ("fake", 1)
    assert answer["engine"]["gpu_memory"] is None
    assert answer["features"]["engine"] is True  # the tests need it


def test_status_of_an_engine_with_a_gpu_says_what_is_declared(tmp_path: Path) -> None:
    with TestClient(create_app(make_settings(tmp_path), BusyEngine())) as client:
        engine = client.get("/v1/status").json()["engine"]
    assert engine["gpu_memory"] == GPU
    assert (engine["started"], engine["queries"], engine["busy_s"], engine["indexes_open"]) == (True, 12, 1.5, 2)
    assert set(engine) == set(EngineStatus.model_fields)


def test_status_starts_no_engine_and_answers_at_once(tmp_path: Path) -> None:
    with TestClient(create_app(make_settings(tmp_path), LocalEngine())) as client:
        took = []
        for _ in range(20):
            began = time.perf_counter()
            status = client.get("/v1/status").json()
            took.append(time.perf_counter() - began)
    assert (status["engine"]["started"], status["engine"]["device"]) == (False, "auto")
    assert min(took) < 0.05  # the least: others use this machine too


def test_status_while_the_database_is_away(client: TestClient, services: Services) -> None:
    with services.database.write() as session:
        session.execute(text("ALTER TABLE jobs RENAME TO gone"))
        session.execute(text("DELETE FROM alembic_version"))
    answer = client.get("/v1/status").json()
    assert (answer["jobs"], answer["oldest_queued_s"]) == (None, None)
    assert (answer["database"]["answers"], answer["database"]["migrated"]) == (False, False)
    assert figures(client)["whence_database_up"] == 0


def test_features_tell_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(facts.FEATURES, "engine", ("json", "no_such_library"))
    monkeypatch.setitem(facts.FEATURES, "traces", ("no_such.library",))
    monkeypatch.setitem(facts.FEATURES, "cluster", ("json", "email.mime"))
    facts.installed_features.cache_clear()
    found = facts.installed_features()
    facts.installed_features.cache_clear()
    assert (found["engine"], found["traces"], found["cluster"]) == (False, False, True)


def test_limits_are_those_in_force(app: FastAPI, client: TestClient, services: Services) -> None:
    limits = client.get("/v1/limits").json()
    fixed = {name: limits.pop(name) for name in ("max_page", "max_checkpoints", "max_new_tokens")}
    assert fixed == {"max_page": 200, "max_checkpoints": 64, "max_new_tokens": 4096}
    assert limits.pop("max_evaluation_queries") == 5000
    assert limits.pop("max_queue_per_tenant") == services.settings.max_queue
    assert limits == {name: getattr(services.settings, name) for name in limits}


def test_every_setting_that_is_a_limit_is_told(client: TestClient, services: Services) -> None:
    """A new one cannot be forgotten; max_attempts_without_progress bounds no caller."""
    told = set(client.get("/v1/limits").json())
    limits = {name for name in type(services.settings).model_fields if name.startswith(("max_", "min_", "rate_"))}
    assert limits - told == {"max_attempts_without_progress"}


def test_a_tenants_part_of_the_queue_is_told(tmp_path: Path) -> None:
    with TestClient(create_app(make_settings(tmp_path, max_queue_per_tenant=5), FakeEngine())) as client:
        assert client.get("/v1/limits").json()["max_queue_per_tenant"] == 5


def test_metrics_count_jobs_and_the_engines_queue(client: TestClient, services: Services) -> None:
    services.worker.stop()
    with services.database.write() as session:
        JobsService(session, "anyone").enqueue("test", {})
    metrics = client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert 'whence_jobs{state="queued"} 1.0' in metrics.text
    assert "whence_engine_queue_depth 0.0" in metrics.text
    assert 'whence_info{version="' in metrics.text
