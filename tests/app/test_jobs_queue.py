"""The queue on SQLite and PostgreSQL: claims, leases, fences."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from app.database import Database
from app.jobs.contract import CANCELLING, QUEUED, RUNNING
from app.jobs.queue import Fence, Fenced, JobQueue
from app.jobs.service import JobsService
from app.tables import DEFAULT_TENANT, JobRow, utc_now

LEASE = timedelta(seconds=60)


def enqueue(database: Database, kind: str = "index.build") -> str:
    with database.write() as session:
        return JobsService(session, DEFAULT_TENANT).enqueue(kind, {}).id


def claim(database: Database, worker: str, excluding: tuple[str, ...] = ()) -> JobRow | None:
    with database.write() as session:
        return JobQueue(session, LEASE).claim(worker, excluding)


def change(database: Database, job_id: str, **columns: object) -> None:
    with database.write() as session:
        job = session.get_one(JobRow, job_id)
        for name, value in columns.items():
            setattr(job, name, value)


def test_a_job_is_claimed_once(database: Database) -> None:
    job_id = enqueue(database)
    claimed = claim(database, "first")
    assert claimed is not None
    assert (claimed.id, claimed.state, claimed.worker_id, claimed.attempt) == (job_id, RUNNING, "first", 1)
    assert claim(database, "second") is None


def test_of_workers_that_claim_at_the_same_time_each_job_goes_to_one(database: Database) -> None:
    job_ids = {enqueue(database) for _ in range(12)}

    def drain(worker: str) -> list[str]:
        taken = []
        while (job := claim(database, worker)) is not None:
            taken.append(job.id)
        return taken

    with ThreadPoolExecutor(4) as pool:
        taken = [job_id for jobs in pool.map(drain, ["a", "b", "c", "d"]) for job_id in jobs]
    assert sorted(taken) == sorted(job_ids)


def test_the_oldest_job_comes_first(database: Database) -> None:
    first, second = enqueue(database), enqueue(database)
    change(database, first, created_at=utc_now() + timedelta(minutes=1))
    claimed = claim(database, "worker")
    assert claimed is not None
    assert claimed.id == second


def test_excluded_kinds_are_left_to_others(database: Database) -> None:
    enqueue(database, "index.build")
    assert claim(database, "worker", excluding=("index.build",)) is None
    small = enqueue(database, "dataset.load")
    claimed = claim(database, "worker", excluding=("index.build",))
    assert claimed is not None
    assert claimed.id == small


def test_a_job_whose_lease_ran_out_is_taken_over_by_one_worker(database: Database) -> None:
    job_id = enqueue(database)
    claim(database, "dead")
    change(database, job_id, lease_until=utc_now() - timedelta(seconds=1))
    takers = [claim(database, "second"), claim(database, "third")]
    assert [job.worker_id if job else None for job in takers] == ["second", None]
    assert takers[0] is not None
    assert takers[0].attempt == 2


def test_a_live_lease_is_respected(database: Database) -> None:
    job_id = enqueue(database)
    claim(database, "alive")
    change(database, job_id, lease_until=utc_now() + timedelta(seconds=1))
    assert claim(database, "second") is None


def test_holding_renews_the_lease(database: Database) -> None:
    job_id = enqueue(database)
    claim(database, "worker")
    change(database, job_id, lease_until=utc_now() - timedelta(seconds=1))
    with database.write() as session:
        JobQueue(session, LEASE).hold(Fence(job_id, "worker", 1))
    assert claim(database, "second") is None


@pytest.mark.parametrize(
    "fence", [("worker", 2), ("another", 1)], ids=["another attempt", "another worker's same attempt"]
)
def test_a_worker_that_does_not_own_the_job_is_fenced(database: Database, fence: tuple[str, int]) -> None:
    job_id = enqueue(database)
    claim(database, "worker")
    with pytest.raises(Fenced), database.write() as session:
        JobQueue(session, LEASE).hold(Fence(job_id, *fence))


def test_what_a_fenced_worker_wrote_is_rolled_back(database: Database) -> None:
    job_id = enqueue(database)
    claim(database, "dead")
    change(database, job_id, lease_until=utc_now() - timedelta(seconds=1))
    claim(database, "heir")

    def write_late() -> None:
        with database.write() as session:
            session.get_one(JobRow, job_id).result = {"from": "the dead"}
            session.flush()
            JobQueue(session, LEASE).hold(Fence(job_id, "dead", 1))

    with pytest.raises(Fenced):
        write_late()
    with database.read() as session:
        assert session.get_one(JobRow, job_id).result is None


def test_a_cancelling_job_of_a_dead_worker_keeps_its_state_when_taken_over(database: Database) -> None:
    job_id = enqueue(database)
    claim(database, "dead")
    change(database, job_id, state=CANCELLING, lease_until=utc_now() - timedelta(seconds=1))
    claimed = claim(database, "heir")
    assert claimed is not None
    assert claimed.state == CANCELLING


def test_expire_all_frees_what_runs_and_nothing_else(database: Database) -> None:
    running, queued = enqueue(database), enqueue(database)
    claim(database, "dead")
    with database.write() as session:
        JobQueue(session, LEASE).expire_all()
    with database.read() as session:
        assert session.get_one(JobRow, queued).state == QUEUED
    taken = claim(database, "heir")
    assert taken is not None
    assert (taken.id, taken.attempt) == (running, 2)


def test_an_enqueue_that_is_rolled_back_leaves_no_job(database: Database) -> None:
    def request() -> None:
        with database.write() as session:
            JobsService(session, DEFAULT_TENANT).enqueue("index.build", {})
            raise RuntimeError("the request failed")

    with pytest.raises(RuntimeError):
        request()
    assert claim(database, "worker") is None
