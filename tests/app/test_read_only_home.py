"""A home that cannot be written to: no server starts in it, and one that runs reads on and refuses writes by name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.cli import main
from tests.app.disks import read_only
from tests.app.fakes import FakeEngine
from tests.app.resources import add_index, assert_problem, wait_for_job
from tests.app.stores import Filled, fill, filled_store, findings, model_directory, serving, store_settings
from tests.app.test_full_disk import WRITES, shown

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    """What a server left that has stopped, read-only now."""
    store = filled_store(tmp_path_factory.mktemp("left"))
    with read_only(store.settings.home):
        yield store


ONE_LINE = {
    "serve": ["serve", "--port", "0"],
    "serve elsewhere": ["serve", "--port", "0", "--host", "0.0.0.0"],
    "migrate": ["migrate"],
    "repair": ["doctor", "--repair"],
    "a key": ["keys", "create", "me"],
    "a new home in it": ["serve", "--port", "0", "--home", "{home}/new"],
}


@pytest.mark.parametrize("command", ONE_LINE)
def test_what_has_to_write_is_refused_in_one_line_that_says_what_to_do(
    left: Filled, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = str(left.settings.home)
    monkeypatch.setenv("WHENCE_HOME", home)
    assert main([part.format(home=home) for part in ONE_LINE[command]]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1, said
    assert "read-only" in said.err.lower() and "writable" in said.err, said


def test_a_server_process_that_refuses_shows_no_traceback(left: Filled) -> None:
    command = [sys.executable, "-m", "app.cli", "serve", "--port", "0", "--home", str(left.settings.home)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert "Read-only file system" in done.stderr and "Traceback" not in done.stderr


def test_doctor_looks_and_a_backup_can_be_made(
    left: Filled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SQLite opens no file that it can put no journal beside: that must not pass for damage, when the disk has just
    become read-only and somebody wants to save what is there."""
    home = ["--home", str(left.settings.home)]
    assert main(["doctor", *home]) == 0
    assert capsys.readouterr().out == "Nothing is wrong.\n"
    assert main(["backup", str(tmp_path / "backup"), *home]) == 0
    assert main(["restore", str(tmp_path / "backup"), "--home", str(tmp_path / "there")]) == 0
    there = left.settings.model_copy(update={"home": tmp_path / "there"})
    assert findings(there) == []
    with serving(there) as client:
        assert client.get(f"/v1/attributions/{left.attribution}").status_code == 200


def test_restoring_into_it_is_refused_in_one_line(
    left: Filled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["backup", str(tmp_path / "backup"), "--home", str(left.settings.home)]) == 0
    capsys.readouterr()
    assert main(["restore", str(tmp_path / "backup"), "--force", "--home", str(left.settings.home)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[TestClient, Filled, FakeEngine]]:
    settings, engine = store_settings(tmp_path), FakeEngine()
    with serving(settings, engine) as client:
        yield client, fill(client, settings, model_directory(tmp_path)), engine


def reopen_database(client: TestClient) -> None:
    """A bind mount leaves open files as they are; a disk that fails does not."""
    client.app.state.services.database.engine.dispose()  # type: ignore[attr-defined]


def test_a_home_that_becomes_read_only_is_read_on_and_writes_are_refused_by_name(
    running: tuple[TestClient, Filled, FakeEngine],
) -> None:
    client, store, _ = running
    before = shown(client, store)
    with read_only(store.settings.home):
        reopen_database(client)
        for write in WRITES.values():
            assert "writable" in assert_problem(write(client, store, "1"), 503, "storage-read-only")["remedy"]
        for path in (f"batches/{store.batch}", store.attribution):
            assert_problem(client.delete(f"/v1/attributions/{path}"), 503, "storage-read-only")
        assert shown(client, store) == before
        assert findings(store.settings) == []
    answers = [[write(client, store, tag) for write in WRITES.values()] for tag in ("2", "3")]
    assert all(answer.status_code in (200, 201, 202) for answer in answers[1])  # no restart is needed
    assert findings(store.settings) == []


def test_a_job_under_way_goes_on_once_the_disk_is_writable_again(
    running: tuple[TestClient, Filled, FakeEngine],
) -> None:
    client, store, engine = running
    engine.gate.clear()
    index = add_index(client, store.model, store.dataset, name="second")
    wait_for_job(client, index["job_id"], "running")
    with read_only(store.settings.home):
        reopen_database(client)
        engine.gate.set()
        assert client.get(f"/v1/jobs/{index['job_id']}").json()["state"] == "running"
    wait_for_job(client, index["job_id"])
    assert findings(store.settings) == []
