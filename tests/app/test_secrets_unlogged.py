"""Keys and other secrets are in no line that the server writes, at any level, wherever a caller put them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.engine import make_url

from app.keys.service import KeysService
from app.main import create_app
from app.tables import DEFAULT_TENANT
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.live import serving

SECRET = "s3cretpassphrase"


@pytest.fixture
def debugging() -> Iterator[None]:
    """The libraries log all they can to stderr, as under a careless operator."""
    root = logging.getLogger()
    handler, level = logging.StreamHandler(), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    ours = logging.getLogger("httpx"), logging.getLogger("httpcore")  # the test's own client is not the server
    for logger in ours:
        logger.setLevel(logging.CRITICAL)
    yield
    for logger in ours:
        logger.setLevel(logging.NOTSET)
    root.removeHandler(handler)
    root.setLevel(level)


def misplaced(key: str) -> Iterator[dict[str, Any]]:
    """Requests of people who put the key where it does not belong."""
    body = {"model": "m", "prompt": "a", "completion": "b"}
    wrong = key[:-1] + ("a" if key[-1] != "a" else "b")
    for value in (f"Bearer {key}", f"Bearer {wrong}", f"Basic {key}", key, f"Bearer {key} {key}", f"Token {SECRET}"):
        yield {"method": "GET", "url": "/v1/models", "headers": {"Authorization": value}}
        yield {"method": "POST", "url": "/v1/attributions", "headers": {"Authorization": value}, "json": body}
    good = {"Authorization": f"Bearer {key}"}
    yield {"method": "GET", "url": f"/v1/models/{key}", "headers": good}
    yield {"method": "GET", "url": f"/{key}", "headers": good}
    yield {
        "method": "GET",
        "url": "/v1/models",
        "params": {"api_key": key, "cursor": key, "limit": key},
        "headers": good,
    }
    yield {"method": "GET", "url": "/v1/models", "headers": {"X-API-Key": key, "Cookie": f"whence_session={key}"}}
    yield {"method": "POST", "url": "/v1/attributions", "json": body | {"api_key": key}, "headers": good}
    yield {"method": "POST", "url": "/v1/attributions", "json": body | {"top_k": key}, "headers": good}
    yield {"method": "POST", "url": "/v1/models", "json": {"name": key, "base": f"/{key}"}, "headers": good}
    yield {"method": "POST", "url": "/v1/models", "content": key, "headers": good}
    yield {"method": "POST", "url": "/v1/attributions", "json": body, "headers": good | {"Idempotency-Key": key}}
    yield {"method": "POST", "url": "/v1/attributions", "json": body, "headers": good | {"Prefer": f"wait={key}"}}
    yield {"method": "POST", "url": "/ui/login", "data": {"key": key, "next": f"/{key}"}}
    yield {"method": "POST", "url": "/ui/login", "data": {"key": wrong}}
    yield {
        "method": "POST",
        "url": "/v1/datasets",
        "data": {"name": key},
        "files": {"file": (key, key)},
        "headers": good,
    }
    yield {"method": key.upper().replace("_", "-")[:20], "url": "/v1/models", "headers": good}


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_line_holds_a_key_wherever_it_was_sent(
    tmp_path: Path, store: str, log_format: str, debugging: None, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = make_settings(tmp_path, log_level="debug", log_format=log_format, secret=SECRET * 3, database_url=store)
    with serving(settings, FakeEngine()) as address:
        key = make_key(settings)
        statuses = []
        for request in misplaced(key):
            method, url = request.pop("method"), address + request.pop("url")
            statuses.append(httpx.request(method, url, timeout=20, **request).status_code)
    out, err = capfd.readouterr()
    logged = out + err
    assert "request" in logged and statuses.count(401) >= 6, "the server really logged, and really refused"
    secret_part = key.removeprefix("whk_").split("_")[-1]
    for secret in (key, secret_part, secret_part[:12], SECRET, key.upper().replace("_", "-")[:20]):
        assert secret not in logged, next(line for line in logged.splitlines() if secret in line)
    password = make_url(settings.database).password
    assert not password or password not in logged


def make_key(settings: Any) -> str:
    """As `whence keys create` does it: with its own connection, beside the running server."""
    services = create_app(settings, FakeEngine()).state.services
    with services.database.write() as session:
        _, made = KeysService(session, DEFAULT_TENANT).create(services.keys.secret, "ci", ["admin"], None, None)
    services.database.close()
    return made.text
