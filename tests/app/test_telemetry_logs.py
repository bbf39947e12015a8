"""Log lines: what each holds, and what none ever does."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import structlog
from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import generate_latest
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app import telemetry
from app.database import Database
from app.dependencies import Services
from app.jobs.contract import Done, JobContext
from app.keys.service import KeysService
from app.main import create_app
from app.telemetry.logs import WITHHELD, shown_path, told_exception
from engine.errors import InvalidQuery, StorageFull
from tests.app.benches import WorkerBench, at
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.observed import lines
from tests.app.resources import add_index, add_model, post_dataset, ready_index, wait_for_job

FORMATS = pytest.mark.parametrize("log_format", ["json", "console"])


def of_event(captured: str, event: str) -> list[dict[str, Any]]:
    return [line for line in lines(captured) if line["event"] == event]


@FORMATS
def test_a_line_carries_its_context(tmp_path: Path, log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure_logging(make_settings(tmp_path, log_format=log_format))
    with structlog.contextvars.bound_contextvars(job_id="job_1"):
        structlog.get_logger().warning("disk nearly full")
        structlog.get_logger().info("not at this level")
    (line,) = capsys.readouterr().err.splitlines()
    assert "disk nearly full" in line and "job_1" in line
    if log_format == "json":
        assert json.loads(line)["level"] == "warning"


@FORMATS
def test_lines_name_the_active_span(tmp_path: Path, log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure_logging(make_settings(tmp_path, log_format=log_format))
    log = structlog.get_logger()
    log.warning("before")
    with TracerProvider().get_tracer("test").start_as_current_span("here") as span:
        log.warning("within")
    before, within = capsys.readouterr().err.splitlines()
    context = span.get_span_context()
    assert f"{context.trace_id:032x}" in within and f"{context.span_id:016x}" in within
    assert "trace_id" not in before


# --- one line a request, two a job ---


def test_a_requests_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app = create_app(make_settings(tmp_path, log_level="info"), FakeEngine())
    with TestClient(app) as client:
        services: Services = app.state.services
        with services.database.write() as session:
            tenant = "acme"
            row, made = KeysService(session, tenant).create(services.keys.secret, "test", ["*:read"], None, None)
        headers = {"Authorization": f"Bearer {made.text}", "X-Request-ID": "mine"}
        answer = client.get("/v1/models?limit=5", headers=headers)
        client.get("/v1/jobs/job_aaaaaaaaaaaaaaaaaaaa", headers=headers)
        client.get("/v1/models")
    asked, missing, refused = of_event(capsys.readouterr().err, "request")
    assert asked.pop("ms") > 0 and asked.pop("timestamp")
    assert asked == {
        "event": "request", "level": "info", "request_id": "mine", "tenant": "acme", "key_id": row.id,
        "method": "GET", "route": "/v1/models", "path": "/v1/models", "status": 200, "bytes_out": len(answer.content),
    }  # fmt: skip
    assert (missing["route"], missing["path"]) == ("/v1/jobs/{job_id}", "/v1/jobs/job_aaaaaaaaaaaaaaaaaaaa")
    assert missing["problem"] == "not-found"
    assert (refused["status"], refused["problem"]) == (401, "unauthenticated")
    assert "tenant" not in refused


def test_slow_and_broken_requests_are_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    app = create_app(make_settings(tmp_path, slow_request_seconds=1e-6), engine)
    with TestClient(app) as client:
        client.get("/v1/limits")
        client.get("/livez")
    assert [line["slow"] for line in of_event(capsys.readouterr().err, "request")] == [True, True]
    quick = create_app(make_settings(tmp_path / "quick"), engine)
    engine.errors["describe_model"] = StorageFull("full")
    with TestClient(quick) as client:
        client.get("/v1/limits")
        (tmp_path / "quick" / "m").mkdir()
        client.post("/v1/models", json={"name": "m", "base": str(tmp_path / "quick" / "m")})
    (line,) = of_event(capsys.readouterr().err, "request")
    assert (line["level"], line["status"]) == ("warning", 507)
    assert "slow" not in line


def test_event_streams_are_not_slow(tmp_path: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app = create_app(make_settings(tmp_path, slow_request_seconds=1e-6), FakeEngine())
    with TestClient(app) as client:
        index = ready_index(client, model_dir)
        wait_for_job(client, index["job_id"])
        capsys.readouterr()
        client.get(f"/v1/jobs/{index['job_id']}/events", headers={"Accept": "text/event-stream"})
    assert not of_event(capsys.readouterr().err, "request")


def test_a_jobs_lines_name_the_request_that_asked(
    tmp_path: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with TestClient(create_app(make_settings(tmp_path, log_level="info"), FakeEngine())) as client:
        model = add_model(client, model_dir)
        dataset = post_dataset(client, b'{"text": "one"}\n').json()
        client.headers["X-Request-ID"] = "the-build"
        job_id = add_index(client, model["id"], dataset["id"])["job_id"]
        client.headers["X-Request-ID"] = "looking"
        wait_for_job(client, job_id)
    err = capsys.readouterr().err
    (began,), (ended,) = of_event(err, "job started"), of_event(err, "job ended")
    for line in (began, ended):
        assert (line["job_id"], line["kind"], line["attempt"]) == (job_id, "index.build", 1)
        assert line["request_id"] == "the-build"
    assert ended["outcome"] == "succeeded"
    assert 0 <= ended["seconds"] < 60


def fail(_bench: WorkerBench, _job_id: str) -> None:
    raise StorageFull("full")


OUTCOMES: dict[str, Callable[[WorkerBench, str], None]] = {
    "succeeded": lambda _bench, _job_id: None,
    "failed": fail,
    "cancelled": lambda bench, job_id: bench.cancel(job_id),
    "lost": lambda bench, _job_id: bench.lose(),
    "released": lambda bench, _job_id: bench.worker.stop(),
}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_end_of_an_attempt_is_one_line_and_one_figure(
    database: Database, tmp_path: Path, outcome: str, capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry.configure_logging(make_settings(tmp_path, log_level="info"))
    bench = WorkerBench(database, tmp_path)
    job_id = bench.enqueue()

    def run(context: JobContext) -> Done:
        OUTCOMES[outcome](bench, job_id)
        context.checkpoint(at(1))
        return Done({})

    bench.run = run
    bench.worker.run_next()
    (ended,) = of_event(capsys.readouterr().err, "job ended")
    assert (ended["outcome"], ended["attempt"]) == (outcome, 1)
    figure = f'whence_job_duration_seconds_count{{kind="test",outcome="{outcome}"}} 1.0'
    assert figure in generate_latest(bench.worker.metrics.registry).decode()
    assert bench.worker.busy() == 0


# --- what no line holds ---

PLACES = (
    "prompt", "completion", "rowtext", "rowprompt", "rowtag", "rowid", "bearer", "apikey", "cookie", "query", "path",
    "deeppath", "idempotency", "filename", "metadata", "badjson", "badrow", "badfield", "enginesays", "jobsays",
    "dbvalue", "login", "agent", "quoted",
)  # fmt: skip
SECRETS = {place: f"s3cr3t{place}z" for place in PLACES}


class Shape(BaseModel):
    number: int


def quoting_error(secret: str) -> ValueError:
    """As a library raises it deep inside: its message quotes what it was given."""
    with pytest.raises(ValueError, match=secret) as caught:
        Shape.model_validate({"number": secret})
    return caught.value


def tell_secrets(client: TestClient, engine: FakeEngine, services: Services, model_dir: Path) -> None:
    """Sends each secret where callers put such things, and lets things fail with them."""
    s = SECRETS
    client.cookies.set("whence_session", s["cookie"])
    client.headers["User-Agent"] = s["agent"]
    model = add_model(client, model_dir)
    rows = [
        {"id": s["rowid"], "prompt": s["rowprompt"], "completion": s["rowtext"], "tags": {"t": s["rowtag"]}},
        {"text": "plain"},
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    dataset = post_dataset(client, content, filename=s["filename"] + ".jsonl")
    loaded = wait_for_job(client, dataset.json()["job_id"])
    index = add_index(client, model["id"], loaded["resource_id"])
    wait_for_job(client, index["job_id"])
    question = {
        "model": model["id"],
        "prompt": s["prompt"],
        "completion": s["completion"],
        "metadata": {"m": s["metadata"]},
    }
    assert (
        client.post("/v1/attributions", json=question, headers={"Idempotency-Key": s["idempotency"]}).status_code == 200
    )
    client.get("/v1/models", headers={"Authorization": f"Bearer whk_{s['bearer']}"})
    client.get("/v1/models", headers={"X-Api-Key": s["apikey"]})
    client.post("/ui/login", data={"key": s["login"]})
    client.get(f"/v1/models?cursor={s['query']}")
    client.get(f"/v1/{s['path']}")
    client.get(f"/v1/models/{s['deeppath']}")
    client.post("/v1/attributions", content=b'{"prompt": "' + s["badjson"].encode())
    client.post("/v1/attributions", json=question | {s["badfield"]: s["badfield"]})
    bad = post_dataset(client, f'{{"prompt": 1, "completion": "{s["badrow"]}"}}\n{s["badrow"]}'.encode())
    wait_for_job(client, bad.json()["job_id"], "failed")
    engine.errors["attribution"] = InvalidQuery(f"'{s['enginesays']}' has no target.")
    client.post("/v1/attributions", json=question | {"prompt": "new"})
    engine.errors["build_index"] = InvalidQuery(f"The row '{s['jobsays']}' has no target.")
    wait_for_job(client, add_index(client, model["id"], loaded["resource_id"])["job_id"], "failed")
    engine.errors["describe_model"] = quoting_error(s["quoted"])
    client.post("/v1/models", json={"name": "other", "base": str(model_dir)})
    engine.errors = {}
    with services.database.write() as session:
        session.execute(text("DROP TABLE attributions"))
    assert client.post("/v1/attributions", json=question | {"prompt": s["dbvalue"]}).status_code >= 500


def test_a_known_failure_is_one_line_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = f"postgresql://nobody@/none?host={tmp_path}"
    with TestClient(create_app(make_settings(tmp_path, database_url=nowhere), FakeEngine())) as client:
        assert client.get("/v1/jobs").status_code == 503
    (line,) = of_event(capsys.readouterr().err, "request failed")
    assert "connection" in line["cause"] and "\n" not in line["cause"]
    assert "exception" not in line and line["level"] == "warning"


@FORMATS
def test_no_line_holds_what_callers_sent(
    tmp_path: Path, model_dir: Path, log_format: str, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = FakeEngine()
    changes = {"log_level": "debug", "log_format": log_format, "max_inline_rows_bytes": 0, "slow_request_seconds": 1e-6}
    app = create_app(make_settings(tmp_path, **changes), engine)
    with TestClient(app, raise_server_exceptions=False) as client:
        tell_secrets(client, engine, app.state.services, model_dir)
    out, err = capfd.readouterr()
    counts = [err.count(event) for event in ("job failed", "request failed", "unhandled error")]
    assert counts == [2, 1, 1]  # so much failed with secrets in hand
    assert not {place for place, secret in SECRETS.items() if secret in out + err}


def test_a_statements_values_are_not_in_its_error(database: Database) -> None:
    with pytest.raises(SQLAlchemyError) as caught, database.read() as session:
        session.execute(text("SELECT * FROM nowhere WHERE x = :x"), {"x": "s3cret"})
    assert "s3cret" not in str(caught.value)


def quoting() -> None:
    error = quoting_error("s3cret")
    error.add_note("s3cret note")
    raise ExceptionGroup("several", [error, RuntimeError("the cause")]) from error


def test_an_exception_that_quotes_its_input_says_only_where_it_was_raised() -> None:
    try:
        quoting()
    except ExceptionGroup:
        told = json.dumps(told_exception(sys.exc_info()))  # type: ignore[arg-type]
    assert "s3cret" not in told
    assert told.count(WITHHELD) >= 1 and "quoting" in told and "the cause" in told


@FORMATS
def test_a_traceback_tells_cause_and_place(tmp_path: Path, log_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    telemetry.configure_logging(make_settings(tmp_path, log_format=log_format))
    secret_local = "s3cret local"
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise RuntimeError("the second") from error
    except RuntimeError:
        structlog.get_logger().exception("failed")
    told = out.getvalue()
    assert "first" in told and "the second" in told and "test_telemetry_logs.py" in told
    assert secret_local not in told


def test_paths_are_shown_without_what_callers_wrote(app: FastAPI) -> None:
    assert shown_path(app, "/v1/jobs/job_k5yqk5yqk5yqk5yqk5yq/events") == "/v1/jobs/job_k5yqk5yqk5yqk5yqk5yq/events"
    assert shown_path(app, "/v1/jobs/whk_k5yqk5yq_" + "a" * 52) == "/v1/jobs/*"
    assert shown_path(app, "/a/secret/models") == "/*/*/models"
    assert shown_path(app, "/") == "/"
    assert shown_path(app, "/v1/models/\njob_k5yqk5yqk5yqk5yqk5yq") == "/v1/models/*"
