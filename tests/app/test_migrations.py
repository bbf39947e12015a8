"""One Alembic history on both databases."""

from __future__ import annotations

import threading

import pytest
from alembic import command
from sqlalchemy import Column, Integer, Table, inspect, text

from app import database as database_module
from app import schema
from app.database import Database
from app.tables import Base


@pytest.fixture
def empty(database_url: str) -> Database:
    return Database(database_url)


def tables(database: Database) -> set[str]:
    return set(inspect(database.engine).get_table_names()) - {"alembic_version"}


def test_migrations_give_exactly_the_tables_of_the_code(empty: Database) -> None:
    schema.upgrade(empty)
    with empty.engine.connect() as connection:
        assert schema.differences(connection, Base.metadata) == []
    assert tables(empty) == set(Base.metadata.tables)


def test_a_difference_is_noticed(empty: Database) -> None:
    schema.upgrade(empty)
    changed = type(Base.metadata)()
    for table in Base.metadata.sorted_tables:
        table.to_metadata(changed)
    Table("forgotten", changed, Column("id", Integer, primary_key=True))
    with empty.engine.connect() as connection:
        assert [difference[0] for difference in schema.differences(connection, changed)] == ["add_table"]


def test_down_and_up_again(empty: Database) -> None:
    schema.upgrade(empty)
    schema.downgrade(empty, "base")
    assert tables(empty) == set()
    assert schema.current_revision(empty) is None
    schema.upgrade(empty)
    assert tables(empty) == set(Base.metadata.tables)


def test_indexes_that_were_there_are_counted_by_name(empty: Database) -> None:
    """In the order in which they were made, each tenant's for itself; going back loses none."""
    schema.upgrade(empty, "0003")
    made = [("idx_c", "t", "a", 1), ("idx_b", "t", "a", 3), ("idx_a", "t", "a", 3), ("idx_d", "u", "a", 2)]
    model = (
        "INSERT INTO models (id, tenant, name, version, base, checkpoints, dtype, fingerprint, parameters,"
        " trained_parameters, trained_modules, context_length, coverage, warnings, created_at)"
        " VALUES ('mdl_1', 't', 'n', 1, 'b', '[]', 'float32', 'f', 1, 1, 1, 1, '{}', '[]', '2026-01-01')"
    )
    dataset = (
        "INSERT INTO datasets (id, tenant, name, state, warnings, created_at)"
        " VALUES ('ds_1', 't', 'n', 'ready', '[]', '2026-01-01')"
    )
    index = (
        "INSERT INTO indexes (id, tenant, name, model_id, dataset_id, method, config, state, serves, warnings,"
        " created_at) VALUES (:id, :tenant, :name, 'mdl_1', 'ds_1', 'kfac', '{}', 'ready', '[]', '[]', :at)"
    )
    with empty.write() as session:
        session.connection().exec_driver_sql(model)
        session.connection().exec_driver_sql(dataset)
        for row_id, tenant, name, day in [*made, ("idx_e", "t", None, 1)]:
            at = f"2026-01-0{day} 00:00:00.000000"
            session.execute(text(index), {"id": row_id, "tenant": tenant, "name": name, "at": at})
    schema.upgrade(empty)
    with empty.read() as session:
        versions = {row[0]: row[1] for row in session.execute(text("SELECT id, version FROM indexes"))}
    assert versions == {"idx_c": 1, "idx_a": 2, "idx_b": 3, "idx_d": 1, "idx_e": None}
    schema.downgrade(empty, "0003")
    with empty.read() as session:
        assert session.execute(text("SELECT count(*) FROM indexes")).scalar() == 5


def test_head_is_known(empty: Database) -> None:
    assert not schema.is_at_head(empty)
    schema.upgrade(empty)
    assert schema.is_at_head(empty)
    assert schema.current_revision(empty) == schema.head_revision()


def test_upgrading_twice_changes_nothing(database: Database) -> None:
    with database.write() as session:
        session.execute(text("INSERT INTO datasets (id, tenant, name, state, warnings, created_at)"
                             " VALUES ('ds_1', 't', 'n', 'ready', '[]', '2026-01-01')"))  # fmt: skip
    schema.upgrade(database)
    with database.read() as session:
        assert session.execute(text("SELECT count(*) FROM datasets")).scalar() == 1


def test_a_migration_that_fails_leaves_the_database_as_it_was(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_at_the_end(config: object, revision: str) -> None:
        upgrade(config, revision)
        raise RuntimeError("the last step failed")

    upgrade = command.upgrade
    monkeypatch.setattr(command, "upgrade", fails_at_the_end)
    with pytest.raises(RuntimeError):
        schema.upgrade(empty)
    assert tables(empty) == set()
    assert schema.current_revision(empty) is None


def test_servers_that_start_together_migrate_once(database_url: str) -> None:
    failures: list[Exception] = []

    def start() -> None:
        database = Database(database_url)
        try:
            schema.upgrade(database)
        except Exception as error:
            failures.append(error)
        finally:
            database.close()

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert schema.is_at_head(Database(database_url))


def test_the_check_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert database_module.main(["check"]) == 0
    assert database_module.main([]) == 2
    monkeypatch.setattr(schema, "differences_from_migrations", lambda _metadata: [("add_table", "forgotten")])
    assert database_module.main(["check"]) == 1
    assert "forgotten" in capsys.readouterr().err
