# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""What Bergson's methods share: one run's scratch folder with its adapters and data sets. Runs where Bergson does."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from bergson.config.config import DataConfig, IndexConfig, QuerySetConfig
from bergson.data import load_scores
from datasets import Dataset

from benchmarks.quality.peers.given import Given, Tokens
from benchmarks.quality.peers.written import Arguments, Result, Stopwatch, write

BATCH_TOKENS = 256  # Bergson refuses more than the model's context


@dataclass(frozen=True)
class Session:
    """One checkpoint's scratch folder, with the rows and queries as Bergson's data sets."""

    asked: Arguments
    given: Given
    scratch: Path

    def config(self, run: str, **options: Any) -> IndexConfig:
        return IndexConfig(
            str(self.scratch / run),
            model=str(self.scratch / "adapter"),
            tokenizer=str(self.given.base),
            data=DataConfig(dataset=str(self.scratch / "rows")),
            token_batch_size=BATCH_TOKENS,
            loss_reduction="sum",
            **options,
        )

    @property
    def queries(self) -> QuerySetConfig:
        return QuerySetConfig(dataset=str(self.scratch / "queries"), aggregation="none")

    def scores(self, run: str) -> np.ndarray:
        """[Q, N]"""
        return np.asarray(load_scores(self.scratch / run / "scores")[:]).T

    def clear(self, *parts: str) -> None:
        for part in parts:
            shutil.rmtree(self.scratch / part, ignore_errors=True)


def prepare(asked: Arguments) -> Session:
    given, scratch = Given(asked.task), asked.out / "scratch" / asked.checkpoint
    shutil.rmtree(scratch, ignore_errors=True)
    copy_adapter(given, asked.checkpoint, scratch / "adapter")
    for name, sequences in (("rows", given.rows), ("queries", given.queries)):
        _data_set(sequences).save_to_disk(str(scratch / name))
    return Session(asked, given, scratch)


def copy_adapter(given: Given, checkpoint: str, to: Path) -> None:
    """The adapter's configuration names its base: Bergson loads both from the adapter's folder."""
    shutil.copytree(given.adapter(checkpoint), to)
    config = to / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(given.base)}))


def _data_set(sequences: list[Tokens]) -> Dataset:
    return Dataset.from_dict(
        {
            "input_ids": [list(tokens.ids) for tokens in sequences],
            "labels": [tokens.labels for tokens in sequences],
            "length": [len(tokens.ids) for tokens in sequences],
        }
    )


def write_scores(session: Session, method: str, scores_QN: np.ndarray, watch: Stopwatch, **about: Any) -> None:
    result = Result(
        "bergson",
        version("bergson"),
        method,
        about.get("checkpoint", session.asked.checkpoint),
        about.get("options", {}),
        watch.of("fit"),
        watch.of("score"),
        linear=about.get("linear", True),
        notes=about.get("notes", ""),
    )
    write(session.asked.out, result, scores_QN)
