"""Files that no request may reach: by path, by link, by name in an upload, by name in a file that is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.datasets.loading import run_load
from app.dependencies import Services
from app.errors import PathOutsideRoots
from app.main import create_app
from app.settings import Settings
from engine.errors import ModelError, UnsupportedModel
from engine.weights import check_directory
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.resources import QUESTION, add_index, assert_problem, jsonl, post_dataset, ready_index

LARGE = jsonl() * 4  # read by a job


@pytest.fixture
def settings(tmp_path: Path, store: str) -> Settings:
    """`roots` may be named, `outside` may not."""
    for name in ("roots/model", "outside/model"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    for name in ("roots", "outside"):
        (tmp_path / name / "rows.jsonl").write_bytes(LARGE)
    return make_settings(tmp_path, model_roots=(tmp_path / "roots",), max_inline_rows_bytes=len(LARGE) - 1)


@pytest.fixture
def model_dir(settings: Settings) -> Path:
    return settings.roots[0] / "model"


OUTSIDE = [
    "../outside/{}",
    "model/../../outside/{}",
    "{tmp}/outside/{}",
    "{tmp}/roots/../outside/{}",
    "{tmp}/roots/model/../../../outside/{}",
    "/proc/self/root{tmp}/outside/{}",
    "//{tmp}/outside/{}",
    "~/../..{tmp}/outside/{}",
    "file://{tmp}/outside/{}",
    "FILE:{tmp}/outside/{}",
    "C:\\outside\\{}",
    "..\\outside\\{}",
    "\\\\server\\share\\{}",
    "%2e%2e/outside/{}",
    "..%2foutside%2f{}",
    "{tmp}/outside/{}\x00",
    "\x00/../outside/{}",
    "..\u2215outside\u2215{}",
]
KNOWN = ("path-outside-roots", "uri-scheme-not-allowed", "model-path-not-found", "dataset-path-not-found")


def refused(response: Any, path: str) -> None:
    assert response.status_code == 422, (path, response.text)
    assert response.json()["type"].removeprefix("urn:whence:problem:") in (*KNOWN, "invalid-request")


def test_no_field_names_what_lies_outside(client: TestClient, engine: FakeEngine, tmp_path: Path) -> None:
    inside = {"name": "bot", "base": "model"}
    for path in OUTSIDE:
        directory, file = (path.replace("{tmp}", str(tmp_path)).replace("{}", name) for name in ("model", "rows.jsonl"))
        for field, value in (("base", directory), ("adapter", directory), ("checkpoints", [directory])):
            refused(client.post("/v1/models", json=inside | {field: value}), directory)
        refused(client.post("/v1/models", json=inside | {"tokenizer": directory}), directory)
        refused(client.post("/v1/datasets", json={"name": "train", "uri": file}), file)
    assert engine.calls == []
    assert client.post("/v1/models", json=inside).status_code == 201


LINKS: dict[str, Callable[[Path, Path], Any]] = {
    "the directory": lambda model, out: _replaced(model, out / "model"),
    "the weights": lambda model, out: (model / "model.safetensors").symlink_to(out / "model" / "model.safetensors"),
    "the tokenizer": lambda model, out: (model / "tokenizer.json").symlink_to(out / "model" / "config.json"),
    "by way of another": lambda model, out: (
        (model.parent / "way").symlink_to(out / "model"),
        (model / "tokenizer.json").symlink_to(model.parent / "way" / "config.json"),
    ),
    "the folder of templates": lambda model, out: (model / "additional_chat_templates").symlink_to(out),
    "in the folder of templates": lambda model, out: (
        (model / "additional_chat_templates").mkdir(),
        (model / "additional_chat_templates" / "a.jinja").symlink_to(out / "rows.jsonl"),
    ),
}


def _replaced(path: Path, target: Path) -> None:
    path.rename(path.with_name(f"before-{path.name}"))
    path.symlink_to(target)


def _another(model_dir: Path, number: int) -> Path:
    directory = model_dir.parent / f"model-{number}" / "model"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    return directory


def test_a_link_that_leaves_the_roots(client: TestClient, tmp_path: Path, model_dir: Path) -> None:
    for number, (what, put) in enumerate(LINKS.items()):
        directory = _another(model_dir, number)
        put(directory, tmp_path / "outside")
        answer = client.post("/v1/models", json={"name": what, "base": str(directory)})
        assert_problem(answer, 422, "path-outside-roots", "/base")


def test_a_link_that_is_put_there_after_the_check(
    client: TestClient, engine: FakeEngine, tmp_path: Path, model_dir: Path
) -> None:
    for number, put in enumerate(LINKS.values()):
        directory = _another(model_dir, number)
        index = ready_index(client, directory)
        put(directory, tmp_path / "outside")
        engine.calls.clear()
        asked = client.post("/v1/attributions", json=QUESTION | {"model": index["model"]})
        assert_problem(asked, 422, "path-outside-roots")
        again = {"model": index["model"], "dataset": index["dataset"]}
        assert_problem(client.post("/v1/indexes", json=again), 422, "path-outside-roots")
        assert_problem(client.post("/v1/indexes/estimate", json=again), 422, "path-outside-roots")
        assert engine.calls == []


def test_links_within_the_roots_stay_good(client: TestClient, model_dir: Path) -> None:
    """As the Hugging Face cache has them: snapshots/<revision>/file → ../../blobs/<hash>."""
    blobs = model_dir.parent / "blobs"
    blobs.mkdir()
    (blobs / "b1").write_text("{}")
    (model_dir / "tokenizer.json").symlink_to("../blobs/b1")
    assert client.post("/v1/models", json={"name": "a", "base": "model"}).status_code == 201


def test_a_build_that_waited_looks_again(
    client: TestClient, engine: FakeEngine, tmp_path: Path, model_dir: Path, services: Services
) -> None:
    index = ready_index(client, model_dir)
    services.worker.stop()
    waiting = add_index(client, index["model"], index["dataset"])
    _replaced(model_dir, tmp_path / "outside" / "model")
    engine.calls.clear()
    from app.indexes.building import run_build

    context: Any = SimpleNamespace(payload={"index": waiting["id"]}, tenant="default", checkpoint=lambda _: None)
    with pytest.raises(PathOutsideRoots):
        run_build(services, context)
    assert engine.calls == []


def test_a_file_of_rows_that_was_swapped_before_its_job_read_it(
    client: TestClient, tmp_path: Path, services: Services
) -> None:
    services.worker.stop()
    path = tmp_path / "roots" / "rows.jsonl"
    asked = client.post("/v1/datasets", json={"name": "train", "uri": str(path)})
    assert asked.status_code == 202
    _replaced(path, tmp_path / "outside" / "rows.jsonl")
    context: Any = SimpleNamespace(payload={"path": str(path), "format": None, "dataset": "x"}, checkpoint=None)
    with pytest.raises(PathOutsideRoots):
        run_load(services, context)
    assert not list((tmp_path / "home" / "datasets").glob("*"))


FILENAMES = [
    "../../escaped.jsonl",
    "/tmp/escaped.jsonl",
    "..\\..\\escaped.jsonl",
    "a/../../../escaped.jsonl",
    "..",
    "/",
]
FILENAMES += ["escaped.jsonl/../../../x", "escaped.\x00/../../x", "%2e%2e%2fescaped.jsonl", "x." + "y" * 4000]


def test_the_name_of_an_upload_is_no_place(client: TestClient, tmp_path: Path, services: Services) -> None:
    services.worker.stop()  # what waits for its job is still there
    before, uploads = files_outside(tmp_path), services.settings.uploads_dir
    line = b'{"prompt": "a", "completion": "b", "model": "m"}\n'
    for filename in FILENAMES:
        made = post_dataset(client, LARGE, filename, fields={"format": "jsonl"}).json()
        (file,) = (uploads / made["id"]).iterdir()
        assert file.is_file() and file.name.startswith("rows") and len(file.name) < 20
        batch = client.post("/v1/attributions/batches", files={"file": (filename, line)})
        assert batch.status_code in (202, 404, 422), batch.text
    assert len(list(uploads.iterdir())) == len(FILENAMES)
    assert files_outside(tmp_path) == before and not Path("/tmp/escaped.jsonl").exists()


def files_outside(tmp_path: Path) -> set[Path]:
    return {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "home")}


IDS = ["..%2f..%2fsecret", "%2e%2e%2fsecret", "..%5csecret", "%2fetc%2fpasswd", "....%2f%2fsecret", "a%2f..%2fsecret"]


def test_an_id_is_no_path(client: TestClient, settings: Settings) -> None:
    secret = settings.home / "secret"
    secret.write_text("0" * 64)
    resources = ("models", "datasets", "indexes", "attributions", "jobs", "evaluations", "checks", "keys")
    for bad, resource in product(IDS, resources):
        for tail in ("", "/export", "/examples", "/examples/..%2f..%2fsecret", "/events", "/results", "/checks"):
            answer = client.get(f"/v1/{resource}/{bad}{tail}", follow_redirects=False)
            assert answer.status_code in (404, 405, 422), (resource, bad, tail, answer.text)
        assert client.delete(f"/v1/{resource}/{bad}").status_code in (404, 405), (resource, bad)
    assert secret.exists()


def test_static_files_end_at_their_folder(client: TestClient) -> None:
    names = (
        "..%2fpages.py",
        "%2e%2e/pages.py",
        "..%5cpages.py",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "whence+..%2fpages.py",
    )
    for folder, name in product(("", "htmx/", "htmx/../../", "./", "htmx%2f..%2f"), names):
        answer = client.get(f"/ui/static/{folder}{name}")
        assert answer.status_code == 404 and "import" not in answer.text, (folder, name)


# --- what the files of a model directory name ---


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A directory that passes."""
    directory = tmp_path / "weights"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"")
    (tmp_path / "other.safetensors").write_bytes(b"")
    check_directory(directory)
    return directory


