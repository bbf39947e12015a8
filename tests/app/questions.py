"""Asking over HTTP, and what reached the fake engine."""

from __future__ import annotations

from typing import Any

from fastapi.testclient import TestClient

from tests.app.fakes import FakeEngine
from tests.app.resources import QUESTION


def post(client: TestClient, index: dict[str, Any], /, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    """QUESTION to the model of `index`, with `fields` changed; None leaves a field out."""
    body = {"model": index["model"]} | QUESTION | fields
    body = {name: value for name, value in body.items() if value is not None}
    return client.post("/v1/attributions", json=body, headers=headers)


def submitted(engine: FakeEngine) -> list[tuple[Any, ...]]:
    return [arguments for name, arguments in engine.calls if name == "submit_attribution"]
