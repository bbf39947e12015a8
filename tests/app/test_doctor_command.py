"""`whence doctor` as people and machines call it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from app import cli
from app.homelock import HomeLock
from tests.app.stores import Filled, filled_store, flip, make_old, serving


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    return filled_store(tmp_path_factory.mktemp("made"))


@pytest.fixture
def store(made: Filled, tmp_path: Path) -> Filled:
    settings = made.settings.model_copy(update={"home": tmp_path / "home"})
    shutil.copytree(made.settings.home, settings.home)
    return Filled(**(vars(made) | {"settings": settings}))


def run(capsys: pytest.CaptureFixture[str], store: Filled, *options: str) -> tuple[int, str, str]:
    code = cli.main(["doctor", "--home", str(store.settings.home), *options])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_says_what_where_and_what_to_do(store: Filled, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, store) == (0, "Nothing is wrong.\n", "")
    flip(store.index_dir / "shards" / "00000.faiss")
    code, out, _ = run(capsys, store)
    assert code == 1 and out.count("\n") == 2
    assert "index-damaged" in out and f"indexes/{store.index}/shards/00000.faiss" in out and "--repair" in out
    code, out, _ = run(capsys, store, "--json")
    (found,) = json.loads(out)["findings"]
    assert (code, found["kind"], found["subject"], found["repairable"]) == (1, "index-damaged", store.index, True)
    code, out, _ = run(capsys, store, "--repair")
    assert code == 0 and "1 repaired, 0 left." in out and "whence jobs resume job_" in out
    assert run(capsys, store, "--repair", "--json")[:2] == (0, '{\n  "ok": true,\n  "repaired": [],\n  "left": []\n}\n')


def test_beside_a_running_server_it_reads_and_does_not_repair(
    store: Filled, capsys: pytest.CaptureFixture[str]
) -> None:
    leftover = store.settings.indexes_dir / ".deleted-x-12345678"
    with serving(store.settings):
        leftover.mkdir()
        make_old(leftover)
        code, out, _ = run(capsys, store)
        assert code == 1 and "leftover" in out
    lock = HomeLock(store.settings.home)
    lock.acquire()
    try:
        code, out, err = run(capsys, store, "--repair")
    finally:
        lock.release()
    assert (code, out) == (1, "") and err.count("\n") == 1
    assert "Stop the server" in err and leftover.exists()


def test_where_there_is_no_store_none_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "nothing"
    assert cli.main(["doctor", "--home", str(home)]) == 1
    assert "There is no database of a server" in capsys.readouterr().err
    assert not home.exists()
