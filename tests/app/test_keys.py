"""/v1/keys, what a key may give, and the audit log."""

from __future__ import annotations

import stat
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.dependencies import Services
from app.keys.scopes import SCOPES, grants, required_scope
from app.secret import server_secret
from app.tables import IdempotencyKeyRow
from app.tables.base import utc_now
from tests.app.conftest import make_settings
from tests.app.resources import add_dataset, add_model, assert_problem
from tests.app.test_auth import add_key, bearer


def test_a_key_is_shown_once_and_kept_nowhere(client: TestClient, services: Services) -> None:
    body = {"name": "dashboard", "scopes": ["models:read", "models:read", "keys:read"]}
    created = client.post("/v1/keys", json=body, headers={"Idempotency-Key": "k"})
    made = created.json()
    assert (created.status_code, created.headers["cache-control"]) == (201, "no-store")
    assert made["scopes"] == ["models:read", "keys:read"]
    assert made["key"].startswith(made["prefix"])
    headers = bearer(made["key"])
    assert client.get("/v1/models", headers=headers).status_code == 200
    shown = client.get(f"/v1/keys/{made['id']}", headers=headers).json()
    assert shown == {name: value for name, value in made.items() if name != "key"} | {
        "last_used_at": shown["last_used_at"]
    }
    with services.database.read() as session:
        assert session.query(IdempotencyKeyRow).count() == 0


def test_no_key_gives_what_it_has_not_got(client: TestClient, services: Services) -> None:
    _, text = add_key(services, "keys:write", "*:read", expires_at=utc_now() + timedelta(hours=1))
    headers = bearer(text)
    for scopes in (["admin"], ["models:write"], ["*:write"], ["models:read", "datasets:write"]):
        refused = client.post("/v1/keys", json={"name": "n", "scopes": scopes}, headers=headers)
        assert_problem(refused, 403, "insufficient-scope", "/scopes")
    refused = client.post("/v1/keys", json={"name": "n", "scopes": ["models:read"]}, headers=headers)
    assert_problem(refused, 403, "insufficient-scope", "/expires_at")
    soon = (utc_now() + timedelta(minutes=5)).isoformat()
    given = client.post(
        "/v1/keys", json={"name": "n", "scopes": ["models:read", "*:read"], "expires_at": soon}, headers=headers
    )
    assert given.status_code == 201


def test_what_makes_no_sense_is_pointed_at(client: TestClient) -> None:
    past = (utc_now() - timedelta(minutes=1)).isoformat()
    for body, pointer in (
        ({"name": "n", "scopes": ["models:fly"]}, "/scopes/0"),
        ({"name": "n", "scopes": []}, "/scopes"),
        ({"name": "", "scopes": ["admin"]}, "/name"),
        ({"name": "n", "scopes": ["admin"], "expires_at": past}, "/expires_at"),
    ):
        assert_problem(client.post("/v1/keys", json=body), 422, "invalid-request", pointer)


def test_revoking_twice_is_once(client: TestClient, services: Services) -> None:
    _, admin = add_key(services)
    key_id, text = add_key(services, "models:read")
    headers = bearer(admin)
    assert client.delete(f"/v1/keys/{key_id}", headers=headers).status_code == 204
    first = client.get(f"/v1/keys/{key_id}", headers=headers).json()["revoked_at"]
    assert client.delete(f"/v1/keys/{key_id}", headers=headers).status_code == 204
    assert client.get(f"/v1/keys/{key_id}", headers=headers).json()["revoked_at"] == first
    assert_problem(client.get("/v1/models", headers=bearer(text)), 401, "invalid-key")


# --- scopes ---


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/v1/models", "models:read"),
        ("HEAD", "/v1/models/mdl_a", "models:read"),
        ("POST", "/v1/models", "models:write"),
        ("DELETE", "/v1/datasets/ds_a", "datasets:write"),
        ("POST", "/v1/indexes/estimate", "indexes:read"),
        ("POST", "/v1/indexes/estimate/", "indexes:read"),
        ("PUT", "/v1/aliases/prod", "indexes:write"),
        ("GET", "/v1/jobs/job_a/events", "jobs:read"),
        ("GET", "/v1/audit-log", "audit_log:read"),
        ("GET", "/metrics", "status:read"),
        ("GET", "/v1/limits", None),
        ("GET", "/v1/what-comes-next", "admin"),
        ("GET", "/ui", "attributions:read"),
        ("POST", "/ui/ask", "attributions:write"),
    ],
)
def test_path_and_method_decide_the_scope(method: str, path: str, scope: str | None) -> None:
    assert required_scope(method, path) == scope


def test_what_a_scope_grants() -> None:
    assert all(grants(["admin"], scope) for scope in SCOPES)
    assert grants(["*:read"], "models:read") and not grants(["*:read"], "models:write")
    assert not grants(["*:read", "*:write"], "admin")
    assert not grants(["models:write"], "models:read")
    assert not grants(["models:read"], "*:read")
    assert grants([], None) and not grants([], "models:read")


# --- the secret ---


def test_the_secret_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(server_secret(settings))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1 and len(found[0]) == 64
    assert stat.S_IMODE((settings.home / "secret").stat().st_mode) == 0o600
    assert [path.name for path in settings.home.iterdir()] == ["secret"]
    given = make_settings(tmp_path, secret="s" * 32)
    assert server_secret(given) == b"s" * 32
    assert "ssss" not in repr(given)


# --- the audit log ---


def test_every_change_is_on_record_and_reading_is_not(client: TestClient, services: Services, model_dir: Path) -> None:
    key_id, text = add_key(services)
    reader_id, reader = add_key(services, "*:read")
    client.headers.update(bearer(text))
    model = add_model(client, model_dir)
    dataset = add_dataset(client)
    client.get("/v1/models")
    client.post("/v1/models", json={})  # refused: nothing changed
    client.post("/v1/indexes/estimate", json={"model": model["id"], "dataset": dataset["id"]})
    request_id = client.delete(f"/v1/models/{model['id']}").headers["x-request-id"]
    client.delete(f"/v1/datasets/{dataset['id']}", headers=bearer(reader))  # not allowed
    events = client.get("/v1/audit-log").json()["data"]
    assert [(e["operation"], e["resource_id"], e["status"], e["key_id"]) for e in events] == [
        ("delete_model", model["id"], 204, key_id),
        ("create_dataset", dataset["id"], 201, key_id),
        ("create_model", model["id"], 201, key_id),
    ]
    assert (events[0]["path"], events[0]["request_id"]) == (f"/v1/models/{model['id']}", request_id)
    about = client.get("/v1/audit-log", params={"resource": model["id"]}).json()["data"]
    assert [event["operation"] for event in about] == ["delete_model", "create_model"]
    assert client.get("/v1/audit-log", params={"key": reader_id}).json()["data"] == []
    later = events[0]["created_at"]
    assert len(client.get("/v1/audit-log", params={"key": key_id, "since": later}).json()["data"]) == 1