@pytest.mark.parametrize("name", ["../other.safetensors", "{tmp}/other.safetensors", "..", "a/b.safetensors", 7, None])
@pytest.mark.parametrize("said_by", ["model.safetensors.index.json", "config.json", "tokenizer_config.json"])
def test_a_file_of_the_model_that_names_files_elsewhere(
    weights: Path, tmp_path: Path, said_by: str, name: object
) -> None:
    named = name.replace("{tmp}", str(tmp_path)) if isinstance(name, str) else name
    says: dict[str, Any] = {
        "model.safetensors.index.json": {"weight_map": {"a": named}},
        "config.json": {"transformers_weights": named},
        "tokenizer_config.json": {"fast_tokenizer_files": [named]},
    }
    (weights / said_by).write_text(json.dumps(says[said_by]))
    if says[said_by] == {"transformers_weights": None}:
        return check_directory(weights)  # as if it were not there
    with pytest.raises(UnsupportedModel, match="does not lie in this directory"):
        check_directory(weights)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "model.safetensors.index.json"])
def test_a_file_of_the_model_that_is_nested_too_deeply(weights: Path, name: str) -> None:
    (weights / name).write_text("[" * 100_000)
    with pytest.raises(ModelError, match="nested too deeply"):
        check_directory(weights)


def test_a_service_whose_root_is_a_link_still_serves(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "roots")
    linked = create_app(
        make_settings(tmp_path, home=tmp_path / "second", model_roots=(tmp_path / "link",)), FakeEngine()
    )
    with TestClient(linked) as client:
        index = ready_index(client, tmp_path / "link" / "model")
        asked = client.post("/v1/attributions", json=QUESTION | {"model": index["model"]})
    assert asked.status_code == 200, asked.text
