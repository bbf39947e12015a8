"""A build that is killed, damaged or out of disk goes on to the same bytes; nothing bad is ever read."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from engine import durable
from engine.errors import CorruptIndex, FingerprintMismatch, IndexUnavailable, StorageFull
from engine.manifest import read_manifest, write_manifest
from engine.shard import open_shard, shard_files, write_sketches
from engine.store import IndexStore
from tests.engine.index_factory import build, flip_byte, make_manifest, random_rows, shard_bytes, write_missing

SHARD = "shards/00001.faiss"
NORMS = "shards/00001.norms.safetensors"


class Killed(BaseException):
    """Stands for kill -9 at one system call."""


# --- resume ---


def calls_of_one_build(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the system calls that make an undisturbed build durable, in order."""
    calls: list[str] = []
    with monkeypatch.context() as patch:
        count_calls(patch, calls, stop_at=None)
        write_everything(path)
    return calls


def count_calls(patch: pytest.MonkeyPatch, calls: list[str], stop_at: int | None) -> None:
    def wrap(name: str) -> None:
        real = getattr(os, name)

        def counted(*arguments: Any) -> Any:
            if len(calls) == stop_at:
                raise Killed
            calls.append(name)
            return real(*arguments)

        patch.setattr(durable.os, name, counted)

    for name in ("fsync", "replace"):
        wrap(name)


def write_everything(path: Path) -> None:
    manifest = make_manifest()
    store = IndexStore.open_or_create(path, manifest)
    if not store.has_tensors("factors"):
        store.save_tensors("factors", {"A": np.arange(6, dtype=np.float32)})
    if not store.manifest.shards:
        store.set_scales([2.0, 4.0])
    write_missing(store, random_rows(manifest))
    store.finish(timings_s={"sketch": 1.0})


def test_a_build_killed_at_any_step_resumes_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = calls_of_one_build(tmp_path / "undisturbed", monkeypatch)
    expected = shard_bytes(tmp_path / "undisturbed")
    assert len(calls) > 30
    for step in range(len(calls)):
        path = tmp_path / f"killed-{step}"
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process tidies nothing away
            count_calls(patch, [], stop_at=step)
            with pytest.raises(Killed):
                write_everything(path)
        write_everything(path)
        assert shard_bytes(path) == expected
        assert not list(path.rglob("*.partial"))
        assert IndexStore.open(path).manifest.revision == read_manifest(tmp_path / "undisturbed").revision


def test_half_written_files_of_a_killed_build_are_removed(tmp_path: Path) -> None:
    IndexStore.open_or_create(tmp_path, make_manifest())
    for name in ("manifest.json", "shards/00002.faiss", "curvature/factors.safetensors"):
        (tmp_path / f"{name}.partial").write_bytes(b"half")
    store = IndexStore.open_or_create(tmp_path, make_manifest())
    assert not list(tmp_path.rglob("*.partial"))
    assert store.missing_shards() == [(0, 0, 3), (1, 3, 6), (2, 6, 7)]


def test_finished_shards_are_not_written_again(tmp_path: Path) -> None:
    manifest = make_manifest()
    vectors_ND = random_rows(manifest)
    IndexStore.open_or_create(tmp_path, manifest).write_shard(1, vectors_ND[3:6], np.ones((3, 1)), np.ones(3, np.int32))
    written_at = (tmp_path / SHARD).stat().st_mtime_ns
    assert write_missing(IndexStore.open_or_create(tmp_path, manifest), vectors_ND) == [0, 2]
    assert (tmp_path / SHARD).stat().st_mtime_ns == written_at


def test_a_resumed_build_keeps_the_scales_it_began_with(tmp_path: Path) -> None:
    store = IndexStore.open_or_create(tmp_path, make_manifest())
    store.set_scales([8.0, 0.5])
    store = IndexStore.open_or_create(tmp_path, make_manifest())
    assert [block.scale for block in store.manifest.blocks] == [8.0, 0.5]
    write_missing(store, random_rows(make_manifest()))
    with pytest.raises(ValueError, match="fixed"):
        store.set_scales([1.0, 1.0])


