"""Small indexes for the tests of the store and of search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.manifest import Manifest, lay_out
from engine.store import IndexStore

SHAPES = (("model.layers.0.q_proj", 2, 3), ("model.layers.0.up_proj", 1, 4))  # 10 numbers a row


def make_manifest(rows: int = 7, **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "method": "ekfac",
        "fingerprints": {"model": "m1", "dataset": "d1"},
        "blocks": lay_out(SHAPES, 1),
        "rows": rows,
        "checkpoints": ("final",),
        "dtype": "float16",
        "plan": {"shard_rows": 3, "token_budget": 4096},
        "options": {"projection_dim": 0},
    }
    return Manifest(**(fields | changes))


def random_rows(manifest: Manifest, seed: int = 0) -> np.ndarray:
    """float32 [N, D]"""
    return np.random.default_rng(seed).standard_normal((manifest.rows, manifest.dims), dtype=np.float32)


def write_missing(store: IndexStore, vectors_ND: np.ndarray) -> list[int]:
    """Write every missing shard; returns their numbers."""
    written = []
    for number, start, stop in store.missing_shards():
        part_KD = vectors_ND[start:stop]
        self_scores_KC = np.repeat(np.square(part_KD).sum(axis=1, keepdims=True), len(store.manifest.checkpoints), 1)
        store.write_shard(number, part_KD, self_scores_KC, np.arange(start, stop, dtype=np.int32) + 1)
        written.append(number)
    return written


def build(path: Path, vectors_ND: np.ndarray, manifest: Manifest) -> IndexStore:
    """A finished index, opened for reading."""
    store = IndexStore.open_or_create(path, manifest)
    write_missing(store, vectors_ND)
    store.finish()
    return IndexStore.open(path)


def shard_bytes(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((path / "shards").iterdir())}


def flip_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
