"""What a worker does with a job, on SQLite and PostgreSQL: run, follow, report, adopt, beat."""

from __future__ import annotations

import errno
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.database import Database
from app.jobs.contract import Done, Handler, JobContext
from app.jobs.service import JobsService
from app.tables import DEFAULT_TENANT, JobRow
from engine.errors import StorageFull
from tests.app.benches import WorkerBench, at
from tests.app.conftest import wait_for


@pytest.fixture
def bench(database: Database, tmp_path: Path) -> WorkerBench:
    return WorkerBench(database, tmp_path)


def test_a_job_runs_and_its_resource_follows(bench: WorkerBench) -> None:
    job_id = bench.enqueue()
    assert bench.worker.run_next()
    job = bench.job(job_id)
    assert (job.state, job.result, job.error, job.attempt) == ("succeeded", {"answer": 42}, None, 1)
    assert job.started_at and job.finished_at and job.lease_until is None
    assert bench.followed == [("running", None), ("succeeded", "outcome")]
    assert [(kind, data.get("state")) for _, kind, data in bench.events(job_id)] == [
        ("state", "queued"),
        ("state", "running"),
        ("state", "succeeded"),
        ("end", "succeeded"),
    ]


def test_nothing_to_do_is_said(bench: WorkerBench) -> None:
    assert not bench.worker.run_next()


def test_an_engine_error_fails_the_job_with_its_problem(bench: WorkerBench) -> None:
    def run(_context: JobContext) -> Done:
        raise StorageFull("The disk is full after 3 shards.")

    bench.run = run
    job_id = bench.enqueue()
    bench.worker.run_next()
    job = bench.job(job_id)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["type"] == "urn:whence:problem:storage-full"
    assert job.error["status"] == 507
    assert "resume" in job.error["remedy"]
    assert bench.followed[-1] == ("failed", None)


def test_a_full_disk_is_named_even_when_python_says_it(bench: WorkerBench) -> None:
    def run(_context: JobContext) -> Done:
        raise OSError(errno.ENOSPC, "No space left on device")

    bench.run = run
    job_id = bench.enqueue()
    bench.worker.run_next()
    error = bench.job(job_id).error
    assert error is not None
    assert error["type"] == "urn:whence:problem:storage-full"


def test_an_unexpected_error_shows_nothing_of_its_inside(bench: WorkerBench) -> None:
    def run(_context: JobContext) -> Done:
        raise KeyError("secret/path")

    bench.run = run
    job_id = bench.enqueue()
    bench.worker.run_next()
    error = bench.job(job_id).error
    assert error is not None
    assert error["type"] == "urn:whence:problem:internal-error"
    assert "secret" not in str(error)


def test_progress_is_stored_and_logged(bench: WorkerBench) -> None:
    def run(context: JobContext) -> Done:
        context.checkpoint(at(0, "curvature"))
        context.checkpoint(at(0, "sketch"))
        context.checkpoint(at(10, "sketch"))
        context.message("half the disk is used")
        return Done({})

    bench.run = run
    job_id = bench.enqueue()
    bench.worker.run_next()
    assert bench.job(job_id).progress == {"done": 10, "total": 10, "unit": "rows", "phase": "sketch", "eta_s": 0.0}
    kinds = [(kind, data.get("phase")) for _, kind, data in bench.events(job_id) if kind != "state"]
    assert kinds == [
        ("progress", "curvature"),
        ("progress", "sketch"),
        ("progress", "sketch"),
        ("message", None),
        ("end", None),
    ]
    assert [seq for seq, _, _ in bench.events(job_id)] == list(range(1, 9))


def test_a_success_the_resource_cannot_record_is_a_failure(bench: WorkerBench) -> None:
    def follow(_session: Session, job: JobRow, _outcome: Any) -> None:
        if job.state == "succeeded":
            raise RuntimeError("the resource is gone")

    bench.worker.handlers["test"] = Handler(bench.run, follow)
    job_id = bench.enqueue()
    bench.worker.run_next()
    assert bench.job(job_id).state == "failed"


def test_a_failure_the_resource_cannot_record_still_ends_the_job(bench: WorkerBench) -> None:
    def follow(_session: Session, job: JobRow, _outcome: Any) -> None:
        if job.state != "running":
            raise RuntimeError("the resource is gone")

    bench.worker.handlers["test"] = Handler(bench.run, follow)
    job_id = bench.enqueue()
    bench.worker.run_next()
    assert bench.job(job_id).state == "failed"
    assert not bench.worker.run_next()


def test_a_job_of_a_kind_nobody_handles_fails_and_does_not_block_the_queue(bench: WorkerBench) -> None:
    unknown, known = bench.enqueue("from.the.future"), bench.enqueue()
    assert bench.worker.run_next()
    assert bench.worker.run_next()
    assert bench.job(unknown).state == "failed"
    assert bench.job(known).state == "succeeded"


def test_an_adopted_job_runs_around_its_future_and_is_claimed_by_nobody_else(bench: WorkerBench) -> None:
    bench.run = lambda context: Done({"value": context.future.result() if context.future else None})
    future: Future[int] = Future()
    with bench.database.write() as session:
        job = JobsService(session, DEFAULT_TENANT).enqueue("test", {}, adopted_by=bench.worker.id)
    assert not bench.worker.run_next()
    bench.worker.adopt(job.id, future)
    future.set_result(7)
    wait_for(lambda: bench.job(job.id).state == "succeeded")
    assert bench.job(job.id).result == {"value": 7}


def test_started_threads_take_jobs_without_waiting_for_the_poll(database: Database, tmp_path: Path) -> None:
    bench = WorkerBench(database, tmp_path, poll_seconds=600)
    bench.worker.start(bench.worker.handlers)
    try:
        job_id = bench.enqueue()
        wait_for(lambda: bench.job(job_id).state == "succeeded")
    finally:
        bench.worker.stop()


def test_a_small_job_does_not_wait_for_an_index_build(database: Database, tmp_path: Path) -> None:
    bench = WorkerBench(database, tmp_path)
    release = threading.Event()
    bench.worker.handlers["index.build"] = Handler(
        lambda _context: Done({"released": release.wait(10)}), lambda _session, _job, _outcome: None
    )
    bench.worker.start(bench.worker.handlers)
    try:
        builds = [bench.enqueue("index.build"), bench.enqueue("index.build")]
        wait_for(lambda: "running" in {bench.job(build).state for build in builds})
        small = bench.enqueue()
        wait_for(lambda: bench.job(small).state == "succeeded")
        assert {bench.job(build).state for build in builds} == {"running", "queued"}
    finally:
        release.set()
        bench.worker.stop()


def test_beats_keep_a_lease_alive(database: Database, tmp_path: Path) -> None:
    bench = WorkerBench(database, tmp_path, lease_seconds=0.4, beat_seconds=0.05)
    done = threading.Event()
    bench.run = lambda _context: Done({"waited": done.wait(10)})
    bench.worker.start(bench.worker.handlers)
    try:
        job_id = bench.enqueue()
        wait_for(lambda: bench.job(job_id).state == "running")
        threading.Event().wait(0.8)  # twice the lease
        assert not bench.worker.run_next()
        assert bench.job(job_id).attempt == 1
    finally:
        done.set()
        bench.worker.stop()
