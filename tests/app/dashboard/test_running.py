"""The pages about jobs, keys, the audit log and status, with the fake engine behind them."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.dashboard.running.views_jobs import time_left
from app.dependencies import Services
from app.jobs.service import JobsService
from engine.errors import StorageFull
from tests.app.conftest import wait_for
from tests.app.fakes import FakeEngine
from tests.app.resources import ROWS, add_dataset, add_index, add_model, ready_index, wait_for_index, wait_for_job

KEY = re.compile(r'value="(whk_[A-Za-z0-9_]+)"')
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def running(client: TestClient, engine: FakeEngine, model_dir: Path) -> dict[str, Any]:
    """A build that has begun and waits for the test."""
    engine.gate.clear()
    index = add_index(client, add_model(client, model_dir)["id"], add_dataset(client)["id"])
    wait_for_job(client, index["job_id"], "running")
    wait_for(lambda: client.get(f"/v1/jobs/{index['job_id']}").json()["progress"], "progress")
    return index


def text_of(page: str) -> str:
    """What a reader sees, on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def test_without_jobs_the_page_says_what_one_is(client: TestClient) -> None:
    page = client.get("/ui/jobs").text
    assert "Nothing has run yet" in page and "/ui/indexes" in page
    assert "No job is like that" in client.get("/ui/jobs?state=failed").text


def test_a_running_job_is_followed_and_can_be_cancelled_and_resumed(
    client: TestClient, engine: FakeEngine, running: dict[str, Any]
) -> None:
    job = running["job_id"]
    listed = client.get("/ui/jobs?kind=index.build&state=running").text
    assert job in listed and 'hx-trigger="every 3s"' in listed  # it goes on: the list looks again
    page = client.get(f"/ui/jobs/{job}").text
    assert f'data-live-job="{job}"' in page and re.search(r'data-live-after="[1-9]\d*"', page)
    assert f'href="/ui/indexes/{running["id"]}"' in page and "Resume" not in page
    assert f"0 of {len(ROWS)} rows" in text_of(page)
    assert client.post(f"/ui/jobs/{job}/cancel", follow_redirects=False).headers["location"] == f"/ui/jobs/{job}"
    wait_for_job(client, job, "cancelled")
    ended = client.get(f"/ui/jobs/{job}").text
    assert "data-live-job" not in ended and f'action="/ui/jobs/{job}/resume"' in ended
    assert 'hx-trigger="every 3s"' not in client.get("/ui/jobs").text
    engine.gate.set()
    assert client.post(f"/ui/jobs/{job}/resume").status_code == 200
    wait_for_job(client, job)
    assert wait_for_index(client, running["id"])["state"] == "ready"
    assert "It has finished." in client.get(f"/ui/jobs/{job}").text
    log = [event["operation"] for event in client.get("/v1/audit-log").json()["data"]]
    assert log[:2] == ["resume_job", "cancel_job"]


def test_a_failed_job_says_why_and_what_to_do(client: TestClient, engine: FakeEngine, model_dir: Path) -> None:
    engine.errors["build_index"] = StorageFull(f"The disk is full of {HOSTILE}.")
    index = add_index(client, add_model(client, model_dir)["id"], add_dataset(client)["id"])
    wait_for_job(client, index["job_id"], "failed")
    for path in (f"/ui/jobs/{index['job_id']}", "/ui/jobs?state=failed"):
        page = client.get(path).text
        assert HOSTILE not in page and html.escape(HOSTILE) in page
    assert "What to do:" in client.get(f"/ui/jobs/{index['job_id']}").text
    refused = client.post(f"/ui/jobs/{index['job_id']}/cancel")
    assert refused.status_code == 409 and "already ended" in refused.text


def test_messages_are_shown_as_text(client: TestClient, services: Services, model_dir: Path) -> None:
    job = ready_index(client, model_dir)["job_id"]
    with services.database.write() as session:
        JobsService(session, "default").say(job, HOSTILE)
    page = client.get(f"/ui/jobs/{job}").text
    assert HOSTILE not in page and html.escape(HOSTILE) in page


def test_a_list_goes_on_over_pages(client: TestClient, services: Services) -> None:
    with services.database.write() as session:
        for _ in range(30):
            JobsService(session, "default").enqueue("nothing.that.runs", {})
    first = client.get("/ui/jobs?kind=nothing.that.runs").text
    (older,) = re.findall(r'href="(/ui/jobs\?[^"]*cursor=[^"]*)"', first)
    second = client.get(html.unescape(older)).text
    ids = [set(re.findall(r'href="/ui/jobs/(job_\w+)"', page)) for page in (first, second)]
    assert [len(found) for found in ids] == [25, 5] and not ids[0] & ids[1]
    assert client.get("/ui/jobs?cursor=nonsense").status_code == 422


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""),
        (0.2, "nearly done"),
        (42, "about 42 s left"),
        (150, "about 2 min left"),
        (7500, "about 2 h 5 min left"),
    ],
)
def test_time_left_in_words(seconds: float | None, words: str) -> None:
    assert time_left(seconds) == words


# --- keys ---


def test_without_keys_the_page_says_who_may_do_what(client: TestClient) -> None:
    page = client.get("/ui/keys").text
    assert "open to this machine" in page and 'value="admin" checked' in page


