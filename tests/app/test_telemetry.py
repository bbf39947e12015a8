"""Traces are asked for by the standard variable; logs are JSON or text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import structlog
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app import telemetry
from app.main import create_app
from app.settings import Settings
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine

EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


def test_without_an_endpoint_nothing_is_traced(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert not getattr(create_app(settings, FakeEngine()), "_is_instrumented_by_opentelemetry", False)


def test_a_missing_exporter_is_named_and_stops_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry.configure_logging(settings)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
    monkeypatch.setitem(sys.modules, EXPORTER, None)
    create_app(settings, FakeEngine())
    assert "opentelemetry-exporter-otlp-proto-http" in capsys.readouterr().err


def test_with_endpoint_and_exporter_requests_are_traced(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    spans = InMemorySpanExporter()

    def exporter() -> SpanExporter:
        return spans

    module: Any = ModuleType(EXPORTER)
    module.OTLPSpanExporter = exporter
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
    monkeypatch.setitem(sys.modules, EXPORTER, module)
    app = create_app(settings, FakeEngine())
    with TestClient(app) as client:
        client.get("/v1/limits")
    app.state.tracer_provider.force_flush()
    assert "GET /v1/limits" in {span.name for span in spans.get_finished_spans()}


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_line_carries_its_context(tmp_path: Path, log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure_logging(make_settings(tmp_path, log_format=log_format))
    with structlog.contextvars.bound_contextvars(job_id="job_1"):
        structlog.get_logger().warning("disk nearly full")
        structlog.get_logger().info("not at this level")
    (line,) = capsys.readouterr().err.splitlines()
    assert "disk nearly full" in line and "job_1" in line
    if log_format == "json":
        assert json.loads(line)["level"] == "warning"
