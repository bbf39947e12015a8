"""One client under test at a time, blocking and awaited alike, in front of a scripted server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from whence_client import AsyncWhence, RetryPolicy, Whence

Handler = Callable[[httpx.Request], httpx.Response]
QUICK = RetryPolicy(attempts=3, first_delay_s=0.0, longest_delay_s=0.0)


@dataclass(frozen=True)
class ClientKind:
    """`call(handler, lambda c: c.models.get("x"))` gives the value with either client."""

    awaited: bool

    def call(self, handler: Handler, use: Callable[[Any], Any], **options: Any) -> Any:
        options = {"retry": QUICK, "transport": httpx.MockTransport(handler)} | options
        if self.awaited:
            return asyncio.run(self._await(use, options))
        with Whence("http://whence.test", **options) as client:
            return use(client)

    async def _await(self, use: Callable[[Any], Awaitable[Any]], options: dict[str, Any]) -> Any:
        async with AsyncWhence("http://whence.test", **options) as client:
            return await use(client)


@pytest.fixture(params=[False, True], ids=["blocking", "awaited"])
def kind(request: pytest.FixtureRequest) -> ClientKind:
    return ClientKind(awaited=request.param)


class Script:
    """A handler that gives its answers in turn (an exception is raised) and keeps the requests it saw."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.bodies: list[bytes] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.bodies.append(request.read() if isinstance(request.stream, httpx.SyncByteStream) else b"")
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def script() -> type[Script]:
    return Script


@pytest.fixture
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits are noted instead of slept."""
    slept: list[float] = []

    async def note(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("whence_client.sync.time.sleep", slept.append)
    monkeypatch.setattr("whence_client.asynchronous.asyncio.sleep", note)
    return slept
