"""Export and import of an index: the same again on another server; whatever else is sent is refused whole."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import cli
from engine.durable import checksum_of
from engine.errors import CorruptIndex
from tests.app.archives import Servers, members, two_servers
from tests.app.fakes import FakeEngine
from tests.app.resources import QUESTION, add_model, assert_problem, post_dataset
from tests.app.stores import (
    fill,
    findings,
    flip,
    model_directory,
    serving,
    store_settings,
)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    yield from two_servers(tmp_path, "")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def on_either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Servers]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else ""
    yield from two_servers(tmp_path, url)


def test_an_exported_index_answers_on_another_server(on_either: Servers) -> None:
    servers = on_either
    imported = servers.send(servers.exported())
    assert imported.status_code == 201, imported.text
    index = imported.json()
    assert imported.headers["location"] == f"/v1/indexes/{index['id']}"
    original = servers.here.get(f"/v1/indexes/{servers.made.index}").json()
    same = ("name", "method", "state", "rows", "dims", "fingerprints", "revision", "options", "serves", "coverage")
    assert {name: index[name] for name in same} == {name: original[name] for name in same}
    answers = [
        client.post("/v1/attributions", json=QUESTION | {"model": model, "index": index_id}).json()
        for client, model, index_id in (
            (servers.here, servers.made.model, servers.made.index),
            (servers.there, servers.model, index["id"]),
        )
    ]
    shown = ("example_id", "position", "score", "prompt", "tags")  # trust is of the server that measured it
    first, second = ([{name: hit[name] for name in shown} for hit in answer["proponents"]] for answer in answers)
    assert first == second != []
    dataset = servers.there.get(f"/v1/datasets/{index['dataset']}").json()
    assert (dataset["state"], dataset["sha256"], dataset["rows"]) == ("ready", servers.made.sha256, 4)
    assert findings(servers.there.app.state.services.settings) == []  # type: ignore[attr-defined]


def test_the_same_index_gives_the_same_bytes(servers: Servers) -> None:
    first = servers.exported()
    assert servers.exported() == first
    found = members(first)
    assert list(found) == ["export.json", *sorted(name for name in found if name != "export.json")]
    assert found["dataset/rows.arrow"] == servers.made.rows.read_bytes()
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        assert {(member.mtime, member.uid, member.uname, member.isreg()) for member in tar} == {(0, 0, "", True)}
    response = servers.here.get(f"/v1/indexes/{servers.made.index}/export")
    assert response.headers["content-length"] == str(len(first))
    assert response.headers["content-type"] == "application/x-tar"
    assert servers.made.index in response.headers["content-disposition"]


def test_what_is_exported_again_is_the_same(servers: Servers) -> None:
    index = servers.send(servers.exported()).json()["id"]
    again = servers.there.get(f"/v1/indexes/{index}/export").content
    assert again == servers.exported()


def test_rows_that_are_there_already_are_used(servers: Servers) -> None:
    archive = servers.exported()
    first, second = servers.send(archive).json(), servers.send(archive, name="second").json()
    assert first["dataset"] == second["dataset"] and first["id"] != second["id"]
    assert (first["name"], second["name"]) == ("first", "second")
    assert len(servers.there.get("/v1/datasets").json()["data"]) == 1


def test_another_model_is_refused(servers: Servers, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    before = servers.left()
    refused = servers.send(servers.exported(), model=add_model(servers.there, other, "other")["id"])
    assert_problem(refused, 409, "fingerprint-mismatch", "/model")
    assert_problem(servers.send(servers.exported(), model="mdl_nothere"), 404, "not-found")
    assert servers.left() == before


def test_an_index_that_is_not_ready_is_not_exported(servers: Servers) -> None:
    servers.here.app.state.services.engine.gate.clear()  # type: ignore[attr-defined]
    body = {"model": servers.made.model, "dataset": servers.made.dataset}
    index = servers.here.post("/v1/indexes", json=body).json()["id"]
    assert_problem(servers.here.get(f"/v1/indexes/{index}/export"), 409, "index-unavailable")
    assert_problem(servers.here.get("/v1/indexes/idx_nothere/export"), 404, "not-found")
    servers.here.app.state.services.engine.gate.set()  # type: ignore[attr-defined]


def test_a_damaged_index_never_leaves_as_a_whole_one(servers: Servers) -> None:
    flip(servers.made.index_dir / "shards" / "00002.faiss")
    with pytest.raises(RuntimeError) as caught:
        servers.exported()  # the server breaks the connection off; in process its exception comes through
    assert isinstance(caught.value.__cause__, CorruptIndex) and "00002.faiss" in str(caught.value.__cause__)
    (servers.made.index_dir / "shards" / "00002.faiss").unlink()
    refused = servers.here.get(f"/v1/indexes/{servers.made.index}/export")
    assert refused.json()["type"] == "urn:whence:problem:corrupt-index"


def test_the_form_has_to_be_one(servers: Servers) -> None:
    client = servers.there
    assert_problem(client.post("/v1/indexes/import", json={"model": "x"}), 415, "unsupported-media-type")
    file = {"file": ("a.tar", b"x")}
    assert_problem(client.post("/v1/indexes/import", files=file), 422, "invalid-request", "/model")
    without_file = {"model": (None, "x")}
    assert_problem(client.post("/v1/indexes/import", files=without_file), 422, "invalid-request", "/file")
    misspelt = client.post("/v1/indexes/import", files=file, data={"model": servers.model, "nmae": "x"})
    assert_problem(misspelt, 422, "invalid-request", "/nmae")


def test_a_repeated_import_with_its_key_is_done_once(servers: Servers) -> None:
    archive, key = servers.exported(), {"Idempotency-Key": "once"}
    send = {"data": {"model": servers.model}, "files": {"file": ("index.tar", archive)}, "headers": key}
    first, second = (servers.there.post("/v1/indexes/import", **send) for _ in range(2))
    assert first.json() == second.json() and first.status_code == 201
    assert len(servers.there.get("/v1/indexes").json()["data"]) == 1


def test_rows_that_were_stored_otherwise_are_shared(servers: Servers) -> None:
    from tests.app.resources import jsonl

    there = post_dataset(servers.there, jsonl()).json()
    assert servers.send(servers.exported()).json()["dataset"] == there["id"]


def test_the_checksum_of_export_json_is_that_of_the_file(servers: Servers) -> None:
    header = json.loads(members(servers.exported())["export.json"])
    assert header["members"]["dataset/rows.arrow"]["checksum"] == checksum_of(servers.made.rows)
    assert header["dataset"]["sha256"] == servers.made.sha256


def test_the_commands_export_and_import(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.app import live

    settings = store_settings(tmp_path)
    with serving(settings) as client:
        made = fill(client, settings, model_directory(tmp_path))
    file = tmp_path / "index.tar"
    monkeypatch.setenv("COLUMNS", "200")
    with live.serving(settings, FakeEngine()) as url:
        assert cli.main(["index", "export", "first", str(file), "--url", url]) == 0
        assert file.stat().st_size > 1000 and not file.with_name("index.tar.partial").exists()
        assert cli.main(["index", "export", "first", str(file), "--url", url]) == 2
        capsys.readouterr()
        assert cli.main(["index", "import", str(file), "--model", "bot", "--name", "copy", "--url", url, "--json"]) == 0
        index = json.loads(capsys.readouterr().out)
        assert (index["state"], index["name"], index["dataset"]) == ("ready", "copy", made.dataset)
        file.write_bytes(file.read_bytes()[:5000])
        assert cli.main(["index", "import", str(file), "--model", "bot", "--url", url]) == 1
        assert "not an exported index" in capsys.readouterr().err
