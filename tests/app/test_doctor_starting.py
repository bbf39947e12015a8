"""What a server that is alone removes when it starts, and what it leaves alone."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from unittest.mock import patch

import pytest
from fastapi.testclient import TestClient

from app.database import Database
from app.doctor.starting import sweep
from app.main import create_app
from app.settings import Settings
from app.storage import undecided
from tests.app.conftest import wait_for
from tests.app.fakes import FakeEngine
from tests.app.resources import add_dataset, jsonl, post_dataset, wait_for_job
from tests.app.stores import filled_store, findings, in_database, serving, store_settings

LEFT = (
    "datasets/.deleted-abc-12345678",
    "datasets/.incoming-abc",
    "indexes/.deleted-idx_x-12345678",
    "indexes/.importing-abc",
    "evaluations/.deleted-evl_x-12345678",
    "evaluations/.estimate-abc",
    "checks/.deleted-chk_x-12345678",
    "checks/.estimate-abc",
    "batches/bat_a2b3c4d5e6f7a2b3c4d5",
    "batches/.deleted-bat_x-12345678",
    "uploads/ds_a2b3c4d5e6f7a2b3c4d5",
    ".restoring-abc",
)
KEPT = ("uploads/notes", "models/mine", "before-restore-20260101T000000-abcd", "damaged/x")


def make(settings: Settings, names: tuple[str, ...]) -> list[Path]:
    paths = [settings.home / name for name in names]
    for path in paths:
        (path / "inside").mkdir(parents=True)
        (path / "inside" / "file").write_text("content")
    return paths


def test_a_server_that_is_alone_removes_what_interrupted_work_left(tmp_path: Path) -> None:
    made = filled_store(tmp_path)
    left, kept = make(made.settings, LEFT), make(made.settings, KEPT)
    with serving(made.settings) as client:
        wait_for(lambda: not any(path.exists() for path in left), "an empty house")
        assert all(path.exists() for path in kept)
        assert client.get(f"/v1/indexes/{made.index}").json()["state"] == "ready"
    assert [finding.subject for finding in findings(made.settings)] == []


def test_an_upload_that_waits_for_its_job_stays(tmp_path: Path) -> None:
    """Its server was killed before the job ran."""
    settings = store_settings(tmp_path)
    with serving(settings.model_copy(update={"worker_threads": 0})) as client:
        dataset = post_dataset(client, jsonl([{"text": f"row {n} " + "x" * 40} for n in range(30)])).json()
    assert (settings.uploads_dir / dataset["id"]).is_dir()
    with serving(settings) as client:
        wait_for_job(client, dataset["job_id"])
    assert not (settings.uploads_dir / dataset["id"]).exists()


@pytest.mark.postgres
def test_servers_that_share_a_home_remove_nothing(tmp_path: Path, postgres_url: str) -> None:
    settings = store_settings(tmp_path, postgres_url)
    left = make(settings, LEFT)
    with serving(settings):
        assert all(path.exists() for path in left)


def test_what_appears_after_the_list_was_made_is_not_touched(tmp_path: Path) -> None:
    settings = store_settings(tmp_path)
    with serving(settings):
        pass
    (first,) = make(settings, ("indexes/.deleted-a-12345678",))
    database = Database(settings.database)
    try:
        thread = sweep(settings, database)
        (second,) = make(settings, ("indexes/.deleted-b-12345678",))
        assert thread is not None
        thread.join(10)
        assert not first.exists() and second.exists()
        second.rename(settings.home / "kept")
        assert sweep(settings, database) is None
    finally:
        database.close()


def test_a_fresh_home_has_nothing_to_sweep(tmp_path: Path) -> None:
    settings = store_settings(tmp_path)
    assert create_app(settings, FakeEngine())
    with serving(settings) as client:
        assert client.get("/readyz").status_code == 200
    assert in_database(settings, lambda _: settings.home.is_dir())


@pytest.mark.parametrize("kind", ["datasets", "indexes", "evaluations", "checks"])
def test_what_a_kill_left_undecided_is_decided_by_the_rows(settings: Settings, tmp_path: Path, kind: str) -> None:
    """Between a commit and the removal of its files, or between files and the commit that owns them."""
    with TestClient(create_app(settings, FakeEngine())) as client:
        dataset = add_dataset(client)
    folder = settings.home / kind
    owned = settings.datasets_dir / dataset["sha256"]
    prefix = {"indexes": "idx_", "evaluations": "evl_", "checks": "chk_"}
    killed = prefix[kind] + "a" * 20 if kind in prefix else "e" * 64
    for place in (folder / killed, folder / f"{killed}x", owned):
        place.mkdir(parents=True, exist_ok=True)
    for place in (folder / killed, owned):
        with contextlib.suppress(KeyboardInterrupt), undecided(place):
            shutil.copytree(place.with_name(f".undecided-{place.name}"), tmp_path / place.name)
            raise KeyboardInterrupt
        shutil.copytree(tmp_path / place.name, place.with_name(f".undecided-{place.name}"))
    doomed: list[Path] = []
    database = Database(settings.database)
    with patch("app.doctor.starting.remove_in_background", lambda paths: doomed.extend(paths)):
        sweep(settings, database)
    database.close()
    # out of the way before the first request, which may bring the same rows again; deleted beside it
    assert not (folder / killed).exists()
    assert [path.name.rpartition("-")[0] for path in doomed] == [f".deleted-{killed}"]
    assert (folder / f"{killed}x").exists()  # nobody marked it: the operator decides
    assert (owned / "rows.arrow").exists()
    assert not [path for path in (*folder.iterdir(), *owned.parent.iterdir()) if path.name.startswith(".undecided-")]
