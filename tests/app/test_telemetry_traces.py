"""Traces: asked for by the standard variable; one from the request to its job and the engine's stages."""

from __future__ import annotations

import sys
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode
from sqlalchemy import select

from app import telemetry
from app.dependencies import Services
from app.main import create_app
from app.settings import Settings
from app.tables import JobRow
from app.telemetry.traces import ORIGIN, Traces, origin, traceparent
from engine.errors import InvalidQuery
from tests.app.conftest import make_settings, wait_for
from tests.app.fakes import FakeEngine
from tests.app.observed import EXPORTER, Traced, lines, traced
from tests.app.resources import QUESTION, add_dataset, add_index, add_model, ready_index, wait_for_job
from tests.app.test_telemetry_logs import SECRETS, tell_secrets

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STAGES = ["engine.queue", "engine.tokenize", "engine.gradient", "engine.search"]


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def trace_id(span: ReadableSpan) -> str:
    return f"{span.get_span_context().trace_id:032x}"


def span_id(span: ReadableSpan) -> int:
    return span.get_span_context().span_id


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


# --- on and off ---


def test_without_an_endpoint_nothing_is_traced(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, model_dir: Path
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    app = create_app(settings, FakeEngine())
    assert not getattr(app, "_is_instrumented_by_opentelemetry", False)
    services: Services = app.state.services
    with TestClient(app) as client:
        index = ready_index(client, model_dir)
        with services.database.read() as session:
            payload = session.scalars(select(JobRow.payload).where(JobRow.id == index["job_id"])).one()
    assert not services.traces.enabled
    assert set(payload[ORIGIN]) == {"request_id"}


def test_a_span_that_goes_nowhere_is_no_span() -> None:
    traces = Traces()
    with traces.span("plan", PARENT, secret=1) as span:
        assert not span.is_recording()
        assert traceparent() is None
    assert origin() == {}
    traces.close()


def test_a_missing_exporter_is_named_and_stops_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry.configure_logging(settings)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
    monkeypatch.setitem(sys.modules, EXPORTER, None)
    app = create_app(settings, FakeEngine())
    assert "opentelemetry-exporter-otlp-proto-http" in capsys.readouterr().err
    assert not app.state.services.traces.enabled


def test_what_is_polled_is_not_traced(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with traced(monkeypatch, settings, FakeEngine()) as service:
        for path in ("/livez", "/readyz", "/metrics", "/v1/limits"):
            service.client.get(path)
    assert [span.name for span in service.spans()] == ["GET /v1/limits"]


# --- a request ---


def test_a_question_is_one_trace(settings: Settings, monkeypatch: pytest.MonkeyPatch, model_dir: Path) -> None:
    engine = FakeEngine()
    with traced(monkeypatch, settings, engine) as service:
        index = ready_index(service.client, model_dir)
        engine.gate.clear()  # longer than the stages that it reports
        threading.Timer(0.05, engine.gate.set).start()
        answer = service.client.post(
            "/v1/attributions", json=QUESTION | {"model": index["model"]}, headers={"traceparent": PARENT}
        )
        assert answer.status_code == 200
    request, plan, asked, store = (service.named(name) for name in ("POST /v1/attributions", "plan", "engine", "store"))
    stages = [service.named(name) for name in STAGES]
    assert {trace_id(span) for span in (request, plan, asked, store, *stages)} == {PARENT.split("-")[1]}
    assert [parent_of(span) for span in (plan, asked, store)] == [span_id(request)] * 3
    assert {parent_of(stage) for stage in stages} == {span_id(asked)}
    assert attributes(asked) == {"whence.outcome": "succeeded"}
    assert attributes(request)["http.route"] == "/v1/attributions"
    in_order = [plan, asked, store]
    assert all(one.end_time <= two.start_time for one, two in pairwise(in_order))
    assert stages[0].start_time == asked.start_time
    assert all(one.end_time == two.start_time for one, two in pairwise(stages))
    assert stages[2].end_time - stages[2].start_time == 1_000_000  # the fake's millisecond
    assert stages[-1].end_time < asked.end_time


def test_a_failed_question_says_what_failed_and_not_why(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, model_dir: Path
) -> None:
    engine = FakeEngine()
    with traced(monkeypatch, settings, engine) as service:
        index = ready_index(service.client, model_dir)
        engine.errors["attribution"] = InvalidQuery("the detail")
        service.client.post("/v1/attributions", json=QUESTION | {"model": index["model"]})
    span = service.named("engine")
    assert attributes(span) == {"whence.outcome": "rejected"}
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "InvalidQuery")
    assert "the detail" not in service.as_text()


# --- a job ---


def test_a_job_belongs_to_the_request_that_asked_for_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, model_dir: Path
) -> None:
    with traced(monkeypatch, settings, FakeEngine()) as service:
        client = service.client
        model, dataset = add_model(client, model_dir), add_dataset(client)
        client.headers["traceparent"] = PARENT
        job_id = add_index(client, model["id"], dataset["id"])["job_id"]
        del client.headers["traceparent"]
        wait_for_job(client, job_id)
        wait_for(lambda: any(span.name == "job index.build" for span in service.spans()))
    request, job = service.named("POST /v1/indexes"), service.named("job index.build")
    assert trace_id(job) == trace_id(request) == PARENT.split("-")[1]
    assert parent_of(job) == span_id(request)
    assert [link.context.span_id for link in job.links] == [span_id(request)]
    assert attributes(job) == {
        "whence.job": job_id, "whence.kind": "index.build", "whence.attempt": 1, "whence.outcome": "succeeded",
    }  # fmt: skip
    (phase,) = job.events
    assert (phase.name, dict(phase.attributes or {})["whence.phase"]) == ("phase", "sketch")


