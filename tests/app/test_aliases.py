"""/v1/aliases, and aliases wherever an index is named."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import IntegrityError

from app.aliases import service as aliases
from app.aliases.schemas import AliasOut
from app.aliases.service import AliasesService, put_alias
from app.database import Database
from app.dependencies import Services
from app.errors import InUse, NotFound
from app.etags import Preconditions
from app.indexes.service import delete_index
from app.main import create_app
from app.settings import Settings
from app.tables import DEFAULT_TENANT
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.questions import post, submitted
from tests.app.resources import (
    QUESTION,
    RECIPE,
    add_evaluation,
    add_index,
    assert_problem,
    ready_index,
    wait_for_index,
    wait_for_job,
)

ANY = Preconditions(None)


@pytest.fixture
def index(client: TestClient, model_dir: Path) -> dict[str, Any]:
    return ready_index(client, model_dir, recipe=RECIPE)


@pytest.fixture
def other(client: TestClient, index: dict[str, Any]) -> dict[str, Any]:
    return another(client, index)


def another(client: TestClient, index: dict[str, Any]) -> dict[str, Any]:
    return wait_for_index(client, add_index(client, index["model"], index["dataset"])["id"])


def put(client: TestClient, index: dict[str, Any], name: str = "prod", **headers: str) -> Any:
    return client.put(f"/v1/aliases/{name}", json={"index": index["id"]}, headers=headers)


def test_an_alias_is_made_and_moved(client: TestClient, index: dict[str, Any], other: dict[str, Any]) -> None:
    made = put(client, index)
    assert (made.status_code, made.headers["location"]) == (201, "/v1/aliases/prod")
    AliasOut.model_validate(made.json(), extra="forbid")
    assert made.json().items() >= {"name": "prod", "index": index["id"], "version": 1, "previous_index": None}.items()
    moved = put(client, other)
    assert (moved.status_code, moved.json()["index"], moved.json()["version"]) == (200, other["id"], 2)
    assert moved.json()["previous_index"] == index["id"]
    assert moved.json()["moved_at"] > made.json()["moved_at"] == made.json()["created_at"]
    assert client.get("/v1/aliases/prod").json() == moved.json()


def test_pointing_it_where_it_points_changes_nothing(client: TestClient, index: dict[str, Any]) -> None:
    made = put(client, index)
    again = put(client, index)
    assert (again.status_code, again.json(), again.headers["etag"]) == (200, made.json(), made.headers["etag"])


def test_aliases_are_listed_by_pages(client: TestClient, index: dict[str, Any]) -> None:
    for name in ("a", "b", "c"):
        put(client, index, name)
    first = client.get("/v1/aliases", params={"limit": 2}).json()
    rest = client.get("/v1/aliases", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [alias["name"] for alias in first["data"] + rest["data"]] == ["c", "b", "a"]


def test_a_deleted_alias_is_gone_and_its_index_stays(client: TestClient, index: dict[str, Any]) -> None:
    put(client, index)
    assert client.delete("/v1/aliases/prod").status_code == 204
    assert_problem(client.get("/v1/aliases/prod"), 404, "not-found")
    assert_problem(client.delete("/v1/aliases/prod"), 404, "not-found")
    assert client.get(f"/v1/indexes/{index['id']}").status_code == 200


@pytest.mark.parametrize("name", ["Prod", "1st", "idx_k5yq", "a" * 64, "-a", "ä", "prod%0A"])
def test_a_name_that_is_no_alias_is_refused(client: TestClient, index: dict[str, Any], name: str) -> None:
    assert_problem(put(client, index, name), 422, "invalid-request", "path:name")


def test_only_a_ready_index_can_be_a_target(client: TestClient, index: dict[str, Any], engine: FakeEngine) -> None:
    engine.gate.clear()
    building = add_index(client, index["model"], index["dataset"])
    problem = assert_problem(put(client, building), 409, "index-unavailable", "/index")
    assert problem["job_id"] == building["job_id"]
    assert_problem(put(client, {"id": "idx_none"}), 404, "not-found")
    assert client.get("/v1/aliases").json()["data"] == []
    engine.gate.set()


def test_an_alias_can_be_pointed_where_another_one_points(client: TestClient, index: dict[str, Any]) -> None:
    put(client, index, "canary")
    assert put(client, {"id": "canary"}).json()["index"] == index["id"]
    assert_problem(put(client, {"id": "nobody"}), 404, "not-found")


def test_two_that_move_it_do_not_overwrite_each_other_unseen(
    client: TestClient, index: dict[str, Any], other: dict[str, Any]
) -> None:
    seen = put(client, index).headers["etag"]
    assert put(client, other, **{"If-Match": seen}).status_code == 200
    assert_problem(put(client, index, **{"If-Match": seen}), 412, "precondition-failed", "header:If-Match")
    assert client.get("/v1/aliases/prod").json()["index"] == other["id"]
    now = client.get("/v1/aliases/prod").headers["etag"]
    assert put(client, index, **{"If-Match": f'"x", {now}'}).status_code == 200
    assert put(client, other, **{"If-Match": "*"}).status_code == 200
    assert_problem(client.delete("/v1/aliases/prod", headers={"If-Match": seen}), 412, "precondition-failed")


def test_conditions_on_an_alias_that_is_not_there(client: TestClient, index: dict[str, Any]) -> None:
    assert_problem(put(client, index, **{"If-Match": "*"}), 412, "precondition-failed")
    assert put(client, index, **{"If-None-Match": "*"}).status_code == 201
    assert_problem(put(client, index, **{"If-None-Match": "*"}), 412, "precondition-failed", "header:If-None-Match")


def test_an_index_with_an_alias_is_not_deleted(
    client: TestClient, index: dict[str, Any], other: dict[str, Any]
) -> None:
    put(client, index)
    problem = assert_problem(client.delete(f"/v1/indexes/{index['id']}"), 409, "in-use")
    assert (problem["used_by"], "prod" in problem["detail"]) == ("prod", True)
    put(client, other)
    assert client.delete(f"/v1/indexes/{index['id']}").status_code == 204
    assert client.get("/v1/aliases/prod").json()["previous_index"] == index["id"]


def test_a_question_to_an_alias_needs_no_model(client: TestClient, index: dict[str, Any]) -> None:
    put(client, index)
    answer = client.post("/v1/attributions", json=QUESTION | {"index": "prod"})
    assert (answer.status_code, answer.json()["index"], answer.json()["model"]) == (200, index["id"], index["model"])
    by_id = client.post("/v1/attributions", json=QUESTION | {"index": index["id"]})
    assert (by_id.headers["x-whence-cache"], by_id.json()["id"]) == ("hit", answer.json()["id"])
    assert_problem(client.post("/v1/attributions", json=QUESTION), 422, "invalid-request", "/model")
    unknown = client.post("/v1/attributions", json=QUESTION | {"index": "nobody"})
    assert "alias 'nobody'" in assert_problem(unknown, 404, "not-found")["detail"]


def test_a_moved_alias_never_serves_the_old_answer(
    client: TestClient, index: dict[str, Any], other: dict[str, Any], engine: FakeEngine
) -> None:
    put(client, index)
    old = post(client, index, index="prod").json()
    put(client, other)
    new = post(client, index, index="prod")
    assert (new.headers["x-whence-cache"], new.json()["index"]) == ("miss", other["id"])
    assert (old["index"], len(submitted(engine))) == (index["id"], 2)
    put(client, index)
    assert post(client, index, index="prod").json()["id"] == old["id"]


def test_a_job_asks_the_index_that_the_alias_meant_when_it_was_asked(
    settings: Settings, model_dir: Path, engine: FakeEngine
) -> None:
    with TestClient(create_app(settings, engine)) as client:
        index = ready_index(client, model_dir)
        other = another(client, index)
        put(client, index)
        engine.gate.clear()
        pending = post(client, index, index="prod", headers={"Prefer": "respond-async"}).json()
        put(client, other)
    with TestClient(create_app(settings, FakeEngine())) as client:
        wait_for_job(client, pending["job_id"])
        assert client.get(f"/v1/attributions/{pending['id']}").json()["index"] == index["id"]


def test_self_influence_and_evaluations_take_an_alias(client: TestClient, index: dict[str, Any]) -> None:
    put(client, index)
    by_alias = client.get("/v1/indexes/prod/self-influence")
    assert by_alias.json() == client.get(f"/v1/indexes/{index['id']}/self-influence").json()
    assert add_evaluation(client, {"id": "prod"})["index"] == index["id"]


class Two:
    """A service on the given database, with two ready indexes, and its tenant's aliases."""

    def __init__(self, client: TestClient, services: Services, model_dir: Path) -> None:
        self.services, self.client = services, client
        self.first = ready_index(client, model_dir)
        self.second = another(client, self.first)


