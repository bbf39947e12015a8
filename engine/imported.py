"""May an index that came from elsewhere be opened? Its checksums prove nothing: who sent it wrote them, too.

FAISS and safetensors read what a file says of itself, so the files have to be, but for their numbers, the very ones
that this version writes: a sketch file of another header, length or kind is refused before FAISS sees it.

Dimensions: N rows of a shard, C checkpoints.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import faiss
import numpy as np
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open

from engine.draft import index_info
from engine.errors import CorruptIndex
from engine.ivf import check_lists
from engine.manifest import NUMBER_BYTES, Manifest, ShardRecord
from engine.methods.specs import validate_method
from engine.shard import damaged, empty_index, shard_files
from engine.store import IndexStore
from engine.types import IndexInfo

_INFO = TypeAdapter(IndexInfo)
ROWS_AT = 8  # where FAISS's header holds the number of rows, 8 bytes
LENGTH_BYTES = 8  # before the numbers: how many follow


def check_imported(path: Path, *, sketched: bool) -> IndexInfo:
    """Open every file of a finished index and say what it is.

    Raises CorruptIndex naming the file, IndexUnavailable (unfinished, or another schema version), UnknownMethod.
    """
    store = IndexStore.open(path)
    manifest = store.manifest
    _check_manifest(manifest)
    try:
        for record in manifest.shards:
            _check_sketches(path, record, manifest)
            _check_norms(path, record, manifest)
        store.verify()
        for _ in store.shards():
            pass
        _ = store.basis
        check_lists(store)
        for file in manifest.curvature:
            _check_tensors(path, file)
        info = index_info(store, manifest, sketched=sketched)
        _check_info(info)
        return info
    except (SafetensorError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise CorruptIndex(f"The index cannot be opened: {' '.join(str(error).split())[:200]}.") from error


def _check_manifest(manifest: Manifest) -> None:
    for method in (manifest.method, *manifest.serves):
        validate_method(method, {})
    for number, record in enumerate(manifest.shards):
        expected = (f"{number:05d}", *manifest.shard_bounds(number), set(shard_files(f"{number:05d}")))
        if (record.name, record.start, record.stop, set(record.checksums)) != expected:
            raise CorruptIndex(f"Shard {number} of the manifest is not the one that belongs there.")
    if len(manifest.shards) != manifest.shard_count:
        raise CorruptIndex(f"The manifest names {len(manifest.shards)} of {manifest.shard_count} shards.")
    if manifest.revision != manifest.computed_revision():
        raise CorruptIndex("The manifest's revision is not that of its contents.")


def _check_info(info: IndexInfo) -> None:
    """It goes into databases and comes out as JSON: every part has to be of its type, and text. Raises ValueError."""
    text = json.dumps(asdict(info), ensure_ascii=False, allow_nan=False)
    text.encode()  # no half of a surrogate pair
    if "\\u0000" in text:
        raise ValueError("text must not contain NUL characters")
    _INFO.validate_json(text, strict=True)


def _check_sketches(path: Path, record: ShardRecord, manifest: Manifest) -> None:
    """The header has to be, byte for byte, that of an index of so many rows, and nothing may follow the numbers."""
    name, rows = shard_files(record.name)[0], record.stop - record.start
    header = faiss.serialize_index(empty_index(manifest.width, manifest.dtype)).tobytes()
    numbers = rows * manifest.width * NUMBER_BYTES[manifest.dtype]
    counted = numbers // 4 if manifest.dtype == "float32" else numbers  # flat indexes count numbers, others bytes
    with (path / name).open("rb") as file:
        found = file.read(len(header))
    expected = header[:ROWS_AT] + rows.to_bytes(8, "little") + header[ROWS_AT + 8 : -LENGTH_BYTES]
    if found != expected + counted.to_bytes(LENGTH_BYTES, "little"):
        raise damaged(name, f"it is no file of {rows} rows of {manifest.width} {manifest.dtype} numbers")
    if (path / name).stat().st_size != len(header) + numbers:
        raise damaged(name, "it is longer or shorter than its rows")


def _check_norms(path: Path, record: ShardRecord, manifest: Manifest) -> None:
    name, rows = shard_files(record.name)[1], record.stop - record.start
    expected = {"self_scores": ("F32", [rows, len(manifest.checkpoints)]), "norms": ("F64", [rows])}
    expected["lengths"] = ("I32", [rows])
    if manifest.dtype == "int8":
        expected["row_scales"] = ("F32", [rows])
    with safe_open(path / name, framework="np") as file:
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
        found = {key: (part.get_dtype(), list(part.get_shape())) for key, part in slices.items()}
        if found != expected:
            raise damaged(name, f"its tensors are {found}")
        finite = [np.isfinite(file.get_tensor(key)).all() for key in expected]
    if not all(finite):
        raise damaged(name, "it holds NaN or infinity")


def _check_tensors(path: Path, name: str) -> None:
    """Every tensor can be read; what the metric needs of them is asked when it opens them."""
    with safe_open(path / name, framework="np") as file:
        for key in file.keys():  # noqa: SIM118
            file.get_tensor(key)
