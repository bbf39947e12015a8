"""Every operation of the service has a call in the client."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from app.main import create_app
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine


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
    from whence_client.api import (
        Aliases,
        Api,
        Attributions,
        Checks,
        Datasets,
        Endpoint,
        Evaluations,
        Indexes,
        Jobs,
        Keys,
        Models,
    )

    for group in (Api, Models, Datasets, Indexes, Aliases, Evaluations, Attributions, Checks, Jobs, Keys):
        for endpoint in vars(group).values():
            if not isinstance(endpoint, Endpoint):
                continue
            parameters = inspect.signature(endpoint._build).parameters.values()
            needed = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
            required = {name: f"{{{name}}}" for name in needed}
            if "job" in required:
                required["job"] = "{job_id}"
            effect = next(endpoint._build(**required))
            yield effect.request.method, effect.request.path.replace("%7B", "{").replace("%7D", "}")
