"""An answer that is a file: streamed to disk, and there only when it is whole."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import httpx

from whence_client.flow import Flow, OpenStream, ReadChunk, Request, Sleep
from whence_client.retry import RETRIED_STATUSES, retry_after
from whence_client.wire import require_success

SILENCE_S = 120.0  # the server may first have to read all of it
RETRIES = 4
LONGEST_WAIT_S = 60.0


def download(request: Request, target: Path) -> Flow[Path]:
    """Replaces `target`. Raises the APIError of the status, and httpx.TransportError where the answer broke off: then
    `target` is as it was."""
    response = yield from _opened(request)
    if response.status_code != 200:
        body = b""
        while chunk := (yield ReadChunk()):
            body += chunk
        require_success(_whole(response, body))
    partial = target.with_name(f"{target.name}.partial")
    try:
        with partial.open("wb") as file:
            while chunk := (yield ReadChunk()):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    return target


def _opened(request: Request) -> Flow[httpx.Response]:
    """A server that is busy says when to come again."""
    for _ in range(RETRIES):
        response: httpx.Response = yield OpenStream(request, SILENCE_S)
        delay = retry_after(response) if response.status_code in RETRIED_STATUSES else None
        if delay is None or delay > LONGEST_WAIT_S:
            return response
        yield Sleep(delay)
    return (yield OpenStream(request, SILENCE_S))


def _whole(response: httpx.Response, body: bytes) -> httpx.Response:
    """The same answer with its body read; the stream has undone any compression."""
    headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() != "content-encoding"]
    return httpx.Response(response.status_code, headers=headers, content=body, request=response.request)
