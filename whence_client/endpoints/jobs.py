"""/v1/jobs"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from whence_client.endpoints.paging import collect
from whence_client.flow import Flow, Request
from whence_client.types import Job, JobEvent, JobProgress, Page
from whence_client.waiting import Watch
from whence_client.wire import ask, discard, get, post


def retrieve(job_id: str) -> Flow[Job]:
    return ask(get(f"/v1/jobs/{job_id}"), Job)


def list_page(
    *, kind: str | None = None, state: str | None = None, cursor: str | None = None, limit: int | None = None
) -> Flow[Page[Job]]:
    """One page, newest first."""
    return ask(get("/v1/jobs", kind=kind, state=state, cursor=cursor, limit=limit), Page[Job])


def list_all() -> Flow[list[Job]]:
    """Every job, newest first, page after page."""
    return collect(list_page)


def events(job_id: str, *, cursor: str | None = None, limit: int | None = None) -> Flow[Page[JobEvent]]:
    """What has happened so far, oldest first."""
    return ask(get(f"/v1/jobs/{job_id}/events", cursor=cursor, limit=limit), Page[JobEvent])


def cancel(job_id: str) -> Flow[Job]:
    """Ask a job to stop; it stops between two batches and keeps its finished shards."""
    return ask(post(f"/v1/jobs/{job_id}/cancel"), Job)


def resume(job_id: str) -> Flow[Job]:
    """Let a failed or cancelled job go on from its last finished shard."""
    # Without a key, so never repeated: a second one finds the job queued, which is a Conflict.
    return ask(Request("POST", f"/v1/jobs/{job_id}/resume"), Job)


def delete(job_id: str) -> Flow[None]:
    """Forget an ended job and its events."""
    return discard(f"/v1/jobs/{job_id}")


def wait(
    job: Job | str,
    *,
    on_progress: Callable[[JobProgress], Any] | None = None,
    on_event: Callable[[JobEvent], Any] | None = None,
    timeout: float | None = None,
) -> Flow[Job]:
    """Wait until the job is done; follows its event stream and, where a proxy holds that back, polls.

    on_progress is called with each new progress; on_event with each event of the stream. `timeout` in seconds.
    Raises JobFailed when it failed or was cancelled, and Timeout (the job goes on).
    """
    watch = Watch(job.id if isinstance(job, Job) else job, on_progress, on_event, timeout)
    return watch.run(retrieve)
