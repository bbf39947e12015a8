"""Requests that another site makes a browser send. The cookie is SameSite=Strict; what needs no cookie is guarded
here, and in tests/app/test_auth.py (Sec-Fetch-Site, Host)."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.dependencies import Services
from app.main import create_app
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.resources import assert_problem
from tests.app.test_auth import ON_LOOPBACK, add_key, bearer

FOREIGN = ["http://evil.example", "https://evil.example", "http://whence.internal:81", "null", "http://"]
FOREIGN += ["http://whence.internal.evil.example", "http://evil.example/whence.internal", "whence.internal"]


@pytest.mark.parametrize("path", ["/v1/models", "/ui/login", "/ui/ask", "/ui/logout"])
def test_a_browser_that_says_no_more_than_the_origin(tmp_path: Path, path: str) -> None:
    """As all of them to a plain http:// address in the network, here one that asks for no key."""
    app = create_app(make_settings(tmp_path, without_keys=True), FakeEngine())
    with TestClient(app, base_url="http://whence.internal") as client:
        for origin in FOREIGN:
            sent = client.post(path, headers={"Origin": origin}, follow_redirects=False)
            assert sent.status_code == 403 and "sent from another site" in sent.text, origin
            assert client.get("/v1/models", headers={"Origin": origin}).status_code == 200
        for own in ({"Origin": "http://whence.internal"}, {"Origin": "http://WHENCE.internal"}, {}):
            assert client.post(path, headers=own, follow_redirects=False).status_code != 403


def test_what_browsers_say_of_the_site_wins_over_the_origin(client: TestClient) -> None:
    """Behind a proxy the server is called by another name than the page was."""
    headers = {"Origin": "https://whence.example", "Sec-Fetch-Site": "same-origin"}
    assert client.post("/v1/models", json={}, headers=headers).status_code == 422


def test_a_key_is_no_browsers(client: TestClient, services: Services) -> None:
    _, text = add_key(services)
    sent = client.post("/v1/models", json={}, headers=bearer(text) | {"Origin": "http://evil.example"})
    assert_problem(sent, 422, "invalid-request")


@pytest.mark.parametrize("forwarded", ["unknown", "evil.example", "_hidden", "127.0.0.1.evil.example", "::1x"])
def test_a_proxys_word_that_is_no_address_is_not_this_machine(client: TestClient, app: FastAPI, forwarded: str) -> None:
    """uvicorn puts what X-Forwarded-For says in the caller's place."""
    behind = TestClient(app, base_url=ON_LOOPBACK["base_url"], client=(forwarded, 0))
    assert_problem(behind.get("/v1/models", headers={"X-Forwarded-For": forwarded}), 401, "unauthenticated")


def test_an_address_that_is_too_long_to_keep_does_not_hide_a_change(
    client: TestClient, app: FastAPI, model_dir: Path
) -> None:
    behind = TestClient(app, client=("x" * 5000, 0))
    made = behind.post("/v1/models", json={"name": "bot", "base": str(model_dir)})
    assert made.status_code == 201, made.text
    (event,) = client.get("/v1/audit-log").json()["data"]
    assert (event["resource_id"], event["address"]) == (made.json()["id"], "x" * 64)
