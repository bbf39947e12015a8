"""/v1/datasets"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.main import create_app
from app.tables import JobRow
from engine.dataset import open_dataset
from tests.app.conftest import make_settings, wait_for
from tests.app.fakes import FakeEngine
from tests.app.resources import (
    ROWS,
    add_dataset,
    add_index,
    add_model,
    assert_problem,
    jsonl,
    post_dataset,
    wait_for_index,
    wait_for_job,
)


def test_an_uploaded_dataset_is_ready_at_once(client: TestClient, tmp_path: Path) -> None:
    response = post_dataset(client, jsonl())
    body = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == f"/v1/datasets/{body['id']}"
    expected = {"name": "train", "state": "ready", "rows": 4, "format": "jsonl", "warnings": [], "source": "rows.jsonl"}
    assert body.items() >= (expected | {"job_id": None, "error": None}).items()
    assert [row.id for row in open_dataset(tmp_path / "home" / "datasets" / body["sha256"])] == [
        "born",
        "sea",
        "sum",
        "row-3",
    ]
    assert client.get(f"/v1/datasets/{body['id']}").json() == body
    assert list((tmp_path / "home" / "uploads").iterdir()) == []


@pytest.mark.parametrize(
    ("filename", "content", "fields"),
    [
        ("rows.csv", b"text\na\nb\n", {}),
        ("rows.json", b'[{"text": "a"}, {"text": "b"}]', {}),
        ("no-suffix", b"text\na\nb\n", {"format": "csv"}),
    ],
)
def test_the_format_is_told_or_given(client: TestClient, filename: str, content: bytes, fields: dict) -> None:
    assert post_dataset(client, content, filename, fields=fields).json()["rows"] == 2


def test_a_file_below_the_roots_is_imported_and_stays(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(jsonl())
    response = client.post("/v1/datasets", json={"name": "train", "uri": "train.jsonl"})
    assert response.status_code == 201
    assert response.json().items() >= {"rows": 4, "source": str(tmp_path / "train.jsonl")}.items()
    assert (tmp_path / "train.jsonl").exists()


def test_a_large_dataset_is_loaded_by_a_job(tmp_path: Path) -> None:
    with TestClient(create_app(make_settings(tmp_path, max_inline_rows_bytes=10), FakeEngine())) as client:
        response = post_dataset(client, jsonl())
        body = response.json()
        assert (response.status_code, body["state"], body["rows"]) == (202, "loading", None)
        assert response.headers["location"] == f"/v1/jobs/{body['job_id']}"
        job = wait_for_job(client, body["job_id"])
        loaded = client.get(f"/v1/datasets/{body['id']}").json()
        assert (job["kind"], job["result"]["dataset"], loaded["state"], loaded["rows"]) == (
            "dataset.load",
            body["id"],
            "ready",
            4,
        )
        wait_for(lambda: not any((tmp_path / "home" / "uploads").iterdir()), "the upload's end")


def test_an_upload_is_kept_until_its_job_is_on_record_as_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that dies between reading an upload and writing that down reads it again: it must still be there."""
    seen: list[bool] = []
    home = tmp_path / "home"

    def fails_once(session: Session, *_: Any) -> None:
        seen.append(any((home / "uploads").iterdir()))
        if len(seen) == 1:
            raise OperationalError("COMMIT", None, Exception("cut off"))

    with TestClient(create_app(make_settings(tmp_path, max_inline_rows_bytes=10), FakeEngine())) as client:
        event.listen(client.app.state.services.database.writers, "before_commit", watch := _on_success(fails_once))  # type: ignore[attr-defined]
        job = wait_for_job(client, post_dataset(client, jsonl()).json()["job_id"])
        event.remove(client.app.state.services.database.writers, "before_commit", watch)  # type: ignore[attr-defined]
        assert job["attempt"] == 1 and seen == [True, True]
        wait_for(lambda: not any((home / "uploads").iterdir()), "the upload's end")


def _on_success(call: Callable[..., None]) -> Callable[[Session], None]:
    """Calls it with every session that is about to write that a job has succeeded."""

    def watch(session: Session) -> None:
        session.flush()
        if any(isinstance(row, JobRow) and row.state == "succeeded" for row in session.identity_map.values()):
            call(session)

    return watch


def test_a_large_malformed_dataset_fails_with_its_line_and_can_be_deleted(tmp_path: Path) -> None:
    with TestClient(create_app(make_settings(tmp_path, max_inline_rows_bytes=10), FakeEngine())) as client:
        body = post_dataset(client, jsonl([{"text": "a"}, {"txt": "b"}])).json()
        wait_for_job(client, body["job_id"], "failed")
        failed = client.get(f"/v1/datasets/{body['id']}").json()
        assert (failed["state"], failed["error"]["line"]) == ("failed", 2)
        assert_problem(client.get(f"/v1/datasets/{body['id']}/examples"), 409, "not-ready")
        assert client.delete(f"/v1/datasets/{body['id']}").status_code == 204
        assert list((tmp_path / "home" / "uploads").iterdir()) == []


