"""The client against the real service: every call of either client, typed by what the server really sends."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import whence_client as wc
from app.main import create_app
from engine.errors import StorageFull
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.live import serving
from whence_client.types import JobEvent

ROWS = '{"id": "a", "prompt": "one two", "completion": " three", "tags": {"task": "count"}}\n{"text": "four five"}\n'
Use = Callable[[Any], Any]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def address(tmp_path: Path, engine: FakeEngine) -> Iterator[str]:
    with serving(make_settings(tmp_path), engine) as url:
        yield url


@pytest.fixture(params=["blocking", "awaited"])
def call(request: pytest.FixtureRequest, address: str) -> Callable[[Use], Any]:
    """Runs one use of a client; the awaited one is awaited here."""

    async def awaited(use: Use) -> Any:
        async with wc.AsyncWhence(address) as client:
            return await use(client)

    def blocking(use: Use) -> Any:
        with wc.Whence(address) as client:
            return use(client)

    return (lambda use: asyncio.run(awaited(use))) if request.param == "awaited" else blocking


@pytest.fixture
def model(call: Callable[[Use], Any], tmp_path: Path) -> wc.Model:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    return call(lambda c: c.models.create("tuned", base=directory))


@pytest.fixture
def dataset(call: Callable[[Use], Any], tmp_path: Path) -> wc.Dataset:
    file = tmp_path / "train.jsonl"
    file.write_text(ROWS)
    return call(lambda c: c.datasets.upload(file))


@pytest.fixture
def index(call: Callable[[Use], Any], model: wc.Model, dataset: wc.Dataset) -> wc.Index:
    built = call(lambda c: c.indexes.build(model=model.id, dataset=dataset.id, options={"damping": 0.1}))
    call(lambda c: c.jobs.wait(built.job_id))
    return call(lambda c: c.indexes.get(built.id))


def test_models(call, model):
    assert (model.name, model.version, model.parameters) == ("tuned", 1, 1000)
    assert call(lambda c: c.models.get(model.id)) == model
    assert call(lambda c: c.models.list(limit=1)).data == [model]
    assert call(lambda c: c.models.all()) == [model]
    assert call(lambda c: c.models.delete(model.id)) is None
    with pytest.raises(wc.NotFound, match=model.id):
        call(lambda c: c.models.get(model.id))


def test_datasets(call, dataset, tmp_path):
    assert (dataset.name, dataset.rows, dataset.format, dataset.state) == ("train", 2, "jsonl", "ready")
    assert call(lambda c: c.datasets.all()) == [dataset]
    assert [e.id for e in call(lambda c: c.datasets.examples(dataset.id)).data] == ["a", "row-1"]
    assert [e.id for e in call(lambda c: c.datasets.examples(dataset.id, tags={"task": "count"})).data] == ["a"]
    assert call(lambda c: c.datasets.example(dataset.id, "row-1")).text == "four five"
    again = call(lambda c: c.datasets.register("again", uri=str(tmp_path / "train.jsonl")))
    assert again.sha256 == dataset.sha256
    call(lambda c: c.datasets.delete(again.id))


def test_indexes(call, index, model, dataset):
    assert (index.state, index.rows, index.method, index.model) == ("ready", 2, "ekfac", model.id)
    assert call(lambda c: c.indexes.all()) == [index]
    assert call(lambda c: c.indexes.estimate(model=model.id, dataset=dataset.id)).rows == 2
    assert [row.example_id for row in call(lambda c: c.indexes.self_influence(index.id, limit=1)).data] == ["a"]
    with pytest.raises(wc.Conflict, match=index.id):
        call(lambda c: c.models.delete(model.id))
    call(lambda c: c.indexes.delete(index.id))


def test_evaluations(call, model, tmp_path):
    (tmp_path / "four.jsonl").write_text("".join(f'{{"prompt": "one {n}", "completion": " two"}}\n' for n in range(4)))
    dataset = call(lambda c: c.datasets.upload(tmp_path / "four.jsonl"))
    trained = call(lambda c: c.models.create("trained", base=tmp_path / "model", recipe={"training": {}}))
    built = call(lambda c: c.indexes.build(model=trained.id, dataset=dataset.id))
    call(lambda c: c.jobs.wait(built.job_id))
    asked = {"index": built.id, "queries": [{"prompt": "one", "completion": " two"}] * 2, "leave_out_rows": 1}
    assert call(lambda c: c.evaluations.estimate(**asked, half_subsets=5)).retrainings == 5
    made = call(lambda c: c.evaluations.create(**asked, name="first", candidates=[{"method": "kfac"}]))
    call(lambda c: c.jobs.wait(made.job_id))
    ready = call(lambda c: c.evaluations.get(made.id))
    assert (ready.state, ready.verdicts["composition"], ready.questions) == ("ready", "trusted", 2)
    assert ready.scorecard["methods"][0]["name"] == "ekfac"
    assert call(lambda c: c.evaluations.list(index=built.id, model=trained.id)).data[0].id == made.id
    assert [found.id for found in call(lambda c: c.evaluations.all())] == [made.id]
    answer = call(lambda c: c.ask(trained.id, prompt="one two", completion=" three", top_k=1))
    assert (answer.trust.verdict, answer.trust.scorecard) == ("trusted", made.id)
    assert answer.trust.questions["this_run"].lds == 0.7
    assert answer.trust.reliability.level == "high"
    assert answer.proponents[0].predicted_effect.level == 0.9
    chosen = call(lambda c: c.indexes.build(model=trained.id, dataset=dataset.id))
    assert (chosen.method, chosen.chosen_by) == ("kfac", made.id)
    call(lambda c: c.jobs.wait(chosen.job_id))
    with pytest.raises(wc.Conflict, match=chosen.id):
        call(lambda c: c.evaluations.delete(made.id))
    call(lambda c: c.indexes.delete(chosen.id))
    assert call(lambda c: c.evaluations.delete(made.id)) is None


def test_questions_and_answers(call, index, model):
    answer = call(lambda c: c.ask(model.id, prompt="one two", completion=" three", top_k=1, group_by="tags.task"))
    assert [hit.example_id for hit in answer.proponents] == ["a"]
    assert answer.trust.verdict == "unmeasured"
    assert answer.query.tokens[-1].target is True
    assert {group.key for group in answer.groups} == {"count", ""}
    assert call(lambda c: c.attributions.get(answer.id)) == answer
    assert call(lambda c: c.attributions.list(index=index.id)).data == [answer]
    call(lambda c: c.attributions.delete(answer.id))
    assert call(lambda c: c.attributions.list()).data == []


def test_a_submitted_question_is_a_job(call, index, model, engine):
    engine.gate.clear()
    pending = call(lambda c: c.attributions.submit(model.id, prompt="one", completion=" two"))
    assert isinstance(pending, wc.PendingAttribution)
    assert call(lambda c: c.attributions.get(pending.id)).state == "running"
    engine.gate.set()
    call(lambda c: c.jobs.wait(pending.job_id))
    assert isinstance(call(lambda c: c.attributions.get(pending.id)), wc.Attribution)


def test_a_build_is_followed_through_its_event_stream(call, model, dataset, engine):
    progress: list[wc.JobProgress] = []
    events: list[JobEvent] = []
    engine.gate.clear()
    built = call(lambda c: c.indexes.build(model=model.id, dataset=dataset.id))

    def go_on(report: wc.JobProgress) -> None:
        progress.append(report)
        engine.gate.set()

    job = call(lambda c: c.jobs.wait(built.job_id, on_progress=go_on, on_event=events.append))
    assert job.state == "succeeded"
    assert progress[-1].done == progress[-1].total == 2
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[-1].kind == "end"
    logged = call(lambda c: c.jobs.events(built.job_id)).data
    assert [(event.seq, event.kind, event.data) for event in logged] == [(e.seq, e.kind, e.data) for e in events]


def test_a_job_can_be_cancelled_resumed_and_forgotten(call, model, dataset, engine):
    engine.gate.clear()
    built = call(lambda c: c.indexes.build(model=model.id, dataset=dataset.id))
    call(lambda c: c.jobs.cancel(built.job_id))
    with pytest.raises(wc.JobFailed, match="cancelled"):
        call(lambda c: c.jobs.wait(built.job_id))
    engine.gate.set()
    call(lambda c: c.jobs.resume(built.job_id))
    assert call(lambda c: c.jobs.wait(built.job_id)).state == "succeeded"
    assert [job.id for job in call(lambda c: c.jobs.all())] == [built.job_id]
    call(lambda c: c.jobs.delete(built.job_id))


def test_a_failed_build_tells_cause_and_remedy(call, model, dataset, engine):
    engine.errors["build_index"] = StorageFull("No space left.")
    built = call(lambda c: c.indexes.build(model=model.id, dataset=dataset.id))
    with pytest.raises(wc.JobFailed, match="Disk full: No space left — Free space"):
        call(lambda c: c.jobs.wait(built.job_id))
    assert call(lambda c: c.indexes.get(built.id)).error.status == 507


def test_methods_status_and_limits(call):
    assert "ekfac" in [method.name for method in call(lambda c: c.methods())]
    assert call(lambda c: c.status()).version
    assert call(lambda c: c.limits())["max_top_k"] == 1000


def test_problems_keep_their_pointers(call, model):
    with pytest.raises(wc.ValidationFailed) as caught:
        call(lambda c: c.ask(model.id, prompt="x", completion="y", top_k=0))
    assert caught.value.problem.errors[0].pointer == "/top_k"
    assert caught.value.problem.request_id


def test_every_operation_of_the_api_has_its_call(tmp_path):
    """A new route cannot be forgotten in the client. The page of metrics and the probes are for machines."""
    api = create_app(make_settings(tmp_path), FakeEngine()).openapi()
    offered = {
        (method.upper(), path)
        for path, operations in api["paths"].items()
        for method in operations
        if path.startswith("/v1/")
    }
    assert offered == set(_calls())


def _calls() -> Iterator[tuple[str, str]]:
    """(method, path template) of every call, from the first request each flow sends."""
    from whence_client.api import Api, Attributions, Datasets, Endpoint, Evaluations, Indexes, Jobs, Models

    for group in (Api, Models, Datasets, Indexes, Evaluations, Attributions, Jobs):
        for endpoint in vars(group).values():
            if not isinstance(endpoint, Endpoint):
                continue
            parameters = inspect.signature(endpoint._build).parameters.values()
            needed = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
            required = {name: f"{{{name}}}" if name.endswith("_id") else "x" for name in needed}
            if "job" in required:
                required["job"] = "{job_id}"
            effect = next(endpoint._build(**required))
            yield effect.request.method, effect.request.path.replace("%7B", "{").replace("%7D", "}")
