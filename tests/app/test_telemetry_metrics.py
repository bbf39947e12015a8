"""/metrics: a story told in figures, an exposition that parses, labels that stay few."""

from __future__ import annotations

import random
import string
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry, Counter

from app.dependencies import Services
from app.errors import Conflict
from app.jobs.service import JobsService
from app.main import create_app
from app.telemetry.metrics import MAX_PROBLEMS, METHODS, STAGES, Metrics
from app.telemetry.running import RunningBuilds
from engine.errors import InvalidQuery, QueueFull, StorageFull
from engine.types import Progress
from tests.app.conftest import make_settings, wait_for
from tests.app.fakes import FakeEngine
from tests.app.observed import GPU, BusyEngine, fake_model, families, figures
from tests.app.resources import QUESTION, add_dataset, add_index, add_model, wait_for_index, wait_for_job

NO_CACHE = {"Cache-Control": "no-cache"}


def grown(client: TestClient, before: dict[str, float]) -> dict[str, float]:
    """What has changed, by how much."""
    after = figures(client)
    return {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}


def counted(changes: dict[str, float], name: str) -> dict[str, float]:
    """The changes of one metric, by labels."""
    return {key.removeprefix(name): value for key, value in changes.items() if key.partition("{")[0] == name}


@pytest.fixture
def index(client: TestClient, model_dir: Path) -> dict[str, Any]:
    model, dataset = add_model(client, model_dir), add_dataset(client)
    return wait_for_index(client, add_index(client, model["id"], dataset["id"])["id"])


def ask(client: TestClient, index: dict[str, Any], prompt: str = "Where?", **headers: str) -> Any:
    return client.post("/v1/attributions", json=QUESTION | {"model": index["model"], "prompt": prompt}, headers=headers)


def test_upload_build_and_ask_in_figures(client: TestClient, model_dir: Path) -> None:
    before = figures(client)
    model, dataset = add_model(client, model_dir), add_dataset(client)
    index = wait_for_index(client, add_index(client, model["id"], dataset["id"])["id"])
    wait_for_job(client, index["job_id"])
    for headers in ({}, {}, NO_CACHE, NO_CACHE):
        assert ask(client, index, **headers).status_code == 200
    wait_for(lambda: figures(client)["whence_worker_jobs_running"] == 0)
    changes = grown(client, before)
    requests = counted(changes, "whence_http_requests_total")
    assert requests['{method="POST",route="/v1/datasets",status="201"}'] == 1
    assert requests['{method="POST",route="/v1/indexes",status="202"}'] == 1
    assert requests['{method="POST",route="/v1/attributions",status="200"}'] == 4
    assert changes['whence_http_request_duration_seconds_count{method="POST",route="/v1/attributions"}'] == 4
    assert changes['whence_http_response_bytes_total{method="POST",route="/v1/attributions"}'] > 1000
    assert counted(changes, "whence_attribution_cache_requests_total") == {
        '{result="miss"}': 1, '{result="hit"}': 1, '{result="bypassed"}': 2,
    }  # fmt: skip
    assert counted(changes, "whence_attributions_total") == {'{outcome="succeeded"}': 3}
    assert changes["whence_attribution_duration_seconds_count"] == 3
    assert changes["whence_engine_queue_wait_seconds_count"] == 3
    assert changes["whence_engine_queue_wait_seconds_sum"] == pytest.approx(0.0003)
    stages = counted(changes, "whence_attribution_stage_seconds_count")
    assert stages == {f'{{stage="{stage}"}}': 3 for stage in ("tokenize", "gradient", "search", "store")}
    assert changes['whence_attribution_stage_seconds_sum{stage="gradient"}'] == pytest.approx(0.003)
    assert counted(changes, "whence_index_rows_total") == {'{phase="sketch"}': 4}
    assert changes['whence_job_duration_seconds_count{kind="index.build",outcome="succeeded"}'] == 1
    assert changes['whence_job_wait_seconds_count{kind="index.build"}'] == 1
    assert changes['whence_jobs{state="succeeded"}'] == 1
    assert not counted(changes, "whence_http_problems_total")


def test_what_goes_wrong_is_told_apart(client: TestClient, index: dict[str, Any], engine: FakeEngine) -> None:
    before = figures(client)
    client.post("/v1/attributions", json={"nonsense": 1})
    client.get("/v1/jobs/job_aaaaaaaaaaaaaaaaaaaa")
    for error in (InvalidQuery("no"), RuntimeError("broken")):
        engine.errors["attribution"] = error
        ask(client, index)
    engine.errors = {"submit_attribution": QueueFull("full", retry_after_s=1.0), "build_index": StorageFull("full")}
    ask(client, index)
    failed = add_index(client, index["model"], index["dataset"])
    wait_for_job(client, failed["job_id"], "failed")
    wait_for(lambda: figures(client)["whence_worker_jobs_running"] == 0)
    changes = grown(client, before)
    assert counted(changes, "whence_http_problems_total") == {
        '{code="invalid-request"}': 1, '{code="not-found"}': 1, '{code="invalid-query"}': 1,
        '{code="internal-error"}': 1, '{code="queue-full"}': 1,
    }  # fmt: skip
    assert counted(changes, "whence_attributions_total") == {'{outcome="rejected"}': 1, '{outcome="failed"}': 1}
    assert changes['whence_job_duration_seconds_count{kind="index.build",outcome="failed"}'] == 1