def test_a_key_is_made_shown_once_used_and_revoked(client: TestClient) -> None:
    form = {"name": f"for {HOSTILE}", "scopes": ["*:read", "keys:write"], "days": "30"}
    made = client.post("/ui/keys", data=form)
    (key,) = KEY.findall(made.text)
    assert made.status_code == 201 and "no longer open" in made.text and HOSTILE not in made.text
    assert made.headers["cache-control"] == "no-store"
    bearer = {"Authorization": f"Bearer {key}"}
    (row,) = client.get("/v1/keys", headers=bearer).json()["data"]
    assert (row["name"], row["scopes"]) == (form["name"], form["scopes"]) and row["expires_at"] is not None
    assert client.get("/ui/keys", follow_redirects=False).status_code == 303  # to the login: it is closed now
    page = client.get("/ui/keys", headers=bearer).text
    assert key not in page and row["prefix"] in page and HOSTILE not in page
    confirm = client.get(f"/ui/keys/{row['id']}/revoke", headers=bearer).text
    assert "cannot be undone" in confirm and "logged out" in confirm
    answer = client.post(f"/ui/keys/{row['id']}/revoke", headers=bearer, follow_redirects=False)
    assert answer.headers["location"] == "/ui/keys"
    assert client.get("/v1/keys", headers=bearer).status_code == 401


def test_a_key_gives_no_more_than_it_has(client: TestClient) -> None:
    (admin,) = KEY.findall(client.post("/ui/keys", data={"name": "first", "scopes": ["admin"]}).text)
    made = client.post(
        "/ui/keys",
        data={"name": "maker", "scopes": ["keys:read", "keys:write"], "days": "1"},
        headers={"Authorization": f"Bearer {admin}"},
    )
    lesser = {"Authorization": f"Bearer {KEY.findall(made.text)[0]}"}
    page = client.get("/ui/keys", headers=lesser).text
    assert re.search(r'value="models:read"\s+disabled', page) and "Greyed out" in page
    assert not re.search(r'value="keys:read"\s+disabled', page)
    refused = client.post("/ui/keys", data={"name": "x", "scopes": ["admin"], "days": "1"}, headers=lesser)
    assert refused.status_code == 403 and "does not have admin to give" in refused.text
    assert 'name="name" required maxlength="200" value="x"' in refused.text  # what was typed stays
    reader = {"name": "reader", "scopes": ["keys:read"], "days": "1"}
    (text,) = KEY.findall(client.post("/ui/keys", data=reader, headers=lesser).text)
    page = client.get("/ui/keys", headers={"Authorization": f"Bearer {text}"}).text
    assert "no scope to make or revoke keys" in page and "/revoke" not in page and "<form" not in page


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"name": "x"}, "without any scope"),
        ({"name": " ", "scopes": ["admin"]}, "name"),
        ({"name": "x", "scopes": ["everything"]}, "there is no scope"),
        ({"name": "x", "scopes": ["admin"], "days": "-3"}, "no number of days"),
        ({"name": "x", "scopes": ["admin"], "days": "²"}, "no number of days"),
        ({"name": "x", "scopes": ["admin"], "days": "99999999999999"}, "no number of days"),
    ],
)
def test_a_form_that_makes_no_key(client: TestClient, form: dict[str, Any], said: str) -> None:
    refused = client.post("/ui/keys", data=form)
    assert refused.status_code == 422 and said in html.unescape(refused.text)
    assert client.get("/v1/keys").json()["data"] == []


# --- the audit log, status ---


def test_the_audit_log_can_be_searched(client: TestClient, model_dir: Path) -> None:
    assert "Nothing has been changed yet" in client.get("/ui/audit-log").text
    model = add_model(client, model_dir)["id"]
    add_dataset(client)
    every, about = client.get("/ui/audit-log").text, client.get(f"/ui/audit-log?resource={model}").text
    assert "create dataset" in every and "create model" in every
    assert "create dataset" not in about and "create model" in about
    assert "on record" in client.get("/ui/audit-log?since=2999-01-01T00:00").text
    wrong = client.get("/ui/audit-log?since=yesterday")
    assert wrong.status_code == 422 and "not a date" in wrong.text


def test_status_tells_what_the_api_tells(client: TestClient, running: dict[str, Any]) -> None:
    told, limits = client.get("/v1/status").json(), client.get("/v1/limits").json()
    page = text_of(client.get("/ui/status").text)
    assert told["version"] in page and "sqlite, answers" in page and "Everything this server needs" in page
    assert f"Running {told['jobs']['running']}" in page and told["jobs"]["running"] == 1
    assert "Index builds under way 1" in page
    assert all(name in page for name in limits) and f"max_top_k {limits['max_top_k']:,}" in page


def test_each_page_needs_the_scope_of_what_it_shows(client: TestClient) -> None:
    made = client.post("/ui/keys", data={"name": "jobs", "scopes": ["jobs:read"]})
    bearer = {"Authorization": f"Bearer {KEY.findall(made.text)[0]}"}
    answers = {
        path: client.get(f"/ui/{path}", headers=bearer, follow_redirects=False).status_code
        for path in ("jobs", "keys", "audit-log", "status", "evaluations")
    }
    assert answers == {"jobs": 200, "keys": 303, "audit-log": 303, "status": 303, "evaluations": 303}
    cancel = client.post("/ui/jobs/job_x/cancel", headers=bearer, follow_redirects=False)
    assert cancel.headers["location"].startswith("/ui/login")
