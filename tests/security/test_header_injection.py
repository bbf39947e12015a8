"""Line breaks in what reaches a header, and headers that say where a request came from: an answer has the headers that
this server gave it, and leads nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from app.dependencies import Services
from app.main import create_app
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.live import serving
from tests.app.resources import jsonl, ready_index
from tests.app.test_auth import add_key, bearer
from tests.security.hostile import refused


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("headers")


@pytest.fixture(scope="module")
def address(place: Path) -> Iterator[str]:
    """A real server: what it refuses to send, and what it makes of raw bytes, no test client tells."""
    with serving(make_settings(place), FakeEngine()) as address:
        yield address


BREAKS = [
    "a%0d%0aX-Evil:%201",
    "a%0aX-Evil:%201",
    "a%0d%0a%0d%0a<script>",
    "%e5%98%8a%e5%98%8dX-Evil:1",
    "%c2%85X-Evil:1",
]
BREAKS += ['a";filename="b.exe', "%e2%80%a8X-Evil", "%ff%fe", "a%09b", "%7f", "%F1%94%A9%95"]


def test_line_breaks_in_every_path(address: str, place: Path) -> None:
    """Each route with a parameter, by each of its methods: those that are added too."""
    paths = create_app(make_settings(place), FakeEngine()).openapi()["paths"]
    routes = [(method, path) for path, methods in paths.items() for method in methods if "{" in path]
    assert len(routes) > 25
    pages = [("get", "/ui/attributions/{id}"), ("get", "/ui/static/{id}"), ("get", "/ui/{id}"), ("get", "/{id}")]
    with httpx.Client(base_url=address, timeout=20) as client:
        for method, path in (*routes, *pages):
            for text in BREAKS:
                answer = client.request(method, re.sub(r"\{[^}]+\}", lambda _, text=text: text, path))
                assert answer.status_code < 500, (method, path, text, answer.text)
                assert_own_headers(answer)


def assert_own_headers(answer: httpx.Response) -> None:
    assert not [name for name in answer.headers if "evil" in name.lower()], answer.headers
    for name, value in answer.headers.items():
        assert value.isascii() and value.isprintable(), (name, value)
        assert "evil" not in value.lower(), (name, value)


def test_line_breaks_in_every_field_that_reaches_a_header(address: str, place: Path) -> None:
    (place / "model").mkdir()
    (place / "model" / "config.json").write_text("{}")
    name = "a\r\nX-Evil: 1\r\n\r\n<script>"
    with httpx.Client(base_url=address, timeout=20) as client:
        model = client.post("/v1/models", json={"name": name, "base": "model"})
        files = {"file": ('rows"\\\r\nX-Evil: 1.jsonl', jsonl())}
        dataset = client.post("/v1/datasets", data={"name": name}, files=files)
        assert (model.status_code, dataset.status_code) == (201, 201)
        ids = {"model": model.json()["id"], "dataset": dataset.json()["id"]}
        index = client.post("/v1/indexes", json=ids | {"name": name})
        batch = client.post("/v1/attributions/batches", data={"name": name}, files=files)
        for answer in (model, dataset, index, batch, client.get(model.headers["location"])):
            assert_own_headers(answer)
            assert re.fullmatch(r"(/v1/[a-z]+/[a-z]+_[a-z2-7]{20})?", answer.headers.get("location", ""))
        for path in ("/v1/models", "/v1/indexes", "/v1/datasets"):
            assert_own_headers(client.get(path, params={"name": name, "cursor": name}))


def test_the_name_of_a_download_is_plain(client: TestClient, model_dir: Path) -> None:
    index = ready_index(client, model_dir)
    client.put("/v1/aliases/prod", json={"index": index["id"]})
    for asked in (index["id"], "prod"):
        kind = client.get(f"/v1/indexes/{asked}/export").headers["content-disposition"]
        assert re.fullmatch(r'attachment; filename="[A-Za-z0-9._-]+"', kind)


SENT = [
    "X-Request-ID",
    "Idempotency-Key",
    "Prefer",
    "If-Match",
    "If-None-Match",
    "Last-Event-ID",
    "HX-Request",
    "Cookie",
]
SENT += [
    "Accept",
    "Origin",
    "Authorization",
    "X-Forwarded-For",
    "Forwarded",
    "User-Agent",
    "Content-Type",
    "traceparent",
]
VALUES = [b"a\xe5\x98\x8a\xe5\x98\x8dX-Evil: 1", b"a\x85X-Evil: 1", b"evil\x1b[31m", b"\xff\xfe evil", b"evil" * 4000]
VALUES += [b'wait="1', b"wait=99999999999", b"W/evil, *", b'"', b"a\x0bX-Evil: 1", b"a\tX-Evil: 1", b"e\x7fvil"]


def test_headers_that_are_sent_do_not_come_back(address: str) -> None:
    body = b'{"model": "m", "prompt": "a", "completion": "b"}'
    for name in SENT:
        for value in VALUES:
            head = (
                f"POST /v1/attributions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{name}: ".encode()
            )
            kind = b"" if name == "Content-Type" else b"\r\nContent-Type: application/json"
            status, found = refused(address, head + value + kind + b"\r\nConnection: close\r\n\r\n" + body)
            assert 400 <= status < 500, (name, value, found[:300])
            assert b"evil" not in found.partition(b"\r\n\r\n")[0].lower(), (name, value, found[:600])


HOSTS = [
    "x/ui",
    "x/ui?",
    "[",
    "[::1",
    "a b",
    "evil.example",
    "a\u00ff",
    "localhost@evil.example",
    "",
    "localhost:99999",
]
HOSTS += ["localhost/ui/", "evil.example:80:80", "%0d%0aX-Evil: 1", "..", "javascript:evil//"]


def test_a_host_that_is_none(address: str) -> None:
    """The caller decides what it is; a page is a page by its path alone, and no answer sends anybody there."""
    for host in HOSTS:
        for path in ("/v1/models/none", "/v1/nothing", "/livez", "/v1/models/", "/ui/login/"):
            sent = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("latin-1")
            status, found = refused(address, sent)
            head, _, body = found.partition(b"\r\n\r\n")
            assert 200 <= status < 500 and b"evil" not in head.lower(), (host, path, found[:500])
            if path.startswith("/v1") and status >= 400 and b"Invalid HTTP" not in body:
                assert b"application/problem+json" in head and b"instance" in body, (host, found[:500])


FORWARDED = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "javascript", "X-Forwarded-Port": "81"}
FORWARDED |= {"X-Forwarded-Prefix": "//evil.example", "X-Original-URL": "/v1/keys", "X-Rewrite-URL": "/v1/keys"}
FORWARDED |= {"X-HTTP-Method-Override": "DELETE", "Forwarded": "host=evil.example;proto=https"}


def test_what_a_proxy_might_say_changes_no_answer(address: str) -> None:
    with httpx.Client(base_url=address) as client:
        for path in ("/v1/models/", "/ui/", "/ui/login/", "/v1/models", "/ui"):
            plain, told = client.get(path), client.get(path, headers=FORWARDED)
            assert (told.status_code, told.headers.get("location")) == (
                plain.status_code,
                plain.headers.get("location"),
            )
            assert_own_headers(told)


@pytest.mark.parametrize(
    "path", ["//evil.example/", "//evil.example", "/\\evil.example", "/ui//evil.example", "/%2f/evil.example/"]
)
def test_no_address_leads_to_another_server(client: TestClient, services: Services, path: str) -> None:
    add_key(services)
    answer = client.get(path, follow_redirects=False)
    location = answer.headers.get("location", "")
    assert re.match(r"(/ui/login\?next=/ui|$)", location), location


def test_a_redirect_for_a_slash_names_no_host(client: TestClient, services: Services) -> None:
    _, text = add_key(services)
    for host in ("evil.example", "localhost"):
        headers = bearer(text) | {"Host": host, "X-Forwarded-Host": "evil.example"}
        answer = client.get("/v1/models/?limit=2", headers=headers, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (307, "/v1/models?limit=2")
