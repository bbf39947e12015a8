"""The job of an answer that nobody waits for: it adopts the running computation, or asks again after a crash."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import Any

from sqlalchemy.orm import Session

from app.attributions.answer import answer_body
from app.attributions.planning import Plan, plan_attribution
from app.attributions.repository import AttributionsRepository
from app.attributions.schemas import AttributionCreate
from app.dependencies import Services
from app.jobs.contract import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED, Done, JobContext
from app.tables import AttributionRow, JobRow, utc_now
from app.telemetry.answers import watched
from engine.errors import QueueFull
from engine.types import Attribution, Progress

ATTRIBUTION = "attribution"
POLL_SECONDS = 0.1  # how soon a cancelled job lets go


def run_attribution(services: Services, context: JobContext) -> Done:
    """Raises what the engine raises, and Cancelled."""
    attribution_id = context.payload["attribution"]
    with services.database.read() as session:
        row = AttributionsRepository(session, context.tenant).get(attribution_id)
        body = AttributionCreate.model_validate(row.request)
        plan = plan_attribution(session, context.tenant, services.settings, body)
    future = context.future or _submit(services, plan, context)
    answer = answer_body(row, _wait(future, context), plan.live.rows)
    return Done({"attribution": attribution_id}, answer)


def _submit(services: Services, plan: Plan, context: JobContext) -> Future[Attribution]:
    """A job has time: it stands in line behind the requests that somebody waits for."""
    while True:
        try:
            return watched(services, plan.submit)
        except QueueFull as full:
            _tick(context)
            time.sleep(min(full.retry_after_s, 1.0))


def _wait(future: Future[Attribution], context: JobContext) -> Attribution:
    try:
        while True:
            try:
                return future.result(timeout=POLL_SECONDS)
            except TimeoutError:
                _tick(context)
    finally:
        future.cancel()  # does nothing to one that has ended


def _tick(context: JobContext) -> None:
    context.checkpoint(Progress(0, 1, "queries", "attribution"))


def follow_attribution(services: Services, session: Session, job: JobRow, answer: dict[str, Any] | None) -> None:
    """The attribution's row follows its job."""
    row = AttributionsRepository(session, job.tenant).find(job.payload["attribution"])
    if row is None:
        return
    if job.state == SUCCEEDED and answer is not None:
        finish(row, answer)
    elif job.state in (QUEUED, RUNNING):
        row.state, row.error, row.finished_at = "running", None, None
    elif job.state in (FAILED, CANCELLED):
        row.state, row.error, row.finished_at = job.state, job.error, utc_now()


def finish(row: AttributionRow, answer: dict[str, Any]) -> None:
    """The row takes the answer, and the answer what storing it took."""
    now = utc_now()
    answer["timings_ms"] |= {"total": round((now - row.created_at).total_seconds() * 1000, 3)}
    row.state, row.error, row.finished_at = "succeeded", None, now
    row.method, row.revision, row.result = answer["method"], answer["revision"], answer
