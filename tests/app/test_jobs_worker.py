"""What a worker does with a job, on SQLite and PostgreSQL: run, follow, cancel, release, give up."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.database import Database
from app.jobs.contract import Done, Handler, JobContext
from app.jobs.queue import JobQueue
from app.jobs.service import JobsService
from app.tables import DEFAULT_TENANT, JobEventRow, JobRow, utc_now
from app.worker import Worker
from engine.errors import StorageFull
from engine.types import Progress
from tests.app.conftest import make_settings, wait_for

Run = Callable[[JobContext], Done]


class Bench:
    """A worker whose one kind of job does what the test says, and remembers how it was followed."""

    def __init__(self, database: Database, home: Path, **settings: Any) -> None:
        self.database = database
        self.worker = Worker(make_settings(home, **settings), database)
        self.followed: list[tuple[str, Any]] = []
        self.run: Run = lambda _context: Done({"answer": 42}, "outcome")
        self.worker.handlers["test"] = Handler(lambda context: self.run(context), self._follow)

    def _follow(self, _session: Session, job: JobRow, outcome: Any) -> None:
        self.followed.append((job.state, outcome))

    def enqueue(self, kind: str = "test") -> str:
        with self.database.write() as session:
            return JobsService(session, DEFAULT_TENANT).enqueue(kind, {"n": 1}).id

    def job(self, job_id: str) -> JobRow:
        with self.database.read() as session:
            return session.get_one(JobRow, job_id)

    def events(self, job_id: str) -> list[tuple[int, str, Any]]:
        with self.database.read() as session:
            query = select(JobEventRow).where(JobEventRow.job_id == job_id).order_by(JobEventRow.seq)
            return [(event.seq, event.kind, event.data) for event in session.scalars(query)]

    def cancel(self, job_id: str) -> None:
        with self.database.write() as session:
            JobsService(session, DEFAULT_TENANT).cancel(job_id, self.worker.follow)

    def resume(self, job_id: str) -> None:
        with self.database.write() as session:
            JobsService(session, DEFAULT_TENANT).resume(job_id, self.worker.follow)

    def crash(self, job_id: str) -> None:
        """The job as a process killed in the middle of it leaves it, its lease run out."""
        with self.database.write() as session:
            JobQueue(session, timedelta(seconds=-1)).claim("dead")
        assert self.job(job_id).state == "running"

    def in_background(self) -> threading.Thread:
        thread = threading.Thread(target=self.worker.run_next)
        thread.start()
        return thread


@pytest.fixture
def bench(database: Database, tmp_path: Path) -> Bench:
    return Bench(database, tmp_path)


def at(done: int, phase: str = "sketch", total: int = 10) -> Progress:
    return Progress(done, total, "rows", phase)


def test_a_job_runs_and_its_resource_follows(bench: Bench) -> None:
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


def test_nothing_to_do_is_said(bench: Bench) -> None:
    assert not bench.worker.run_next()


def test_an_engine_error_fails_the_job_with_its_problem(bench: Bench) -> None:
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


def test_a_full_disk_is_named_even_when_python_says_it(bench: Bench) -> None:
    def run(_context: JobContext) -> Done:
        raise OSError(errno.ENOSPC, "No space left on device")

    bench.run = run
    job_id = bench.enqueue()
    bench.worker.run_next()
    error = bench.job(job_id).error
    assert error is not None
    assert error["type"] == "urn:whence:problem:storage-full"


def test_an_unexpected_error_shows_nothing_of_its_inside(bench: Bench) -> None:
    def run(_context: JobContext) -> Done:
        raise KeyError("secret/path")

    bench.run = run
    job_id = bench.enqueue()
    bench.worker.run_next()
    error = bench.job(job_id).error
    assert error is not None
    assert error["type"] == "urn:whence:problem:internal-error"
    assert "secret" not in str(error)


def test_progress_is_stored_and_logged(bench: Bench) -> None:
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


def test_a_queued_job_is_cancelled_at_once(bench: Bench) -> None:
    job_id = bench.enqueue()
    bench.cancel(job_id)
    assert bench.job(job_id).state == "cancelled"
    assert bench.followed == [("cancelled", None)]
    assert not bench.worker.run_next()


def test_a_running_job_is_cancelled_at_its_next_checkpoint(bench: Bench) -> None:
    reached: list[int] = []

    def run(context: JobContext) -> Done:
        for done in range(10):
            if done == 5:
                bench.cancel(context.job_id)
            context.checkpoint(at(0, f"phase {done}"))
            reached.append(done)
        return Done({})

    bench.run = run
    job_id = bench.enqueue()
    bench.worker.run_next()
    assert reached == [0, 1, 2, 3, 4]
    assert bench.job(job_id).state == "cancelled"
    assert [state for state, _ in bench.followed] == ["running", "cancelling", "cancelled"]


def test_a_beat_notices_the_cancellation_that_a_throttled_checkpoint_would_miss(bench: Bench) -> None:
    def run(context: JobContext) -> Done:
        context.checkpoint(at(0))
        bench.cancel(context.job_id)
        context.checkpoint(at(1))  # too soon after the first to be written
        for attempt in bench.worker._running():
            attempt.beat()
        context.checkpoint(at(2))
        raise AssertionError("the checkpoint did not stop the work")

    bench.run = run
    job_id = bench.enqueue()
    bench.worker.run_next()
    assert bench.job(job_id).state == "cancelled"


def test_a_failed_job_can_be_resumed(bench: Bench) -> None:
    answers: Iterator[Any] = iter([StorageFull("full"), Done({"answer": 1})])

    def run(_context: JobContext) -> Done:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    bench.run = run
    job_id = bench.enqueue()
    bench.worker.run_next()
    bench.resume(job_id)
    assert (bench.job(job_id).state, bench.job(job_id).error) == ("queued", None)
    bench.worker.run_next()
    job = bench.job(job_id)
    assert (job.state, job.attempt, job.result) == ("succeeded", 2, {"answer": 1})
    assert [state for state, _ in bench.followed] == ["running", "failed", "queued", "running", "succeeded"]


def test_a_crashed_job_goes_on_by_itself(bench: Bench) -> None:
    job_id = bench.enqueue()
    bench.crash(job_id)
    assert bench.worker.run_next()
    assert (bench.job(job_id).state, bench.job(job_id).attempt) == ("succeeded", 2)


def test_a_job_that_crashes_three_times_without_progress_fails(bench: Bench) -> None:
    job_id = bench.enqueue()
    for _ in range(3):
        bench.crash(job_id)
    assert bench.worker.run_next()
    job = bench.job(job_id)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["type"] == "urn:whence:problem:no-progress"
    assert "3 times" in job.error["detail"]
    assert bench.followed == [("failed", None)]


def test_progress_between_crashes_keeps_the_job_alive(bench: Bench) -> None:
    """Each attempt gets one step further than the one before, then the process dies."""
    job_id = bench.enqueue()

    class Killed(BaseException):
        pass

    for step in range(5):

        def run(context: JobContext, step: int = step) -> Done:
            context.checkpoint(at(0, "curvature"))
            context.checkpoint(at(step + 1, f"sketch {step}"))
            raise Killed

        bench.run = run
        with pytest.raises(Killed):
            bench.worker.run_next()
        bench.worker.take_over()
    bench.run = lambda _context: Done({})
    bench.worker.run_next()
    assert (bench.job(job_id).state, bench.job(job_id).attempt) == ("succeeded", 6)


def test_a_worker_that_lost_its_job_stops_and_writes_nothing(bench: Bench) -> None:
    def run(context: JobContext) -> Done:
        with bench.database.write() as session:
            session.get_one(JobRow, context.job_id).lease_until = utc_now() - timedelta(seconds=1)
        with bench.database.write() as session:
            assert JobQueue(session, timedelta(seconds=60)).claim("heir") is not None
        context.checkpoint(at(10))
        raise AssertionError("the checkpoint did not stop the work")

    bench.run = run
    job_id = bench.enqueue()
    bench.worker.run_next()
    job = bench.job(job_id)
    assert (job.state, job.worker_id, job.attempt, job.progress) == ("running", "heir", 2, None)
    assert bench.followed == [("running", None)]


def test_the_result_of_a_worker_that_lost_its_job_is_thrown_away(bench: Bench) -> None:
    def run(context: JobContext) -> Done:
        bench.worker.take_over()
        with bench.database.write() as session:
            JobQueue(session, timedelta(seconds=60)).claim("heir")
        return Done({"from": "the loser"})

    bench.run = run
    job_id = bench.enqueue()
    bench.worker.run_next()
    assert (bench.job(job_id).state, bench.job(job_id).result) == ("running", None)


def test_a_fenced_transaction_does_not_begin(bench: Bench) -> None:
    entered = []

    def run(context: JobContext) -> Done:
        with context.transaction():
            entered.append("owner")
        bench.worker.take_over()
        with bench.database.write() as session:
            JobQueue(session, timedelta(seconds=60)).claim("heir")
        with context.transaction():
            entered.append("loser")
        return Done({})

    bench.run = run
    bench.enqueue()
    bench.worker.run_next()
    assert entered == ["owner"]


def test_stopping_the_server_puts_the_job_back_in_the_queue(bench: Bench) -> None:
    started = threading.Event()

    def run(context: JobContext) -> Done:
        started.set()
        for done in range(100_000):
            context.checkpoint(at(done, total=100_000))
            threading.Event().wait(0.001)
        return Done({})

    bench.run = run
    job_id = bench.enqueue()
    thread = bench.in_background()
    assert started.wait(5)
    bench.worker.stop()
    thread.join(5)
    assert not thread.is_alive()
    job = bench.job(job_id)
    assert (job.state, job.worker_id, job.attempts_without_progress) == ("queued", None, 0)
    assert [state for state, _ in bench.followed] == ["running", "queued"]


def test_a_success_the_resource_cannot_record_is_a_failure(bench: Bench) -> None:
    def follow(_session: Session, job: JobRow, _outcome: Any) -> None:
        if job.state == "succeeded":
            raise RuntimeError("the resource is gone")

    bench.worker.handlers["test"] = Handler(bench.run, follow)
    job_id = bench.enqueue()
    bench.worker.run_next()
    assert bench.job(job_id).state == "failed"


def test_a_failure_the_resource_cannot_record_still_ends_the_job(bench: Bench) -> None:
    def follow(_session: Session, job: JobRow, _outcome: Any) -> None:
        if job.state != "running":
            raise RuntimeError("the resource is gone")

    bench.worker.handlers["test"] = Handler(bench.run, follow)
    job_id = bench.enqueue()
    bench.worker.run_next()
    assert bench.job(job_id).state == "failed"
    assert not bench.worker.run_next()


def test_a_job_of_a_kind_nobody_handles_fails_and_does_not_block_the_queue(bench: Bench) -> None:
    unknown, known = bench.enqueue("from.the.future"), bench.enqueue()
    assert bench.worker.run_next()
    assert bench.worker.run_next()
    assert bench.job(unknown).state == "failed"
    assert bench.job(known).state == "succeeded"


def test_an_adopted_job_runs_around_its_future_and_is_claimed_by_nobody_else(bench: Bench) -> None:
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
    bench = Bench(database, tmp_path, poll_seconds=600)
    bench.worker.start(bench.worker.handlers)
    try:
        job_id = bench.enqueue()
        wait_for(lambda: bench.job(job_id).state == "succeeded")
    finally:
        bench.worker.stop()


def test_a_small_job_does_not_wait_for_an_index_build(database: Database, tmp_path: Path) -> None:
    bench = Bench(database, tmp_path)
    release = threading.Event()
    bench.worker.handlers["index.build"] = Handler(
        lambda _context: Done({"released": release.wait(10)}), lambda _session, _job, _outcome: None
    )
    bench.worker.start(bench.worker.handlers)
    try:
        builds = [bench.enqueue("index.build"), bench.enqueue("index.build")]
        small = bench.enqueue()
        wait_for(lambda: bench.job(small).state == "succeeded")
        assert {bench.job(build).state for build in builds} == {"running", "queued"}
    finally:
        release.set()
        bench.worker.stop()


def test_beats_keep_a_lease_alive(database: Database, tmp_path: Path) -> None:
    bench = Bench(database, tmp_path, lease_seconds=0.4, beat_seconds=0.05)
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