def test_refused_callers_are_counted_by_why(tmp_path: Path) -> None:
    app = create_app(make_settings(tmp_path, rate_per_minute=1, rate_burst=4), FakeEngine())
    with TestClient(app) as client:
        client.get("/v1/models", headers={"Authorization": "Bearer whk_wrong"})
        client.post("/ui/login", data={"key": "wrong"})
        for _ in range(6):
            client.get("/v1/models")
        now = figures(client)
    assert now['whence_http_problems_total{code="invalid-key"}'] == 1
    assert now['whence_http_requests_total{method="POST",route="/ui/login",status="401"}'] == 1
    assert now['whence_http_problems_total{code="rate-limited"}'] >= 1


def test_jobs_that_wait_and_builds_that_run(client: TestClient, index: dict[str, Any], engine: FakeEngine) -> None:
    engine.gate.clear()
    running = [add_index(client, index["model"], index["dataset"]) for _ in range(2)]
    wait_for(lambda: figures(client)["whence_index_builds_running"] == 1)
    now = figures(client)
    assert (now['whence_jobs{state="running"}'], now['whence_jobs{state="queued"}']) == (1, 1)
    assert now["whence_index_rows_left"] == 4
    assert now["whence_worker_jobs_running"] == 1
    assert wait_for(lambda: figures(client)["whence_jobs_oldest_queued_seconds"]) > 0
    engine.gate.set()
    for built in running:
        wait_for_index(client, built["id"])
    wait_for(lambda: figures(client)["whence_index_builds_running"] == 0)
    after = figures(client)
    assert (after["whence_jobs_oldest_queued_seconds"], after["whence_index_rows_left"]) == (0, 0)


def test_what_the_engine_reports_and_nothing_else(tmp_path: Path) -> None:
    with TestClient(create_app(make_settings(tmp_path), BusyEngine())) as client:
        now, text = figures(client), client.get("/metrics").text
    assert now["whence_engine_up"] == 1
    assert now["whence_engine_queries_total"] == 12
    assert now["whence_engine_busy_seconds_total"] == 1.5
    assert now["whence_engine_indexes_open"] == 2
    sizes = [now[f'whence_engine_batch_size_bucket{{le="{size}"}}'] for size in ("1.0", "2.0", "4.0", "8.0", "+Inf")]
    assert sizes == [1, 1, 2, 3, 3]
    assert (now["whence_engine_batch_size_count"], now["whence_engine_batch_size_sum"]) == (3, 12)
    assert [now[f'whence_gpu_memory_bytes{{kind="{kind}"}}'] for kind in ("allocated", "total")] == [
        3,
        GPU["total_bytes"],
    ]
    assert "secret-tenant" not in text and "queue_by_tenant" not in text


def test_without_a_gpu_there_is_no_gpu_memory(client: TestClient) -> None:
    assert "whence_gpu_memory_bytes" not in families(client)


def test_requests_in_flight_are_those_being_answered(
    client: TestClient, index: dict[str, Any], engine: FakeEngine
) -> None:
    assert figures(client)["whence_http_requests_in_flight"] == 1  # the one that asks
    engine.gate.clear()
    asking = threading.Thread(target=ask, args=(client, index))
    asking.start()
    wait_for(lambda: figures(client)["whence_http_requests_in_flight"] == 2)
    engine.gate.set()
    asking.join()
    assert figures(client)["whence_http_requests_in_flight"] == 1


def test_the_process_is_measured(client: TestClient) -> None:
    now = figures(client)
    assert now["process_resident_memory_bytes"] > 1e6
    assert now["process_cpu_seconds_total"] > 0
    assert 0 < now["process_open_fds"] < now["process_max_fds"]


def test_names_are_as_prometheus_wants_them(client: TestClient, index: dict[str, Any]) -> None:
    units = ("_seconds", "_bytes", "_total", "_per_second")
    for name, family in families(client).items():
        assert family.documentation, name
        assert name.endswith("_total") == (family.type == "counter"), name
        if "duration" in name or ("wait" in name and family.type == "histogram"):
            assert name.endswith(units), name
        assert not name.endswith(("_ms", "_milliseconds", "_mb", "_s")), name


NAMES = set("code kind le method outcome phase result route stage state status version".split())
CODES = set("invalid-request method-not-allowed not-found rate-limited unauthenticated".split())


def route_templates(app: FastAPI) -> set[str]:
    return {context.path for context in iter_route_contexts(app.routes) if context.path}


