"""Every operation of the API, enumerated from its own description: 401, 403, 404, 422 with a pointer, success.

On SQLite and on PostgreSQL. The cases are in every_endpoint.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.homelock import create_home
from app.keys.scopes import RESOURCES, SCOPES, grants, required_scope
from app.keys.service import KeysService
from app.main import create_app
from app.schema import upgrade
from tests.app.conftest import fresh_postgres, make_settings
from tests.app.every_endpoint import CASES, Case, World
from tests.app.fakes import FakeEngine
from tests.app.resources import assert_problem

Service = tuple[TestClient, World]


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A running service, and the world of one tenant in it."""
    directory = tmp_path_factory.mktemp("every")
    if request.param == "sqlite":
        yield from serving(directory, "")
        return
    with fresh_postgres(request.getfixturevalue("postgres_server")) as url:
        yield from serving(directory, url)


def serving(directory: Path, database_url: str) -> Iterator[Service]:
    model = directory / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    app = create_app(make_settings(directory, database_url=database_url), FakeEngine())
    create_home(app.state.services.settings.home)
    upgrade(app.state.services.database)
    with TestClient(app) as client:
        client.headers["Authorization"] = f"Bearer {key(client, 'default', 'admin')}"
        yield client, World(client, model)


def key(client: TestClient, tenant: str, *scopes: str) -> str:
    services = client.app.state.services  # type: ignore[attr-defined]
    with services.database.write() as session:
        _, made = KeysService(session, tenant).create(services.keys.secret, "test", scopes, None, None)
    return made.text


def described() -> dict[str, tuple[str, str, dict[str, Any]]]:
    """operation id → (method, path, operation), of all below /v1."""
    document = create_app(make_settings(Path("/nowhere")), FakeEngine()).openapi()
    return {
        operation["operationId"]: (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if path.startswith("/v1/")
    }


OPERATIONS = described()
names = pytest.mark.parametrize("name", OPERATIONS)


def send(service: Service, name: str, *, other: dict[str, Any] | None = None, **sent: Any) -> Any:
    """The operation asked for, with its path filled; `other`: headers in place of the admin's."""
    client, world = service
    method, path, _ = OPERATIONS[name]
    filled = path.format(**{part: value(world) for part, value in CASES[name].path.items()})
    headers = dict(client.headers) | (other if other is not None else {})
    if other == {}:
        headers.pop("authorization")
    saved, client.headers = client.headers, type(client.headers)(headers)
    try:
        return client.request(method, filled, **sent)
    finally:
        client.headers = saved
        client.app.state.services.engine.gate.set()  # type: ignore[attr-defined]


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def test_no_operation_is_without_a_case_and_no_resource_without_its_scope() -> None:
    assert set(OPERATIONS) == set(CASES)
    assert {path.split("/")[2] for _, path, _ in OPERATIONS.values()} <= set(RESOURCES)


@names
def test_without_a_key_it_is_refused(service: Service, name: str) -> None:
    refused = send(service, name, other={})
    assert_problem(refused, 401, "unauthenticated")
    assert refused.headers["www-authenticate"] == "Bearer"
    assert "401" in OPERATIONS[name][2]["responses"]


@names
def test_with_every_scope_but_its_own_it_is_refused_and_with_its_own_it_is_not(service: Service, name: str) -> None:
    client, world = service
    method, path, operation = OPERATIONS[name]
    wanted = required_scope(method, path)
    assert operation["security"] == [{"api_key": [wanted] if wanted else []}]
    case = CASES[name]
    if wanted is not None:
        others = [scope for scope in SCOPES if not grants([scope], wanted)]
        refused = send(service, name, other=bearer(key(client, "default", *others)), **case.sent(world))
        problem = assert_problem(refused, 403, "insufficient-scope")
        assert problem["required_scope"] == wanted
    allowed = send(service, name, other=bearer(key(client, "default", wanted or "jobs:read")), **case.sent(world))
    assert allowed.status_code == case.status, allowed.text
    assert str(case.status) in operation["responses"]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.path])
def test_another_tenants_id_is_not_found(service: Service, name: str) -> None:
    client, world = service
    stranger = bearer(key(client, "stranger", "admin"))
    refused = send(service, name, other=stranger, **CASES[name].sent(world))
    assert_problem(refused, 404, "not-found")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.wrong is not None])
def test_what_is_wrong_is_pointed_at(service: Service, name: str) -> None:
    case: Case = CASES[name]
    assert case.wrong is not None
    assert_problem(send(service, name, **case.wrong), 422, "invalid-request", case.pointer)


def test_lists_show_nothing_of_another_tenant(service: Service) -> None:
    client, world = service
    assert all((world.alias, world.batch, world.attribution, world.evaluation, world.check, world.job, world.key))
    stranger = bearer(key(client, "newcomer", "admin"))
    lists = [name for name in OPERATIONS if name.startswith("list_") and not CASES[name].path]
    for name in set(lists) - {"list_methods", "list_keys"}:
        assert send(service, name, other=stranger).json()["data"] == [], name
        assert send(service, name).json()["data"] != [], name
