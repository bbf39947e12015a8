"""`whence backup` and `whence restore`: what comes back is what was there, from either database to either."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sqlalchemy import select

from app import cli
from app.backup import making, restoring
from app.backup.layout import DamagedBackup
from app.backup.sources import Source
from app.database import Database
from app.errors import Conflict
from app.homelock import HomeInUse, HomeLock
from app.secret import server_secret
from app.settings import Settings
from app.tables import Base, IdempotencyKeyRow, IndexRow
from tests.app.backups import backed_up, restored
from tests.app.conftest import fresh_postgres
from tests.app.fakes import FakeEngine
from tests.app.resources import QUESTION, add_index, checked, jsonl, post_dataset, wait_for_index, wait_for_job
from tests.app.stores import (
    Filled,
    fill,
    filled_store,
    findings,
    in_database,
    model_directory,
    serving,
    store_settings,
)

postgres = pytest.mark.postgres


def contents(settings: Settings) -> dict[str, list[Any]]:
    """Every row of every table, as Python values; uploads of jobs lie in whatever home it is."""
    database = Database(settings.database)
    try:
        with database.engine.connect() as connection:
            return {
                table.name: sorted(re.sub(r"'/[^']*/uploads/", "'UPLOADS/", repr(tuple(row))) for row in rows)
                for table, rows in ((table, connection.execute(select(table))) for table in Base.metadata.sorted_tables)
            }
    finally:
        database.close()


def files(settings: Settings) -> dict[str, bytes]:
    home = settings.home
    folders = ("datasets", "indexes", "evaluations", "checks", "batches")
    named = (path for name in folders for path in (home / name).rglob("*"))
    return {str(path.relative_to(home)): path.read_bytes() for path in named if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """A store on SQLite that has a key, an answer kept for its Idempotency-Key, and text of every kind."""
    filled = filled_store(tmp_path_factory.mktemp("made"))
    assert server_secret(filled.settings)
    with serving(filled.settings) as client:
        odd = [{"id": "odd ☃ \u2028", "text": 'tab\tquote" back\\slash\r\nemoji 😀'}]
        again = {"headers": {"Idempotency-Key": "once"}}
        assert post_dataset(client, jsonl(odd), fields={"name": "ὀδύσσεια"}, **again).status_code == 201
    with_bytes = in_database(filled.settings, lambda s: s.scalars(select(IdempotencyKeyRow.body)).all())
    assert with_bytes and isinstance(with_bytes[0], bytes)
    return filled


@pytest.fixture
def there(tmp_path: Path) -> Settings:
    return store_settings(tmp_path, home="there")


@pytest.mark.parametrize("form", ["backup", "backup.tar"])
def test_what_is_restored_is_what_was_there(made: Filled, there: Settings, tmp_path: Path, form: str) -> None:
    backup = backed_up(made.settings, tmp_path / form)
    assert backup.warnings == [] and not (tmp_path / f"{form}.partial").exists()
    result = restored(there, backup.path)
    assert result.aside is None and result.missing_models == []
    assert contents(there) == contents(made.settings)
    assert files(there) == files(made.settings)
    assert server_secret(there) == server_secret(made.settings)
    assert stat.S_IMODE((there.home / "secret").stat().st_mode) == 0o600
    assert stat.S_IMODE(backup.path.stat().st_mode) & 0o077 == 0
    assert findings(there) == []
    assert sorted(path.name for path in there.home.iterdir()) == [
        "batches", "checks", "datasets", "evaluations", "indexes", "secret", "server.lock", "whence.sqlite3",
    ]  # fmt: skip
    with serving(there) as client:
        body = QUESTION | {"model": made.model, "index": made.index, "top_k": 1}
        answer = client.post("/v1/attributions", json=body).json()
        assert answer["proponents"][0]["example_id"] == "born" and answer["trust"]["verdict"] == "trusted"


@postgres
def test_a_backup_of_either_database_is_restored_to_the_other(
    made: Filled, there: Settings, tmp_path: Path, postgres_server: str
) -> None:
    backed_up(made.settings, tmp_path / "from-sqlite")
    with fresh_postgres(postgres_server) as url:
        middle = store_settings(tmp_path, url, "middle")
        restored(middle, tmp_path / "from-sqlite")
        assert contents(middle) == contents(made.settings)
        assert findings(middle) == []
        with serving(middle) as client:  # what is added there has its place, and nothing is in its way
            assert post_dataset(client, jsonl([{"text": "new"}])).status_code == 201
            expected = contents(middle)
        backed_up(middle, tmp_path / "from-postgresql.tar")
        with pytest.raises(Conflict, match="rows already"):
            restored(middle, tmp_path / "from-sqlite", force=True)
    restored(there, tmp_path / "from-postgresql.tar")
    assert contents(there) == expected
    assert findings(there) == []


def test_no_table_counts_by_itself() -> None:
    """A sequence of PostgreSQL would stand at 1 after a restore: ids are made by us."""
    for table in Base.metadata.sorted_tables:
        column = table.autoincrement_column
        assert column is None or column.autoincrement is False, table.name


def test_only_what_rows_own_is_copied(made: Filled, tmp_path: Path) -> None:
    settings = made.settings.model_copy(update={"home": tmp_path / "home"})
    shutil.copytree(made.settings.home, settings.home)
    (settings.indexes_dir / ".deleted-x").mkdir()
    (settings.datasets_dir / ("0" * 64)).mkdir()
    (settings.datasets_dir / ("0" * 64) / "rows.arrow").write_bytes(b"orphan")
    (settings.home / "notes.txt").write_text("mine")

    def fail(session: Any) -> None:
        session.get(IndexRow, made.index).state = "failed"

    in_database(settings, fail)
    backup = backed_up(settings, tmp_path / "backup")
    names = set(backup.manifest.files)
    assert not any("0" * 64 in name or name.startswith(("indexes", "notes")) for name in names)
    assert f"datasets/{made.sha256}/rows.arrow" in names


def test_a_dataset_that_waits_for_its_job_is_loaded_after_a_restore(tmp_path: Path, there: Settings) -> None:
    """It was acknowledged: the upload is a part of the backup, and its job is told where it lies now."""
    settings = store_settings(tmp_path).model_copy(update={"worker_threads": 0})
    with serving(settings) as client:
        rows = [{"text": f"row {number} " + "x" * 40} for number in range(30)]
        dataset = post_dataset(client, jsonl(rows)).json()
        assert dataset["state"] == "loading"
        backed_up(settings, tmp_path / "backup")
    shutil.rmtree(settings.home)
    restored(there, tmp_path / "backup")
    with serving(there) as client:
        wait_for_job(client, dataset["job_id"])
        assert client.get(f"/v1/datasets/{dataset['id']}").json()["rows"] == 30


def test_an_unfinished_build_begins_again_after_a_restore(tmp_path: Path, there: Settings) -> None:
    settings, engine = store_settings(tmp_path), FakeEngine()
    with serving(settings, engine) as client:
        made = fill(client, settings, model_directory(tmp_path))
        engine.gate.clear()
        index = add_index(client, made.model, made.dataset)
        backed_up(settings, tmp_path / "backup")
        engine.gate.set()
    restored(there, tmp_path / "backup")
    with serving(there) as client:
        wait_for_index(client, index["id"])
    assert findings(there) == []


@pytest.fixture(scope="module")
def whole(made: Filled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("backups")
    backed_up(made.settings, root / "backup")
    backed_up(made.settings, root / "backup.tar")
    return root


# --- a home that is not empty ---


def test_what_is_there_is_never_lost(made: Filled, whole: Path, tmp_path: Path) -> None:
    settings = made.settings.model_copy(update={"home": tmp_path / "home"})
    shutil.copytree(made.settings.home, settings.home)
    (settings.home / "notes.txt").write_text("mine")
    before = {path.name for path in settings.home.iterdir()} - {"server.lock"}
    with pytest.raises(Conflict, match="not empty"):
        restored(settings, whole / "backup")
    assert {path.name for path in settings.home.iterdir()} - {"server.lock"} == before
    result = restored(settings, whole / "backup", force=True)
    assert result.aside is not None and {path.name for path in result.aside.iterdir()} == before
    old = settings.model_copy(update={"home": result.aside})
    assert contents(old) == contents(made.settings) and findings(old) == []
    assert findings(settings) == [] and (result.aside / "notes.txt").read_text() == "mine"
    second = restored(settings, whole / "backup", force=True)
    assert second.aside not in (None, result.aside) and result.aside.is_dir()


def test_beside_a_running_server_nothing_is_restored(made: Filled, whole: Path, there: Settings) -> None:
    lock = HomeLock(there.home)
    lock.acquire()
    try:
        with pytest.raises(HomeInUse):
            restored(there, whole / "backup")
    finally:
        lock.release()
    assert [path.name for path in there.home.iterdir()] == ["server.lock"]


@pytest.mark.parametrize("step", ["_fill", "_make_room", "_move_in", "sync_directory"])
def test_an_interrupted_restore_leaves_nothing_that_looks_whole(
    whole: Path, there: Settings, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(restoring, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            restored(there, whole / "backup")
    assert not (there.home / "whence.sqlite3").exists()
    assert not list(there.home.glob(".restoring-*"))
    restored(there, whole / "backup", force=True)
    assert findings(there) == []


@pytest.mark.parametrize(
    ("form", "step"),
    [(form, step) for form in ("backup", "backup.tar") for step in ("write_table", "copy_file")]
    + [("backup.tar", "_pack"), ("backup", "sync_tree")],
)
def test_an_interrupted_backup_leaves_nothing_that_looks_whole(
    made: Filled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, form: str
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(making, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            backed_up(made.settings, tmp_path / form)
    assert not list(tmp_path.glob("backup*"))


def test_what_a_killed_backup_left_is_no_backup_and_in_nobodys_way(made: Filled, tmp_path: Path) -> None:
    left = tmp_path / "backup.partial"
    (left / "datasets").mkdir(parents=True)
    (left / "packed").write_bytes(b"half")
    with pytest.raises(DamagedBackup):
        Source(left)
    assert backed_up(made.settings, tmp_path / "backup").path.is_dir()
    assert not left.exists()
    with pytest.raises(Conflict, match="there already"):
        backed_up(made.settings, tmp_path / "backup")


# --- the commands ---


def test_the_commands(
    made: Filled, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.commands.backup.out", Console(width=300))
    home, backup, there = str(made.settings.home), str(tmp_path / "backup.tar"), str(tmp_path / "there")
    assert cli.main(["backup", backup, "--home", home]) == 0
    said = capsys.readouterr().out
    assert "3 datasets" in said and "1 indexes" in said
    assert cli.main(["backup", backup, "--home", home]) == 1
    assert "there already" in capsys.readouterr().err
    assert cli.main(["restore", backup, "--home", there, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tables"]["datasets"] == 3
    assert cli.main(["restore", backup, "--home", there]) == 1
    assert "--force" in capsys.readouterr().err
    assert cli.main(["restore", backup, "--home", there, "--force"]) == 0
    assert "before-restore-" in capsys.readouterr().out
    assert cli.main(["doctor", "--home", there]) == 0
    assert cli.main(["backup", str(tmp_path / "none"), "--home", str(tmp_path / "nowhere")]) == 1
    assert "There is no database" in capsys.readouterr().err
    os.truncate(backup, 4000)
    assert cli.main(["restore", backup, "--home", str(tmp_path / "fresh")]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert not (tmp_path / "fresh").exists()


def test_an_adapter_that_unlearning_made_is_backed_up_and_found_where_it_lies_now(
    there: Settings, tmp_path: Path
) -> None:
    settings = store_settings(tmp_path, home="before")
    with serving(settings) as client:
        filled = fill(client, settings, model_directory(tmp_path))
        check = checked(client, filled.attribution, "unlearn")
        made = check["new_model"]
    backup = backed_up(settings, tmp_path / "backup")
    assert not [path for path in backup.manifest.models if "checks" in path]
    assert restored(there, backup.path).missing_models == []
    shutil.rmtree(settings.home)
    assert findings(there) == []
    with serving(there) as client:
        adapter = Path(client.get(f"/v1/models/{made}").json()["adapter"])
        assert adapter == there.checks_dir.resolve() / check["id"] / "adapter"
        built = wait_for_index(client, add_index(client, made, filled.dataset)["id"])
        assert built["model"] == made
    (adapter / "adapter_model.safetensors").unlink()
    (found,) = findings(there)
    assert (found.kind, found.repair) == ("check-damaged", None) and made in found.what
