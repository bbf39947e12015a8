"""Whence's own methods and the controls, scored on a recipe's fine-tune. Cached: a method is scored once.

Shapes: Q questions, N rows, C checkpoints.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engine.answer import score_query
from engine.build import build_index
from engine.config import IndexConfig, IndexOptions, ModelConfig, fingerprint
from engine.dataset import Dataset
from engine.hits import has_self_scores
from engine.model import load_model
from engine.opened import OpenIndex
from engine.types import Query

CONTROLS = ("bm25", "length", "random")


@dataclass(frozen=True)
class Choice:
    """A method as the benchmark runs it. name: the table's."""

    name: str
    method: str
    checkpoints: Literal["all", "final"] = "all"
    options: IndexOptions = field(default_factory=IndexOptions)
    method_options: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> IndexConfig:
        return IndexConfig(self.method, self.checkpoints, self.options, self.method_options)


PLAIN = {"exponent": 1.0, "ensemble_power": 0.0}  # influence as the papers have it
PROJECTED = IndexOptions(projection_dim=16)
FEW = IndexOptions(curvature_rows=128)  # ASTRA reads the sample some ten times a query
CHOICES = (
    Choice("default, checkpoints", "auto"),
    Choice("default, two replicas", "auto", options=IndexOptions(replicas=2)),
    Choice("default, final", "auto", "final"),
    Choice("default, checkpoints, sketch 16", "auto", options=PROJECTED),
    Choice("default, checkpoints, curvature of 256 rows", "auto", options=IndexOptions(curvature_rows=256)),
    Choice("ekfac, checkpoints", "ekfac", method_options=PLAIN),
    Choice("ekfac, exponent ¾, checkpoints", "ekfac", method_options=PLAIN | {"exponent": 0.75}),
    Choice("ekfac, p = ½, checkpoints", "ekfac", method_options=PLAIN | {"ensemble_power": 0.5}),
    Choice("ekfac, p = 1, checkpoints", "ekfac", method_options=PLAIN | {"ensemble_power": 1.0}),
    Choice("ekfac, final", "ekfac", "final", method_options=PLAIN),
    Choice("kfac, checkpoints", "kfac"),
    Choice("graddot, checkpoints", "graddot"),
    Choice("gradcos, checkpoints", "gradcos"),
    Choice("tracin", "tracin"),
    Choice("less", "less"),
    Choice("trackstar", "trackstar"),
    Choice("fisher by module, checkpoints", "fisher", method_options={"damping": 1.0}),
    Choice("fisher of all, checkpoints", "fisher", method_options={"damping": 1.0, "blocks": "all"}),
    Choice("datainf, checkpoints", "datainf"),
    Choice("logra, checkpoints", "logra", options=PROJECTED),
    Choice("trak, checkpoints", "trak", options=PROJECTED),
    Choice("source", "source"),
    Choice("astra, final", "astra", "final", options=FEW, method_options={"iterations": 10}),
    Choice("repsim", "repsim", "final"),
    Choice("rept", "rept", "final"),
    Choice("loss", "loss", "final"),
    *(Choice(name, name, "final") for name in CONTROLS),
)
COSTLY = ("astra, final",)  # about as long as all others together: on the smooth recipe alone
QUICK_CHOICES = tuple(
    choice
    for choice in CHOICES
    if choice.name in ("default, checkpoints", "ekfac, final", "gradcos, checkpoints", "repsim", *CONTROLS)
)


@dataclass(frozen=True)
class Scored:
    """self_scores_N: of the index, summed over its checkpoints; None for a method without gradients.
    seconds: index and questions together, model loaded."""

    choice: Choice
    scores_QN: np.ndarray
    self_scores_N: np.ndarray | None
    seconds: float
    bytes_per_example: float
    options: dict[str, Any]


def score_all(
    model: ModelConfig,
    data: Dataset,
    queries: Sequence[Query],
    out: Path,
    choices: Sequence[Choice] = CHOICES,
    say: Callable[[str], object] = lambda _line: None,
) -> list[Scored]:
    """out: where indexes and scores are kept; a method found there is not run again."""
    out.mkdir(parents=True, exist_ok=True)
    return [_scored(model, data, queries, out, choice, say) for choice in choices]


def _scored(
    model: ModelConfig, data: Dataset, queries: Sequence[Query], out: Path, choice: Choice, say: Callable[[str], object]
) -> Scored:
    file = out / f"{fingerprint(model, data.sha256, [vars(query) for query in queries], choice)}.npz"
    if not file.exists():
        say(f"Scoring with {choice.name} …")
        _keep(file, _score(model, data, queries, file.with_suffix(".index"), choice))
    return _kept(file, choice)


def _score(model: ModelConfig, data: Dataset, queries: Sequence[Query], path: Path, choice: Choice) -> Scored:
    loaded = load_model(model)
    started = time.perf_counter()
    info = build_index(loaded, data, choice.config, path, lambda _progress: None)
    with OpenIndex(loaded, data, path) as index:
        scores_QN = np.stack([score_query(index, query) for query in queries])
        seconds = time.perf_counter() - started
        selves_NC = index.self_scores_NC if has_self_scores(index.plan.method) else np.zeros(0)
    self_scores_N = selves_NC.sum(1) if selves_NC.size else None
    return Scored(choice, scores_QN, self_scores_N, seconds, info.bytes / len(data), info.options)


def _keep(file: Path, scored: Scored) -> None:
    selves = np.zeros(0) if scored.self_scores_N is None else scored.self_scores_N
    about = {name: getattr(scored, name) for name in ("seconds", "bytes_per_example", "options")}
    partial = file.with_suffix(".partial.npz")
    np.savez(partial, scores=scored.scores_QN, self_scores=selves, about=np.array(json.dumps(about)))
    partial.rename(file)


def _kept(file: Path, choice: Choice) -> Scored:
    with np.load(file, allow_pickle=False) as kept:
        selves_N = kept["self_scores"] if kept["self_scores"].size else None
        return Scored(choice, kept["scores"], selves_N, **json.loads(str(kept["about"])))
