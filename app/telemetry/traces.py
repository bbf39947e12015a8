"""Spans of a request, its job and the engine's stages, and where they go.

Without OTEL_EXPORTER_OTLP_ENDPOINT nothing is made and nothing is kept. A span never holds prompts, completions, rows
or keys: what leaves is only what `ALLOWED` names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
from fastapi import FastAPI
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, NonRecordingSpan, Span, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from app import __version__

log = structlog.get_logger("whence.telemetry")

ORIGIN = "_origin"  # a key of a job's payload: who asked for it
EXPORTER_PACKAGE = "opentelemetry-exporter-otlp-proto-http"
# By their beginnings. The instrumentation knows more (URLs, addresses, agents): callers write what they like there.
ALLOWED = ("whence.", "http.request.method", "http.method", "http.route", "http.response.status_code")
ALLOWED += ("http.status_code", "exception.type", "error.type")
QUIET = "livez,readyz,metrics"  # polled

_W3C = TraceContextTextMapPropagator()


class Traces:
    """One an app. Every call costs next to nothing until `export_to` was called."""

    def __init__(self) -> None:
        self.provider: TracerProvider | None = None
        self._tracer: trace.Tracer = trace.NoOpTracer()

    @property
    def enabled(self) -> bool:
        return self.provider is not None

    def export_to(self, processor: SpanProcessor) -> None:
        resource = Resource.create({"service.name": "whence", "service.version": __version__})
        self.provider = TracerProvider(resource=resource)
        self.provider.add_span_processor(processor)
        self._tracer = self.provider.get_tracer("whence", __version__)

    @contextmanager
    def span(self, name: str, origin: str | None = None, **attributes: AttributeValue) -> Iterator[Span]:
        """A span around a block, below the active one; an exception marks it failed, with its type alone.

        origin: a W3C traceparent; the span belongs to its trace then, and is linked to the span named there.
        """
        if not self.enabled:
            yield trace.INVALID_SPAN
            return
        parent = _W3C.extract({"traceparent": origin}) if origin else None
        links = (
            [Link(found)] if parent and (found := trace.get_current_span(parent).get_span_context()).is_valid else []
        )
        with self._tracer.start_as_current_span(
            name, context=parent, links=links, attributes=_named(attributes), set_status_on_exception=False
        ) as span:
            try:
                yield span
            except Exception as error:
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise

    def record(
        self,
        name: str,
        began_ns: int,
        ended_ns: int,
        parent: Context,
        failure: str | None = None,
        **attributes: AttributeValue,
    ) -> Context:
        """A span of something that is over; below `parent`. Returns the context to put others below it."""
        span = self._tracer.start_span(name, parent, start_time=began_ns, attributes=_named(attributes))
        if failure is not None:
            span.set_status(Status(StatusCode.ERROR, failure))
        span.end(ended_ns)
        return trace.set_span_in_context(NonRecordingSpan(span.get_span_context()), parent)

    def close(self) -> None:
        """Sends what is left."""
        if self.provider is not None:
            self.provider.shutdown()


class Clean(SpanExporter):
    """Before an exporter: passes on what ALLOWED names and nothing else."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._inner.export([cleaned(span) for span in spans])

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._inner.force_flush(timeout_millis)


def cleaned(span: ReadableSpan) -> ReadableSpan:
    """The same span; its status keeps an exception's type and loses its message."""
    status = span.status
    if status.description is not None:
        status = Status(status.status_code, status.description.split(":")[0].split()[0][:60])
    return ReadableSpan(
        name=span.name,
        context=span.get_span_context(),
        parent=span.parent,
        resource=span.resource,
        attributes=_allowed(span.attributes),
        events=[Event(event.name, _allowed(event.attributes), event.timestamp) for event in span.events],
        links=span.links,
        kind=span.kind,
        status=status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def traceparent() -> str | None:
    """The active span as W3C writes it; None where there is none."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return carrier.get("traceparent")


def origin() -> dict[str, Any]:
    """What a job's payload keeps of the request that asks for it: its id, and its span where it is traced."""
    known = {"request_id": structlog.contextvars.get_contextvars().get("request_id"), "traceparent": traceparent()}
    kept = {name: value for name, value in known.items() if value}
    return {ORIGIN: kept} if kept else {}


def current() -> Context:
    """The context of the active span, to be kept for `Traces.record`."""
    return otel_context.get_current()


def instrument(app: FastAPI, traces: Traces) -> None:
    """Traces, only when OTEL_EXPORTER_OTLP_ENDPOINT is set and an OTLP exporter is installed."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # pyright: ignore[reportMissingImports]
            OTLPSpanExporter,
        )
    except ImportError:
        log.warning(f"no traces: pip install {EXPORTER_PACKAGE}")
        return
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    traces.export_to(BatchSpanProcessor(Clean(OTLPSpanExporter())))
    # Without the spans of single ASGI messages: an event stream would make thousands.
    FastAPIInstrumentor.instrument_app(
        app, tracer_provider=traces.provider, excluded_urls=QUIET, exclude_spans=["receive", "send"]
    )


def _named(attributes: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
    return {f"whence.{name}": value for name, value in attributes.items()}


def _allowed(attributes: Mapping[str, AttributeValue] | None) -> dict[str, AttributeValue]:
    return {name: value for name, value in (attributes or {}).items() if name.startswith(ALLOWED)}
