"""manifest.json of an index, and an index that came from elsewhere."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from pydantic import TypeAdapter

from engine.durable import checksum_of
from engine.imported import check_imported
from engine.integrity import MANIFEST_FIELDS, MANIFEST_FILE, index_damage, parse_recorded, sealed, unrecorded_files
from engine.manifest import Compression, parse_manifest, read_manifest
from engine.store import IndexStore
from engine.types import Coverage, IndexInfo, Untracked
from tests.engine.index_factory import build, make_manifest, random_rows
from tests.fuzzing.mutation import PIECES, damaged
from tests.fuzzing.targets import Target
from tests.fuzzing.values import documents, nearly

COVERAGE = Coverage(90, 100, 0.9, (Untracked("model.embed", 10, "no Linear"),))
INFO = TypeAdapter(IndexInfo)


def _made() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as directory:
        path, manifest = Path(directory) / "index", make_manifest(coverage=asdict(COVERAGE))
        IndexStore.open_or_create(path, manifest).save_tensors("factors", {"a": np.arange(6, dtype=np.float32)})
        build(path, random_rows(manifest), manifest)
        return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


FILES = _made()
MANIFEST = FILES[MANIFEST_FILE]
VALUES = json.loads(MANIFEST)
del VALUES["checksum"]
COMPRESSED = json.loads(make_manifest(compression=Compression(4, 7)).to_json())
del COMPRESSED["checksum"]

objects = nearly([VALUES, VALUES, COMPRESSED], sorted(MANIFEST_FIELDS))
# with a checksum that fits, as somebody who means harm would write it
resealed = objects.map(
    lambda values: sealed(values).encode("utf-8", "surrogatepass") if isinstance(values, dict) else b""
)
texts = st.one_of(damaged([MANIFEST]), documents(objects), resealed)


@contextmanager
def parsed(work: Path) -> Iterator[Callable[[bytes], None]]:
    """By the engine."""

    def check(content: bytes) -> None:
        (work / MANIFEST_FILE).write_bytes(content)
        manifest = read_manifest(work)
        assert parse_manifest(manifest.to_json()).to_json() == manifest.to_json()  # NaN is no NaN's equal
        assert manifest.shard_count >= 1 and manifest.shard_bounds(0)[0] == 0
        assert len(manifest.checkpoint_columns()) == len(manifest.checkpoints)
        manifest.computed_revision()
        json.dumps(manifest.identity())

    yield check


@contextmanager
def recorded(_work: Path) -> Iterator[Callable[[bytes], None]]:
    """By those that only look after files."""

    def check(content: bytes) -> None:
        found = parse_recorded(content.decode("utf-8", "replace"))
        assert all(len(checksum) == 64 for checksum in found.files.values())
        assert not any(name.startswith("/") or ".." in name.split("/") for name in found.files)

    yield check


@contextmanager
def opened(work: Path) -> Iterator[Callable[[tuple[str, bytes, bool]], str | None]]:
    """An index one file of which was changed; where its checksums fit all the same, as in an archive made to harm."""
    for name, content in FILES.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(content)

    def check(given: tuple[str, bytes, bool]) -> str | None:
        name, content, fitting = given
        _replace(work / name, content)
        try:
            if fitting and name != MANIFEST_FILE:
                _vouch(work, name)
            damage = index_damage(work)
            if name != MANIFEST_FILE and not fitting:
                assert bool(damage) == (content != FILES[name])
            if damage:
                assert all(bad.reason.endswith(".") for bad in damage)
                return "damage told"
            unrecorded_files(work)
            info = check_imported(work, sketched=False)
            assert INFO.validate_json(INFO.dump_json(info, warnings=False), strict=True) == info  # as the API shows it
            return None
        finally:
            for file in (name, MANIFEST_FILE):
                _replace(work / file, FILES[file])

    yield check


def _vouch(work: Path, name: str) -> None:
    """The manifest says of the changed file what it is now."""
    found = checksum_of(work / name)
    values: dict[str, Any] = json.loads(json.dumps(VALUES))
    for recorded_files in (values["curvature"], *(shard["checksums"] for shard in values["shards"])):
        if name in recorded_files:
            recorded_files[name] = found
    manifest = parse_manifest(sealed(values))
    _replace(work / MANIFEST_FILE, sealed(values | {"revision": manifest.computed_revision()}).encode())


def _replace(file: Path, content: bytes) -> None:
    """A new file: what is mapped into memory elsewhere must not change."""
    file.unlink(missing_ok=True)
    file.write_bytes(content)


changed = st.one_of(
    *(st.tuples(st.just(name), damaged([content]), st.just(True)) for name, content in FILES.items()),
    st.tuples(st.just(MANIFEST_FILE), resealed, st.booleans()),
    st.sampled_from(sorted(FILES)).flatmap(
        lambda name: st.tuples(st.just(name), damaged([FILES[name]]), st.just(False))
    ),
)
TARGETS = [
    Target("manifest.json: engine", texts, parsed, always=[MANIFEST, *PIECES]),
    Target("manifest.json: doctor", texts, recorded, always=[MANIFEST, *PIECES]),
    Target("index from elsewhere", changed, opened),
]
