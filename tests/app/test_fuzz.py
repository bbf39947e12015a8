"""Requests made up from the API's own description: none may end in a 5xx or in an answer it does not describe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from app.main import create_app
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.resources import ready_index

CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    """One service for all requests, with something in it to list and to ask."""
    root = tmp_path_factory.mktemp("fuzz")
    (root / "model").mkdir()
    (root / "model" / "config.json").write_text("{}")
    app = create_app(make_settings(root), FakeEngine())
    with TestClient(app) as client:
        ready_index(client, Path(root / "model"))
        yield app


@pytest.fixture(scope="module")
def api(running: FastAPI) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", _already_started(running))


def _already_started(app: FastAPI) -> Any:
    """Every client that schemathesis makes would start the app once more: its lifespan is kept from them."""

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        for stage in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{stage}.complete"})

    return asgi


schema = schemathesis.pytest.from_fixture("api").include(path_regex="^/v1/").exclude(path_regex="/events$")


@schema.parametrize()
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_api_answers_as_it_describes_itself(case: Any) -> None:
    case.call_and_validate(checks=CHECKS)
