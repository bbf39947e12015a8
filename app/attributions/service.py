"""From a question to a stored answer. The way of one query: plan → engine → answer → store → trust (DESIGN §3)."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.attributions.answer import stored_body
from app.attributions.keeping import KeptAnswers
from app.attributions.planning import Plan, plan_attribution
from app.attributions.prefer import Preference
from app.attributions.repository import AttributionsRepository
from app.attributions.schemas import AttributionCreate
from app.attributions.trusted import TrustedAnswers
from app.attributions.working import ATTRIBUTION, follow_attribution, run_attribution
from app.dependencies import Services
from app.errors import InUse, Unavailable
from app.jobs.limits import check_room
from app.jobs.service import JobsService
from app.pagination import PageRequest
from app.tables import AttributionRow, utc_now
from app.telemetry.answers import watched
from engine.types import Attribution

__all__ = ["Answered", "AttributionsService", "ask", "follow_attribution", "run_attribution"]


class AttributionsService:
    """Stored answers of one tenant, within one transaction."""

    def __init__(self, session: Session, tenant: str) -> None:
        self.repository = AttributionsRepository(session, tenant)

    def get(self, attribution_id: str) -> AttributionRow:
        return self.repository.get(attribution_id)

    def page(
        self,
        request: PageRequest,
        *,
        model: str | None,
        index: str | None,
        since: datetime | None,
        state: str | None = None,
    ) -> tuple[list[AttributionRow], str | None]:
        return self.repository.matching(request, model=model, index=index, since=since, state=state)

    def delete(self, attribution_id: str) -> None:
        """Raises InUse while its job runs."""
        row = self.repository.get(attribution_id)
        if row.state == "running":
            raise InUse(f"Attribution '{row.id}' is being computed by '{row.job_id}'.", used_by=row.job_id)
        self.repository.delete(row)


@dataclass(frozen=True)
class Answered:
    """`status` 200: `body` is the answer; 202: a job goes on with it."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


async def ask(
    services: Services, tenant: str, body: AttributionCreate, preference: Preference, *, use_stored: bool
) -> Answered:
    """Plan, wait for the lane, store. When the wait runs out, a job adopts the running computation."""
    asked_at = utc_now()
    with services.traces.span("plan"):
        plan, stored = await run_in_threadpool(_plan, services, tenant, body, use_stored)
    services.metrics.asked("hit" if stored is not None else "miss" if use_stored else "bypassed")
    if stored is not None:
        return Answered(200, stored, {"X-Whence-Cache": "hit"})
    if preference.seconds == 0:  # certain to become a job: refused before anything is computed
        await run_in_threadpool(_check_job_room, services, tenant)
    # In a thread: the first use of the engine loads its libraries.
    future = await run_in_threadpool(watched, services, plan.submit)
    if preference.seconds > 0 and await _ended(future, preference.seconds):
        body_ = await run_in_threadpool(_store, services, tenant, plan, _result(future), asked_at)
        return Answered(200, body_, {"X-Whence-Cache": "miss"})
    return await run_in_threadpool(_adopt, services, tenant, plan, future, preference, asked_at)


def _plan(
    services: Services, tenant: str, body: AttributionCreate, use_stored: bool
) -> tuple[Plan, dict[str, Any] | None]:
    with services.database.read() as session:
        plan = plan_attribution(session, tenant, services.settings, body)
        earlier = KeptAnswers(session, tenant).earlier(plan) if use_stored else None
        return plan, earlier and TrustedAnswers(session, tenant).shown(earlier)


def _check_job_room(services: Services, tenant: str) -> None:
    with services.database.read() as session:
        check_room(session, tenant, hold=False)


async def _ended(future: Future[Attribution], seconds: float) -> bool:
    """True when the computation ended within the wait. Left by its client, a queued one is taken back."""
    waiter = asyncio.wrap_future(future)
    waiter.add_done_callback(_look_at_exception)
    try:
        done, _ = await asyncio.wait({waiter}, timeout=seconds)
    except asyncio.CancelledError:
        future.cancel()
        raise
    return bool(done)


def _look_at_exception(waiter: asyncio.Future[Attribution]) -> None:
    """An adopted computation's failure is the job's to report, not asyncio's."""
    if not waiter.cancelled():
        waiter.exception()


def _result(future: Future[Attribution]) -> Attribution:
    try:
        return future.result()
    except CancelledError as error:
        raise Unavailable("The server is stopping.") from error


def _store(services: Services, tenant: str, plan: Plan, attribution: Attribution, asked_at: datetime) -> dict[str, Any]:
    began = time.perf_counter()
    with services.traces.span("store"), services.database.write() as session:
        row = KeptAnswers(session, tenant).keep(plan, attribution, asked_at)
    services.metrics.stage("store", time.perf_counter() - began)
    with services.database.read() as session:
        return TrustedAnswers(session, tenant).shown(row)


def _adopt(
    services: Services,
    tenant: str,
    plan: Plan,
    future: Future[Attribution],
    preference: Preference,
    asked_at: datetime,
) -> Answered:
    """One that was waited for becomes a job beyond the limit of jobs, too: app.jobs.service."""
    try:
        with services.database.write() as session:
            row = AttributionsRepository(session, tenant).add(plan.row("running", asked_at))
            job = JobsService(session, tenant).enqueue(
                ATTRIBUTION,
                {"attribution": row.id},
                resource_id=row.id,
                adopted_by=services.worker.id,
                waited=preference.seconds > 0,
            )
            row.job_id = job.id
    except BaseException:
        future.cancel()
        raise
    services.worker.adopt(job.id, future)
    applied = {"Preference-Applied": preference.applied} if preference.applied else {}
    headers = {"Location": f"/v1/jobs/{job.id}"} | applied
    return Answered(202, stored_body(row), headers)
