"""`whence doctor` on a real store: what is damaged, orphaned or stuck is found, once, by its name; repaired, it is
clean again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from app.doctor.run import CHECKS, repair
from app.jobs.contract import QUEUED
from app.schema import downgrade
from app.tables import AttributionRow, BatchRow, CheckRow, DatasetRow, EvaluationRow, IndexRow, JobRow
from tests.app.resources import jsonl, post_dataset, wait_for_evaluation, wait_for_index, wait_for_job
from tests.app.stores import (
    Filled,
    filled_store,
    findings,
    flip,
    in_database,
    looked_at,
    make_old,
    serving,
)

ID = "a2b3c4d5e6f7a2b3c4d5"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """A clean store on SQLite; tests take copies."""
    return filled_store(tmp_path_factory.mktemp("made"))


@pytest.fixture
def store(made: Filled, tmp_path: Path) -> Filled:
    settings = made.settings.model_copy(update={"home": tmp_path / "home"})
    shutil.copytree(made.settings.home, settings.home)
    return Filled(**(vars(made) | {"settings": settings}))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Filled:
    """A clean store of its own on either database."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else ""
    return filled_store(tmp_path, url)


def kinds(filled: Filled) -> list[str]:
    return [finding.kind for finding in findings(filled.settings)]


def repaired(filled: Filled) -> list[str]:
    """What was done; afterwards nothing is wrong, and doing it again does nothing."""
    with looked_at(filled.settings) as store:
        outcome = repair(store)
        assert outcome.left == []
        assert repair(store).done == []
    assert findings(filled.settings) == []
    return [said for _, said in outcome.done]


def test_a_store_that_a_server_left_is_clean(either: Filled) -> None:
    assert findings(either.settings) == []


DAMAGED: dict[str, tuple[Callable[[Filled], Path], str]] = {
    "shard": (lambda s: s.index_dir / "shards" / "00001.faiss", "index-damaged"),
    "manifest": (lambda s: s.index_dir / "manifest.json", "index-damaged"),
    "rows": (lambda s: s.rows, "dataset-damaged"),
    "results": (lambda s: s.settings.batches_dir / s.batch / "results.jsonl", "batch-damaged"),
    "questions": (lambda s: s.settings.batches_dir / s.batch / "input.jsonl", "batch-damaged"),
    "outcome": (lambda s: s.evaluation_dir / "retrainings" / "runs" / "000.json", "evaluation-damaged"),
    "checked": (lambda s: s.check_dir / "retrainings" / "runs" / "000.json", "check-damaged"),
}


@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.93, 1.0])
@pytest.mark.parametrize("what", ["shard", "manifest", "outcome", "checked"])
def test_one_flipped_bit_is_one_finding_that_names_the_file(store: Filled, what: str, place: float) -> None:
    path, kind = DAMAGED[what][0](store), DAMAGED[what][1]
    flip(path, place)
    (found,) = findings(store.settings)
    assert (found.kind, found.repair is not None) == (kind, True)
    assert str(path.relative_to(store.settings.home)) in found.what
    assert repaired(store)


