"""Requests made up from the API's own description: none may end in a 5xx or in an answer it does not describe."""

from __future__ import annotations

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


class Service:
    """One running service for all requests. Every client that schemathesis makes would start it once more,
    so its lifespan is kept from them."""

    app: FastAPI

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


@pytest.fixture(scope="module", autouse=True)
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """With something in it to list and to ask."""
    root = tmp_path_factory.mktemp("fuzz")
    (root / "model").mkdir()
    (root / "model" / "config.json").write_text("{}")
    service.app = create_app(make_settings(root), FakeEngine())
    with TestClient(service.app) as client:
        ready_index(client, root / "model")
        yield


@api.include(path_regex="^/v1/").exclude(path_regex="/events$").parametrize()
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=SLOW_OK)
def test_the_api_answers_as_it_describes_itself(case: Any) -> None:
    case.call_and_validate(checks=CHECKS)