def test_a_question_that_a_job_goes_on_with_stays_in_its_trace(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, model_dir: Path
) -> None:
    engine = FakeEngine()
    with traced(monkeypatch, settings, engine) as service:
        index = ready_index(service.client, model_dir)
        engine.gate.clear()
        pending = service.client.post(
            "/v1/attributions", json=QUESTION | {"model": index["model"]}, headers={"Prefer": "respond-async"}
        )
        engine.gate.set()
        wait_for_job(service.client, pending.json()["job_id"])
        wait_for(lambda: any(span.name == "job attribution" for span in service.spans()))
    request = service.named("POST /v1/attributions")
    assert parent_of(service.named("engine")) == span_id(request)
    assert parent_of(service.named("job attribution")) == span_id(request)


def test_a_failed_job_is_a_failed_span(settings: Settings, monkeypatch: pytest.MonkeyPatch, model_dir: Path) -> None:
    engine = FakeEngine()
    engine.errors["build_index"] = RuntimeError("the inside")
    with traced(monkeypatch, settings, engine) as service:
        model, dataset = add_model(service.client, model_dir), add_dataset(service.client)
        wait_for_job(service.client, add_index(service.client, model["id"], dataset["id"])["job_id"], "failed")
        wait_for(lambda: any(span.name == "job index.build" for span in service.spans()))
    job = service.named("job index.build")
    assert (job.status.status_code, attributes(job)["whence.outcome"]) == (StatusCode.ERROR, "failed")
    assert "the inside" not in service.as_text()


def test_handlers_do_not_see_where_a_job_came_from(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, model_dir: Path
) -> None:
    seen: list[dict[str, Any]] = []
    with traced(monkeypatch, settings, FakeEngine()) as service:
        services: Services = service.services
        run = services.worker.handlers["index.build"].run
        handler = services.worker.handlers["index.build"]
        services.worker.handlers["index.build"] = type(handler)(
            lambda context: seen.append(context.payload) or run(context), handler.follow
        )
        index = ready_index(service.client, model_dir)
        shown = service.client.get(f"/v1/jobs/{index['job_id']}").text
    assert seen == [{"index": index["id"]}]
    assert ORIGIN not in shown


# --- logs, and what no span holds ---


def test_log_lines_name_their_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with traced(monkeypatch, make_settings(tmp_path, log_level="info"), FakeEngine()) as service:
        service.client.get("/v1/limits", headers={"traceparent": PARENT})
        (line,) = [line for line in lines(capsys.readouterr().err) if line["event"] == "request"]
    request = service.named("GET /v1/limits")
    assert (line["trace_id"], line["span_id"]) == (PARENT.split("-")[1], f"{span_id(request):016x}")


def test_no_span_holds_what_callers_sent(tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    with traced(monkeypatch, make_settings(tmp_path, max_inline_rows_bytes=0), engine) as service:
        tell_secrets(service.client, engine, service.services, model_dir)
    text, known = service.as_text(), {span.name for span in service.spans()}
    assert {"plan", "engine", "store", "job index.build", "POST /v1/attributions"} <= known
    assert not {place for place, secret in SECRETS.items() if secret in text}
    assert "testclient" not in text


def test_the_spans_of_one_server_are_not_anothers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_dir: Path
) -> None:
    with traced(monkeypatch, make_settings(tmp_path / "traced"), FakeEngine()) as service:
        monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
        with TestClient(create_app(make_settings(tmp_path), FakeEngine())) as other:
            ready_index(other, model_dir)
    assert isinstance(service, Traced) and service.spans() == []
