"""The registry: what is counted as it happens. Labels take few values: never ids, tenants or paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from app import __version__
from app.telemetry.running import RunningBuilds

disable_created_metrics()  # a second series beside every counter and histogram, which nobody asks for

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
JOB_BUCKETS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# The stages of an attribution, as the engine and the service time them; `queue` has a histogram of its own.
STAGES = ("tokenize", "gradient", "sketch", "precondition", "search", "explain", "store")
OTHER = "other"
MAX_PROBLEMS = 200  # codes of problems: they are ours and few; this is the belt to that

Outcome = Literal["succeeded", "rejected", "failed", "cancelled"]
CacheResult = Literal["hit", "miss", "bypassed"]


class Metrics:
    """One registry an app: several apps in one process do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # process_*: memory, CPU, open files
        Gauge("whence_info", "Always 1; its label is the version.", ("version",), registry=self.registry).labels(
            __version__
        ).set(1)
        self._http()
        self._attributions()
        self._jobs()

    def _http(self) -> None:
        where = ("method", "route")
        self.requests = Counter(
            "whence_http_requests_total", "Requests, by route template.", (*where, "status"), registry=self.registry
        )
        self.duration = Histogram(
            "whence_http_request_duration_seconds",
            "Time from a request's arrival to the end of its response.",
            where,
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.sent = Counter(
            "whence_http_response_bytes_total", "Bytes of response bodies.", where, registry=self.registry
        )
        self.in_flight = Gauge("whence_http_requests_in_flight", "Requests being answered.", registry=self.registry)
        self.problems = Counter(
            "whence_http_problems_total",
            "Refusals and errors by the code in their problem type: rate limits, keys, limits, a full queue, …",
            ("code",),
            registry=self.registry,
        )
        self._problems: set[str] = set()

    def _attributions(self) -> None:
        self.attributions = Counter(
            "whence_attributions_total",
            "Attributions that the engine was asked for and that have ended, by outcome.",
            ("outcome",),
            registry=self.registry,
        )
        self.attribution_duration = Histogram(
            "whence_attribution_duration_seconds",
            "From the hand-over to the engine to the answer, waiting included.",
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.stages = Histogram(
            "whence_attribution_stage_seconds",
            "Seconds of one attribution in each stage.",
            ("stage",),
            buckets=STAGE_BUCKETS,
            registry=self.registry,
        )
        self.queue_wait = Histogram(
            "whence_engine_queue_wait_seconds",
            "How long an attribution waited for the engine.",
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.cache = Counter(
            "whence_attribution_cache_requests_total",
            "Questions by whether a stored answer served them.",
            ("result",),
            registry=self.registry,
        )
        for outcome in ("succeeded", "rejected", "failed", "cancelled"):
            self.attributions.labels(outcome)
        for result in ("hit", "miss", "bypassed"):
            self.cache.labels(result)

    def _jobs(self) -> None:
        self.job_duration = Histogram(
            "whence_job_duration_seconds",
            "Duration of attempts at jobs, by kind and outcome.",
            ("kind", "outcome"),
            buckets=JOB_BUCKETS,
            registry=self.registry,
        )
        self.job_wait = Histogram(
            "whence_job_wait_seconds",
            "From a job's creation to its first attempt.",
            ("kind",),
            buckets=JOB_BUCKETS,
            registry=self.registry,
        )
        self.index_rows = Counter(
            "whence_index_rows_total",
            "Passes over rows that index builds made, by phase.",
            ("phase",),
            registry=self.registry,
        )
        self.builds = RunningBuilds(self.index_rows)

    def observe(self, method: str, route: str, status: int, seconds: float, sent_bytes: int = 0) -> None:
        """One answered request. `route` is a template."""
        method = known_method(method)
        self.requests.labels(method, route, str(status)).inc()
        self.duration.labels(method, route).observe(seconds)
        self.sent.labels(method, route).inc(sent_bytes)

    def problem(self, code: str) -> None:
        """`code`: the last part of the problem's type."""
        if code not in self._problems and len(self._problems) >= MAX_PROBLEMS:
            code = OTHER
        self._problems.add(code)
        self.problems.labels(code).inc()

    def attribution_ended(self, outcome: Outcome, seconds: float, timings_ms: Mapping[str, float]) -> None:
        """timings_ms: what the engine reports of one attribution."""
        self.attributions.labels(outcome).inc()
        if outcome != "succeeded":
            return
        self.attribution_duration.observe(seconds)
        for stage, milliseconds in timings_ms.items():
            if stage == "queue":
                self.queue_wait.observe(milliseconds / 1000)
            elif stage != "total":
                self.stage(stage, milliseconds / 1000)

    def stage(self, stage: str, seconds: float) -> None:
        self.stages.labels(stage if stage in STAGES else OTHER).observe(seconds)

    def asked(self, result: CacheResult) -> None:
        self.cache.labels(result).inc()

    def job_ended(self, kind: str, outcome: str, seconds: float) -> None:
        self.job_duration.labels(kind, outcome).observe(seconds)


def known_method(method: str) -> str:
    """Callers may write any word there."""
    return method if method in METHODS else OTHER
