"""One case an operation of the API: how it succeeds, and how it is refused. test_every_endpoint.py runs them all.

A new operation without a case here fails its tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from tests.app.resources import (
    QUESTION,
    RECIPE,
    add_check,
    add_dataset,
    add_evaluation,
    add_index,
    add_model,
    jsonl,
    wait_for_check,
    wait_for_evaluation,
    wait_for_index,
    wait_for_job,
)

Json = dict[str, Any]


class World:
    """A tenant with one of everything; each resource is made when it is first asked for."""

    def __init__(self, client: TestClient, directory: Path) -> None:
        self.client = client
        self.directory = directory
        self._made: dict[str, Any] = {}

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def new_model(self) -> str:
        return add_model(self.client, self.directory, name=f"bot {len(self._made)}", recipe=RECIPE)["id"]

    def new_index(self) -> str:
        built = add_index(self.client, self.model, self.dataset)
        return wait_for_index(self.client, built["id"])["id"]

    def new_attribution(self) -> str:
        body = QUESTION | {"model": self.model, "index": self.index}
        return self.client.post("/v1/attributions", json=body, headers={"Cache-Control": "no-cache"}).json()["id"]

    def new_evaluation(self) -> str:
        return wait_for_evaluation(self.client, add_evaluation(self.client, {"id": self.index})["id"])["id"]

    def new_check(self) -> str:
        return wait_for_check(self.client, add_check(self.client, self.attribution)["id"])["id"]

    def ended_job(self) -> str:
        job = add_index(self.client, self.model, self.dataset)["job_id"]
        return wait_for_job(self.client, job)["id"]

    def new_batch(self) -> str:
        made = self.client.post("/v1/attributions/batches", **batch_body(self)).json()
        wait_for_job(self.client, made["job_id"])
        return made["id"]

    def new_alias(self) -> str:
        name = f"alias-{len(self._made)}"
        self.client.put(f"/v1/aliases/{name}", json={"index": self.index})
        return name

    def new_key(self) -> str:
        return self.client.post("/v1/keys", json={"name": "spare", "scopes": ["jobs:read"]}).json()["id"]

    @property
    def model(self) -> str:
        return self._once("model", self.new_model)

    @property
    def dataset(self) -> str:
        return self._once("dataset", lambda: add_dataset(self.client)["id"])

    @property
    def index(self) -> str:
        return self._once("index", self.new_index)

    @property
    def batch(self) -> str:
        return self._once("batch", self.new_batch)

    @property
    def alias(self) -> str:
        return self._once("alias", self.new_alias)

    @property
    def attribution(self) -> str:
        return self._once("attribution", self.new_attribution)

    @property
    def evaluation(self) -> str:
        return self._once("evaluation", self.new_evaluation)

    @property
    def check(self) -> str:
        return self._once("check", self.new_check)

    @property
    def job(self) -> str:
        return self._once("job", self.ended_job)

    @property
    def key(self) -> str:
        return self._once("key", self.new_key)


Value = Callable[[World], Any]


@dataclass(frozen=True)
class Case:
    """`path`: what fills the path's parameters; `sent`: keyword arguments of the request that succeeds with `status`;
    `wrong`: of one that is refused with 422, and where its problem points. Paths that name an id are also asked with
    the id of another tenant (404)."""

    status: int = 200
    path: dict[str, Value] = field(default_factory=dict)
    sent: Value = lambda _: {}
    wrong: Json | None = None
    pointer: str = ""


def query(pointer: str = "query:limit", **params: Any) -> Json:
    return {"wrong": {"params": params or {"limit": 0}}, "pointer": pointer}


def body(pointer: str, **wrong: Any) -> Json:
    return {"wrong": {"json": wrong}, "pointer": pointer}


def model_body(world: World) -> Json:
    return {"json": {"name": "another", "base": str(world.directory)}}


def index_body(world: World) -> Json:
    return {"json": {"model": world.model, "dataset": world.dataset}}


def evaluation_body(world: World) -> Json:
    return {"json": {"index": world.index, "leave_out_rows": 1}}


def ask_body(world: World) -> Json:
    return {"json": QUESTION | {"model": world.model, "index": world.index}}


def check_body(_: World) -> Json:
    return {"json": {"kind": "leave_out", "rows": 1}}


def note(_: World) -> Json:
    return {"json": {"metadata": {"ticket": 7}}}


def batch_body(world: World) -> Json:
    return {"data": {"index": world.index}, "files": {"file": ("questions.jsonl", jsonl([QUESTION]))}}


def batch_json(world: World) -> Json:
    return {"json": {"index": world.index, "queries": [QUESTION]}}


def query_set(world: World) -> Json:
    return {"json": {"index": world.index, "queries": [QUESTION, QUESTION | {"prompt": "And who else?"}]}}


def key_body(_: World) -> Json:
    """No key gives what it has not got."""
    return {"json": {"name": "another", "scopes": ["keys:write"]}}


def upload(_: World) -> Json:
    return {"data": {"name": "again"}, "files": {"file": ("rows.jsonl", jsonl())}}


def archive(world: World) -> Json:
    exported = world.client.get(f"/v1/indexes/{world.index}/export").content
    return {"data": {"model": world.model}, "files": {"file": ("index.tar", exported)}}


def cancelled_job(world: World) -> str:
    """A build that was cancelled while the engine was held up, so that it can be resumed."""
    engine = world.client.app.state.services.engine  # type: ignore[attr-defined]
    engine.gate.clear()
    job = add_index(world.client, world.model, world.dataset)["job_id"]
    world.client.post(f"/v1/jobs/{job}/cancel")
    wait_for_job(world.client, job, "cancelled")
    engine.gate.set()
    return job


def running_job(world: World) -> str:
    world.client.app.state.services.engine.gate.clear()  # type: ignore[attr-defined]
    return add_index(world.client, world.model, world.dataset)["job_id"]


CASES: dict[str, Case] = {
    "create_model": Case(201, sent=model_body, **body("/base", name="x")),
    "list_models": Case(**query()),
    "get_model": Case(path={"model_id": lambda w: w.model}),
    "update_model": Case(path={"model_id": lambda w: w.model}, sent=note, **body("/metadata", metadata=1)),
    "delete_model": Case(204, {"model_id": lambda w: w.new_model()}),
    "create_dataset": Case(201, sent=upload, **body("/uri", name="x")),
    "list_datasets": Case(**query()),
    "get_dataset": Case(path={"dataset_id": lambda w: w.dataset}),
    "update_dataset": Case(path={"dataset_id": lambda w: w.dataset}, sent=note, **body("/name", name=None)),
    "delete_dataset": Case(204, {"dataset_id": lambda w: add_dataset(w.client)["id"]}),
    "list_examples": Case(path={"dataset_id": lambda w: w.dataset}, **query()),
    "get_example": Case(path={"dataset_id": lambda w: w.dataset, "example_id": lambda _: "sea"}),
    "create_index": Case(202, sent=index_body, **body("/dataset", model="mdl_x")),
    "estimate_index": Case(sent=index_body, **body("/dataset", model="mdl_x")),
    "list_indexes": Case(**query()),
    "get_index": Case(path={"index_id": lambda w: w.index}),
    "update_index": Case(path={"index_id": lambda w: w.index}, sent=note, **body("/name", name=None)),
    "delete_index": Case(204, {"index_id": lambda w: w.new_index()}),
    "list_self_influence": Case(path={"index_id": lambda w: w.index}, **query()),
    "export_index": Case(path={"index_id": lambda w: w.index}),
    "import_index": Case(201, sent=archive, wrong={"files": {"file": ("index.tar", b"x")}}, pointer="/model"),
    "put_alias": Case(path={"name": lambda w: w.alias}, sent=lambda w: {"json": {"index": w.index}}, **body("/index")),
    "list_aliases": Case(**query()),
    "get_alias": Case(path={"name": lambda w: w.alias}),
    "delete_alias": Case(204, {"name": lambda w: w.new_alias()}),
    "create_evaluation": Case(202, sent=evaluation_body, **body("/index", name="x")),
    "estimate_evaluation": Case(sent=evaluation_body, **body("/index", name="x")),
    "list_evaluations": Case(**query()),
    "get_evaluation": Case(path={"evaluation_id": lambda w: w.evaluation}),
    "get_evaluation_figures": Case(path={"evaluation_id": lambda w: w.evaluation}),
    "update_evaluation": Case(path={"evaluation_id": lambda w: w.evaluation}, sent=note, **body("/state", state="x")),
    "delete_evaluation": Case(204, {"evaluation_id": lambda w: w.new_evaluation()}),
    "create_attribution": Case(sent=ask_body, **body("/top_k", model="m", prompt="p", completion=" c", top_k=0)),
    "list_attributions": Case(**query("query:since", since="yesterday")),
    "get_attribution": Case(path={"attribution_id": lambda w: w.attribution}),
    "delete_attribution": Case(204, {"attribution_id": lambda w: w.new_attribution()}),
    "verify_attribution": Case(
        202, {"attribution_id": lambda w: w.attribution}, check_body, **body("/kind", kind="leave_one_out")
    ),
    "estimate_verification": Case(
        path={"attribution_id": lambda w: w.attribution}, sent=check_body, **body("/rows", kind="flip", rows=0)
    ),
    "list_attribution_checks": Case(path={"attribution_id": lambda w: w.attribution}, **query()),
    "list_checks": Case(**query("query:kind", kind="none")),
    "get_check": Case(path={"check_id": lambda w: w.check}),
    "update_check": Case(path={"check_id": lambda w: w.check}, sent=note, **body("/name", name=None)),
    "delete_check": Case(204, {"check_id": lambda w: w.new_check()}),
    "create_batch": Case(202, sent=batch_body, wrong={"files": {"file": ("empty.jsonl", b"")}}, pointer="/file"),
    "attribute_batch": Case(202, sent=batch_json, **body("/queries", queries=[])),
    "attribute_query_set": Case(sent=query_set, **body("/queries", index="prod")),
    "list_batches": Case(**query()),
    "get_batch": Case(path={"batch_id": lambda w: w.batch}),
    "get_batch_results": Case(path={"batch_id": lambda w: w.batch}, **query("query:partial", partial="some")),
    "delete_batch": Case(204, {"batch_id": lambda w: w.new_batch()}),
    "list_methods": Case(),
    "list_jobs": Case(**query()),
    "get_job": Case(path={"job_id": lambda w: w.job}),
    "list_job_events": Case(path={"job_id": lambda w: w.job}, **query()),
    "cancel_job": Case(202, {"job_id": running_job}),
    "resume_job": Case(202, {"job_id": cancelled_job}),
    "delete_job": Case(204, {"job_id": lambda w: w.ended_job()}),
    "create_key": Case(201, sent=key_body, **body("/scopes", name="x")),
    "list_keys": Case(**query()),
    "get_key": Case(path={"key_id": lambda w: w.key}),
    "revoke_key": Case(204, {"key_id": lambda w: w.new_key()}),
    "list_audit_log": Case(**query()),
    "get_status": Case(),
    "get_limits": Case(),
}
