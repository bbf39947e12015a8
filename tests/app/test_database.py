"""Sessions, pragmas, the tenant filter and keyset pages, on SQLite and PostgreSQL."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, StatementError

from app.database import Database, Repository
from app.errors import BadCursor, NotFound
from app.pagination import PageRequest, decode_cursor, decode_position, encode_cursor, encode_position
from app.tables import DatasetRow, IndexRow, JobRow, new_id


class Datasets(Repository[DatasetRow]):
    table = DatasetRow
    noun = "dataset"


def dataset(name: str, created_at: datetime | None = None) -> DatasetRow:
    row = DatasetRow(name=name, state="ready")
    if created_at is not None:
        row.created_at = created_at
    return row


def add(database: Database, *names: str, tenant: str = "default") -> list[str]:
    with database.write() as session:
        return [Datasets(session, tenant).add(dataset(name)).id for name in names]


def test_ids_are_opaque_prefixed_and_different() -> None:
    ids = {new_id("idx") for _ in range(100)}
    assert len(ids) == 100
    assert all(len(made) == 24 and made.startswith("idx_") and made.islower() for made in ids)


def test_a_write_is_committed_at_its_end(database: Database) -> None:
    (row_id,) = add(database, "a")
    with database.read() as session:
        assert Datasets(session, "default").get(row_id).name == "a"


def test_a_write_that_fails_leaves_nothing(database: Database) -> None:
    def fail() -> None:
        with database.write() as session:
            Datasets(session, "default").add(dataset("a"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.read() as session:
        assert Datasets(session, "default").count() == 0


def test_another_tenants_row_is_not_found(database: Database) -> None:
    (row_id,) = add(database, "a", tenant="one")
    with database.read() as session:
        assert Datasets(session, "two").find(row_id) is None
        assert Datasets(session, "two").first() is None
        assert Datasets(session, "two").page(PageRequest(None, 10)) == ([], None)
        with pytest.raises(NotFound, match="no dataset"):
            Datasets(session, "two").get(row_id)


def test_a_row_belongs_to_the_tenant_of_its_repository(database: Database) -> None:
    with database.write() as session:
        row = dataset("a")
        row.tenant = "forged"
        assert Datasets(session, "one").add(row).tenant == "one"


def test_pages_are_newest_first_and_complete_even_with_equal_times(database: Database) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    with database.write() as session:
        for number in range(7):
            Datasets(session, "default").add(dataset(str(number), now + timedelta(microseconds=number // 3)))
    seen: list[DatasetRow] = []
    cursor: str | None = None
    with database.read() as session:
        while True:
            rows, cursor = Datasets(session, "default").page(PageRequest(cursor, 2))
            seen += rows
            if cursor is None:
                break
    assert len(seen) == 7
    assert seen == sorted(seen, key=lambda row: (row.created_at, row.id), reverse=True)


def test_a_row_added_between_pages_does_not_shift_them(database: Database) -> None:
    made = add(database, *"abcd")
    with database.read() as session:
        first, cursor = Datasets(session, "default").page(PageRequest(None, 2))
    add(database, "new")
    with database.read() as session:
        second, _ = Datasets(session, "default").page(PageRequest(cursor, 2))
    assert {row.id for row in [*first, *second]} == set(made)


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "nonsense",
        "ä",
        "e30",
        encode_cursor("a"),
        encode_cursor("x", "y"),
        encode_cursor("2026-01-01T00:00:00", "y"),
    ],
)
def test_a_bad_cursor_is_named(cursor: str) -> None:
    with pytest.raises(BadCursor):
        decode_position(cursor)


def test_a_cursor_survives_the_round_trip() -> None:
    moment = datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
    assert decode_position(encode_position(moment, "ds_1")) == (moment, "ds_1")
    assert decode_cursor(encode_cursor(3), 1) == [3]


def test_times_come_back_in_utc(database: Database) -> None:
    east = timezone(timedelta(hours=5))
    with database.write() as session:
        row_id = Datasets(session, "default").add(dataset("a", datetime(2026, 1, 1, 5, 0, 0, 123456, tzinfo=east))).id
    with database.read() as session:
        moment = Datasets(session, "default").get(row_id).created_at
    assert moment.isoformat() == "2026-01-01T00:00:00.123456+00:00"


def test_a_time_without_zone_is_refused(database: Database) -> None:
    with pytest.raises(StatementError, match="time zone"), database.write() as session:
        Datasets(session, "default").add(dataset("a", datetime(2026, 1, 1)))


def test_foreign_keys_are_enforced(database: Database) -> None:
    row = IndexRow(model_id="mdl_none", dataset_id="ds_none", method="auto", config={}, state="queued")
    with pytest.raises(IntegrityError), database.write() as session:
        session.add(row)


def test_deleting_a_job_deletes_its_events(database: Database) -> None:
    from app.jobs.service import JobsService

    with database.write() as session:
        job = JobsService(session, "default").enqueue("test", {})
    with database.write() as session:
        session.delete(session.get_one(JobRow, job.id))
    with database.read() as session:
        assert session.execute(text("SELECT count(*) FROM job_events")).scalar() == 0


def test_json_keeps_null_characters_order_and_null(database: Database) -> None:
    value = {"z": "nul \x00 and ä", "a": None}
    with database.write() as session:
        row = JobRow(kind="test", payload=value, state="queued", tenant="default")
        session.add(row)
    with database.read() as session:
        payload = session.get_one(JobRow, row.id).payload
        assert payload == value
        assert list(payload) == ["z", "a"]


def test_concurrent_writers_wait_for_each_other(database: Database) -> None:
    """Each reads the count and adds a row named after it: lost updates would repeat a name."""

    def write() -> None:
        for _ in range(10):
            with database.write() as session:
                if not database.is_sqlite:
                    session.execute(text("LOCK TABLE datasets IN EXCLUSIVE MODE"))
                rows = Datasets(session, "default")
                rows.add(dataset(str(rows.count())))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as session:
        names = [row.name for row in Datasets(session, "default").page(PageRequest(None, 100))[0]]
    assert sorted(map(int, names)) == list(range(40))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_sqlite_is_durable_and_strict(database: Database) -> None:
    with database.read() as session:
        pragmas = {name: session.execute(text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "foreign_keys")}
        assert pragmas == {"journal_mode": "wal", "foreign_keys": 1}
        assert session.execute(text("PRAGMA synchronous")).scalar() == 2  # FULL
        assert session.execute(text("PRAGMA busy_timeout")).scalar() == 30_000


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_sqlite_reader_is_not_held_up_by_a_writer(database: Database) -> None:
    with database.write() as writing:
        Datasets(writing, "default").add(dataset("uncommitted"))
        with database.read() as reading:
            assert Datasets(reading, "default").count() == 0
