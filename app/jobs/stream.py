"""A job's events as Server-Sent Events."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence

import anyio
from anyio.to_thread import run_sync

from app.dependencies import Services
from app.jobs.contract import ENDED
from app.jobs.repository import JobsRepository
from app.tables.job_event import JobEventRow

BATCH = 500


async def event_stream(services: Services, tenant: str, job_id: str, after: int) -> AsyncIterator[str]:
    """Every event after `after`, then new ones as they come; closes after the last `end`.

    It polls, because the worker may be another process; a comment now and then keeps proxies from
    closing the connection and tells a dead one apart.
    """
    settings = services.settings
    quiet_since = time.monotonic()
    while not services.closing.is_set():
        events, ended = await run_sync(_news, services, tenant, job_id, after)
        for event in events:
            after = event.seq
            yield _frame(event)
        if ended:
            return
        if events:
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since >= settings.sse_comment_seconds:
            quiet_since = time.monotonic()
            yield ": still here\n\n"
        await anyio.sleep(settings.sse_poll_seconds if len(events) < BATCH else 0)


def _news(services: Services, tenant: str, job_id: str, after: int) -> tuple[Sequence[JobEventRow], bool]:
    """New events, and whether they are the last: a deleted job has none to come either."""
    with services.database.read() as session:
        repository = JobsRepository(session, tenant)
        job = repository.find(job_id)
        if job is None:
            return [], True
        events = repository.events(job_id, after, BATCH)
        seen = events[-1].seq if events else after
        return events, job.state in ENDED and seen >= job.last_seq


def _frame(event: JobEventRow) -> str:
    data = json.dumps(event.data, ensure_ascii=False)
    return f"id: {event.seq}\nevent: {event.kind}\ndata: {data}\n\n"
