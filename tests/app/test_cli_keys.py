"""`whence keys …`: on the database itself, beside a server or without one."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app import cli
from app.main import create_app
from app.settings import Settings
from tests.app.commands import refused, run_json
from tests.app.fakes import FakeEngine


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WHENCE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_first_key_is_made_before_any_server_ran_and_opens_it(capsys):
    made = run_json(capsys, "keys", "create", "first")
    assert made["scopes"] == ["admin"]
    with TestClient(create_app(Settings(), FakeEngine())) as client:
        assert client.get("/v1/models").status_code == 401
        client.headers["Authorization"] = f"Bearer {made['key']}"
        assert client.get("/v1/keys").json()["data"][0]["id"] == made["id"]
        log = client.get("/v1/audit-log").json()["data"]
        assert [(event["operation"], event["path"], event["key_id"]) for event in log] == [
            ("create_key", "whence keys create", None)
        ]


def test_beside_a_running_server_keys_are_made_and_revoked(capsys):
    with TestClient(create_app(Settings(), FakeEngine())) as client:
        made = run_json(capsys, "keys", "create", "reader", "--scope", "models:read", "--tenant", "acme", "--days", "2")
        headers = {"Authorization": f"Bearer {made['key']}"}
        assert client.get("/v1/models", headers=headers).status_code == 200
        assert run_json(capsys, "keys", "list") == []
        (listed,) = run_json(capsys, "keys", "list", "--tenant", "acme")
        assert (listed["id"], listed["tenant"], "key" in listed) == (made["id"], "acme", False)
        assert "no key" in refused(capsys, "keys", "revoke", made["id"], code=1)  # of another tenant
        run_json(capsys, "keys", "revoke", made["id"], "--tenant", "acme")
        assert client.get("/v1/models", headers=headers).status_code == 401


def test_the_key_alone_is_on_stdout(capsys):
    assert cli.main(["keys", "create", "first", "--scope", "jobs:read"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("whk_") and captured.out.count("\n") == 1 and len(captured.out.strip()) == 65
    assert "not shown again" in captured.err
    cli.main(["keys", "list"])
    listed = capsys.readouterr().out
    assert captured.out[:12] in listed and captured.out.strip() not in listed


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--scope", "models:fly"], "models:read"),
        (["--tenant", "a\x00b"], "plain characters"),
        (["--days", "0"], "greater than"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(capsys, arguments, told):
    assert told in refused(capsys, "keys", "create", "k", *arguments, code=2)
