"""WHENCE_KEEP_DAYS: what has ended is deleted when it is old enough, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, text

from app import retention as module
from app.database import Database
from app.jobs.contract import ENDED
from app.jobs.service import JobsService
from app.main import create_app
from app.retention import Retention
from app.settings import Settings
from app.tables import (
    DEFAULT_TENANT,
    AttributionRow,
    BatchRow,
    CheckRow,
    IndexRow,
    JobEventRow,
    JobRow,
    ModelRow,
    utc_now,
)
from tests.app.conftest import make_settings, wait_for
from tests.app.fakes import FakeEngine
from tests.app.questions import post
from tests.app.resources import QUESTION, jsonl, ready_index, wait_for_job

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
KEPT = NOW - timedelta(days=29, hours=23)
OLD = NOW - timedelta(days=30, seconds=1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path, keep_days=30)


@pytest.fixture
def retention(settings: Settings, database: Database) -> Retention:
    return Retention(settings, database, clock=lambda: NOW)


def add_attribution(database: Database, state: str, created: datetime, finished: datetime | None, tenant: str) -> str:
    with database.write() as session:
        row = AttributionRow(
            tenant=tenant,
            model_id="mdl_1",
            index_id="idx_1",
            state=state,
            request={},
            created_at=created,
            finished_at=finished,
        )
        session.add(row)
        session.flush()
        return row.id


def add_job(database: Database, state: str, created: datetime, finished: datetime | None, tenant: str) -> str:
    with database.write() as session:
        row = JobsService(session, tenant).enqueue("test", {})
        row.state, row.created_at, row.finished_at = state, created, finished
        return row.id


def add_batch(database: Database, state: str, created: datetime, finished: datetime | None, tenant: str) -> str:
    with database.write() as session:
        row = BatchRow(
            tenant=tenant, source="f", defaults={}, state=state, lines=1, created_at=created, finished_at=finished
        )
        session.add(row)
        session.flush()
        return row.id


def add_check(database: Database, state: str, created: datetime, finished: datetime | None, tenant: str) -> str:
    with database.write() as session:
        names = ("attribution_id", "model_id", "dataset_id", "index_id", "index_revision", "study_key", "measurement")
        row = CheckRow(
            **dict.fromkeys(names, "x"), kind="flip", config={}, question={}, ranking=[],
            tenant=tenant, state=state, created_at=created, finished_at=finished,
        )  # fmt: skip
        session.add(row)
        session.flush()
        return row.id


Add = Callable[[Database, str, datetime, datetime | None, str], str]
KINDS: list[tuple[Any, Add, tuple[str, ...], tuple[str, ...]]] = [
    (AttributionRow, add_attribution, ("succeeded", "failed", "cancelled"), ("running",)),
    (JobRow, add_job, ENDED, ("queued", "running", "cancelling")),
    (BatchRow, add_batch, ("ready", "failed", "cancelled"), ("queued", "running")),
    (CheckRow, add_check, ("ready", "failed"), ("queued", "running")),
]


def ids(database: Database, table: Any) -> set[str]:
    with database.read() as session:
        return set(session.scalars(select(table.id)))


@pytest.mark.parametrize(("table", "add", "ended", "alive"), KINDS, ids=["attributions", "jobs", "batches", "checks"])
def test_what_ended_long_ago_goes_and_the_rest_stays(
    retention: Retention, database: Database, table: Any, add: Add, ended: tuple[str, ...], alive: tuple[str, ...]
) -> None:
    kept = {add(database, state, OLD, None, "a") for state in alive}
    kept |= {add(database, state, OLD, KEPT, "a") for state in ended}  # it ended only lately
    kept |= {add(database, state, KEPT, None, "b") for state in ended}
    for tenant in ("a", "b"):
        for state in ended:
            add(database, state, OLD, OLD, tenant)
    assert retention.run_once()[table.__tablename__] == 2 * len(ended)
    assert ids(database, table) == kept
    assert retention.run_once()[table.__tablename__] == 0


def test_events_go_with_their_job(retention: Retention, database: Database) -> None:
    gone = add_job(database, "succeeded", OLD, OLD, "a")
    kept = add_job(database, "running", OLD, None, "a")
    retention.run_once()
    with database.read() as session:
        assert set(session.scalars(select(JobEventRow.job_id))) == {kept}
    assert gone not in ids(database, JobRow)


def test_a_check_whose_adapter_a_model_is_read_from_stays(
    retention: Retention, database: Database, settings: Settings
) -> None:
    kept, gone = (add_check(database, "ready", OLD, OLD, "a") for _ in range(2))
    with database.write() as session:
        numbers = dict.fromkeys(("parameters", "trained_parameters", "trained_modules", "context_length"), 1)
        model = ModelRow(name="m", base="b", dtype="float32", fingerprint="f", coverage={}, **numbers)
        session.add(model)
        session.flush()
        for check_id, model_id in ((kept, model.id), (gone, "mdl_deleted")):
            session.get_one(CheckRow, check_id).new_model_id = model_id
    for check_id in (kept, gone):
        (settings.checks_dir / check_id).mkdir(parents=True)
    retention.run_once()
    assert ids(database, CheckRow) == {kept}
    assert [path.name for path in settings.checks_dir.iterdir()] == [kept]


def test_files_go_with_their_batch(retention: Retention, database: Database, settings: Settings) -> None:
    gone = add_batch(database, "ready", OLD, OLD, "a")
    kept = add_batch(database, "running", OLD, None, "a")
    for batch_id in (gone, kept):
        (settings.batches_dir / batch_id).mkdir(parents=True)
        (settings.batches_dir / batch_id / "results.jsonl").write_text("{}\n")
    retention.run_once()
    assert [path.name for path in settings.batches_dir.iterdir()] == [kept]


def test_much_goes_in_small_transactions(
    retention: Retention, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 3)
    for _ in range(8):
        add_attribution(database, "succeeded", OLD, OLD, "a")
    sizes: list[int] = []
    real = Retention._delete_some

    def delete_some(self: Retention, table: Any, before: datetime) -> list[str]:
        sizes.append(len(gone := real(self, table, before)))
        return gone

    monkeypatch.setattr(Retention, "_delete_some", delete_some)
    assert retention.run_once()["attributions"] == 8
    assert [size for size in sizes if size] == [3, 3, 2]


@pytest.mark.parametrize("keep_days", [None, 0])
def test_for_ever_is_for_ever(database: Database, tmp_path: Path, keep_days: float | None) -> None:
    add_job(database, "succeeded", OLD, OLD, "a")
    retention = Retention(make_settings(tmp_path, keep_days=keep_days), database, clock=lambda: NOW)
    assert retention.run_once() == {}
    retention.start()
    assert retention._thread is None
    assert len(ids(database, JobRow)) == 1


@pytest.mark.postgres
def test_one_process_at_a_time(postgres_url: str, settings: Settings) -> None:
    from app import schema

    database = Database(postgres_url)
    schema.upgrade(database)
    add_job(database, "succeeded", OLD, OLD, "a")
    retention = Retention(settings, database, clock=lambda: NOW)
    with database.write() as other:
        other.execute(text(f"SELECT pg_advisory_xact_lock({module._LOCK})"))
        assert retention.run_once()["jobs"] == 0
    assert retention.run_once()["jobs"] == 1
    database.close()


def test_a_server_deletes_by_itself_and_what_remains_works(tmp_path: Path, model_dir: Path) -> None:
    """Everything that a tenant has is aged; what others are made of stays, and can be asked again."""
    settings = make_settings(tmp_path)
    with TestClient(create_app(settings, FakeEngine())) as client:
        index = ready_index(client, model_dir)
        post(client, index)
        file = {"file": ("q.jsonl", jsonl([QUESTION | {"top_k": 1}]))}
        sent = client.post("/v1/attributions/batches", files=file, data={"index": index["id"]}).json()
        wait_for_job(client, sent["job_id"])
        database: Database = client.app.state.services.database  # type: ignore[attr-defined]
        with database.write() as session:
            for index_row in session.scalars(select(IndexRow)):
                index_row.created_at -= timedelta(days=60)
            for table in (AttributionRow, JobRow, BatchRow):
                for row in session.scalars(select(table)):
                    row.created_at -= timedelta(days=60)
                    row.finished_at = row.finished_at and row.finished_at - timedelta(days=60)
    with TestClient(create_app(settings.model_copy(update={"keep_days": 30.0}), FakeEngine())) as client:
        database = client.app.state.services.database  # type: ignore[attr-defined]
        wait_for(
            lambda: not ids(database, AttributionRow) | ids(database, JobRow) | ids(database, BatchRow), "deletion"
        )
        wait_for(lambda: not list(settings.batches_dir.iterdir()), "deletion of the files")
        assert client.get(f"/v1/indexes/{index['id']}").json()["state"] == "ready"
        assert post(client, index).headers["x-whence-cache"] == "miss"


def test_a_database_that_is_away_is_asked_again(tmp_path: Path, caplog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_SECONDS", 0.01)
    retention = Retention(make_settings(tmp_path, keep_days=1), Database(f"sqlite:///{tmp_path}/empty.sqlite3"))
    calls: list[int] = []
    real = retention.run_once
    monkeypatch.setattr(retention, "run_once", lambda: (calls.append(1), real())[1])
    retention.start()
    wait_for(lambda: len(calls) >= 3, "three rounds")
    retention.stop()
    assert retention._thread is not None
    assert not retention._thread.is_alive()


def test_the_clock_is_the_servers(database: Database, settings: Settings) -> None:
    job = add_job(database, "succeeded", utc_now() - timedelta(days=29), None, DEFAULT_TENANT)
    assert Retention(settings, database).run_once()["jobs"] == 0
    assert Retention(settings, database, clock=lambda: utc_now() + timedelta(days=2)).run_once()["jobs"] == 1
    with database.read() as session:
        assert session.scalar(select(func.count()).where(JobRow.id == job)) == 0
