"""Every bad input has its own problem type, with cause and remedy, over HTTP; none is a traceback."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from engine import errors
from engine.errors import EngineError
from tests.app.fakes import FakeEngine
from tests.app.resources import (
    QUESTION,
    add_dataset,
    add_index,
    add_model,
    assert_problem,
    jsonl,
    post_dataset,
    ready_index,
    wait_for_index,
)

# What each engine error is over HTTP. Every class of engine.errors is here: the last test sees to it.
STATUS: dict[type[EngineError], int] = {
    errors.EngineError: 500,
    errors.InputError: 422,
    errors.ModelError: 422,
    errors.ModelPathNotFound: 422,
    errors.NotAModel: 422,
    errors.UnsafeWeights: 422,
    errors.AdapterBaseMismatch: 422,
    errors.UnsupportedModel: 422,
    errors.LowCoverage: 422,
    errors.DatasetError: 422,
    errors.DatasetPathNotFound: 422,
    errors.UnsupportedFormat: 422,
    errors.EmptyDataset: 422,
    errors.DatasetTooLarge: 413,
    errors.MalformedRow: 422,
    errors.DuplicateExampleId: 422,
    errors.EmptyCompletion: 422,
    errors.NoLossToken: 422,
    errors.ContextOverflow: 422,
    errors.InvalidQuery: 422,
    errors.UnknownMethod: 422,
    errors.InvalidOption: 422,
    errors.MissingNeed: 422,
    errors.MethodNotServed: 409,
    errors.FingerprintMismatch: 409,
    errors.NonFiniteGradient: 422,
    errors.IndexUnavailable: 409,
    errors.CorruptIndex: 500,
    errors.CorruptDataset: 500,
    errors.StorageFull: 507,
    errors.QueueFull: 429,
    errors.EngineUnavailable: 503,
    errors.Cancelled: 409,
    errors.ShuttingDown: 503,
}
of_models = pytest.mark.parametrize(
    "kind",
    [
        errors.NotAModel,
        errors.UnsafeWeights,
        errors.AdapterBaseMismatch,
        errors.UnsupportedModel,
        errors.StorageFull,
        errors.EngineUnavailable,
    ],
)
of_questions = pytest.mark.parametrize("kind", list(STATUS))
of_builds = pytest.mark.parametrize(
    "kind",
    [
        errors.NoLossToken,
        errors.NonFiniteGradient,
        errors.MissingNeed,
        errors.LowCoverage,
        errors.StorageFull,
        errors.FingerprintMismatch,
        errors.UnsafeWeights,
        errors.CorruptIndex,
    ],
)


def every_error() -> list[type[EngineError]]:
    found = [errors.EngineError]
    for kind in found:
        found.extend(kind.__subclasses__())
    return [kind for kind in found if kind.__module__ == "engine.errors"]


@pytest.fixture
def store() -> str:
    """SQLite alone: what is refused never gets as far as the database."""
    return ""


def test_every_engine_error_has_its_own_type_and_is_tested_here() -> None:
    assert set(every_error()) == set(STATUS)
    assert len({kind.code for kind in STATUS}) == len(STATUS)
    assert len({kind.title for kind in STATUS}) == len(STATUS)


# Models


@pytest.mark.parametrize("field", ["base", "adapter", "tokenizer", "checkpoints"])
@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("does-not-exist", "model-path-not-found"),
        ("model/config.json", "model-path-not-found"),
        ("/etc", "path-outside-roots"),
        ("../../..", "path-outside-roots"),
        ("hf://org/name@main", "uri-scheme-not-allowed"),
    ],
)
def test_a_path_that_cannot_be_used_is_pointed_at(
    client: TestClient, model_dir: Path, field: str, path: str, code: str
) -> None:
    body: dict[str, Any] = {"name": "bot", "base": str(model_dir)}
    body[field], pointer = ([path], "/checkpoints/0") if field == "checkpoints" else (path, f"/{field}")
    problem = assert_problem(client.post("/v1/models", json=body), 422, code, pointer)
    assert code == "uri-scheme-not-allowed" or path in problem["detail"]


@of_models
def test_what_the_engine_finds_in_a_model_is_a_problem(
    client: TestClient, model_dir: Path, engine: FakeEngine, kind: type[EngineError]
) -> None:
    engine.errors["describe_model"] = kind("what was found", pointer="/adapter")
    response = client.post("/v1/models", json={"name": "bot", "base": str(model_dir)})
    problem = assert_problem(response, STATUS[kind], kind.code, "/adapter")
    assert (problem["title"], problem["detail"]) == (kind.title, "what was found")


# Datasets


@pytest.mark.parametrize(
    ("filename", "content", "code", "facts"),
    [
        ("a.jsonl", b"", "empty-dataset", {}),
        ("a.json", b"[]", "empty-dataset", {}),
        ("a.csv", b"text\n", "empty-dataset", {}),
        ("a.jsonl", b'{"text": "a"}\n{"text"', "malformed-row", {"line": 2}),
        ("a.jsonl", jsonl([{"text": "a"}, {"prompt": "b"}]), "malformed-row", {"line": 2, "row": 1}),
        ("a.jsonl", b'{"text": "\xff"}', "malformed-row", {"line": 1}),
        ("a.csv", b'text\n"a\nb"\nc,d\n', "malformed-row", {"line": 4}),
        (
            "a.jsonl",
            jsonl([{"id": 1, "text": "a"}, {"id": "1", "text": "b"}]),
            "duplicate-example-id",
            {"rows": [0, 1]},
        ),
        ("a.jsonl", jsonl([{"text": "a"}, {"prompt": "a", "completion": ""}]), "empty-completion", {"row": 1}),
        ("a.parquet", b"PAR1", "unsupported-format", {}),
        ("a.txt", b"hello", "unsupported-format", {}),
    ],
)
def test_a_dataset_that_cannot_be_used_says_where_and_leaves_nothing(
    client: TestClient, tmp_path: Path, filename: str, content: bytes, code: str, facts: dict[str, Any]
) -> None:
    problem = assert_problem(post_dataset(client, content, filename), 422, code)
    assert problem.items() >= facts.items()
    assert client.get("/v1/datasets").json()["data"] == []
    kept = [path for part in ("datasets", "uploads") for path in (tmp_path / "home" / part).glob("*")]
    assert kept == []


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("none.jsonl", "dataset-path-not-found"),
        ("model", "dataset-path-not-found"),
        ("/etc/passwd", "path-outside-roots"),
        ("s3://bucket/rows.jsonl", "uri-scheme-not-allowed"),
    ],
)
def test_a_dataset_uri_that_cannot_be_used_is_pointed_at(
    client: TestClient, model_dir: Path, uri: str, code: str
) -> None:
    assert_problem(client.post("/v1/datasets", json={"name": "x", "uri": uri}), 422, code, "/uri")


def test_a_symlink_out_of_the_roots_is_refused(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "way-out").symlink_to("/etc")
    response = client.post("/v1/datasets", json={"name": "x", "uri": "way-out/passwd"})
    assert_problem(response, 422, "path-outside-roots", "/uri")


def test_a_full_disk_while_a_dataset_is_written_is_named_and_leaves_nothing(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("engine.dataset.storing.os.fsync", full)
    assert_problem(post_dataset(client, jsonl()), 507, "storage-full")
    kept = [path for part in ("datasets", "uploads") for path in (tmp_path / "home" / part).glob("*")]
    assert kept == []


def test_a_full_disk_while_an_upload_is_received_is_named(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("app.datasets.loading.shutil.copyfileobj", full)
    assert_problem(post_dataset(client, jsonl()), 507, "storage-full")
    assert list((tmp_path / "home" / "uploads").iterdir()) == []


# Indexes: method and option names are in test_indexes.py


@of_builds
def test_what_stops_a_build_is_on_the_index_and_on_its_job(
    client: TestClient, model_dir: Path, engine: FakeEngine, kind: type[EngineError]
) -> None:
    engine.errors["build_index"] = kind("what stopped it", row=3)
    index = add_index(client, add_model(client, model_dir)["id"], add_dataset(client)["id"])
    failed = wait_for_index(client, index["id"], "failed")
    job = client.get(f"/v1/jobs/{index['job_id']}").json()
    for error in (failed["error"], job["error"]):
        expected = {"type": f"urn:whence:problem:{kind.code}", "detail": "what stopped it", "row": 3}
        assert error.items() >= expected.items()
        assert error["remedy"]


# Questions


@of_questions
def test_what_stops_an_answer_is_a_problem(
    client: TestClient, model_dir: Path, engine: FakeEngine, kind: type[EngineError]
) -> None:
    index = ready_index(client, model_dir)
    for stage in ("submit_attribution", "attribution"):
        engine.errors = {stage: kind("what stopped it", pointer="/prompt")}
        response = client.post("/v1/attributions", json={"model": index["model"]} | QUESTION)
        problem = assert_problem(response, STATUS[kind], kind.code, "/prompt")
        assert problem["title"] == kind.title


def test_an_unexpected_error_says_nothing_of_the_inside(model_dir: Path, app: Any, engine: FakeEngine) -> None:
    with TestClient(app, raise_server_exceptions=False) as client:
        engine.errors["describe_model"] = RuntimeError("secret inside")
        response = client.post("/v1/models", json={"name": "bot", "base": str(model_dir)})
        assert_problem(response, 500, "internal-error")
        assert "secret" not in response.text


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b'{"name": "\\ud800", "base": "x"}', b"\xff\xfe"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/datasets", "/v1/indexes", "/v1/attributions"])
def test_a_body_that_is_not_the_json_asked_for_is_a_problem(client: TestClient, path: str, body: bytes) -> None:
    response = client.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["remedy"]
