"""An index from elsewhere is opened only when its files are, but for their numbers, what this version writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from engine import shard
from engine.errors import CorruptIndex, EngineError, IndexUnavailable
from engine.imported import check_imported
from engine.manifest import Manifest, lay_out, read_manifest, write_manifest
from engine.store import IndexStore
from tests.engine.index_factory import make_manifest, random_rows, write_missing

COVERAGE = {"tracked_parameters": 90, "trained_parameters": 100, "share": 0.9, "untracked": []}
SKETCH, NORMS = "shards/00001.faiss", "shards/00001.norms.safetensors"


def built(path: Path, **changes: Any) -> Path:
    manifest = make_manifest(coverage=COVERAGE, serves=("ekfac", "bm25"), **changes)
    store = IndexStore.open_or_create(path, manifest)
    store.save_tensors("factors", {"a": np.arange(12, dtype=np.float32)})
    write_missing(store, random_rows(manifest))
    store.finish()
    return path


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return built(tmp_path / "index")


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_what_this_version_writes_is_taken(tmp_path: Path, dtype: str) -> None:
    path = built(tmp_path / "index", dtype=dtype)
    info = check_imported(path, sketched=True)
    assert (info.rows, info.dims, info.method, info.sketched, info.checkpoints) == (7, 10, "ekfac", True, 1)
    assert info.revision == read_manifest(path).revision
    assert info.coverage.share == 0.9


def signed(path: Path, **changes: Any) -> None:
    """The sender's checksums and revision always fit."""
    manifest = dataclasses.replace(read_manifest(path), **changes)
    shards = [
        dataclasses.replace(s, checksums={name: shard.checksum_of(path / name) for name in s.checksums})
        for s in manifest.shards
    ]
    curvature = {name: shard.checksum_of(path / name) for name in manifest.curvature}
    manifest = dataclasses.replace(manifest, shards=tuple(shards), curvature=curvature)
    write_manifest(path, dataclasses.replace(manifest, revision=manifest.computed_revision()))


def patched(name: str, at: int, value: bytes) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = bytearray((path / name).read_bytes())
        content[at : at + len(value)] = value
        (path / name).write_bytes(bytes(content))

    return change


def replaced(index: Any) -> Callable[[Path], None]:
    return lambda path: faiss.write_index(index, str(path / SKETCH))


def longer(path: Path) -> None:
    with (path / SKETCH).open("ab") as file:
        file.write(b"more")


def norms(**tensors: np.ndarray) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        save_file(load_file(path / NORMS) | tensors, path / NORMS)

    return change


def without_norms(path: Path) -> None:
    kept = load_file(path / NORMS)
    del kept["norms"]
    save_file(kept, path / NORMS)


FORGED: dict[str, tuple[str, Callable[[Path], None]]] = {
    "more rows than numbers": (SKETCH, patched(SKETCH, 8, (1 << 40).to_bytes(8, "little"))),
    "wider rows than numbers": (SKETCH, patched(SKETCH, 4, (1 << 20).to_bytes(4, "little"))),
    "another kind of index": (SKETCH, patched(SKETCH, 0, b"IxHF")),
    "a nested index": (SKETCH, patched(SKETCH, 0, b"IxPT")),
    "a length of its own": (SKETCH, patched(SKETCH, 70, (1 << 60).to_bytes(8, "little"))),
    "another metric": (SKETCH, patched(SKETCH, 33, (1).to_bytes(4, "little"))),
    "a flat index": (SKETCH, replaced(faiss.IndexFlatIP(10))),
    "cut off": (SKETCH, lambda path: (path / SKETCH).write_bytes((path / SKETCH).read_bytes()[:-2]) and None),
    "bytes behind the numbers": (SKETCH, longer),
    "empty": (SKETCH, lambda path: (path / SKETCH).write_bytes(b"") and None),
    "norms of other rows": (NORMS, norms(norms=np.ones(4))),
    "norms of another type": (NORMS, norms(norms=np.ones(3, np.float32))),
    "a tensor too many": (NORMS, norms(extra=np.ones(3))),
    "a tensor too few": (NORMS, without_norms),
    "NaN": (NORMS, norms(norms=np.array([1.0, np.nan, 1.0]))),
    "no safetensors": (NORMS, lambda path: (path / NORMS).write_bytes(b"\x80\x04 a pickle") and None),
    "a header of its own length": (NORMS, patched(NORMS, 0, (1 << 60).to_bytes(8, "little"))),
    "no tensors": ("curvature/factors.safetensors", patched("curvature/factors.safetensors", 8, b"[")),
}


@pytest.mark.parametrize("what", FORGED)
def test_forged_files_are_refused_though_their_checksums_fit(index: Path, what: str) -> None:
    name, forge = FORGED[what]
    forge(index)
    signed(index)
    with pytest.raises(CorruptIndex) as caught:
        check_imported(index, sketched=False)
    assert name in str(caught.value) or "cannot be opened" in str(caught.value)


def test_no_forged_sketch_reaches_faiss(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_index(*_: object) -> None:
        raise AssertionError("FAISS was given a forged file")

    for what, (name, forge) in FORGED.items():
        if name == SKETCH:
            whole = (index / SKETCH).read_bytes()
            forge(index)
            signed(index)
            with monkeypatch.context() as patch:
                patch.setattr(faiss, "read_index", read_index)
                with pytest.raises(CorruptIndex):
                    check_imported(index, sketched=False)
            (index / SKETCH).write_bytes(whole)
            assert what


def manifests(change: Callable[[Manifest], dict[str, Any]]) -> Callable[[Path], None]:
    return lambda path: signed(path, **change(read_manifest(path)))


CONTRADICTING: dict[str, Callable[[Path], None]] = {
    "a shard is missing": manifests(lambda m: {"shards": m.shards[:2]}),
    "shards in another order": manifests(lambda m: {"shards": m.shards[::-1]}),
    "other bounds": manifests(lambda m: {"shards": (dataclasses.replace(m.shards[0], stop=2), *m.shards[1:])}),
    "an unknown method": manifests(lambda _: {"method": "../../etc"}),
    "an unknown method served": manifests(lambda _: {"serves": ("ekfac", "none of ours")}),
    "other widths": manifests(lambda _: {"blocks": lay_out([("a", 3, 3)], 1)}),
    "more checkpoints": manifests(lambda _: {"checkpoints": ("final", "another")}),
    "no coverage": manifests(lambda _: {"coverage": {}}),
    "another type": manifests(lambda _: {"dtype": "int8"}),
}


@pytest.mark.parametrize("what", CONTRADICTING)
def test_a_manifest_that_the_files_contradict_is_refused(index: Path, what: str) -> None:
    CONTRADICTING[what](index)
    with pytest.raises(EngineError):
        check_imported(index, sketched=False)


def test_the_revision_has_to_be_that_of_the_contents(index: Path) -> None:
    write_manifest(index, dataclasses.replace(read_manifest(index), revision="0" * 32))
    with pytest.raises(CorruptIndex, match="revision"):
        check_imported(index, sketched=False)


def test_an_unfinished_index_is_refused(tmp_path: Path) -> None:
    IndexStore.open_or_create(tmp_path / "begun", make_manifest())
    with pytest.raises(IndexUnavailable):
        check_imported(tmp_path / "begun", sketched=False)
