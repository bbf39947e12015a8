"""A small float64 Llama with two LoRA checkpoints, its rows and indexes built on demand."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

from engine.build import build_index
from engine.config import IndexConfig, IndexOptions, ModelConfig, Recipe
from engine.model import load_model
from engine.opened import OpenIndex
from engine.types import AskOptions, Attribution, Query
from tests import factories
from tests.engine.contract_world import answer

ROWS = 10


class TunedWorld:
    """Every hit of an answer is asked for, so that scores of all rows can be read from it."""

    def __init__(self, root: Path, rows: list[dict[str, Any]] | None = None, recipe: Recipe | None = None) -> None:
        base = factories.llama(hidden=8, layers=2)
        factories.save_base(root / "base", base)
        adapters = tuple(str(factories.save_adapter(root / f"epoch-{i}", base, i, r=2)) for i in (1, 2))
        config = ModelConfig(str(root / "base"), checkpoints=adapters, dtype="float64", recipe=recipe or Recipe())
        self.root, self.model = root, load_model(config)
        self.dataset = factories.dataset(root / "data", rows or factories.sentences(ROWS, seed=3, longest=3))
        self.rows = [self.model.encoder().encode(example) for example in self.dataset]
        self._built: dict[str, OpenIndex] = {}
        self._numbers = count()

    def index(
        self, method: str, checkpoints: Any = "all", options: IndexOptions | None = None, **own: Any
    ) -> OpenIndex:
        key = f"{method} {checkpoints} {options} {sorted(own.items())}"
        if key not in self._built:
            path = self.root / f"index-{next(self._numbers)}"
            config = IndexConfig(method, checkpoints, options or IndexOptions(dtype="float32"), own)
            build_index(self.model, self.dataset, config, path, factories.ignore)
            self._built[key] = OpenIndex(self.model, self.dataset, path)
        return self._built[key]

    def query(self, row: int, **fields: Any) -> Query:
        example = self.dataset[row]
        return Query(prompt=example.prompt, completion=example.completion, **fields)

    def ask(self, index: OpenIndex, query: Query, **options: Any) -> Attribution:
        return answer(index, query, AskOptions(top_k=len(self.dataset), **options))
