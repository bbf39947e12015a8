# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""Kronfluence (Grosse et al. 2023): EK-FAC, K-FAC, diagonal and identity, on every lora_A and lora_B.

Runs in Kronfluence's own environment; see run.py. Shapes: Q queries, N rows, B sequences.

Both sides are token sums. The measurement is −f(q), so that a positive score is a proponent. Factors are fitted with
labels drawn from the model, over all rows. Kronfluence's own damping is 0.1 of a module's mean eigenvalue (its
heuristic): the other shares are that heuristic with its constant changed.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import kronfluence.factor.config as factor_config
import numpy as np
import torch
from kronfluence import version
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from kronfluence.utils.dataset import DataLoaderKwargs
from torch import Tensor

from benchmarks.quality.peers.batch import TokenSet, collate, drawn_labels, logits_of, token_losses
from benchmarks.quality.peers.given import Given, load_tuned, lora_modules
from benchmarks.quality.peers.written import Arguments, Result, Stopwatch, arguments, each, write

METHODS = ("identity", "diagonal", "kfac", "ekfac")
DAMPINGS = (0.01, 0.1, 1.0, 10.0)
BATCH = 64


class TokenSums(Task):
    """Losses and measurements as sums over targets. modules: what Kronfluence is to track."""

    def __init__(self, modules: list[str]) -> None:
        self.modules = modules

    def compute_train_loss(self, batch: dict[str, Tensor], model: Any, sample: bool = False) -> Tensor:
        logits_BTV = logits_of(model, batch)
        labels_BT = drawn_labels(logits_BTV, batch["labels"]) if sample else batch["labels"]
        return token_losses(logits_BTV, labels_BT).sum()

    def compute_measurement(self, batch: dict[str, Tensor], model: Any) -> Tensor:
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self) -> list[str]:
        return self.modules

    def get_attention_mask(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["attention_mask"]


def main() -> None:
    torch.set_num_threads(1)
    asked = arguments(METHODS)
    given = Given(asked.task)
    each(asked, lambda method: _run(asked, given, method))


def _run(asked: Arguments, given: Given, method: str) -> None:
    torch.manual_seed(0)
    watch = Stopwatch()
    analyzer = _analyzer(given, asked)
    name = f"{method}_{asked.checkpoint}"
    with watch("fit"):
        analyzer.fit_all_factors(
            factors_name=name,
            dataset=TokenSet(given.rows),
            per_device_batch_size=BATCH,
            factor_args=FactorArguments(strategy=method),
            overwrite_output_dir=True,
        )
    for damping in DAMPINGS if method != "identity" else (None,):
        _score(analyzer, asked, given, method, damping, watch.of("fit"))


def _analyzer(given: Given, asked: Arguments) -> Analyzer:
    model = load_tuned(given, asked.checkpoint)
    task = TokenSums(lora_modules(model))
    analyzer = Analyzer(
        f"whence_{asked.checkpoint}",
        model=prepare_model(model, task),
        task=task,
        cpu=True,
        disable_tqdm=True,
        output_dir=str(_scratch(asked.out)),
    )
    analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=partial(collate, pad_id=given.pad_id)))
    return analyzer


def _score(
    analyzer: Analyzer, asked: Arguments, given: Given, method: str, damping: float | None, fit_seconds: float
) -> None:
    watch = Stopwatch()
    factor_config.HEURISTIC_DAMPING_SCALE = damping
    name = f"{method}_{asked.checkpoint}_{damping}"
    with watch("score"):
        analyzer.compute_pairwise_scores(
            scores_name=name,
            factors_name=f"{method}_{asked.checkpoint}",
            query_dataset=TokenSet(given.queries),
            train_dataset=TokenSet(given.rows),
            per_device_query_batch_size=len(given.queries),
            per_device_train_batch_size=BATCH,
            score_args=ScoreArguments(damping_factor=None),
            overwrite_output_dir=True,
        )
    scores_QN = analyzer.load_pairwise_scores(name)["all_modules"]
    options = {} if damping is None else {"damping": damping}
    result = Result(
        "kronfluence",
        version.__version__,
        method,
        asked.checkpoint,
        options,
        fit_seconds,
        watch.of("score"),
        notes="damping: share of each module's mean eigenvalue",
    )
    write(asked.out, result, np.asarray(scores_QN))


def _scratch(out: Path) -> Path:
    return out / "scratch"


if __name__ == "__main__":
    main()
