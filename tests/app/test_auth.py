"""Who gets in: keys, sessions, and a service that has no keys."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.dependencies import Services
from app.keys.material import digest_of, new_key, prefix_of
from app.keys.service import KeysService
from app.keys.sessions import COOKIE, key_of_session, session_token
from app.main import create_app
from app.tables import ApiKeyRow
from app.tables.base import utc_now
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.resources import assert_problem

ON_LOOPBACK = {"base_url": "http://127.0.0.1:8400", "client": ("127.0.0.1", 40000)}


def add_key(services: Services, *scopes: str, **changes: Any) -> tuple[str, str]:
    """(id, text) of a key in the database."""
    with services.database.write() as session:
        row, made = KeysService(session, "default").create(
            services.keys.secret, "test", scopes or ("admin",), None, None
        )
        for name, value in changes.items():
            setattr(row, name, value)
        return row.id, made.text


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


# --- a service without keys ---


def test_without_keys_it_is_open_to_this_machine_alone(client: TestClient, app: FastAPI) -> None:
    assert TestClient(app, **ON_LOOPBACK).get("/v1/models").status_code == 200
    for address in ("192.0.2.7", "2001:db8::7"):
        refused = TestClient(app, base_url="http://127.0.0.1:8400", client=(address, 40000)).get("/v1/models")
        assert_problem(refused, 401, "unauthenticated")
    mapped = TestClient(app, base_url="http://localhost:8400", client=("::ffff:127.0.0.1", 40000))
    assert mapped.get("/v1/models").status_code == 200


@pytest.mark.parametrize("name", ["evil.example", "evil.example:8400", "127.0.0.1.evil.example", "[2001:db8::7]:8400"])
def test_a_name_that_was_made_to_point_here_does_not_open_it(client: TestClient, app: FastAPI, name: str) -> None:
    refused = TestClient(app, **ON_LOOPBACK).get("/v1/models", headers={"Host": name})
    assert_problem(refused, 401, "unauthenticated")


@pytest.mark.parametrize("name", ["localhost", "localhost:8400", "127.0.0.1", "[::1]:8400", "127.1.2.3:80"])
def test_this_machines_own_names_do(client: TestClient, app: FastAPI, name: str) -> None:
    assert TestClient(app, **ON_LOOPBACK).get("/v1/models", headers={"Host": name}).status_code == 200


def test_said_to_do_without_keys_it_is_open_to_all(tmp_path: Path) -> None:
    app = create_app(make_settings(tmp_path, without_keys=True), FakeEngine())
    with TestClient(app, base_url="http://whence.example", client=("192.0.2.7", 40000)) as client:
        assert client.get("/v1/models").status_code == 200


def test_another_site_cannot_write_through_a_browser(client: TestClient) -> None:
    body = {"name": "bot", "base": "x"}
    for site in ("cross-site", "same-site"):
        assert_problem(client.post("/v1/models", json=body, headers={"Sec-Fetch-Site": site}), 403, "cross-site")
        assert client.get("/v1/models", headers={"Sec-Fetch-Site": site}).status_code == 200
    own = client.post("/v1/models", json=body, headers={"Sec-Fetch-Site": "same-origin"})
    assert own.status_code == 422


def test_the_first_key_closes_it_and_revoking_the_last_does_not_open_it(client: TestClient, services: Services) -> None:
    assert client.get("/v1/models").status_code == 200
    key_id, text = add_key(services)
    assert_problem(client.get("/v1/models"), 401, "unauthenticated")
    assert client.delete(f"/v1/keys/{key_id}", headers=bearer(text)).status_code == 204
    assert_problem(client.get("/v1/models"), 401, "unauthenticated")


# --- keys ---


def test_a_key_lets_in_and_its_use_is_noted(client: TestClient, services: Services) -> None:
    key_id, text = add_key(services)
    assert client.get("/v1/models", headers=bearer(text)).status_code == 200
    with services.database.read() as session:
        noted = session.get_one(ApiKeyRow, key_id).last_used_at
    assert noted is not None and utc_now() - noted < timedelta(seconds=30)
    client.get("/v1/models", headers=bearer(text))
    with services.database.read() as session:
        assert session.get_one(ApiKeyRow, key_id).last_used_at == noted  # not a write a request


def wrong_keys(text: str) -> dict[str, str]:
    last = "a" if text[-1] != "a" else "b"
    return {
        "unknown": new_key(b"x").text,
        "one character off": text[:-1] + last,
        "prefix alone": text[:12],
        "nothing": "",
        "not ours": "sk-123456",
        "longer": text + "a",
        "not ASCII": "whk_éééééééé",
    }


@pytest.mark.parametrize("kind", wrong_keys("whk_aaaaaaaa_" + "a" * 52))
def test_a_wrong_key_is_refused_even_where_none_is_needed(client: TestClient, services: Services, kind: str) -> None:
    wrong = new_key(b"x").text if kind == "unknown" else None
    header = f"Bearer {wrong or wrong_keys(new_key(services.keys.secret).text)[kind]}".encode()
    assert_problem(client.get("/v1/models", headers={"Authorization": header}), 401, "invalid-key")  # type: ignore[dict-item]
    _, text = add_key(services)
    header = f"Bearer {wrong or wrong_keys(text)[kind]}".encode()
    refused = client.get("/v1/models", headers={"Authorization": header})  # type: ignore[dict-item]
    assert_problem(refused, 401, "invalid-key")
    assert refused.headers["www-authenticate"] == "Bearer"


def test_another_scheme_is_refused(client: TestClient, services: Services) -> None:
    _, text = add_key(services)
    for header in (text, f"Basic {text}", f"bearer{text}"):
        assert_problem(client.get("/v1/models", headers={"Authorization": header}), 401, "invalid-key")
    assert client.get("/v1/models", headers={"Authorization": f"bearer {text}"}).status_code == 200


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"revoked_at": utc_now()}, "revoked"), ({"expires_at": utc_now() - timedelta(seconds=1)}, "expired")],
)
def test_a_key_that_no_longer_holds(client: TestClient, services: Services, changes: dict[str, Any], told: str) -> None:
    _, text = add_key(services, **changes)
    assert told in assert_problem(client.get("/v1/models", headers=bearer(text)), 401, "invalid-key")["detail"]


def test_a_server_with_another_secret_knows_no_key(client: TestClient, services: Services) -> None:
    _, text = add_key(services)
    services.keys.__dict__["secret"] = b"another"
    assert_problem(client.get("/v1/models", headers=bearer(text)), 401, "invalid-key")


def test_nothing_of_the_key_is_in_the_database(client: TestClient, services: Services) -> None:
    key_id, text = add_key(services)
    with services.database.read() as session:
        row = session.get_one(ApiKeyRow, key_id)
        stored = {column.name: str(getattr(row, column.name)) for column in ApiKeyRow.__table__.columns}
    secret_part = text[13:]
    assert not any(secret_part[place : place + 8] in value for value in stored.values() for place in range(44))
    assert stored["digest"] == digest_of(services.keys.secret, text)
    assert stored["prefix"] == prefix_of(text) == text[:12]


def test_a_body_is_not_read_before_its_sender_is_known(client: TestClient, services: Services) -> None:
    add_key(services)
    read: list[bytes] = []

    def body() -> Any:
        for _ in range(4):
            read.append(b"x")
            yield b"x" * 1024

    refused = client.post("/v1/datasets", content=body(), headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert_problem(refused, 401, "unauthenticated")


def test_a_kept_answer_is_not_given_to_a_key_without_the_scope(
    client: TestClient, services: Services, model_dir: Path
) -> None:
    """Idempotent replays answer before the endpoint runs; they must not answer before the key is looked at."""
    _, admin = add_key(services)
    body, once = {"name": "bot", "base": str(model_dir)}, {"Idempotency-Key": "one"}
    assert client.post("/v1/models", json=body, headers=bearer(admin) | once).status_code == 201
    _, reader = add_key(services, "*:read")
    assert_problem(client.post("/v1/models", json=body, headers=bearer(reader) | once), 403, "insufficient-scope")
    assert_problem(client.post("/v1/models", json=body, headers=once), 401, "unauthenticated")


def test_what_is_for_everybody_needs_no_key(client: TestClient, services: Services) -> None:
    add_key(services)
    for path in ("/livez", "/readyz", "/openapi.json", "/docs", "/ui/login", "/ui/static/whence.css"):
        assert client.get(path).status_code == 200, path
    assert_problem(client.get("/metrics"), 401, "unauthenticated")
    assert_problem(client.get("/nothing/here"), 401, "unauthenticated")
    _, text = add_key(services, "status:read")
    assert client.get("/metrics", headers=bearer(text)).status_code == 200


# --- the page ---


def test_the_page_asks_for_a_key_and_then_lets_in(client: TestClient, services: Services) -> None:
    _, text = add_key(services, "attributions:read", "attributions:write")
    asked = client.get("/ui", follow_redirects=False)
    assert (asked.status_code, asked.headers["location"]) == (303, "/ui/login?next=/ui&refused=unauthenticated")
    wrong = client.post("/ui/login", data={"key": "whk_no"})
    assert wrong.status_code == 401 and "This did not work" in wrong.text
    entered = client.post("/ui/login", data={"key": f" {text} ", "next": "/ui"}, follow_redirects=False)
    assert (entered.status_code, entered.headers["location"]) == (303, "/ui")
    cookie = entered.headers["set-cookie"]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"))
    assert text not in cookie and text[13:30] not in cookie
    assert client.get("/ui").status_code == 200
    assert 'action="/ui/logout"' in client.get("/ui/login").text and 'href="/ui/login"' in client.get("/ui").text
    client.post("/ui/logout")
    assert client.get("/ui", follow_redirects=False).status_code == 303


def test_a_session_reads_the_api_but_writes_only_through_the_page(client: TestClient, services: Services) -> None:
    _, text = add_key(services)
    client.post("/ui/login", data={"key": text})
    assert client.get("/v1/models").status_code == 200
    assert_problem(client.post("/v1/models", json={}), 401, "unauthenticated")
    sent = client.post("/ui/ask", data={}, headers={"Sec-Fetch-Site": "cross-site"})
    assert (sent.status_code, "Sent from another site" in sent.text) == (403, True)


def test_a_session_ends_with_its_key(client: TestClient, services: Services) -> None:
    key_id, text = add_key(services)
    client.post("/ui/login", data={"key": text})
    with services.database.write() as session:
        KeysService(session, "default").revoke(key_id)
    assert client.get("/ui", follow_redirects=False).status_code == 303


def test_a_session_may_do_what_its_key_may(client: TestClient, services: Services) -> None:
    _, text = add_key(services, "attributions:read")
    client.post("/ui/login", data={"key": text})
    assert client.get("/ui").status_code == 200
    refused = client.post("/ui/ask", data={}, follow_redirects=False)
    assert "refused=insufficient-scope" in refused.headers["location"]
    told = client.get(refused.headers["location"])
    assert "attributions:write" in told.text
    asked = client.post("/ui/ask", data={}, headers={"HX-Request": "true"})
    assert asked.headers["hx-redirect"] == refused.headers["location"]


@pytest.mark.parametrize("next", ["//evil.example", "/\\evil.example", "https://evil.example", "/v1/models", "/uix"])
def test_the_login_leads_nowhere_else(client: TestClient, services: Services, next: str) -> None:
    _, text = add_key(services)
    entered = client.post("/ui/login", data={"key": text, "next": next}, follow_redirects=False)
    assert entered.headers["location"] == "/ui"
    assert "evil" not in client.get("/ui/login", params={"next": next}).text


def test_a_session_token_holds_for_its_time_and_cannot_be_changed() -> None:
    now = int(time.time())
    token = session_token(b"s", "key_a", now + 60)
    assert key_of_session(b"s", token) == "key_a"
    assert key_of_session(b"t", token) is None
    assert key_of_session(b"s", session_token(b"s", "key_a", now - 1)) is None
    forged = (token.replace("key_a", "key_b"), token.replace(str(now + 60), str(now + 90)), token[:-1], "", "a.b", "..")
    assert [key_of_session(b"s", one) for one in forged] == [None] * len(forged)


def test_a_cookie_that_cannot_be_read_is_none(client: TestClient, services: Services) -> None:
    add_key(services)
    for cookie in (f"{COOKIE}=a.99999999999.b", "\x01=;;", f'{COOKIE}="'):
        assert client.get("/ui", headers={"Cookie": cookie}, follow_redirects=False).status_code == 303
