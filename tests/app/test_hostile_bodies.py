"""Bodies that are built to hurt: refused by name, and no temporary file, thread or memory is kept."""

from __future__ import annotations

import gc
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.main import create_app
from app.middleware import UPLOADS, BodyLimit
from tests.app.conftest import make_settings, wait_for
from tests.app.fakes import FakeEngine
from tests.app.live import serving
from tests.app.resources import assert_problem, jsonl

LIMIT = 4 << 20
EDGE = "e" * 20


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bodies")


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    """A real server: sockets, spooled files, slow clients."""
    settings = make_settings(
        home,
        max_upload_bytes=LIMIT,
        max_body_bytes=1 << 20,
        max_body_idle_seconds=0.5,
        max_dataset_rows=1000,
        max_inline_rows_bytes=LIMIT,
        max_row_bytes=1 << 16,
    )
    with serving(settings, FakeEngine()) as address:
        yield address


def spooled() -> list[str]:
    """Open files that have no name any more: where uploads wait."""
    gc.collect()
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            continue
    return [path for path in found if path.endswith("(deleted)") and "/memfd:" not in path]


@pytest.fixture(autouse=True)
def nothing_is_kept(home: Path) -> Iterator[None]:
    before = spooled()
    yield
    wait_for(lambda: len(spooled()) <= len(before), "the temporary files' end")
    for folder in ("uploads", "datasets"):
        assert [path.name for path in (home / "home" / folder).glob("*")] == []


def part(name: str, content: bytes, filename: str | None = None, header: bytes = b"") -> bytes:
    file = f'; filename="{filename}"' if filename else ""
    head = f'--{EDGE}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n'.encode()
    return head + header + b"\r\n" + content + b"\r\n"


END = f"--{EDGE}--\r\n".encode()
NAMED = part("name", b"a")


def send(address: str, body: Any, kind: str = f"multipart/form-data; boundary={EDGE}") -> httpx.Response:
    return httpx.post(f"{address}/v1/datasets", content=body, headers={"Content-Type": kind}, timeout=30)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (NAMED + part("file", b"{}", "a.jsonl") * 2 + END, 400),
        (b"".join(part(f"field {number}", b"x") for number in range(1000)) + END, 400),
        (NAMED + part("format", b"x" * (2 << 20)) + END, 400),
        (NAMED + part("file", b"x", "a.jsonl", header=b"X-Long: " + b"h" * (1 << 20) + b"\r\n") + END, 400),
        (NAMED + part("file", b"x", "a.jsonl", header=b"X-Many: h\r\n" * 10_000) + END, 400),
        (NAMED + part("file", jsonl() * 20_000, "a.jsonl"), 413),
        (NAMED + part("file", jsonl() * 5_000, "a.jsonl"), 422),
        (b"--" + b"-" * 100_000, 400),
        (b"", 422),
    ],
    ids=[
        "two files",
        "many parts",
        "huge field",
        "huge header",
        "many headers",
        "too large",
        "no end",
        "dashes",
        "empty",
    ],
)
def test_a_form_that_is_built_to_hurt(address: str, body: bytes, status: int) -> None:
    response = send(address, body)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["remedy"]


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; x=y"])
def test_a_form_without_a_boundary(address: str, kind: str) -> None:
    assert send(address, NAMED + END, kind).status_code == 400


def test_an_upload_beyond_the_limit_that_does_not_say_its_length(address: str) -> None:
    def pieces() -> Iterator[bytes]:
        yield NAMED + part("file", b"", "a.jsonl")[:-2]
        for _ in range(10):
            yield b"x" * (LIMIT // 8)

    assert_problem(send(address, pieces()), 413, "payload-too-large")


def test_a_body_that_stops_is_given_up_and_its_file_with_it(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    head = (
        f"POST /v1/datasets HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 3000000\r\n"
        f"Content-Type: multipart/form-data; boundary={EDGE}\r\n\r\n"
    ).encode()
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head + NAMED + part("file", b"x" * 2_000_000, "a.jsonl"))
        began = time.monotonic()
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"urn:whence:problem:request-timeout" in answer
    assert time.monotonic() - began < 15


def test_a_client_that_leaves_in_the_middle_leaves_no_file(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    head = (
        f"POST /v1/datasets HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 3000000\r\n"
        f"Content-Type: multipart/form-data; boundary={EDGE}\r\n\r\n"
    ).encode()
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head + NAMED + part("file", b"x" * 2_000_000, "a.jsonl"))
    assert httpx.get(f"{address}/livez").status_code == 200


def test_the_routes_that_take_forms_are_the_ones_that_may_be_large(tmp_path: Path) -> None:
    """A new one cannot be forgotten."""
    paths = create_app(make_settings(tmp_path), FakeEngine()).openapi()["paths"]
    forms = {
        path: kind
        for path, methods in paths.items()
        for operation in methods.values()
        for kind in operation.get("requestBody", {}).get("content", {})
        if kind != "application/json" and path.startswith("/v1/")
    }
    assert forms | {"/ui/datasets": "multipart/form-data"} == UPLOADS  # the page takes what the API takes


def test_once_the_body_is_whole_there_is_no_hurry(tmp_path: Path) -> None:
    """An event stream listens for hours whether its client leaves."""
    pieces = [
        {"type": "http.request", "body": b"a", "more_body": True},
        {"type": "http.request", "body": b"b", "more_body": False},
        {"type": "http.disconnect"},
    ]
    heard: list[str] = []

    async def receive() -> Any:
        message = pieces.pop(0)
        if message["type"] == "http.disconnect":
            await anyio.sleep(0.3)
        return message

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        for _ in range(3):
            heard.append((await receive())["type"])

    limited = BodyLimit(app, make_settings(tmp_path, max_body_idle_seconds=0.1))
    scope: Any = {"type": "http", "path": "/v1/jobs", "headers": []}
    send: Any = None
    anyio.run(limited, scope, receive, send)
    assert heard == ["http.request", "http.request", "http.disconnect"]


@pytest.mark.parametrize("path", ["/v1/attributions", "/v1/models", "/v1/indexes"])
@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=b", "application/x-ndjson", "application/json"])
def test_what_is_no_upload_is_held_to_the_limit_of_bodies(address: str, path: str, kind: str) -> None:
    response = httpx.post(f"{address}{path}", content=b"x" * ((1 << 20) + 1), headers={"Content-Type": kind})
    assert_problem(response, 413, "payload-too-large")


def bomb(path: Path, rows: int, value_bytes: int) -> bytes:
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * value_bytes]))
    pq.write_table(pa.table({"text": text}), path, compression="zstd")
    return path.read_bytes()


def test_bombs_are_refused_over_http_with_the_limits_of_the_settings(address: str, tmp_path: Path) -> None:
    wide = send(address, NAMED + part("file", bomb(tmp_path / "a", 900, 1 << 20), "a.parquet") + END)
    assert_problem(wide, 422, "malformed-row")
    long = send(address, NAMED + part("file", bomb(tmp_path / "b", 1001, 10), "b.parquet") + END)
    assert assert_problem(long, 413, "dataset-too-large")["max_rows"] == 1000
    rows = send(address, NAMED + part("file", b'{"text": "a"}\n' * 1001, "c.jsonl") + END)
    assert_problem(rows, 413, "dataset-too-large")