def test_damaged_rows_are_one_finding(store: Filled) -> None:
    whole = store.rows.read_bytes()
    text = whole.index(b"Where was Mira born?")
    for damaged in (whole[:text] + b"V" + whole[text + 1 :], b"", whole[: len(whole) // 2]):
        store.rows.write_bytes(damaged)
        (found,) = findings(store.settings)
        assert (found.kind, found.subject) == ("dataset-damaged", store.dataset)
        assert f"datasets/{store.sha256}/rows.arrow" in found.what


@pytest.mark.parametrize("what", DAMAGED)
def test_a_missing_file_is_found(store: Filled, what: str) -> None:
    path, kind = DAMAGED[what][0](store), DAMAGED[what][1]
    directory = path.parent if what == "rows" else path
    shutil.rmtree(directory) if directory.is_dir() else directory.unlink()
    expected = (
        [] if what in ("outcome", "checked") else [kind]
    )  # a retraining that is not there is made when it is needed
    assert kinds(store) == expected
    if expected:
        assert repaired(store)


def test_a_damaged_index_is_failed_and_its_job_makes_what_is_missing(either: Filled) -> None:
    shard = either.index_dir / "shards" / "00001.faiss"
    expected = shard.read_bytes()
    shard.unlink()
    (said,) = repaired(either)
    with serving(either.settings) as client:
        index = client.get(f"/v1/indexes/{either.index}").json()
        assert (index["state"], index["error"]["type"]) == ("failed", "urn:whence:problem:files-damaged")
        assert index["job_id"] in said
        assert client.post(f"/v1/jobs/{index['job_id']}/resume").status_code == 202
        wait_for_index(client, either.index)
    assert shard.read_bytes() == expected
    assert findings(either.settings) == []


def test_an_index_without_a_job_gets_one_that_can_be_resumed(store: Filled) -> None:
    def forget(session: Any) -> None:
        session.execute(delete(JobRow))

    in_database(store.settings, forget)
    shutil.rmtree(store.index_dir)
    repaired(store)
    with serving(store.settings) as client:
        job = client.get(f"/v1/indexes/{store.index}").json()["job_id"]
        assert client.post(f"/v1/jobs/{job}/resume").status_code == 202
        wait_for_index(client, store.index)
    assert findings(store.settings) == []


def test_damaged_rows_are_kept_aside_and_the_same_upload_makes_the_dataset_ready_again(either: Filled) -> None:
    flip(either.rows)
    damaged = either.rows.read_bytes()
    repaired(either)
    (kept,) = (either.settings.home / "damaged").iterdir()
    assert (kept / "rows.arrow").read_bytes() == damaged
    with serving(either.settings) as client:
        dataset = client.get(f"/v1/datasets/{either.dataset}").json()
        assert dataset["state"] == "failed" and "Upload the same rows" in dataset["error"]["remedy"]
        assert post_dataset(client, jsonl()).status_code == 201
    assert kinds(either) == ["dataset-whole-again"]
    repaired(either)
    with serving(either.settings) as client:
        assert client.get(f"/v1/datasets/{either.dataset}").json()["state"] == "ready"
        assert client.get(f"/v1/datasets/{either.dataset}/examples").status_code == 200


def test_rows_that_many_datasets_share_are_one_finding(store: Filled) -> None:
    with serving(store.settings) as client:
        second = post_dataset(client, jsonl()).json()["id"]
    flip(store.rows)
    (found,) = findings(store.settings)
    assert store.dataset in found.what and second in found.what
    repaired(store)


def test_a_scorecard_outlives_its_files(store: Filled) -> None:
    shutil.rmtree(store.evaluation_dir)
    assert kinds(store) == ["evaluation-damaged"]
    repaired(store)
    with serving(store.settings) as client:
        assert wait_for_evaluation(client, store.evaluation)["scorecard"]


def test_what_was_measured_outlives_its_files(store: Filled) -> None:
    shutil.rmtree(store.check_dir)
    assert kinds(store) == ["check-damaged"]
    repaired(store)
    with serving(store.settings) as client:
        assert client.get(f"/v1/checks/{store.check}").json()["result"]["sets"]


def test_the_results_of_a_batch_are_made_again(either: Filled) -> None:
    results = either.settings.batches_dir / either.batch / "results.jsonl"
    whole = results.read_bytes()
    for damaged in (whole[:-3], whole[: whole.index(b"\n") + 1], whole.replace(b"{", b"(", 1)):
        results.write_bytes(damaged)
        assert kinds(either) == ["batch-damaged"]
    repaired(either)
    with serving(either.settings) as client:
        job = client.get(f"/v1/attributions/batches/{either.batch}").json()["job_id"]
        assert client.post(f"/v1/jobs/{job}/resume").status_code == 202
        wait_for_job(client, job)
    assert results.read_bytes().count(b"\n") == 3
    assert findings(either.settings) == []


def test_an_index_of_another_revision_than_the_database_knows_is_found(store: Filled) -> None:
    def change(session: Any) -> None:
        session.get(IndexRow, store.index).revision = "another"

    in_database(store.settings, change)
    (found,) = findings(store.settings)
    assert "revision" in found.what and found.kind == "index-damaged"


ORPHANS = {
    f"datasets/{'0' * 64}": "orphan-dataset",
    f"indexes/idx_{ID}": "orphan-index",
    f"evaluations/evl_{ID}": "orphan-evaluation",
    f"checks/chk_{ID}": "orphan-check",
    f"batches/bat_{ID}": "orphan-batch",
    f"uploads/ds_{ID}": "orphan-upload",
    "indexes/.deleted-idx_x-12345678": "leftover",
    "datasets/.incoming-abc": "leftover",
    "indexes/.importing-abc": "leftover",
    "evaluations/.estimate-abc": "leftover",
    ".restoring-abc": "leftover",
}


def test_what_no_row_owns_is_found_once_it_is_old_and_removed(either: Filled) -> None:
    directories = {either.settings.home / path: kind for path, kind in ORPHANS.items()}
    for directory in directories:
        (directory / "inside").mkdir(parents=True)
        (directory / "inside" / "file").write_text("content")
    assert kinds(either) == []  # young: they may belong to something that is under way
    for directory in directories:
        make_old(directory)
    found = {either.settings.home / finding.subject: finding.kind for finding in findings(either.settings)}
    assert found == directories
    repaired(either)
    assert not any(directory.exists() for directory in directories)


def test_one_young_file_keeps_a_directory(store: Filled) -> None:
    directory = store.settings.indexes_dir / f"idx_{ID}"
    (directory / "shards").mkdir(parents=True)
    make_old(directory)
    (directory / "shards" / "00000.faiss").write_text("being written")
    assert kinds(store) == []


def test_the_upload_of_a_dataset_that_is_ready_is_an_orphan_and_one_that_waits_is_not(store: Filled) -> None:
    upload = store.settings.uploads_dir / store.uploaded
    upload.mkdir()
    make_old(upload)
    assert kinds(store) == ["orphan-upload"]

    def fail(session: Any) -> None:
        session.get(DatasetRow, store.uploaded).state = "failed"  # its job can be resumed

    in_database(store.settings, fail)
    assert kinds(store) == []


def test_what_whence_did_not_make_is_shown_and_never_removed(store: Filled) -> None:
    stray = store.settings.indexes_dir / "notes"
    stray.mkdir()
    make_old(stray)
    with looked_at(store.settings) as looked:
        outcome = repair(looked)
    assert [(finding.kind, finding.subject) for finding, _ in outcome.left] == [("unknown-file", "indexes/notes")]
    assert outcome.done == [] and stray.is_dir()


def test_partial_and_unrecorded_files_of_a_ready_index_are_found(store: Filled) -> None:
    partial, extra = store.index_dir / "shards" / "00002.faiss.partial", store.index_dir / "shards" / "00077.faiss"
    for path in (partial, extra):
        path.write_bytes(b"x")
    assert kinds(store) == []
    for path in (partial, extra):
        make_old(path)
    assert sorted(kinds(store)) == ["leftover", "unknown-file"]
    repaired(store)
    assert not partial.exists() and not extra.exists()


STUCK = {
    "dataset": (DatasetRow, "uploaded", "loading"),
    "index": (IndexRow, "index", "building"),
    "evaluation": (EvaluationRow, "evaluation", "running"),
    "check": (CheckRow, "check", "running"),
    "attribution": (AttributionRow, "attribution", "running"),
    "batch": (BatchRow, "batch", "running"),
}


@pytest.mark.parametrize("job", ["ended", "gone"])
def test_rows_that_wait_for_nothing_are_found_and_settled(either: Filled, job: str) -> None:
    def stick(session: Any) -> None:
        for table, name, state in STUCK.values():
            row = session.get(table, getattr(either, name))
            row.state = state
            if job == "gone" and row.job_id:
                session.delete(session.get(JobRow, row.job_id))

    in_database(either.settings, stick)
    found = {(finding.kind, finding.subject) for finding in findings(either.settings)}
    assert found == {(f"stuck-{what}", getattr(either, name)) for what, (_, name, _) in STUCK.items()}
    repaired(either)
    with serving(either.settings) as client:
        for what, (table, name, _) in STUCK.items():
            row_id = getattr(either, name)
            error, job_id = in_database(either.settings, lambda s, at=(table, row_id): _error_and_job(s.get(*at)))
            assert error["remedy"]
            if what in ("index", "evaluation", "check", "batch"):
                assert client.post(f"/v1/jobs/{job_id}/resume").status_code == 202
                wait_for_job(client, job_id)


def _error_and_job(row: Any) -> tuple[dict[str, Any], str | None]:
    assert row.state == "failed"
    return row.error, row.job_id


def test_a_row_whose_job_is_at_work_is_not_stuck(store: Filled) -> None:
    def queue(session: Any) -> None:
        row = session.get(IndexRow, store.index)
        row.state, session.get(JobRow, row.job_id).state = "queued", QUEUED

    in_database(store.settings, queue)
    assert kinds(store) == []


def test_a_dataset_that_lost_its_job_goes_on_from_its_upload(store: Filled) -> None:
    upload = store.settings.uploads_dir / store.uploaded
    upload.mkdir()
    (upload / "rows.jsonl").write_bytes(jsonl())

    def stick(session: Any) -> None:
        row = session.get(DatasetRow, store.uploaded)
        row.state = "loading"
        session.delete(session.get(JobRow, row.job_id))

    in_database(store.settings, stick)
    repaired(store)
    with serving(store.settings) as client:
        job = client.get(f"/v1/datasets/{store.uploaded}").json()["job_id"]
        client.post(f"/v1/jobs/{job}/resume")
        wait_for_job(client, job)
        assert client.get(f"/v1/datasets/{store.uploaded}").json()["rows"] == 4


def test_a_database_of_another_version_is_one_finding_and_nothing_else_is_asked(store: Filled) -> None:
    with looked_at(store.settings) as looked:
        downgrade(looked.database, "0001")
    assert kinds(store) == ["migrations"]


def test_a_damaged_database_is_one_finding(store: Filled) -> None:
    file = store.settings.home / "whence.sqlite3"
    content = bytearray(file.read_bytes())
    content[8192:12288] = b"\xff" * 4096
    file.write_bytes(bytes(content))
    (found,) = findings(store.settings)
    assert found.kind == "database-damaged" and "restore" in found.remedy


def test_every_check_is_listed() -> None:
    import app.doctor.contents as contents
    import app.doctor.database as database
    import app.doctor.orphans as orphans
    import app.doctor.stuck as stuck

    written = [
        check
        for module in (contents, database, orphans, stuck)
        for name, check in vars(module).items()
        if name.startswith("check_")
    ]
    assert set(written) == set(CHECKS)