def test_another_build_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    IndexStore.open_or_create(tmp_path, make_manifest())
    with pytest.raises(FingerprintMismatch, match=r"fingerprints\.model"):
        IndexStore.open_or_create(tmp_path, make_manifest(fingerprints={"model": "other", "dataset": "d1"}))


def test_the_same_input_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    code = "from tests.engine.test_store_resume import write_everything; from pathlib import Path; import sys; " \
           "write_everything(Path(sys.argv[1]))"  # fmt: skip
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "other")], check=True, cwd=Path(__file__).parents[2])
    write_everything(tmp_path / "here")
    assert shard_bytes(tmp_path / "here") == shard_bytes(tmp_path / "other")
    assert (tmp_path / "here/manifest.json").read_text() == (tmp_path / "other/manifest.json").read_text()


def test_an_unfinished_index_cannot_be_opened_or_finished(tmp_path: Path) -> None:
    store = IndexStore.open_or_create(tmp_path, make_manifest())
    with pytest.raises(IndexUnavailable, match="0 of 3 shards"):
        IndexStore.open(tmp_path)
    with pytest.raises(IndexUnavailable, match=r"\[0, 1, 2\]"):
        store.finish()


def test_finishing_records_what_only_the_end_knows(tmp_path: Path) -> None:
    store = IndexStore.open_or_create(tmp_path, make_manifest())
    write_missing(store, random_rows(make_manifest()))
    store.finish(timings_s={"sketch": 2.5}, warnings=("1 row was truncated",))
    manifest = IndexStore.open(tmp_path).manifest
    assert (manifest.timings_s, manifest.warnings) == ({"sketch": 2.5}, ("1 row was truncated",))
    assert manifest.state == "ready" and len(manifest.revision) == 32


# --- damage ---


@pytest.mark.parametrize("file", [SHARD, NORMS])
def test_a_flipped_byte_is_found_named_and_rebuilt(tmp_path: Path, file: str) -> None:
    manifest = make_manifest()
    vectors_ND = random_rows(manifest)
    build(tmp_path, vectors_ND, manifest)
    intact = shard_bytes(tmp_path)
    flip_byte(tmp_path / file)
    with pytest.raises(CorruptIndex, match=file):
        IndexStore.open(tmp_path).verify()
    with pytest.raises(CorruptIndex, match=file):
        IndexStore.open(tmp_path).rows(np.array([3]))
    resumed = IndexStore.open_or_create(tmp_path, manifest)
    assert resumed.dropped == (file,)
    assert write_missing(resumed, vectors_ND) == [1]
    resumed.finish()
    assert shard_bytes(tmp_path) == intact
    IndexStore.open(tmp_path).verify()


def test_damage_in_one_shard_leaves_the_others_readable(tmp_path: Path) -> None:
    build(tmp_path, random_rows(make_manifest()), make_manifest())
    flip_byte(tmp_path / SHARD)
    assert IndexStore.open(tmp_path).rows(np.array([0, 6])).shape == (2, 10)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    store = build(tmp_path, random_rows(make_manifest()), make_manifest())
    (tmp_path / SHARD).unlink()
    with pytest.raises(CorruptIndex, match=f"{SHARD} is damaged: it is missing"):
        store.verify()


def test_a_file_that_lies_about_its_rows_is_refused_even_with_a_fitting_checksum(tmp_path: Path) -> None:
    build(tmp_path, random_rows(make_manifest()), make_manifest())
    other = faiss.IndexFlatIP(10)
    other.add(np.ones((2, 10), np.float32))  # type: ignore[call-arg]
    faiss.write_index(other, str(tmp_path / SHARD))
    checksum = hashlib.blake2b((tmp_path / SHARD).read_bytes(), digest_size=32).hexdigest()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["shards"][1]["checksums"][SHARD] = checksum
    del manifest["checksum"]  # as earlier versions wrote it
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptIndex, match="it holds 2 rows"):
        IndexStore.open(tmp_path).rows(np.array([3]))


