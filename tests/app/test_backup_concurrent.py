"""A backup beside a server at work: whatever is uploaded, built and deleted meanwhile, it is consistent."""

from __future__ import annotations

import random
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from app.backup import making
from app.backup.dump import snapshot
from app.database import Database
from app.errors import Conflict
from app.settings import Settings
from app.tables import DatasetRow, IndexRow
from tests.app.backups import backed_up, restored
from tests.app.fakes import FakeEngine
from tests.app.resources import add_index, jsonl, post_dataset, wait_for_index, wait_for_job
from tests.app.stores import (
    Filled,
    ask_batch,
    fill,
    filled_store,
    findings,
    flip,
    in_database,
    model_directory,
    serving,
    store_settings,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    return filled_store(tmp_path_factory.mktemp("made"))


@pytest.fixture
def there(tmp_path: Path) -> Settings:
    return store_settings(tmp_path, home="there")


def test_a_backup_under_writes_and_deletions_is_whole(tmp_path: Path) -> None:
    """Threads upload, build and delete all the while; every backup restores to a store without a fault, in which
    whatever was acknowledged before it began, and never deleted, is there."""
    settings, directory = store_settings(tmp_path), model_directory(tmp_path)
    stop, kept, failed = threading.Event(), [], []
    with serving(settings) as client:
        made = fill(client, settings, directory)
        threads = [threading.Thread(target=churn, args=(client, made, n, stop, kept, failed)) for n in range(3)]
        for thread in threads:
            thread.start()
        try:
            for number in range(4):
                time.sleep(0.3)
                acknowledged = list(kept)
                backed_up(settings, tmp_path / f"backup-{number}")
                there = store_settings(tmp_path, home=f"there-{number}")
                restored(there, tmp_path / f"backup-{number}")
                assert findings(there, young_seconds=-60.0) == []
                ids = in_database(there, lambda s: set(s.scalars(select(DatasetRow.id))))
                assert set(acknowledged) <= ids
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert failed == [] and len(kept) > 8


def churn(client: TestClient, made: Filled, number: int, stop: threading.Event, kept: list, failed: list) -> None:
    """Most of what is made is deleted again at once; every third dataset is kept."""
    chance = random.Random(number)
    step = 0
    while not stop.is_set():
        step += 1
        try:
            dataset = post_dataset(client, jsonl([{"text": f"{number} {step} {chance.random()}"}])).json()["id"]
            if step % 3 == 0:
                kept.append(dataset)
                continue
            index = add_index(client, made.model, dataset)
            wait_for_index(client, index["id"])
            assert client.delete(f"/v1/indexes/{index['id']}").status_code == 204
            assert client.delete(f"/v1/datasets/{dataset}").status_code == 204
        except Exception as error:
            failed.append(error)
            return


def test_what_vanishes_between_dump_and_copy_is_asked_for_again(
    made: Filled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: Settings
) -> None:
    """The moment between the two, made certain: an index is deleted after the dump that names it."""
    settings = made.settings.model_copy(update={"home": tmp_path / "home"})
    shutil.copytree(made.settings.home, settings.home)
    rounds: list[int] = []
    dump = making._Copy._dump

    def dumped(self: Any) -> Any:
        found = dump(self)
        rounds.append(len(found[1]))
        if len(rounds) == 1:
            in_database(settings, lambda s: s.delete(s.get(IndexRow, made.index)))
            shutil.rmtree(settings.indexes_dir / made.index)
        return found

    monkeypatch.setattr(making._Copy, "_dump", dumped)
    backed_up(settings, tmp_path / "backup")
    assert len(rounds) == 2 and rounds[1] == rounds[0] - 1
    restored(there, tmp_path / "backup")
    assert findings(there) == []


def test_what_is_never_to_be_had_ends_the_backup_and_leaves_nothing(
    made: Filled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = made.settings.model_copy(update={"home": tmp_path / "home"})
    shutil.copytree(made.settings.home, settings.home)
    shutil.rmtree(settings.indexes_dir / made.index)
    monkeypatch.setattr(making, "ROUNDS", 3)
    with pytest.raises(Conflict):
        backed_up(settings, tmp_path / "backup")
    assert not list(tmp_path.glob("backup*"))


def test_what_is_missing_is_told_and_the_rest_is_backed_up(
    made: Filled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: Settings
) -> None:
    settings = made.settings.model_copy(update={"home": tmp_path / "home"})
    shutil.copytree(made.settings.home, settings.home)
    shutil.rmtree(settings.indexes_dir / made.index)
    monkeypatch.setattr(making, "ROUND_SECONDS", 0)
    (warning,) = backed_up(settings, tmp_path / "backup").warnings
    assert f"indexes/{made.index} is missing" in warning
    restored(there, tmp_path / "backup")
    assert [(found.kind, found.subject) for found in findings(there)] == [("index-damaged", made.index)]


def test_a_batch_that_goes_on_meanwhile_is_copied_as_its_row_says(
    made: Filled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: Settings
) -> None:
    """Its results are copied while it runs; it ends; in the next round its row says ready, so they are copied again."""
    settings = made.settings.model_copy(update={"home": tmp_path / "home"})
    shutil.copytree(made.settings.home, settings.home)
    engine = FakeEngine()
    copy_all = making._Copy._copy_all
    rounds: list[int] = []
    with serving(settings, engine) as client:
        engine.gate.clear()
        batch = ask_batch(client, made.index, completion=" A question that nobody has asked.")

        def copied(self: Any, owned: Any) -> list[str]:
            vanished = copy_all(self, owned)
            rounds.append(1)
            if len(rounds) == 1:
                engine.gate.set()
                wait_for_job(client, batch["job_id"])
                return ["something"]
            return vanished

        monkeypatch.setattr(making._Copy, "_copy_all", copied)
        monkeypatch.setattr(making, "ROUND_SECONDS", 0)
        backed_up(settings, tmp_path / "backup")
        results = client.get(f"/v1/attributions/batches/{batch['id']}/results").content
    assert len(rounds) == 2 and results.count(b"\n") == 3
    restored(there, tmp_path / "backup")
    assert findings(there) == []
    with serving(there) as client:
        assert client.get(f"/v1/attributions/batches/{batch['id']}/results").content == results


def test_a_damaged_index_is_copied_and_told(made: Filled, tmp_path: Path) -> None:
    settings = made.settings.model_copy(update={"home": tmp_path / "home"})
    shutil.copytree(made.settings.home, settings.home)
    flip(settings.indexes_dir / made.index / "shards" / "00001.faiss")
    (warning,) = backed_up(settings, tmp_path / "backup").warnings
    assert f"indexes/{made.index}/shards/00001.faiss" in warning


def test_a_dump_is_of_one_moment(database: Database) -> None:
    """What is committed while it is read is not in it."""
    query = select(func.count()).select_from(DatasetRow)
    with snapshot(database) as connection:
        assert connection.scalar(query) == 0
        with database.write() as session:
            session.add(DatasetRow(name="late", state="ready", warnings=[]))
        assert connection.scalar(query) == 0
    with snapshot(database) as connection:
        assert connection.scalar(query) == 1
