"""The client against the real service: every call of either client, typed by what the server really sends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import whence_client as wc
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


def test_aliases(call, index, model, dataset):
    made = call(lambda c: c.aliases.put("prod", index=index.id, only_new=True))
    assert (made.name, made.index, made.version, made.previous_index) == ("prod", index.id, 1, None)
    assert call(lambda c: c.aliases.get("prod")) == made
    assert call(lambda c: c.ask(index="prod", prompt="one", completion=" two")).model == model.id
    assert call(lambda c: c.indexes.self_influence("prod", limit=1)).data
    with pytest.raises(wc.Conflict, match="prod"):
        call(lambda c: c.indexes.delete(index.id))
    other = call(lambda c: c.indexes.build(model=model.id, dataset=dataset.id))
    call(lambda c: c.jobs.wait(other.job_id))
    moved = call(lambda c: c.aliases.put("prod", index=other.id, if_match=made.etag))
    assert (moved.index, moved.version, moved.previous_index) == (other.id, 2, index.id)
    with pytest.raises(wc.PreconditionFailed, match="changed"):
        call(lambda c: c.aliases.put("prod", index=index.id, if_match=made.etag))
    with pytest.raises(wc.PreconditionFailed):
        call(lambda c: c.aliases.put("prod", index=index.id, only_new=True))
    assert [alias.name for alias in call(lambda c: c.aliases.all())] == ["prod"]
    with pytest.raises(wc.PreconditionFailed):
        call(lambda c: c.aliases.delete("prod", if_match=made.etag))
    assert call(lambda c: c.aliases.delete("prod", if_match=moved.etag)) is None
    with pytest.raises(wc.NotFound, match="prod"):
        call(lambda c: c.aliases.get("prod"))


def test_an_index_is_exported_and_imported(call, index, model, dataset, tmp_path):
    file = tmp_path / "index.tar"
    assert call(lambda c: c.indexes.export(index.id, file)) == file
    first = file.read_bytes()
    call(lambda c: c.indexes.export(index.id, str(file)))  # in the place of what was there
    assert file.read_bytes() == first and not list(tmp_path.glob("*.partial"))
    imported = call(lambda c: c.indexes.import_(file, model=model.id, name="copy"))
    assert (imported.state, imported.name, imported.dataset) == ("ready", "copy", dataset.id)
    assert imported.revision == index.revision and imported.id != index.id
    with pytest.raises(wc.NotFound, match="idx_nothere"):
        call(lambda c: c.indexes.export("idx_nothere", tmp_path / "other.tar"))
    file.write_bytes(first[:1000])
    with pytest.raises(wc.ValidationFailed, match="not an exported index"):
        call(lambda c: c.indexes.import_(file, model=model.id))
    assert not (tmp_path / "other.tar").exists()


def test_an_export_that_breaks_off_leaves_what_was_there(call, index, tmp_path):
    (damaged,) = tmp_path.glob(f"home/indexes/{index.id}/shards/00001*")
    damaged.write_bytes(damaged.read_bytes()[::-1])
    (tmp_path / "index.tar").write_text("an earlier one")
    with pytest.raises(wc.ConnectionFailed):
        call(lambda c: c.indexes.export(index.id, tmp_path / "index.tar"))
    assert (tmp_path / "index.tar").read_text() == "an earlier one"
    assert not list(tmp_path.glob("*.partial"))


def test_checks(call, model, tmp_path):
    (tmp_path / "four.jsonl").write_text("".join(f'{{"prompt": "one {n}", "completion": " two"}}\n' for n in range(4)))
    dataset = call(lambda c: c.datasets.upload(tmp_path / "four.jsonl"))
    trained = call(lambda c: c.models.create("trained", base=tmp_path / "model", recipe={"training": {}}))
    built = call(lambda c: c.indexes.build(model=trained.id, dataset=dataset.id))
    call(lambda c: c.jobs.wait(built.job_id))
    answer = call(lambda c: c.ask(trained.id, prompt="one two", completion=" three"))
    assert (answer.trust.measured, answer.proponents[0].effect) == (None, None)
    cost = call(lambda c: c.attributions.estimate_verification(answer.id, kind="leave_out", rows=2, seeds=4))
    assert (cost.retrainings, cost.memory_bytes) == (4, 1 << 20)
    made = call(lambda c: c.attributions.verify(answer.id, kind="leave_out", rows=2, name="first", metadata={"n": 1}))
    assert made.result is None
    call(lambda c: c.jobs.wait(made.job_id))
    ready = call(lambda c: c.checks.get(made.id))
    assert (ready.state, ready.kind, ready.attribution, ready.metadata) == ("ready", "leave_out", answer.id, {"n": 1})
    assert ready.result.of("top").change == -3.2 and ready.result.of("half") is None
    assert ready.result.effects[0].id == answer.proponents[0].example_id
    shown = call(lambda c: c.attributions.get(answer.id))
    assert (shown.trust.measured.check, shown.trust.measured.difference.high) == (made.id, -2.5)
    assert shown.proponents[0].effect.check == made.id
    assert call(lambda c: c.attributions.checks(answer.id, limit=1)).data[0].id == made.id
    assert [found.id for found in call(lambda c: c.checks.all())] == [made.id]
    assert call(lambda c: c.checks.list(kind="flip")).data == []
    assert call(lambda c: c.checks.update(made.id, name="renamed")).name == "renamed"
    assert call(lambda c: c.checks.delete(made.id)) is None
    with pytest.raises(wc.NotFound, match=made.id):
        call(lambda c: c.checks.get(made.id))


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
    figures = call(lambda c: c.evaluations.figures(made.id))
    assert (figures.method, figures.composition[0].measured, len(figures.leave_out)) == ("ekfac", [-4, -2, -3, -1], 2)
    assert call(lambda c: c.evaluations.list(index=built.id, model=trained.id)).data[0].id == made.id
    assert [found.id for found in call(lambda c: c.evaluations.all())] == [made.id]
    assert call(lambda c: c.evaluations.update(made.id, name="renamed", metadata={"n": 1})).metadata == {"n": 1}
    wanted = {"name": "renamed", "state": "ready", "dataset": dataset.id}
    assert [found.id for found in call(lambda c: c.evaluations.list(**wanted)).data] == [made.id]
    assert call(lambda c: c.evaluations.list(name="first")).data == []
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


def test_what_is_noted_can_be_changed_and_lists_filtered(call, model, dataset, index, tmp_path):
    noted = {"ticket": 7}
    assert call(lambda c: c.models.update(model.id, metadata=noted)).metadata == noted
    assert call(lambda c: c.datasets.update(dataset.id, name="renamed", metadata=noted)).name == "renamed"
    named = call(lambda c: c.indexes.update(index.id, name="facts"))
    assert (named.name, named.version) == ("facts", 1)
    with pytest.raises(wc.PreconditionFailed):
        call(lambda c: c.indexes.update(index.id, metadata=noted, if_match='"old"'))
    again = call(lambda c: c.indexes.build(model=model.id, dataset=dataset.id, name="facts", metadata=noted))
    assert (again.version, again.metadata) == (2, noted)
    call(lambda c: c.jobs.wait(again.job_id))
    (tmp_path / "train.jsonl").write_text(ROWS)
    other = call(lambda c: c.datasets.upload(tmp_path / "train.jsonl", name="other", metadata=noted))
    assert other.metadata == noted
    assert call(lambda c: c.models.list(name="tuned")).data[0].metadata == noted
    assert call(lambda c: c.models.list(name="none")).data == []
    assert [found.id for found in call(lambda c: c.datasets.list(name="other", state="ready")).data] == [other.id]
    listed = call(lambda c: c.indexes.list(name="facts", state="ready", model=model.id, dataset=dataset.id)).data
    assert [found.version for found in listed] == [2, 1]
    assert call(lambda c: c.indexes.list(dataset=other.id)).data == []


def test_a_batch_of_questions(call, index, model, tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text('{"prompt": "one two", "completion": " three", "custom_id": "a"}\n{"prompt": "ü"}\n')
    sent = call(lambda c: c.attributions.batch(file, model=model.id, top_k=1))
    assert (sent.lines, sent.index, sent.source) == (2, index.id, "questions.jsonl")
    call(lambda c: c.jobs.wait(sent.job_id))
    batch = call(lambda c: c.attributions.get_batch(sent.id))
    assert (batch.state, batch.succeeded, batch.failed) == ("ready", 1, 1)
    first, second = call(lambda c: c.attributions.batch_results(sent.id))
    assert (first.custom_id, first.line, [hit.example_id for hit in first.body.proponents]) == ("a", 1, ["a"])
    assert (second.status, second.problem.errors[0].pointer, second.body) == (422, "/completion", None)
    assert call(lambda c: c.attributions.get(first.body.id)) == first.body
    assert call(lambda c: c.attributions.save_batch_results(sent.id, tmp_path / "out.jsonl", partial=True)).is_file()
    saved = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["line"] for line in saved] == [1, 2]
    assert call(lambda c: c.attributions.list_batches(limit=1)).data == [batch]
    assert call(lambda c: c.attributions.delete_batch(sent.id)) is None
    with pytest.raises(wc.NotFound, match=sent.id):
        call(lambda c: c.attributions.save_batch_results(sent.id, tmp_path / "none.jsonl"))
    assert not (tmp_path / "none.jsonl").exists()


def test_questions_of_a_batch_in_the_request_and_a_query_set(call, index, model):
    asked = [{"prompt": "one two", "completion": " three", "custom_id": "a"}, {"prompt": "four", "completion": " five"}]
    sent = call(lambda c: c.attributions.batch_of(asked, index=index.id, top_k=1))
    call(lambda c: c.jobs.wait(sent.job_id))
    first, second = call(lambda c: c.attributions.batch_results(sent.id))
    assert (first.custom_id, first.status, second.status) == ("a", 200, 200)
    members = [{"prompt": one["prompt"], "completion": one["completion"]} for one in asked]
    answer = call(lambda c: c.attributions.query_set(members, index=index.id, top_k=1))
    assert (answer.measurement.kind, len(answer.proponents)) == ("mean_log_prob", 1)


def test_a_batch_that_is_not_ready_says_so(call, index, engine, tmp_path):
    (tmp_path / "questions.jsonl").write_text('{"prompt": "one", "completion": " two"}\n')
    engine.gate.clear()
    sent = call(lambda c: c.attributions.batch(tmp_path / "questions.jsonl", index=index.id))
    with pytest.raises(wc.Conflict, match=sent.id):
        call(lambda c: c.attributions.batch_results(sent.id))
    assert call(lambda c: c.attributions.batch_results(sent.id, partial=True)) == []
    engine.gate.set()
    call(lambda c: c.jobs.wait(sent.job_id))


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


def test_keys_and_the_audit_log(call, address, model):
    made = call(lambda c: c.keys.create("dashboard", ["*:read", "keys:write"]))
    assert made.key.startswith(made.prefix) and made.key not in repr(made)
    with pytest.raises(wc.Unauthorized):  # from the first key on, every request needs one
        call(lambda c: c.models.list())
    with wc.Whence(address, api_key=made.key) as client:
        assert client.models.all() == [model]
        with pytest.raises(wc.Forbidden, match="models:write"):
            client.models.delete(model.id)
        assert [key.id for key in client.keys.all()] == [made.id]
        assert client.keys.get(made.id).scopes == ["*:read", "keys:write"]
        log = client.audit_log(since=model.created_at)
        assert [(event.operation, event.resource_id) for event in log.data] == [
            ("create_key", made.id),
            ("create_model", model.id),
        ]
        client.keys.revoke(made.id)
        with pytest.raises(wc.Unauthorized, match="revoked"):
            client.keys.list()


def test_methods_status_and_limits(call):
    assert "ekfac" in [method.name for method in call(lambda c: c.methods())]
    assert call(lambda c: c.status()).version
    assert call(lambda c: c.limits())["max_top_k"] == 1000


def test_problems_keep_their_pointers(call, model):
    with pytest.raises(wc.ValidationFailed) as caught:
        call(lambda c: c.ask(model.id, prompt="x", completion="y", top_k=0))
    assert caught.value.problem.errors[0].pointer == "/top_k"
    assert caught.value.problem.request_id
