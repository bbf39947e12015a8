"""/livez /readyz /metrics /v1/status /v1/limits"""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text

from app import schema
from app.database import Database
from app.dependencies import Services
from app.jobs.service import JobsService
from app.main import create_app
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine


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
        assert client.get("/metrics").status_code == 200


@pytest.mark.postgres
def test_a_postgresql_server_waits_for_whence_migrate(postgres_url: str, tmp_path: Path) -> None:
    app = create_app(make_settings(tmp_path, database_url=postgres_url), FakeEngine())
    with TestClient(app) as client:
        assert client.get("/readyz").status_code == 503
        database = Database(postgres_url)
        schema.upgrade(database)
        database.close()
        assert client.get("/readyz").status_code == 200
        assert client.get("/v1/status").json()["database"] == "postgresql"


def test_status(client: TestClient, services: Services) -> None:
    services.worker.stop()
    with services.database.write() as session:
        JobsService(session, "anyone").enqueue("test", {})
    status = client.get("/v1/status").json()
    assert status["version"] and status["uptime_s"] > 0 and status["disk_free_bytes"] > 0
    assert status["database"] == "sqlite"
    assert status["jobs"] == {"queued": 1}
    assert status["engine"] == {"device": "fake", "queue_depth": 0, "max_queue": 64, "models_loaded": 1, "batches": 0}


def test_limits_are_those_in_force(app: FastAPI, client: TestClient, services: Services) -> None:
    limits = client.get("/v1/limits").json()
    assert limits.pop("max_page") == 200
    assert limits == {name: getattr(services.settings, name) for name in limits}
    assert {"max_body_bytes", "max_top_k", "max_queue"} <= set(limits)


def test_metrics_count_jobs_and_the_engines_queue(client: TestClient, services: Services) -> None:
    services.worker.stop()
    with services.database.write() as session:
        JobsService(session, "anyone").enqueue("test", {})
    metrics = client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert 'whence_jobs{state="queued"} 1.0' in metrics.text
    assert "whence_engine_queue_depth 0.0" in metrics.text
    assert 'whence_info{version="' in metrics.text


def test_two_apps_in_one_process_count_apart(tmp_path: Path, client: TestClient) -> None:
    other = create_app(make_settings(tmp_path / "other"), FakeEngine())
    with TestClient(other) as second:
        second.get("/livez")
        assert 'route="/livez"' in second.get("/metrics").text
        assert 'route="/livez"' not in client.get("/metrics").text