def random_requests(count: int) -> Iterator[tuple[str, str]]:
    draw = random.Random(7)
    words = ["v1", "models", "jobs", "attributions", "datasets", "", "..", "%2e%2e", "events", "ui"]
    methods = ["GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "HEAD", "BREW", "X" * 30]
    for _ in range(count):
        parts = [
            "".join(draw.choices(string.ascii_letters, k=9)) if draw.random() < 0.5 else draw.choice(words)
            for _ in range(4)
        ]
        yield draw.choice([*methods, "".join(draw.choices(string.ascii_uppercase, k=6))]), "/" + "/".join(parts)


def test_labels_stay_few_whatever_is_asked(client: TestClient, app: FastAPI, index: dict[str, Any]) -> None:
    for method, path in random_requests(500):
        client.request(method, path + "?q=" + path)
    labels = [sample.labels for family in families(client).values() for sample in family.samples]
    found = {name: {one[name] for one in labels if name in one} for name in ("method", "route", "code", "stage")}
    assert found["method"] <= {*METHODS, "other"} and "other" in found["method"]
    assert found["route"] <= route_templates(app) | {"unmatched"} and "unmatched" in found["route"]
    assert {name for one in labels for name in one} <= NAMES
    assert found["code"] <= CODES


def test_codes_and_stages_are_bounded_even_if_ours_were_not() -> None:
    metrics = Metrics()
    for number in range(MAX_PROBLEMS + 50):
        metrics.problem(f"code-{number}")
    metrics.attribution_ended("succeeded", 1.0, dict.fromkeys((*STAGES, "new", "newer"), 1.0))
    codes = {sample.labels["code"] for family in metrics.problems.collect() for sample in family.samples}
    stages = {sample.labels["stage"] for family in metrics.stages.collect() for sample in family.samples}
    assert len(codes) == MAX_PROBLEMS + 1
    assert stages == {*STAGES, "other"}


def test_what_a_problem_quotes_cannot_choose_its_code(app: FastAPI, client: TestClient) -> None:
    @app.get("/quoting")
    def quoting() -> None:
        raise Conflict("no", used_by='x", "type": "urn:whence:problem:chosen"')  # comes first in the body

    assert client.get("/quoting").text.index("chosen") < client.get("/quoting").text.index("conflict")
    codes = [sample.labels["code"] for sample in families(client)["whence_http_problems_total"].samples]
    assert codes == ["conflict"]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def builds() -> tuple[RunningBuilds, Counter, Clock]:
    rows, clock = Counter("rows", "", ("phase",), registry=CollectorRegistry()), Clock()
    return RunningBuilds(rows, clock), rows, clock


def passed(rows: Counter, phase: str) -> float:
    return rows.labels(phase)._value.get()


def test_a_builds_pace_is_of_its_phase_and_its_rows_count_once() -> None:
    running, rows, clock = builds()
    running.report("a", Progress(10, 10, "rows", "tokenize"))
    for done in (100, 150, 200):  # a resumed build begins behind what is there
        running.report("a", Progress(done, 500, "rows", "sketch"))
        clock.now += 2.0
    running.report("b", Progress(0, 50, "rows", "sketch"))
    assert passed(rows, "tokenize") == 10
    assert passed(rows, "sketch") == 100
    assert running.rows_per_second()["sketch"] == pytest.approx(25.0)
    assert running.rows_left() == 350
    running.report("a", Progress(190, 500, "rows", "sketch"))
    assert passed(rows, "sketch") == 100
    running.report("a", Progress(200, 500, "rows", "sketch: a name of its own"))
    assert "sketch: a name of its own" not in running.rows_per_second()
    for job in "ab":
        running.ended(job)
    assert (running.running(), running.rows_left(), sum(running.rows_per_second().values())) == (0, 0, 0)


def test_the_oldest_queued_job_is_told_on_both_databases(database_url: str, tmp_path: Path) -> None:
    settings = make_settings(tmp_path, database_url=database_url, worker_threads=0)
    app = create_app(settings, FakeEngine())
    with TestClient(app) as client:
        services: Services = app.state.services
        if not services.database.is_sqlite:
            from app import schema

            schema.upgrade(services.database)
        with services.database.write() as session:
            JobsService(session, "anyone").enqueue("test", {})
        wait_for(lambda: figures(client)["whence_jobs_oldest_queued_seconds"] >= 0.05)
        assert client.get("/v1/status").json()["oldest_queued_s"] >= 0.05
        assert client.get("/v1/status").json()["jobs"]["queued"] == 1


def test_two_servers_have_registries_of_their_own(tmp_path: Path, client: TestClient) -> None:
    fake_model(tmp_path / "m")
    with TestClient(create_app(make_settings(tmp_path / "other"), FakeEngine())) as second:
        second.get("/v1/limits")
        name = 'whence_http_requests_total{method="GET",route="/v1/limits",status="200"}'
        assert figures(second)[name] == 1
        assert name not in figures(client)
