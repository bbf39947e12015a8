"""`Whence`: the blocking client."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Self, TypeVar

import httpx

from whence_client.api import Api, Blocking
from whence_client.flow import Effect, Flow, Notify, OpenStream, ReadChunk, Request, Send, Sleep, Transmit
from whence_client.retry import RetryPolicy, exchange
from whence_client.settings import build_arguments, connection, timeouts
from whence_client.types import bind
from whence_client.wire import translate

T = TypeVar("T")


class Performer:
    """Runs one flow: does each effect it yields and hands the result back."""

    def __init__(self, http: httpx.Client, policy: RetryPolicy) -> None:
        self._http = http
        self._policy = policy
        self._stream = ExitStack()
        self._chunks: Iterator[bytes] = iter(())

    def run(self, flow: Flow[T]) -> T:
        with self._stream:
            try:
                effect = next(flow)
                while True:
                    try:
                        result = self._perform(effect)
                    except Exception as error:
                        effect = flow.throw(error)
                    else:
                        effect = flow.send(result)
            except StopIteration as finished:
                return finished.value

    def _perform(self, effect: Effect) -> Any:
        match effect:
            case Send(request):
                return Performer(self._http, self._policy).run(exchange(request, self._policy))
            case Transmit(request):
                with ExitStack() as files:
                    return self._http.request(request.method, request.path, **build_arguments(request, files))
            case OpenStream(request, silence_s):
                return self._open(request, silence_s)
            case ReadChunk():
                return next(self._chunks, b"")
            case Sleep(seconds):
                time.sleep(seconds)
            case Notify(callback, value):
                callback(value)

    def _open(self, request: Request, silence_s: float) -> httpx.Response:
        self._stream.close()
        stream = self._http.stream("GET", request.path, headers=request.headers, timeout=timeouts(silence_s))
        response = self._stream.enter_context(stream)
        self._chunks = response.iter_bytes()
        return response


class Whence(Api[Blocking]):
    """The blocking client. Safe to share between threads; close it, or use it as a context manager.

    base_url: default WHENCE_URL, else http://127.0.0.1:8400. api_key: default WHENCE_API_KEY; "" for none.
    timeout: seconds one answer may take. transport: for tests, an httpx transport.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(self._perform)
        target = connection(base_url, api_key)
        self.base_url = target.base_url
        self._policy = retry or RetryPolicy()
        self._http = httpx.Client(
            base_url=target.base_url, headers=target.headers, timeout=timeouts(timeout), transport=transport
        )

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _perform(self, flow: Flow[T]) -> T:
        try:
            return bind(Performer(self._http, self._policy).run(flow), self)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise translate(error, self.base_url) from error
