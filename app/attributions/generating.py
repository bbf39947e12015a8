"""What the model says to a prompt, before anything is asked about it: the first stage of an answer."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

from starlette.concurrency import run_in_threadpool

from app.attributions.keeping import KeptAnswers
from app.attributions.planning import Plan, plan_attribution
from app.attributions.schemas import AttributionCreate
from app.dependencies import Services
from app.errors import Unavailable
from engine.types import Generated


class TooSlow(Unavailable):
    """Nothing goes on with it: unlike an answer, a text alone is not worth a job."""

    code, title = "generation-slow", "The model takes long to answer"


async def generate(services: Services, tenant: str, body: AttributionCreate, seconds: float) -> Generated:
    """The text that asking `body` would explain. Raises what asking does, and TooSlow after `seconds`."""
    plan, _ = await run_in_threadpool(_planned, services, tenant, body)
    return await _said(services, plan, tenant, seconds)


async def generate_first(services: Services, tenant: str, body: AttributionCreate, seconds: float) -> Generated | None:
    """None where there is nothing to show first: the answer is stored already."""
    plan, answered = await run_in_threadpool(_planned, services, tenant, body)
    return None if answered else await _said(services, plan, tenant, seconds)


def _planned(services: Services, tenant: str, body: AttributionCreate) -> tuple[Plan, bool]:
    """And whether its answer is stored."""
    with services.database.read() as session:
        plan = plan_attribution(session, tenant, services.settings, body)
        return plan, KeptAnswers(session, tenant).earlier(plan) is not None


async def _said(services: Services, plan: Plan, tenant: str, seconds: float) -> Generated:
    # In a thread: the first use of the engine loads its libraries.
    future: Future[Generated] = await run_in_threadpool(
        services.engine.submit_generation, plan.live.model, plan.query, tenant
    )
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), seconds)
    except TimeoutError as error:
        detail = f"It was not ready after {seconds:.0f} s: other questions, or a build, are before it."
        remedy = "Ask with the output left empty: that goes on as a job. Or try again later, or ask for fewer tokens."
        raise TooSlow(detail, remedy=remedy) from error
