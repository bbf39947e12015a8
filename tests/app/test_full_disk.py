"""A home on a disk that is full, for real: every write is refused by name, nothing acknowledged is lost, and what was
interrupted goes on once there is room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.cli import main
from app.engine_client import LocalEngine
from app.main import create_app
from engine.dataset import store_dataset
from engine.errors import StorageFull
from tests import factories
from tests.app.backups import backed_up
from tests.app.conftest import make_settings, wait_for
from tests.app.disks import KIB, MIB, enlarge, fill_up, make_room, small_disk
from tests.app.fakes import FakeEngine
from tests.app.resources import (
    QUESTION,
    ROWS,
    add_dataset,
    add_evaluation,
    add_index,
    add_model,
    assert_problem,
    jsonl,
    post_dataset,
    wait_for_index,
    wait_for_job,
)
from tests.app.stores import Filled, ask_batch, fill, filled_store, findings, model_directory, serving, store_settings

LISTED = ("models", "datasets", "indexes", "evaluations", "attributions", "attributions/batches", "jobs", "aliases")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "home", 8 * MIB) as home:
        yield home


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def made(home: Path, tmp_path: Path, engine: FakeEngine) -> Iterator[tuple[TestClient, Filled]]:
    """A running service with one of everything; nothing is kept free."""
    settings = store_settings(tmp_path).model_copy(update={"min_free_bytes": 0})
    with serving(settings, engine) as client:
        yield client, fill(client, settings, model_directory(tmp_path))
    make_room(home)


def shown(client: TestClient, store: Filled) -> dict[str, Any]:
    """All that was acknowledged, as it is read."""
    lists = {name: client.get(f"/v1/{name}").json()["data"] for name in LISTED}
    rows = client.get(f"/v1/datasets/{store.dataset}/examples").json()
    results = client.get(f"/v1/attributions/batches/{store.batch}/results").text
    return lists | {"rows": rows, "results": results, "export": client.get(f"/v1/indexes/{store.index}/export").content}


WRITES: dict[str, Callable[[TestClient, Filled, str], Any]] = {
    "a small upload": lambda client, _, tag: post_dataset(client, jsonl([{"text": f"another {tag}"}])),
    "a large upload": lambda client, _, tag: post_dataset(client, jsonl([{"text": f"{tag} {'x' * 300}"}] * 3)),
    "a model": lambda client, store, tag: client.post(
        "/v1/models", json={"name": f"other {tag}", "base": str(store.settings.home.parent / "model")}
    ),
    "an alias": lambda client, store, tag: client.put(f"/v1/aliases/prod{tag}", json={"index": store.index}),
    "an index": lambda client, store, _: client.post(
        "/v1/indexes", json={"model": store.model, "dataset": store.dataset}
    ),
    "an evaluation": lambda client, store, _: client.post(
        "/v1/evaluations", json={"index": store.index, "leave_out_rows": 1}
    ),
    "an attribution": lambda client, store, tag: client.post(
        "/v1/attributions", json=QUESTION | {"index": store.index, "completion": f" {tag}"}
    ),
    "a batch": lambda client, store, tag: client.post(
        "/v1/attributions/batches",
        data={"index": store.index},
        files={"file": ("q.jsonl", jsonl([QUESTION | {"completion": f" {tag} {'y' * 5000}"}]))},
    ),
    "a note": lambda client, store, tag: client.patch(
        f"/v1/datasets/{store.dataset}", json={"metadata": {"note": tag * 5000}}
    ),
}


def test_every_write_is_refused_by_name_and_reads_go_on(made: tuple[TestClient, Filled]) -> None:
    client, store = made
    before = shown(client, store)
    fill_up(store.settings.home)
    for write in WRITES.values():
        assert assert_problem(write(client, store, "1"), 507, "storage-full")["remedy"].startswith("Free space")
    assert shown(client, store) == before
    assert findings(store.settings) == []
    make_room(store.settings.home)
    for what, write in WRITES.items():
        assert write(client, store, "2").status_code in (200, 201, 202), what


@pytest.mark.parametrize("left", [4 * KIB, 24 * KIB, 64 * KIB, 160 * KIB])
def test_on_a_disk_that_is_almost_full_what_is_acknowledged_is_kept(made: tuple[TestClient, Filled], left: int) -> None:
    """Wherever the room ends, a request is either whole or refused, and a job done or failed by name."""
    client, store = made
    fill_up(store.settings.home, left)
    kept: list[str] = []
    for write in (*WRITES.values(), *WRITES.values()):
        answer = write(client, store, f"{len(kept)}")
        if answer.status_code in (201, 202):
            kept.append(answer.json()["id"])
        elif answer.status_code != 200:
            assert_problem(answer, 507, "storage-full")
    make_room(store.settings.home)
    jobs = wait_for(lambda: ended_jobs(client), "the end of every job")
    assert {(job["error"] or {"type": None})["type"] for job in jobs} <= {None, "urn:whence:problem:storage-full"}
    there = {row["id"] for name in LISTED for row in client.get(f"/v1/{name}").json()["data"] if "id" in row}
    assert set(kept) <= there
    assert findings(store.settings) == []


def ended_jobs(client: TestClient) -> list[dict[str, Any]] | None:
    jobs = client.get("/v1/jobs?limit=200").json()["data"]
    return None if any(job["state"] in ("queued", "running") for job in jobs) else jobs


def failed_for_space(client: TestClient, job: str) -> None:
    error = wait_for_job(client, job, "failed")["error"]
    assert error["type"] == "urn:whence:problem:storage-full" and "Free space" in error["remedy"]


def resumed(client: TestClient, job: str) -> None:
    assert client.post(f"/v1/jobs/{job}/resume").status_code == 202
    wait_for_job(client, job)


def an_index(client: TestClient, store: Filled) -> str:
    return add_index(client, store.model, add_dataset(client, [*ROWS, {"text": "one more"}])["id"])["job_id"]


def an_evaluation(client: TestClient, store: Filled) -> str:
    return add_evaluation(client, {"id": store.index}, half_subsets=9)["job_id"]


def a_batch(client: TestClient, store: Filled) -> str:
    return ask_batch(client, store.index, " Elsewhere.")["job_id"]


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """What jobs failed of, as soon as they did: that it is recorded may take until there is room."""
    found: list[Exception] = []
    monkeypatch.setattr("app.jobs.attempt._log_failure", found.append)
    return found


@pytest.mark.parametrize("begin", [an_index, an_evaluation, a_batch], ids=lambda begin: begin.__name__)
def test_a_job_that_ran_out_of_space_says_so_and_is_resumed(
    made: tuple[TestClient, Filled],
    engine: FakeEngine,
    failures: list[Exception],
    begin: Callable[[TestClient, Filled], str],
) -> None:
    """The database is on the same disk."""
    client, store = made
    engine.gate.clear()
    job = begin(client, store)
    wait_for_job(client, job, "running")
    fill_up(store.settings.home)
    engine.gate.set()
    wait_for(lambda: failures, "the failure")
    assert client.get(f"/v1/jobs/{job}").json()["state"] == "running"
    make_room(store.settings.home)
    failed_for_space(client, job)
    resumed(client, job)
    assert findings(store.settings) == []


def test_a_load_that_ran_out_of_space_keeps_the_upload(
    made: tuple[TestClient, Filled], failures: list[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, store = made

    def into_a_full_disk(*arguments: Any, **options: Any) -> Any:
        fill_up(store.settings.home)
        return store_dataset(*arguments, **options)

    monkeypatch.setattr("engine.dataset.storing.store_dataset", into_a_full_disk)
    rows = [{"text": f"{number} {'x' * 50}"} for number in range(30)]
    loading = post_dataset(client, jsonl(rows)).json()
    wait_for(lambda: failures, "the failure")
    assert isinstance(failures[0], StorageFull)
    make_room(store.settings.home)
    monkeypatch.undo()
    failed_for_space(client, loading["job_id"])
    resumed(client, loading["job_id"])
    assert client.get(f"/v1/datasets/{loading['id']}").json()["rows"] == 30
    assert findings(store.settings) == []


def test_a_real_build_that_ran_out_of_space_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """Only the indexes are on the small disk here."""
    llama = factories.llama(hidden=8, layers=1)
    factories.save_base(tmp_path / "base", llama)
    factories.save_adapter(tmp_path / "adapter", llama, 1, r=2)
    settings = make_settings(tmp_path, min_free_bytes=0)
    with TestClient(create_app(settings, LocalEngine(device="cpu"))) as client:
        recipe = {"reduction": "token_sum"}
        model = add_model(client, tmp_path / "base", adapter=str(tmp_path / "adapter"), recipe=recipe)["id"]
        dataset = add_dataset(client, factories.sentences(12))["id"]
        asked = {"options": {"shard_rows": 2, "curvature_rows": 12}}
        whole = wait_for_index(client, add_index(client, model, dataset, **asked)["id"])
        expected = files_of(settings.indexes_dir / whole["id"])
        room = sum(-(-len(content) // 4096) * 4096 for content in expected.values())
        with small_disk(settings.indexes_dir, room - 24 * KIB) as disk:
            index = add_index(client, model, dataset, **asked)
            failed_for_space(client, index["job_id"])
            finished = sorted((disk / index["id"] / "shards").glob("*.faiss"))
            assert 0 < len(finished) < 6
            enlarge(disk, 2 * room)
            resumed(client, index["job_id"])
            found = files_of(disk / index["id"])
    assert found.keys() == expected.keys()
    assert {name for name in found if found[name] != expected[name]} <= {"manifest.json"}  # it holds timings


def files_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_backup_onto_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = filled_store(tmp_path)
    with small_disk(tmp_path / "elsewhere", 64 * KIB) as disk:
        for name in ("backup", "backup.tar"):
            assert main(["backup", str(disk / name), "--home", str(store.settings.home)]) == 1
            said = capsys.readouterr().err
            assert said.count("\n") == 1 and "space" in said and "Free" in said, said
            assert list(disk.iterdir()) == []
    assert findings(store.settings) == []


def test_a_restore_into_a_full_disk_is_one_line_and_can_be_done_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = filled_store(tmp_path)
    backed_up(store.settings, tmp_path / "backup")
    with small_disk(tmp_path / "there", 96 * KIB) as disk:
        assert main(["restore", str(tmp_path / "backup"), "--home", str(disk)]) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "space" in said and "Free" in said, said
        assert [path.name for path in disk.iterdir()] == ["server.lock"]
        enlarge(disk, 8 * MIB)
        assert main(["restore", str(tmp_path / "backup"), "--home", str(disk)]) == 0
        settings = store.settings.model_copy(update={"home": disk})
        assert findings(settings) == []


def test_on_a_full_disk_doctor_looks_and_serve_refuses_in_one_line(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SQLite can make nothing beside its file then: that must not pass for damage."""
    settings = store_settings(tmp_path).model_copy(update={"min_free_bytes": 0})
    with serving(settings) as client:
        fill(client, settings, model_directory(tmp_path))
    fill_up(home)
    there = ["--home", str(home)]
    assert main(["doctor", *there]) == 0
    assert capsys.readouterr().out == "Nothing is wrong.\n"
    assert main(["backup", str(tmp_path / "backup"), *there]) == 0
    capsys.readouterr()
    for command in (["serve", "--port", "0"], ["migrate"]):
        code, said = main([*command, *there]), capsys.readouterr()
        assert (code, said.err.count("\n")) == (1, 1), said
        assert "Disk full" in said.err and "Free space" in said.err, said
    make_room(home)
    assert findings(settings) == []