@pytest.mark.parametrize(("written", "claimed"), [("float16", "int8"), ("int8", "float16"), ("float32", "float16")])
def test_numbers_of_another_kind_are_refused_not_read_as_garbage(tmp_path: Path, written: Any, claimed: Any) -> None:
    manifest = make_manifest(dtype=written)
    store = build(tmp_path, random_rows(manifest), manifest)
    write_manifest(tmp_path, dataclasses.replace(store.manifest, dtype=claimed))
    with pytest.raises(CorruptIndex, match=f"not {claimed}"):
        IndexStore.open(tmp_path).rows(np.array([0]))


def test_int8_on_another_scale_is_refused(tmp_path: Path) -> None:
    manifest = make_manifest(dtype="int8")
    store = build(tmp_path, random_rows(manifest), manifest)
    record = store.manifest.shards[0]
    file = tmp_path / shard_files(record.name)[0]
    index: Any = faiss.read_index(str(file))
    faiss.copy_array_to_vector(np.array([-128, 255], np.float32), index.sq.trained)
    checksums = record.checksums | {shard_files(record.name)[0]: write_sketches(file, index).checksum}
    with pytest.raises(CorruptIndex, match="not int8"):
        open_shard(tmp_path, dataclasses.replace(record, checksums=checksums), manifest)


def test_a_dropped_shard_is_missing_until_it_is_written_again(tmp_path: Path) -> None:
    build(tmp_path, random_rows(make_manifest()), make_manifest())
    store = IndexStore.open_or_create(tmp_path, make_manifest())
    assert store.missing_shards() == []
    store.drop_shard(1)
    assert store.missing_shards() == [(1, 3, 6)]
    assert not (tmp_path / SHARD).exists()
    with pytest.raises(IndexUnavailable):
        IndexStore.open(tmp_path)


# --- a full disk ---


class FullDisk:
    """A disk that takes `room` more bytes of shard files."""

    def __init__(self, room: int) -> None:
        self.room = room

    def install(self, patch: pytest.MonkeyPatch) -> None:
        real = durable.HashingSink.write

        def write(sink: durable.HashingSink, data: bytes) -> int:
            self.room -= len(data)
            if self.room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(sink, data)

        patch.setattr(durable.HashingSink, "write", write)


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
def test_a_full_disk_keeps_finished_shards_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    manifest = make_manifest(dtype=dtype)
    vectors_ND = random_rows(manifest)
    store = IndexStore.open_or_create(tmp_path, manifest)
    store.write_shard(0, vectors_ND[:3], np.ones((3, 1)), np.ones(3, np.int32))
    with monkeypatch.context() as patch:
        FullDisk(room=100).install(patch)
        with pytest.raises(StorageFull, match=r"00001\.faiss"):
            write_missing(store, vectors_ND)
    assert sorted(shard_bytes(tmp_path)) == ["00000.faiss", "00000.norms.safetensors"]
    assert write_missing(store, vectors_ND) == [1, 2]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_the_operating_systems_own_full_disk_error_is_recognised(tmp_path: Path) -> None:
    store = IndexStore.open_or_create(tmp_path, make_manifest())
    (tmp_path / "shards/00000.faiss.partial").symlink_to("/dev/full")
    with pytest.raises(StorageFull):
        write_missing(store, random_rows(make_manifest()))


def test_other_write_errors_are_not_called_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = IndexStore.open_or_create(tmp_path, make_manifest())

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(durable.os, "replace", refuse)
    with pytest.raises(PermissionError):
        write_missing(store, random_rows(make_manifest()))
