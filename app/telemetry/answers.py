"""One attribution in the engine, seen from outside: its outcome, its stages as figures and as spans.

The engine reports durations only, in the order of its stages; the spans are laid end to end from the hand-over. Queries
of one batch share their forward passes, so they share those seconds too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING

from opentelemetry.context import Context

from app.errors import problem_of
from app.telemetry.metrics import Metrics, Outcome
from app.telemetry.traces import Traces, current
from engine.types import Attribution

if TYPE_CHECKING:
    from app.dependencies import Services
    from app.engine_client import EngineClient


def watched(services: Services, submit: Callable[[EngineClient], Future[Attribution]]) -> Future[Attribution]:
    """Submits an attribution and reports its end, whoever waits for it by then."""
    parent, began_ns = current(), time.time_ns()
    future = submit(services.engine)
    future.add_done_callback(lambda done: _report(services.metrics, services.traces, done, parent, began_ns))
    return future


def _report(metrics: Metrics, traces: Traces, future: Future[Attribution], parent: Context, began_ns: int) -> None:
    """On the engine's own thread: no more than counting."""
    ended_ns = time.time_ns()
    outcome, failure = _outcome(future)
    timings_ms = future.result().timings_ms if outcome == "succeeded" else {}
    metrics.attribution_ended(outcome, (ended_ns - began_ns) / 1e9, timings_ms)
    if traces.enabled:
        below = traces.record("engine", began_ns, ended_ns, parent, failure, outcome=outcome)
        _record_stages(traces, timings_ms, below, began_ns, ended_ns)


def _outcome(future: Future[Attribution]) -> tuple[Outcome, str | None]:
    """And what failed. "rejected": the question's own fault."""
    if future.cancelled():
        return "cancelled", None
    error = future.exception()
    if error is None:
        return "succeeded", None
    rejected = problem_of(error)["status"] < 500
    return ("rejected" if rejected else "failed"), type(error).__name__


def _record_stages(
    traces: Traces, timings_ms: Mapping[str, float], parent: Context, began_ns: int, ended_ns: int
) -> None:
    at = began_ns
    for stage, milliseconds in timings_ms.items():
        if stage == "total":
            continue
        until = min(at + round(milliseconds * 1e6), ended_ns)
        traces.record(f"engine.{stage}", at, until, parent, stage=stage)
        at = until
