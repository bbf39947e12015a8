"""An index of any number of rows from the gradients of a few: to measure search, not rankings.

The few rows are built as any index is; every row of the large one is one of theirs, each number with noise of its own.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from engine.checkpoints import ROWS_TENSORS
from engine.config import IndexConfig
from engine.dataset import Dataset, open_dataset, store_dataset
from engine.draft import draft_manifest
from engine.model import LoadedModel
from engine.plan import make_plan
from engine.store import IndexStore

NOISE = 0.5  # of each row's own root mean square


def short_rows(root: Path, rows: int) -> Dataset:
    """`rows` rows of a few words, kept in `root`."""
    source = root / f"rows-{rows}.jsonl"
    if not source.exists():
        root.mkdir(parents=True, exist_ok=True)
        with source.open("w", encoding="utf-8") as file:
            file.writelines(
                json.dumps({"id": f"row-{n}", "prompt": f"What is {n}?", "completion": f" Number {n % 997}."}) + "\n"
                for n in range(rows)
            )
    return open_dataset(root / "datasets" / store_dataset(source, format="jsonl", root=root / "datasets").sha256)


def enlarged(small: IndexStore, model: LoadedModel, data: Dataset, config: IndexConfig, path: Path) -> IndexStore:
    """The index of `data` in `path`. config: that of `small`, with everything said that depends on the rows' number."""
    store = IndexStore.open_or_create(path, draft_manifest(make_plan(model, len(data), config), model, data))
    for file in small.manifest.curvature:
        name = Path(file).stem
        if name != ROWS_TENSORS:
            store.save_tensors(name, small.load_tensors(name))
    store.save_tensors(ROWS_TENSORS, {"weights": np.ones(len(data))})
    kept = small.manifest
    store.set_scales([kept.compression.scale] if kept.compression else [block.scale for block in kept.blocks])
    vectors_MW = small.stored(np.arange(kept.rows)) / kept.scales()
    noise_M1 = NOISE * np.sqrt(np.square(vectors_MW).mean(1, keepdims=True))
    self_MC, lengths_M = small.self_scores(), small.lengths()
    random = np.random.default_rng(0)
    for number, start, stop in store.missing_shards():
        chosen_N = random.integers(0, kept.rows, stop - start)
        noise_NW = random.standard_normal((stop - start, kept.width), dtype=np.float32) * noise_M1[chosen_N]
        vectors_NW = (vectors_MW[chosen_N] + noise_NW).astype(np.float32)
        store.write_shard(number, vectors_NW, self_MC[chosen_N], lengths_M[chosen_N])
    store.finish()
    return store
