"""With the real engine: an index leaves one server and answers on another; a damaged one is repaired byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.doctor.run import repair
from app.engine_client import LocalEngine
from app.main import create_app
from tests import factories
from tests.app.conftest import make_settings
from tests.app.resources import add_dataset, add_index, add_model, assert_problem, wait_for_index
from tests.app.stores import findings, flip, looked_at, make_old
from tests.engine.contract_world import digests

ROWS = factories.sentences(12)
OPTIONS = {"shard_rows": 5, "curvature_rows": 12}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    llama = factories.llama(hidden=8, layers=1)
    factories.save_base(root / "base", llama)
    for seed in (1, 2):
        factories.save_adapter(root / f"epoch-{seed}", llama, seed, r=2)
    return root


def server(tmp_path: Path, models: Path, home: str) -> TestClient:
    settings = make_settings(tmp_path, home=tmp_path / home, model_roots=(models, tmp_path))
    return TestClient(create_app(settings, LocalEngine(device="cpu")))


def registered(client: TestClient, models: Path, epoch: int = 1) -> dict[str, Any]:
    return add_model(client, models / "base", f"epoch {epoch}", adapter=str(models / f"epoch-{epoch}"))


def built(client: TestClient, models: Path) -> dict[str, Any]:
    model, dataset = registered(client, models)["id"], add_dataset(client, ROWS)["id"]
    return wait_for_index(client, add_index(client, model, dataset, options=OPTIONS)["id"])


def ask(client: TestClient, index: dict[str, Any]) -> list[tuple[str, float]]:
    question = {"prompt": ROWS[3]["prompt"], "completion": ROWS[3]["completion"]}
    answer = client.post("/v1/attributions", json=question | {"model": index["model"], "index": index["id"]})
    assert answer.status_code == 200, answer.text
    return [(hit["example_id"], hit["score"]) for hit in answer.json()["proponents"]]


def test_an_index_answers_the_same_on_another_server(models: Path, tmp_path: Path) -> None:
    with server(tmp_path, models, "here") as here, server(tmp_path, models, "there") as there:
        index = built(here, models)
        archive = here.get(f"/v1/indexes/{index['id']}/export").content
        files = {"file": ("index.tar", archive)}
        other = registered(there, models, epoch=2)["id"]
        refused = there.post("/v1/indexes/import", data={"model": other}, files=files)
        assert_problem(refused, 409, "fingerprint-mismatch", "/model")
        model = registered(there, models)["id"]
        imported = there.post("/v1/indexes/import", data={"model": model}, files=files)
        assert imported.status_code == 201, imported.text
        assert imported.json()["coverage"] == index["coverage"]
        assert ask(there, imported.json()) == ask(here, index)
        place = archive.index(b"IxSQ") + 8
        forged = archive[:place] + (1 << 40).to_bytes(8, "little") + archive[place + 8 :]
        response = there.post("/v1/indexes/import", data={"model": model}, files={"file": ("index.tar", forged)})
        assert_problem(response, 422, "invalid-archive", "/file")
    assert findings(make_settings(tmp_path, home=tmp_path / "there")) == []


def test_one_flipped_bit_of_each_file_is_found_repaired_and_built_again(models: Path, tmp_path: Path) -> None:
    settings = make_settings(tmp_path, model_roots=(models, tmp_path))
    with server(tmp_path, models, "home") as client:
        index = built(client, models)
    directory = settings.indexes_dir / index["id"]
    expected, by_kind = digests(directory), {"manifest.json": directory / "manifest.json"}
    assert findings(settings) == []
    for path in sorted(directory.rglob("*.*")):
        by_kind["norms" if ".norms." in path.name else path.suffix] = path
    for kind in (".faiss", "norms", ".safetensors", "manifest.json"):
        flip(by_kind[kind])
        (found,) = findings(settings)
        assert str(by_kind[kind].relative_to(settings.home)) in found.what
        with looked_at(settings) as store:
            assert repair(store).left == []
        make_old(settings.home)
        assert findings(settings) == []
        with server(tmp_path, models, "home") as client:
            job = client.get(f"/v1/indexes/{index['id']}").json()["job_id"]
            assert client.post(f"/v1/jobs/{job}/resume").status_code == 202
            again = wait_for_index(client, index["id"])
            assert again["revision"] == index["revision"]
        assert digests(directory) == expected
        assert findings(settings) == []
