"""Random Llama, GPT-2 and LoRA models with a dataset and indexes built on demand, for the contract's tests."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from engine.answer import attribute
from engine.build import build_index
from engine.config import IndexConfig, IndexOptions, ModelConfig, Recipe
from engine.errors import EngineError
from engine.model import load_model
from engine.opened import OpenIndex
from engine.types import AskOptions, Attribution, Query
from tests import factories

ROWS = 24
KINDS = ("llama", "gpt2", "lora")
METHODS = ("graddot", "kfac", "ekfac")


def save(root: Path, kind: str) -> ModelConfig:
    base = factories.gpt2() if kind == "gpt2" else factories.llama()
    factories.save_base(root / "base", base)
    adapters = ()
    if kind == "lora":
        adapters = tuple(str(factories.save_adapter(root / f"epoch-{i}", base, i)) for i in (1, 2))
    return ModelConfig(base=str(root / "base"), checkpoints=adapters, recipe=Recipe())


class World:
    """One saved model and dataset; indexes are built on demand and kept."""

    def __init__(self, root: Path, kind: str) -> None:
        self.root, self.kind = root, kind
        self.config = save(root, kind)
        self.model = load_model(self.config)
        rows = factories.sentences(ROWS, seed=3)
        self.dataset = factories.dataset(root / "data", rows)
        self._built: dict[str, OpenIndex] = {}

    def index(self, method: str, **options: Any) -> OpenIndex:
        key = f"{method}-{sorted(options.items())}"
        if key not in self._built:
            path = self.root / f"index-{len(self._built)}"
            config = IndexConfig(method=method, options=IndexOptions(**options, allow_partial=True))
            build_index(self.model, self.dataset, config, path, factories.ignore)
            self._built[key] = OpenIndex(self.model, self.dataset, path)
        return self._built[key]

    def query(self, row: int) -> Query:
        example = self.dataset[row]
        return Query(prompt=example.prompt, completion=example.completion)


def answer(index: OpenIndex, query: Query, options: AskOptions | None = None) -> Attribution:
    result = attribute(index, [(query, options or AskOptions())])[0]
    if isinstance(result, EngineError):
        raise result
    return result


def magnitude(index: OpenIndex, query_row: int) -> np.ndarray:
    """√(s_q·s_z) per row, in the units of the (ensemble) score."""
    self_NC = np.sqrt(index.self_scores_NC.astype(np.float64))
    if self_NC.shape[1] == 1:
        return self_NC[query_row, 0] * self_NC[:, 0]
    if getattr(index.plan.method, "combine", "scaled") == "sum":
        return self_NC @ self_NC[query_row]
    return self_NC.sum(1)


def digests(index: Path) -> dict[str, str]:
    """Every shard and curvature file; the manifest alone holds timings."""
    files = sorted(p for p in index.rglob("*") if p.is_file() and p.name != "manifest.json")
    return {str(p.relative_to(index)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
