"""Little that unpacks to much. Parquet and Arrow: tests/engine/test_dataset_bombs.py, tests/app/test_hostile_bodies.py,
tests/app/test_archives_hostile.py. Here: that nothing else is unpacked at all."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.app.resources import assert_problem, jsonl, post_dataset

MUCH = b'{"text": "' + b"a" * (64 << 20) + b'"}\n'
MUCH_JSON = b'{"name": "' + b"a" * (64 << 20) + b'", "base": "x"}'


def deflated(content: bytes) -> bytes:
    return zlib.compress(content, 9)


def zipped(content: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.jsonl", content)
    return sink.getvalue()


def tarred(content: bytes) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as archive:
        member = tarfile.TarInfo("rows.jsonl")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return sink.getvalue()


@pytest.mark.parametrize(
    ("coding", "pack"), [("gzip", gzip.compress), ("deflate", deflated), ("x-gzip, gzip", gzip.compress), ("br", bytes)]
)
def test_a_packed_body_is_not_unpacked(client: TestClient, model_dir: Path, coding: str, pack: Any) -> None:
    if coding == "br":  # of b"{}": the standard library does not pack it
        much = little = b"\x0b\x00\x80{}\x03"
    else:
        much, little = pack(MUCH_JSON), pack(b'{"name": "bot", "base": "%s"}' % bytes(model_dir))
    began = time.monotonic()
    headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
    for path in ("/v1/models", "/v1/attributions", "/v1/indexes", "/v1/datasets"):
        for packed in (much, little):
            answer = client.post(path, content=packed, headers=headers)
            assert answer.status_code in (400, 415, 422), answer.text
            assert len(answer.content) < 2000
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "pack", [gzip.compress, bz2.compress, lzma.compress, zipped, tarred], ids=lambda pack: pack.__name__
)
def test_a_packed_upload_is_no_dataset(client: TestClient, tmp_path: Path, pack: Any) -> None:
    """Whatever it is called: Arrow and others guess from the name that a file is to be unpacked."""
    much, little = pack(MUCH), pack(jsonl())
    for filename in ("rows.jsonl.gz", "rows.csv.gz", "rows.zip", "rows.jsonl", "rows.csv", "rows.parquet", "rows.json"):
        for packed in (much, little):
            refused = post_dataset(client, packed, filename)
            assert refused.status_code == 422, refused.text
            assert len(refused.content) < 2000 and refused.json()["remedy"]
    assert not any(path.is_file() for path in (tmp_path / "home" / "datasets").rglob("*"))
    batch = client.post("/v1/attributions/batches", files={"file": ("questions.jsonl.gz", little)})
    assert batch.status_code in (413, 422)


def test_a_packed_archive_of_an_index_is_none(client: TestClient, model_dir: Path) -> None:
    model = client.post("/v1/models", json={"name": "a", "base": str(model_dir)}).json()["id"]
    for pack in (gzip.compress, tarred):
        sent = {"data": {"model": model}, "files": {"file": ("index.tar", pack(MUCH))}}
        assert_problem(client.post("/v1/indexes/import", **sent), 422, "invalid-archive", "/file")


def test_rows_as_they_should_be_are_taken(client: TestClient) -> None:
    assert post_dataset(client, jsonl(), "rows.jsonl").status_code == 201
