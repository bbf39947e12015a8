"""/v1/methods, /v1/status, /v1/limits"""

from __future__ import annotations

from typing import Any

from whence_client.flow import Flow
from whence_client.status import Status
from whence_client.types import Method, Page
from whence_client.wire import ask, get


def methods() -> Flow[list[Method]]:
    """Every method with its options, what it needs and what it costs."""
    page = yield from ask(get("/v1/methods"), Page[Method])
    return page.data


def status() -> Flow[Status]:
    return ask(get("/v1/status"), Status)


def limits() -> Flow[dict[str, Any]]:
    return ask(get("/v1/limits"), dict[str, Any])