@pytest.fixture
def two(database: Database, tmp_path: Path, model_dir: Path) -> Any:
    url = database.engine.url.render_as_string(hide_password=False)
    app = create_app(make_settings(tmp_path, database_url=url), FakeEngine())
    with TestClient(app) as client:
        yield Two(client, app.state.services, model_dir)


def test_of_two_that_move_it_at_once_one_wins_on_either_database(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each looks at the alias and then waits for the other one to have looked, which it must not be able to."""
    seen = put(two.client, two.first).headers["etag"]
    both_looked, real = threading.Barrier(2), aliases.AliasesRepository.lock
    statuses: list[int] = []

    def lock(repository: Any, name: str) -> Any:
        row = real(repository, name)
        with suppress(threading.BrokenBarrierError):
            both_looked.wait(0.5)
        return row

    def move() -> None:
        statuses.append(put(two.client, two.second, **{"If-Match": seen}).status_code)

    monkeypatch.setattr(aliases.AliasesRepository, "lock", lock)
    threads = [threading.Thread(target=move) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    now = two.client.get("/v1/aliases/prod").json()
    assert (now["version"], now["index"], sorted(statuses)) == (2, two.second["id"], [200, 412])


def test_of_many_that_make_it_at_once_one_does_on_either_database(two: Two) -> None:
    statuses: list[int] = []

    def make() -> None:
        statuses.append(put(two.client, two.first, **{"If-None-Match": "*"}).status_code)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [201, 412, 412, 412, 412, 412]


def test_another_tenant_has_its_own_aliases(two: Two) -> None:
    put(two.client, two.first)
    with pytest.raises(NotFound):
        put_alias(two.services, "other", "prod", two.second["id"], ANY)
    with two.services.database.read() as session, pytest.raises(NotFound):
        AliasesService(session, "other", two.services.settings).get("prod")


def test_an_index_deleted_in_the_very_moment_is_not_pointed_at(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the deletion had been committed between the look at the index and the insert."""
    real = aliases.AliasesRepository.add

    def add(repository: Any, row: Any) -> Any:
        monkeypatch.setattr(aliases.AliasesRepository, "add", real)
        row.index_id = "idx_deleted"
        return real(repository, row)

    monkeypatch.setattr(aliases.AliasesRepository, "add", add)
    assert put_alias(two.services, DEFAULT_TENANT, "prod", two.first["id"], ANY).created


def test_an_alias_made_in_the_very_moment_keeps_its_index(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    put(two.client, two.first)
    monkeypatch.setattr("app.aliases.targets.AliasTargets.alias_of", lambda *_: None)
    with pytest.raises(InUse) as refused:
        delete_index(two.services, DEFAULT_TENANT, two.first["id"])
    assert isinstance(refused.value.__cause__, IntegrityError)
    assert (two.services.settings.indexes_dir / two.first["id"]).is_dir()
