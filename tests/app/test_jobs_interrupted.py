"""Jobs that do not run straight to their end, on SQLite and PostgreSQL: cancelled, resumed, crashed, lost, released."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Never

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.database import Database
from app.jobs.contract import Done, JobContext
from engine.errors import StorageFull
from tests.app.benches import WorkerBench, at


@pytest.fixture
def bench(database: Database, tmp_path: Path) -> WorkerBench:
    return WorkerBench(database, tmp_path)


def test_a_queued_job_is_cancelled_at_once(bench: WorkerBench) -> None:
    job_id = bench.enqueue()
    bench.cancel(job_id)
    assert bench.job(job_id).state == "cancelled"
    assert bench.followed == [("cancelled", None)]
    assert not bench.worker.run_next()


def test_a_running_job_is_cancelled_at_its_next_checkpoint(bench: WorkerBench) -> None:
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


def test_a_beat_notices_the_cancellation_that_a_throttled_checkpoint_would_miss(bench: WorkerBench) -> None:
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


def test_a_failed_job_can_be_resumed(bench: WorkerBench) -> None:
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


def test_a_crashed_job_goes_on_by_itself(bench: WorkerBench) -> None:
    job_id = bench.enqueue()
    bench.crash()
    assert bench.worker.run_next()
    assert (bench.job(job_id).state, bench.job(job_id).attempt) == ("succeeded", 2)


def test_a_job_that_crashes_three_times_without_progress_fails(bench: WorkerBench) -> None:
    job_id = bench.enqueue()
    for _ in range(3):
        bench.crash()
    assert bench.worker.run_next()
    job = bench.job(job_id)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["type"] == "urn:whence:problem:no-progress"
    assert "3 times" in job.error["detail"]
    assert bench.followed == [("failed", None)]


def test_progress_between_crashes_keeps_the_job_alive(bench: WorkerBench) -> None:
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


def test_a_worker_that_lost_its_job_stops_and_writes_nothing(bench: WorkerBench) -> None:
    def run(context: JobContext) -> Done:
        bench.lose()
        context.checkpoint(at(10))
        raise AssertionError("the checkpoint did not stop the work")

    bench.run = run
    job_id = bench.enqueue()
    bench.worker.run_next()
    job = bench.job(job_id)
    assert (job.state, job.worker_id, job.attempt, job.progress) == ("running", "heir", 2, None)
    assert bench.followed == [("running", None)]


def test_the_result_of_a_worker_that_lost_its_job_is_thrown_away(bench: WorkerBench) -> None:
    def run(context: JobContext) -> Done:
        bench.lose()
        return Done({"from": "the loser"})

    bench.run = run
    job_id = bench.enqueue()
    bench.worker.run_next()
    assert (bench.job(job_id).state, bench.job(job_id).result) == ("running", None)


def test_a_fenced_transaction_does_not_begin(bench: WorkerBench) -> None:
    entered = []

    def run(context: JobContext) -> Done:
        with context.transaction():
            entered.append("owner")
        bench.lose()
        with context.transaction():
            entered.append("loser")
        return Done({})

    bench.run = run
    bench.enqueue()
    bench.worker.run_next()
    assert entered == ["owner"]


def test_stopping_the_server_puts_the_job_back_in_the_queue(bench: WorkerBench) -> None:
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


def cut_connection(database: Database) -> Never:
    """What a handler meets when the database goes away under it."""
    with database.read() as session:
        try:
            session.execute(text("SELECT 1"))
        finally:
            session.invalidate()
    raise OperationalError("SELECT 1", {}, Exception("server closed the connection unexpectedly"))


def test_a_connection_that_is_cut_under_a_job_does_not_fail_it(bench: WorkerBench) -> None:
    seen: list[int] = []

    def run(context: JobContext) -> Done:
        seen.append(context.attempt)
        context.checkpoint(at(len(seen)))
        if len(seen) < 4:
            cut_connection(bench.database)
        return Done({"runs": len(seen)})

    bench.run = run
    job_id = bench.enqueue()
    bench.worker.run_next()
    job = bench.job(job_id)
    assert (job.state, job.result, seen) == ("succeeded", {"runs": 4}, [1, 1, 1, 1])
    assert [state for state, _ in bench.followed] == ["running", "succeeded"]


def test_a_job_that_the_database_never_lets_through_fails_and_says_so(
    bench: WorkerBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.jobs.attempt.FIRST_PAUSE_SECONDS", 0.0)
    bench.run = lambda _context: cut_connection(bench.database)
    job_id = bench.enqueue()
    bench.worker.run_next()
    job = bench.job(job_id)
    assert job.state == "failed" and job.error is not None
    assert (job.error["status"], job.error["detail"]) == (503, "The database does not answer.")


def test_a_cancelled_job_is_not_begun_again(bench: WorkerBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.jobs.attempt.FIRST_PAUSE_SECONDS", 0.0)

    def run(context: JobContext) -> Done:
        bench.cancel(context.job_id)
        for attempt in bench.worker._running():
            attempt.beat()
        cut_connection(bench.database)

    bench.run = run
    job_id = bench.enqueue()
    bench.worker.run_next()
    assert bench.job(job_id).state == "cancelled"
