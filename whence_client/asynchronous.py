"""`AsyncWhence`: the same client, awaited."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Self, TypeVar

import httpx

from whence_client.api import Api, Awaiting
from whence_client.flow import Effect, Flow, Notify, OpenStream, ReadChunk, Request, Send, Sleep, Transmit
from whence_client.retry import RetryPolicy, exchange
from whence_client.settings import build_arguments, connection, timeouts
from whence_client.wire import translate

T = TypeVar("T")


class AsyncPerformer:
    """Runs one flow: does each effect it yields and hands the result back."""

    def __init__(self, http: httpx.AsyncClient, policy: RetryPolicy) -> None:
        self._http = http
        self._policy = policy
        self._stream = AsyncExitStack()
        self._chunks: AsyncIterator[bytes] | None = None

    async def run(self, flow: Flow[T]) -> T:
        async with self._stream:
            try:
                effect = next(flow)
                while True:
                    try:
                        result = await self._perform(effect)
                    except Exception as error:
                        effect = flow.throw(error)
                    else:
                        effect = flow.send(result)
            except StopIteration as finished:
                return finished.value

    async def _perform(self, effect: Effect) -> Any:
        match effect:
            case Send(request):
                return await AsyncPerformer(self._http, self._policy).run(exchange(request, self._policy))
            case Transmit(request):
                with ExitStack() as files:
                    return await self._http.request(request.method, request.path, **build_arguments(request, files))
            case OpenStream(request, silence_s):
                return await self._open(request, silence_s)
            case ReadChunk():
                return b"" if self._chunks is None else await anext(self._chunks, b"")
            case Sleep(seconds):
                await asyncio.sleep(seconds)
            case Notify(callback, value):
                outcome = callback(value)
                if inspect.isawaitable(outcome):
                    await outcome

    async def _open(self, request: Request, silence_s: float) -> httpx.Response:
        await self._stream.aclose()
        stream = self._http.stream("GET", request.path, headers=request.headers, timeout=timeouts(silence_s))
        response = await self._stream.enter_async_context(stream)
        self._chunks = response.aiter_bytes()
        return response


class AsyncWhence(Api[Awaiting]):
    """The awaited client: the same arguments and methods as `Whence`."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(self._perform)
        target = connection(base_url, api_key)
        self.base_url = target.base_url
        self._policy = retry or RetryPolicy()
        self._http = httpx.AsyncClient(
            base_url=target.base_url, headers=target.headers, timeout=timeouts(timeout), transport=transport
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def _perform(self, flow: Flow[T]) -> T:
        try:
            return await AsyncPerformer(self._http, self._policy).run(flow)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise translate(error, self.base_url) from error
