"""The sans-IO core: what to do is written once, as generators; sync and async differ only in who does it.

A `Flow[T]` yields effects, is sent their results (or has their exception thrown in), and returns a T.
`whence_client.sync` and `whence_client.asynchronous` each perform the five effects in a few lines.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import httpx

T = TypeVar("T")


@dataclass(frozen=True)
class Upload:
    """A file streamed from disk as multipart, with plain form fields beside it."""

    path: Path
    fields: dict[str, str]
    boundary: str


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    params: dict[str, Any] = field(default_factory=dict)
    json: Any = None
    upload: Upload | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def repeatable(self) -> bool:
        """Sending it twice does the work once: safe by its method, or by its Idempotency-Key."""
        return self.method in {"GET", "HEAD", "PUT", "DELETE"} or "Idempotency-Key" in self.headers


@dataclass(frozen=True)
class Send:
    """→ httpx.Response, read whole, after the client's retries."""

    request: Request


@dataclass(frozen=True)
class Transmit:
    """→ httpx.Response, read whole; one attempt. Raises httpx.TransportError."""

    request: Request


@dataclass(frozen=True)
class OpenStream:
    """→ httpx.Response whose body arrives by `ReadChunk`. It is closed when the flow ends, or by the next stream."""

    request: Request
    read_timeout_s: float


@dataclass(frozen=True)
class ReadChunk:
    """→ the open stream's next bytes; b"" at its end. Raises httpx.TransportError."""


@dataclass(frozen=True)
class Sleep:
    seconds: float


@dataclass(frozen=True)
class Notify:
    """Call back with one value; the async client awaits the callback when it is a coroutine function."""

    callback: Callable[[Any], Any]
    value: Any


Effect: TypeAlias = Send | Transmit | OpenStream | ReadChunk | Sleep | Notify
Flow: TypeAlias = Generator[Effect, Any, T]


def send(request: Request) -> Flow[httpx.Response]:
    return (yield Send(request))
