"""Whence: an index build from rows of text to a finished index on disk; then answers from it.

`ekfac` includes the curvature (two more passes, here over all rows); `graddot` has none. Tokenizing counts.
An index is opened anew for its queries, and they are answered together, with everything an answer holds.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.indexing_peers.contender import Contender, seconds, share
from benchmarks.indexing_peers.world import config, questions
from benchmarks.quality.peers.given import Given
from engine.answer import attribute
from engine.build import build_index
from engine.config import IndexConfig, IndexOptions
from engine.dataset import Dataset, open_dataset, store_dataset
from engine.errors import EngineError
from engine.model import load_model
from engine.opened import OpenIndex
from engine.types import AskOptions, Progress

PROJECTIONS = {"whole": 0, "p16": 16}


class Loaded(Contender):
    version = version("whence")
    runs = ("ekfac whole", "graddot whole", "graddot p16")
    settings = (1024, 2048)  # tokens a batch, pads included

    def __init__(self, given: Given, scratch: Path) -> None:
        self.scratch = scratch
        self.model = load_model(config(given.path))
        lines = (given.path / "text.jsonl").read_text().splitlines()
        self.data = {few: _stored(share(lines, few), scratch / f"rows-{few}") for few in (False, True)}
        self.asked = [(query, AskOptions()) for query in questions(given.path)]

    def run(self, name: str, setting: int, few: bool) -> dict[str, float]:
        method, sketch = name.split()
        options = IndexOptions(projection_dim=PROJECTIONS[sketch], token_budget=setting)
        shutil.rmtree(self.scratch / "index", ignore_errors=True)
        index = seconds(lambda: self._build(IndexConfig(method, options=options), few))
        return {"index": index, "queries": seconds(lambda: self._ask(few))}

    def _build(self, chosen: IndexConfig, few: bool) -> None:
        build_index(self.model, self.data[few], chosen, self.scratch / "index", _go_on)

    def _ask(self, few: bool) -> None:
        with OpenIndex(self.model, self.data[few], self.scratch / "index") as index:
            for answer in attribute(index, self.asked):
                if isinstance(answer, EngineError):
                    raise answer


def _stored(lines: Sequence[str], root: Path) -> Dataset:
    root.mkdir()
    source = root / "rows.jsonl"
    source.write_text("\n".join(lines), encoding="utf-8")
    return open_dataset(root / "datasets" / store_dataset(source, format="jsonl", root=root / "datasets").sha256)


def _go_on(_progress: Progress) -> None:
    """A checkpoint that never stops the work."""