def test_examples_come_in_pages_in_file_order(client: TestClient) -> None:
    path = f"/v1/datasets/{add_dataset(client)['id']}/examples"
    first = client.get(path, params={"limit": 3}).json()
    rest = client.get(path, params={"limit": 3, "cursor": first["next_cursor"]}).json()
    found = first["data"] + rest["data"]
    assert [(row["position"], row["id"]) for row in found] == [(0, "born"), (1, "sea"), (2, "sum"), (3, "row-3")]
    assert rest["next_cursor"] is None
    assert found[0] == {**ROWS[0], "position": 0, "messages": None, "text": None, "label": None}
    assert found[3]["messages"] == ROWS[3]["messages"]


def test_examples_are_filtered_by_tag_and_text(client: TestClient) -> None:
    path = f"/v1/datasets/{add_dataset(client)['id']}/examples"

    def ids(**params: str) -> list[str]:
        return [row["id"] for row in client.get(path, params=params).json()["data"]]

    assert ids(**{"tag.task": "facts"}) == ["born", "sea"]
    assert ids(query="PORT") == ["born", "sea"]
    assert ids(**{"tag.task": "facts", "query": "sea"}) == ["sea"]
    assert ids(**{"tag.none": "x"}) == []
    assert (ids(label="good"), ids(label="good", query="sea"), ids(label="bad")) == (["sum"], [], [])
    first = client.get(path, params={"tag.task": "facts", "limit": 1}).json()
    assert [row["id"] for row in first["data"]] == ["born"]
    assert ids(**{"tag.task": "facts", "cursor": first["next_cursor"]}) == ["sea"]


def test_all_wrong_rows_are_told_at_once(client: TestClient) -> None:
    content = jsonl(["no object", {"text": "fine"}, {"text": ""}]) + b"{no json\n"
    body = assert_problem(post_dataset(client, content), 422, "malformed-row")
    assert [(row["line"], row["row"]) for row in body["refused"]] == [(1, 0), (3, 2), (4, None)]
    assert all(row["detail"] and row["remedy"] for row in body["refused"])
    assert "refused" not in assert_problem(post_dataset(client, jsonl([{}])), 422, "malformed-row")


def test_one_example_is_found_by_its_id_even_with_slashes(client: TestClient) -> None:
    dataset = add_dataset(client, [{"id": "a/b c", "text": "x"}])
    found = client.get(f"/v1/datasets/{dataset['id']}/examples/a/b%20c").json()
    assert (found["id"], found["text"]) == ("a/b c", "x")
    assert_problem(client.get(f"/v1/datasets/{dataset['id']}/examples/none"), 404, "not-found")


@pytest.mark.parametrize("cursor", ["x", "WzFd.", "Wy0xXQ", "WyJhIl0", "WzEsMl0"])
def test_a_bad_cursor_is_refused(client: TestClient, cursor: str) -> None:
    path = f"/v1/datasets/{add_dataset(client)['id']}/examples"
    assert_problem(client.get(path, params={"cursor": cursor}), 422, "bad-cursor", "query:cursor")


def test_the_rows_go_with_the_last_dataset_that_has_them(client: TestClient, tmp_path: Path) -> None:
    first, second = add_dataset(client), add_dataset(client)
    assert first["sha256"] == second["sha256"]
    rows = tmp_path / "home" / "datasets" / first["sha256"]
    assert client.delete(f"/v1/datasets/{first['id']}").status_code == 204
    assert rows.exists()
    assert client.get(f"/v1/datasets/{second['id']}/examples").status_code == 200
    assert client.delete(f"/v1/datasets/{second['id']}").status_code == 204
    assert list((tmp_path / "home" / "datasets").iterdir()) == []
    again = add_dataset(client)
    assert len(client.get(f"/v1/datasets/{again['id']}/examples").json()["data"]) == 4


def test_a_dataset_in_use_is_not_deleted_and_the_user_is_named(client: TestClient, model_dir: Path) -> None:
    model, dataset = add_model(client, model_dir), add_dataset(client)
    index = wait_for_index(client, add_index(client, model["id"], dataset["id"])["id"])
    assert assert_problem(client.delete(f"/v1/datasets/{dataset['id']}"), 409, "in-use")["used_by"] == index["id"]


@pytest.mark.parametrize(
    ("kwargs", "status", "code", "pointer"),
    [
        ({"data": {"name": "x"}, "files": {"fil": ("a", b"x")}}, 422, "invalid-request", "/file"),
        ({"files": {"file": ("a.jsonl", b"x")}}, 422, "invalid-request", "/name"),
        ({"data": {"name": "x", "fmt": "csv"}, "files": {"file": ("a", b"x")}}, 422, "invalid-request", "/fmt"),
        ({"data": {"name": "x", "format": "xml"}, "files": {"file": ("a", b"x")}}, 422, "invalid-request", "/format"),
        ({"json": {"name": "x"}}, 422, "invalid-request", "/uri"),
        ({"json": ["x"]}, 422, "invalid-request", ""),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "invalid-request", ""),
        ({"content": b"a", "headers": {"content-type": "text/plain"}}, 415, "unsupported-media-type", None),
        ({}, 415, "unsupported-media-type", None),
    ],
)
def test_a_body_of_another_shape_is_refused(
    client: TestClient, kwargs: dict, status: int, code: str, pointer: str | None
) -> None:
    assert_problem(client.post("/v1/datasets", **kwargs), status, code, pointer)


def test_a_form_that_is_cut_off_is_a_problem(client: TestClient) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    body = b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nhalf'
    response = client.post("/v1/datasets", content=body, headers=headers)
    assert response.status_code in (400, 422)
    assert json.loads(response.text)["remedy"]
