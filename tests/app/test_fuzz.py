"""Requests made up from the API's own description: none may end in a 5xx or in an answer it does not describe."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from app.main import create_app
from app.settings import Settings
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.resources import ready_index

SLOW_OK = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]  # requests are large
CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]


# WHENCE_FUZZ_CASES=20 for a long run; the figure that counts is printed at its end.
CASES = int(os.environ.get("WHENCE_FUZZ_CASES", "6"))
counted: Counter[str] = Counter()


class Service:
    """A running service for all requests. Every client that schemathesis makes would start it once more, so its
    lifespan is kept from them."""

    app: FastAPI
    key: str

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return
        for stage in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{stage}.complete"})


service = Service()
api = schemathesis.openapi.from_dict(create_app(Settings(), FakeEngine()).openapi())
api.app = service  # known before it runs: the tests are collected from the description alone
everything = api.include(path_regex="^/v1/").exclude(path_regex="/events$")
few = settings(max_examples=CASES, deadline=None, derandomize=True, suppress_health_check=SLOW_OK)


@pytest.fixture(scope="module", autouse=True)
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """With something in it to list and to ask, and with a key."""
    root = tmp_path_factory.mktemp("fuzz")
    (root / "model").mkdir()
    (root / "model" / "config.json").write_text("{}")
    service.app = create_app(make_settings(root, rate_per_minute=0), FakeEngine())
    with TestClient(service.app) as client:
        index = ready_index(client, root / "model")
        client.put("/v1/aliases/prod", json={"index": index["id"]})
        service.key = client.post("/v1/keys", json={"name": "fuzz", "scopes": ["admin"]}).json()["key"]
        yield
    print(f"requests made up: {dict(counted)}")


def without_key(case: Any) -> dict[str, Any]:
    """Its headers but for the key that was made up."""
    return {name: value for name, value in (case.headers or {}).items() if name.lower() != "authorization"}


@everything.parametrize()
@few
def test_with_a_key_the_api_answers_as_it_describes_itself(case: Any) -> None:
    case.headers = without_key(case) | {"Authorization": f"Bearer {service.key}"}
    answer = case.call_and_validate(checks=CHECKS)
    assert answer.status_code not in (401, 403)
    counted["with a key"] += 1


@everything.parametrize()
@few
def test_without_a_key_it_answers_nothing_but_that_one_is_needed(case: Any) -> None:
    case.headers = without_key(case)
    answer = case.call_and_validate(checks=CHECKS)
    assert answer.status_code in (401, 404, 405, 422)
    counted["without a key"] += 1
