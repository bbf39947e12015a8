"""Jobs in words. `templates/running/_live.html` shows a JobView wherever a page follows a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from app.dashboard.pages import Notice, notice_of
from app.dashboard.words import duration, moment
from app.jobs.contract import ACTIVE, CANCELLED, CANCELLING, FAILED, QUEUED, RUNNING, SUCCEEDED
from app.tables import JobEventRow, JobRow, utc_now

KINDS = {
    "index.build": "Building an index",
    "evaluation.run": "Measuring trust",
    "check.run": "Checking an answer",
    "dataset.load": "Loading a dataset",
    "attribution": "Answering a question",
    "attribution.batch": "Answering a batch",
}
# How an id begins → the address of its page, and what it is called.
_PAGES = {
    "idx": ("/ui/indexes/", "index"),
    "evl": ("/ui/evaluations/", "evaluation"),
    "chk": ("/ui/checks/", "check"),
    "ds": ("/ui/datasets/", "dataset"),
    "mdl": ("/ui/models/", "model"),
    "att": ("/ui/attributions/", "answer"),
}
_STATES = {
    "queued": "It waits for a worker.",
    "running": "It is running.",
    "cancelling": "It stops at its next checkpoint; what is finished is kept.",
    "succeeded": "It has finished.",
    "failed": "It has failed. What was finished is kept.",
    "cancelled": "It was cancelled. What was finished is kept.",
}


@dataclass(frozen=True)
class Resource:
    """What a job works for. href: None where it has no page."""

    id: str
    noun: str
    href: str | None


@dataclass(frozen=True)
class JobView:
    """done, total: of the phase, for a progress bar; total 0: unknown. count, eta: words, empty when not known.
    last_seq: the number of its newest event. takes: how long it took, or has been running."""

    id: str
    title: str
    kind: str
    state: str
    said: str
    active: bool
    phase: str
    done: int
    total: int
    count: str
    eta: str
    resource: Resource | None
    can_cancel: bool
    can_resume: bool
    problem: Notice | None
    attempt: int
    created: str
    started: str
    finished: str
    takes: str
    last_seq: int


@dataclass(frozen=True)
class EventView:
    seq: int
    when: str
    kind: str
    text: str


def job_view(job: JobRow) -> JobView:
    progress = job.progress or {}
    active, done = job.state in ACTIVE, job.state == SUCCEEDED
    return JobView(
        id=job.id,
        title=KINDS.get(job.kind, job.kind),
        kind=job.kind,
        state=job.state,
        said=_STATES.get(job.state, ""),
        active=active,
        phase="" if done else str(progress.get("phase", "")),
        done=int(progress.get("done", 0)),
        total=int(progress.get("total", 0)),
        count="" if done else _count(progress),
        eta=time_left(progress.get("eta_s")) if job.state == RUNNING else "",
        resource=resource_of(job.resource_id),
        can_cancel=job.state in (QUEUED, RUNNING),
        can_resume=job.state in (FAILED, CANCELLED),
        problem=notice_of(job.error) if job.error else None,
        attempt=job.attempt,
        created=moment(job.created_at),
        started=moment(job.started_at),
        finished=moment(job.finished_at),
        takes=_takes(job),
        last_seq=job.last_seq,
    )


def resource_of(resource_id: str | None) -> Resource | None:
    if resource_id is None:
        return None
    address, noun = _PAGES.get(resource_id.partition("_")[0], (None, "made"))
    return Resource(resource_id, noun, None if address is None else address + resource_id)


def time_left(seconds: float | None) -> str:
    """As live.js says it."""
    if seconds is None:
        return ""
    if seconds < 1:
        return "nearly done"
    if seconds < 60:
        return f"about {seconds:.0f} s left"
    minutes = round(seconds / 60)
    return f"about {minutes} min left" if minutes < 60 else f"about {minutes // 60} h {minutes % 60} min left"


def event_views(events: Sequence[JobEventRow]) -> list[EventView]:
    return [
        EventView(event.seq, f"{event.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}", event.kind, _text(event.kind, event.data))
        for event in events
    ]


def _text(kind: str, data: dict[str, Any]) -> str:
    if kind == "message":
        return str(data.get("text", ""))
    if kind == "progress":
        return " · ".join(filter(None, (str(data.get("phase", "")), _count(data), time_left(data.get("eta_s")))))
    attempt = f" (attempt {data['attempt']})" if data.get("attempt") else ""
    error = data.get("error") or {}
    return f"{data.get('state', '')}{attempt}" + (f": {error['detail']}" if error.get("detail") else "")


def _count(progress: dict[str, Any]) -> str:
    if not progress.get("total"):
        return ""
    return f"{progress['done']:,} of {progress['total']:,} {progress['unit']}"


def _takes(job: JobRow) -> str:
    if job.started_at is None:
        return "–"
    return duration(((job.finished_at or utc_now()) - job.started_at).total_seconds())


STATES = (QUEUED, RUNNING, CANCELLING, SUCCEEDED, FAILED, CANCELLED)
