"""Structured logs, Prometheus metrics and, when an OTLP endpoint is configured, traces."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from app import __version__
from app.settings import Settings

log = structlog.get_logger("whence.telemetry")

JobCounts = Callable[[], Mapping[str, int]]
EngineStatus = Callable[[], Mapping[str, Any]]

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


def configure_logging(settings: Settings) -> None:
    """Logs go to stderr; context (request_id, job_id) is added to every line of its request or job."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if settings.log_format == "json":
        # Never the locals: they hold what callers sent, their keys included.
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        rendering = [structlog.processors.ExceptionRenderer(tracebacks), structlog.processors.JSONRenderer()]
    else:
        plain = structlog.dev.plain_traceback
        rendering = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    structlog.configure(
        processors=shared + rendering,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level.upper()]),
        logger_factory=_stderr_logger,
        cache_logger_on_first_use=False,
    )


def _stderr_logger(*_: object) -> structlog.PrintLogger:
    """Looks sys.stderr up on every line, so that redirecting it redirects the log."""
    return structlog.PrintLogger(sys.stderr)


class Metrics:
    """One registry an app: several apps in one process do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self.requests = Counter(
            "whence_http_requests_total", "HTTP requests by route template.", labels, registry=self.registry
        )
        self.duration = Histogram(
            "whence_http_request_duration_seconds",
            "Time to the end of the response.",
            ("method", "route"),
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        info = Gauge("whence_info", "Always 1; its label is the version.", ("version",), registry=self.registry)
        info.labels(__version__).set(1)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        self.requests.labels(method, route, str(status)).inc()
        self.duration.labels(method, route).observe(seconds)

    def watch(self, jobs_by_state: JobCounts, engine_status: EngineStatus) -> None:
        """Gauges that are read when /metrics is."""
        self.registry.register(_Watched(jobs_by_state, engine_status))


class _Watched(Collector):
    def __init__(self, jobs_by_state: JobCounts, engine_status: EngineStatus) -> None:
        self._jobs_by_state = jobs_by_state
        self._engine_status = engine_status

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return ()  # registering must not query the database

    def collect(self) -> Iterable[GaugeMetricFamily]:
        jobs = GaugeMetricFamily("whence_jobs", "Jobs by state.", labels=["state"])
        for state, count in self._jobs_by_state().items():
            jobs.add_metric([state], count)
        yield jobs
        for name, value in self._engine_status().items():
            if isinstance(value, (int, float)):
                yield GaugeMetricFamily(f"whence_engine_{name}", f"The engine's {name}.", value=float(value))


def instrument(app: FastAPI) -> None:
    """Traces, only when OTEL_EXPORTER_OTLP_ENDPOINT is set and an OTLP exporter is installed."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # pyright: ignore[reportMissingImports]
            OTLPSpanExporter,
        )
    except ImportError:
        log.warning("no traces: pip install opentelemetry-exporter-otlp-proto-http")
        return
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "whence", "service.version": __version__}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
    app.state.tracer_provider = provider
