"""A service whose figures, lines and spans are looked at."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from app.dependencies import Services
from app.main import create_app
from app.settings import Settings
from tests.app.fakes import FakeEngine

EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
GPU = {"allocated_bytes": 3, "reserved_bytes": 4, "free_bytes": 5, "total_bytes": 9}


class BusyEngine(FakeEngine):
    """Reports what a lane with a GPU does, and a name that nobody may see."""

    def status(self) -> dict[str, Any]:
        done = {"batches": 3, "queries": 12, "tokens": 70, "busy_s": 1.5, "batch_sizes": {1: 1, 3: 1, 8: 1}}
        loaded = {"started": True, "builds_waiting": 1, "indexes_open": 2, "gpu_memory": GPU}
        return super().status() | loaded | done | {"queue_by_tenant": {"secret-tenant": 4}}


def families(client: TestClient) -> dict[str, Metric]:
    """What /metrics exposes, by the name it has there: counters with `_total`."""
    text = client.get("/metrics").text
    named = {}
    for family in text_string_to_metric_families(text):
        named[family.name + ("_total" if family.type == "counter" else "")] = family
    return named


def figures(client: TestClient) -> dict[str, float]:
    """By sample as it is written, e.g. `whence_jobs{state="queued"}`; labels in the order of their names."""
    found = {}
    for family in families(client).values():
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


@contextmanager
def traced(monkeypatch: pytest.MonkeyPatch, settings: Settings, engine: FakeEngine) -> Iterator[Traced]:
    """A running service that sends its spans to memory."""
    exporter = InMemorySpanExporter()
    module: Any = ModuleType(EXPORTER)
    module.OTLPSpanExporter = lambda: exporter
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
    monkeypatch.setitem(sys.modules, EXPORTER, module)
    app = create_app(settings, engine)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield Traced(client, app.state.services, exporter)


class Traced:
    def __init__(self, client: TestClient, services: Services, exporter: InMemorySpanExporter) -> None:
        self.client, self.services = client, services
        self._exporter = exporter

    def spans(self) -> list[ReadableSpan]:
        """Those that have ended, in that order."""
        assert self.services.traces.provider is not None
        self.services.traces.provider.force_flush()
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.spans() if span.name == name]
        return span

    def as_text(self) -> str:
        return "\n".join(span.to_json() for span in self.spans())


def lines(captured: str) -> list[dict[str, Any]]:
    """Log lines in JSON."""
    return [json.loads(line) for line in captured.splitlines()]


def fake_model(directory: Path) -> Path:
    """What the fake engine takes for a model."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    return directory
