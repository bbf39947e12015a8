"""Rows that wait for a job that has ended, or is gone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import select

from app.attributions.working import ATTRIBUTION
from app.batches.running import BATCH
from app.checks.running import CHECK
from app.datasets.service import LOAD
from app.doctor import repairs
from app.doctor.findings import Finding, Store
from app.evaluations.running import EVALUATE
from app.indexes.building import BUILD
from app.jobs.contract import ACTIVE
from app.tables import AttributionRow, BatchRow, CheckRow, DatasetRow, EvaluationRow, IndexRow, JobRow


@dataclass(frozen=True)
class Waiting:
    """Rows of `table` in one of `states` have a job of this kind at work; its payload names the row by `noun`."""

    table: type[Any]
    noun: str
    states: tuple[str, ...]
    job_kind: str


WAITING = (
    Waiting(DatasetRow, "dataset", ("loading",), LOAD),
    Waiting(IndexRow, "index", ("queued", "building"), BUILD),
    Waiting(EvaluationRow, "evaluation", ("queued", "running"), EVALUATE),
    Waiting(CheckRow, "check", ("queued", "running"), CHECK),
    Waiting(AttributionRow, "attribution", ("running",), ATTRIBUTION),
    Waiting(BatchRow, "batch", ("queued", "running"), BATCH),
)


def check_stuck_rows(store: Store) -> Iterator[Finding]:
    for waiting in WAITING:
        table = waiting.table
        # one statement, one moment: a row and its job change in one transaction
        query = select(table.id, table.state, JobRow.id, JobRow.state).outerjoin(JobRow, JobRow.id == table.job_id)
        with store.database.read() as session:
            found = session.execute(query.where(table.state.in_(waiting.states)).order_by(table.id)).all()
        for row_id, state, job_id, job_state in found:
            if job_state in ACTIVE:
                continue
            cause = f"its job {job_id} has ended ({job_state})" if job_id else "it has no job (any more)"
            remedy = "--repair marks it as failed, so that its job can be resumed."
            if table is AttributionRow:
                remedy = "--repair marks it as failed; ask again."
            repair = partial(repairs.settle, waiting=waiting, row_id=row_id)
            yield Finding(f"stuck-{waiting.noun}", row_id, f"It is {state}, but {cause}.", remedy, repair)
