"""Requests that a proxy in front and this server would cut at different places: one of them is a request that the
proxy never saw. None is answered, and the connection ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.live import serving
from tests.security.hostile import exchange


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(make_settings(tmp_path_factory.mktemp("smuggling")), FakeEngine()) as address:
        yield address


INNER = b"GET /livez?smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD = b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"

SMUGGLED = {
    "both lengths": HEAD + b"Content-Length: 4\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + INNER,
    "both lengths, the other way round": HEAD + CHUNKED + b"Content-Length: 4\r\n" + b"\r\n0\r\n\r\n" + INNER,
    "both, and the inner one in the body": HEAD
    + b"Content-Length: %d\r\n" % (5 + len(INNER))
    + CHUNKED
    + b"\r\n0\r\n\r\n"
    + INNER,
    "two lengths": HEAD + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(INNER) + INNER,
    "a list of lengths": HEAD + b"Content-Length: 0, %d\r\n\r\n" % len(INNER) + INNER,
    "a signed length": HEAD + b"Content-Length: +0\r\n\r\n" + INNER,
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\n" + INNER,
    "a length in other digits": HEAD + b"Content-Length: 0x0\r\n\r\n" + INNER,
    "an unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + INNER,
    "two codings": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + INNER,
    "chunked twice": HEAD + CHUNKED + CHUNKED + b"\r\n0\r\n\r\n" + INNER,
    "a space before the colon": HEAD + b"Content-Length : 0\r\n\r\n" + INNER,
    "a NUL in a header": HEAD + b"Content-Length: 0\r\nX: a\x00b\r\n\r\n" + INNER,
    "a bare return in a header": HEAD + b"Content-Length: 0\r\nX: a\rGET /livez\r\n\r\n" + INNER,
    "a chunk of no number": HEAD + CHUNKED + b"\r\nzz\r\n" + INNER,
    "a chunk of a signed number": HEAD + CHUNKED + b"\r\n-1\r\n" + INNER,
    "two hosts": b"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n" + INNER,
    "no host": b"GET /livez HTTP/1.1\r\n\r\n" + INNER,
    "a header of no name": b"GET /livez HTTP/1.1\r\nHost: localhost\r\n: x\r\n\r\n" + INNER,
    "no version": b"GET /livez\r\n\r\n" + INNER,
}


@pytest.mark.parametrize("what", SMUGGLED)
def test_no_second_request_is_answered(address: str, what: str) -> None:
    found, closed = exchange(address, SMUGGLED[what], seconds=5)
    assert closed and found.count(b"HTTP/1.1 ") == 1, found[:600]
    assert found.startswith(b"HTTP/1.1 400 "), found[:200]


def test_two_plain_requests_on_one_connection_are(address: str) -> None:
    first = INNER.replace(b"smuggled", b"first")
    found, _ = exchange(address, first + INNER.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), seconds=5)
    assert found.count(b"HTTP/1.1 200 OK") == 2


def test_the_refusal_says_what_to_do(address: str, tmp_path: Path) -> None:
    found, _ = exchange(address, SMUGGLED["both lengths"], seconds=5)
    assert b"application/problem+json" in found and b"not both" in found
