"""One attempt at a job, seen from outside: a line at its start and its end, its duration, its span."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog
from opentelemetry.trace import Span, StatusCode

from app.jobs.attempt import LOST
from app.jobs.contract import FAILED
from app.tables.base import utc_now
from app.tables.job import JobRow
from app.telemetry.metrics import Metrics
from app.telemetry.traces import ORIGIN, Traces
from engine.types import Progress

log = structlog.get_logger("whence.jobs")

BUILD = "index.build"


@dataclass
class WatchedAttempt:
    """The attempt reports its progress here, and at its end what became of it."""

    span: Span
    count: Callable[[Progress], None]
    outcome: str = LOST
    _phase: str | None = field(default=None, init=False)

    def progress(self, progress: Progress) -> None:
        self.count(progress)
        if progress.phase != self._phase:
            self._phase = progress.phase
            told = {"phase": progress.phase, "done": progress.done, "total": progress.total, "unit": progress.unit}
            self.span.add_event("phase", {f"whence.{name}": value for name, value in told.items()})


@contextmanager
def watched_attempt(metrics: Metrics, traces: Traces, job: JobRow) -> Iterator[WatchedAttempt]:
    """Lines of the block carry the job, and the request that asked for it."""
    asked = job.payload.get(ORIGIN, {})
    context = {"job_id": job.id, "kind": job.kind, "attempt": job.attempt}
    if request_id := asked.get("request_id"):
        context["request_id"] = request_id
    building = job.kind == BUILD
    if job.attempt == 1:
        metrics.job_wait.labels(job.kind).observe(max(0.0, (utc_now() - job.created_at).total_seconds()))
    with (
        structlog.contextvars.bound_contextvars(**context),
        traces.span(
            f"job {job.kind}", asked.get("traceparent"), job=job.id, kind=job.kind, attempt=job.attempt
        ) as span,
    ):
        log.info("job started")
        began = time.monotonic()
        watch = WatchedAttempt(span, lambda progress: metrics.builds.report(job.id, progress) if building else None)
        try:
            yield watch
        finally:
            metrics.builds.ended(job.id)
            seconds = time.monotonic() - began
            metrics.job_ended(job.kind, watch.outcome, seconds)
            _end_span(span, watch.outcome)
            log.info("job ended", outcome=watch.outcome, seconds=round(seconds, 3))


def _end_span(span: Span, outcome: str) -> None:
    span.set_attribute("whence.outcome", outcome)
    if outcome == FAILED:
        span.set_status(StatusCode.ERROR)
