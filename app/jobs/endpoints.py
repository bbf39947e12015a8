"""/v1/jobs"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse

from app.bodies import problems
from app.dependencies import Paging, ReadSession, Services, ServicesDep, Tenant, WriteSession
from app.errors import InvalidRequest
from app.jobs.contract import ENDED
from app.jobs.schemas import JobEventOut, JobOut, JobState
from app.jobs.service import JobsService
from app.jobs.stream import event_stream
from app.pagination import MAX_LIMIT, Page, bad_cursor, decode_cursor, encode_cursor

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

EVENT_STREAM = "text/event-stream"
MAX_SEQ = 2**31 - 1


@router.get("", operation_id="list_jobs", summary="List jobs, newest first", responses=problems(422, 503))
def list_jobs(
    page: Paging,
    session: ReadSession,
    tenant: Tenant,
    kind: Annotated[str | None, Query(description="Only jobs of this kind.")] = None,
    state: Annotated[JobState | None, Query(description="Only jobs in this state.")] = None,
) -> Page[JobOut]:
    rows, cursor = JobsService(session, tenant).page(page, kind=kind, state=state)
    return Page(data=[JobOut.model_validate(row) for row in rows], next_cursor=cursor)


@router.get("/{job_id}", operation_id="get_job", summary="One job", responses=problems(404, 422, 503))
def get_job(job_id: str, session: ReadSession, tenant: Tenant) -> JobOut:
    return JobOut.model_validate(JobsService(session, tenant).get(job_id))


@router.delete(
    "/{job_id}",
    status_code=204,
    operation_id="delete_job",
    summary="Forget an ended job",
    responses=problems(404, 409, 422, 503),
)
def delete_job(job_id: str, session: WriteSession, tenant: Tenant) -> None:
    JobsService(session, tenant).delete(job_id)


@router.post(
    "/{job_id}/cancel",
    status_code=202,
    operation_id="cancel_job",
    summary="Cancel: at once when queued, at the next checkpoint when running",
    responses=problems(404, 409, 422, 503),
)
def cancel_job(job_id: str, session: WriteSession, tenant: Tenant, services: ServicesDep) -> JobOut:
    return JobOut.model_validate(JobsService(session, tenant).cancel(job_id, services.worker.follow))


@router.post(
    "/{job_id}/resume",
    status_code=202,
    operation_id="resume_job",
    summary="Queue a failed or cancelled job again; finished parts are kept",
    responses=problems(404, 409, 422, 503),
)
def resume_job(job_id: str, session: WriteSession, tenant: Tenant, services: ServicesDep, response: Response) -> JobOut:
    job = JobsService(session, tenant).resume(job_id, services.worker.follow)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return JobOut.model_validate(job)


@router.get(
    "/{job_id}/events",
    operation_id="list_job_events",
    summary="What happened to a job: a JSON list, or a stream with `Accept: text/event-stream`",
    response_model=Page[JobEventOut],
    responses={200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}}} | problems(404, 422, 503),
)
def job_events(
    job_id: str,
    session: ReadSession,
    tenant: Tenant,
    services: ServicesDep,
    accept: Annotated[str, Header()] = "*/*",
    last_event_id: Annotated[str | None, Header(description="Go on after this event of the stream.")] = None,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = MAX_LIMIT,
) -> Page[JobEventOut] | Response:
    jobs = JobsService(session, tenant)
    job = jobs.get(job_id)
    if EVENT_STREAM in accept:
        after = _seq_of(last_event_id)
        # 204 tells an EventSource that has seen the end not to connect again.
        nothing_to_come = job.state in ENDED and after >= job.last_seq
        return Response(status_code=204) if nothing_to_come else _stream(services, tenant, job_id, after)
    return _event_page(jobs, job_id, cursor, limit)


def _stream(services: Services, tenant: str, job_id: str, after: int) -> StreamingResponse:
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    events = event_stream(services, tenant, job_id, after)
    return StreamingResponse(events, media_type=EVENT_STREAM, headers=headers)


def _event_page(jobs: JobsService, job_id: str, cursor: str | None, limit: int) -> Page[JobEventOut]:
    """Oldest first: events are a log, and `next_cursor` goes on towards the present."""
    after = 0 if cursor is None else decode_cursor(cursor, 1)[0]
    if not isinstance(after, int) or not 0 <= after <= MAX_SEQ:
        raise bad_cursor(str(cursor))
    events = jobs.events(job_id, after=after, limit=limit)
    more = len(events) == limit
    data = [JobEventOut.model_validate(event) for event in events]
    return Page(data=data, next_cursor=encode_cursor(events[-1].seq) if more else None)


def _seq_of(last_event_id: str | None) -> int:
    if not last_event_id:
        return 0
    try:
        return max(0, min(int(last_event_id), MAX_SEQ))
    except ValueError:
        message = f"Last-Event-ID must be the id of an event, not '{last_event_id[:40]}'."
        raise InvalidRequest(message, pointer="header:last-event-id") from None
