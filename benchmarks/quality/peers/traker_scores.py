# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""TRAK (Park et al. 2023), its authors' package, on every lora_A and lora_B, with its projection for CPUs.

Runs in TRAK's own environment; see run.py. Shapes: Q queries, N rows, D projected dimensions.

The model output is the sum of the targets' log odds, rows and queries alike; Q = 1 − mean p. Damping is a share of the
mean eigenvalue of the projected Gram; TRAK's own is 0.
"""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from trak import TRAKer
from trak.modelout_functions import AbstractModelOutput

from benchmarks.quality.peers.batch import collate
from benchmarks.quality.peers.functional import batch_losses, log_odds, mean_probability
from benchmarks.quality.peers.given import Given, Tokens, load_tuned
from benchmarks.quality.peers.written import Arguments, Result, Stopwatch, arguments, each, write

METHODS = ("trak",)
DIMENSIONS = (256, 2048)  # 2048 is TRAK's own choice; there are fewer rows than that
DAMPINGS = (0.0, 0.1, 1.0, 10.0)
BATCH = 64


class LogOdds(AbstractModelOutput):
    """Of one sequence: the sum of its targets' log odds."""

    def __init__(self) -> None:
        super().__init__()

    @staticmethod
    def get_output(model: Any, weights: Any, buffers: Any, ids_T: Tensor, labels_T: Tensor) -> Tensor:
        losses_1T = batch_losses(model, weights, ids_T[None], labels_T[None])
        return log_odds(losses_1T, labels_T[None])[0]

    def get_out_to_loss_grad(self, model: Any, weights: Any, buffers: Any, batch: Iterable[Tensor]) -> Tensor:
        ids_BT, labels_BT = batch
        with torch.no_grad():
            losses_BT = batch_losses(model, weights, ids_BT, labels_BT)
        return (1 - mean_probability(losses_BT, labels_BT)).unsqueeze(-1)


def main() -> None:
    torch.set_num_threads(1)
    asked = arguments(METHODS)
    given = Given(asked.task)
    each(asked, lambda _method: [_run(asked, given, dimensions) for dimensions in DIMENSIONS])


def _run(asked: Arguments, given: Given, dimensions: int) -> None:
    """Features once; what follows them once for every damping."""
    model = load_tuned(given, asked.checkpoint, attn_implementation="eager")
    state = copy.deepcopy(model.state_dict())
    folder, watch = asked.out / "scratch" / f"{asked.checkpoint}-{dimensions}", Stopwatch()
    shutil.rmtree(folder, ignore_errors=True)
    with watch("fit"):
        traker = _traker(model, given, folder, dimensions)
        traker.load_checkpoint(state, model_id=0)
        for batch in _batches(given.rows, given.pad_id):
            traker.featurize(batch=batch, num_samples=len(batch[0]))
    for damping in _dampings(dimensions, len(given.rows)):
        scores_QN = _score(traker, state, given, damping, watch)
        _write(asked, dimensions, damping, watch, scores_QN, len(given.rows))


def _dampings(dimensions: int, rows: int) -> list[float]:
    """Without damping the Gram of fewer rows than dimensions has no inverse."""
    return [damping for damping in DAMPINGS if damping or dimensions < rows]


def _traker(model: Any, given: Given, folder: Path, dimensions: int) -> TRAKer:
    return TRAKer(
        model=model,
        task=LogOdds(),
        train_set_size=len(given.rows),
        save_dir=str(folder),
        device="cpu",
        proj_dim=dimensions,
        use_half_precision=False,
        grad_wrt=[name for name, weight in model.named_parameters() if weight.requires_grad],
        logging_level=logging.WARNING,
    )


def _batches(sequences: list[Tokens], pad_id: int) -> Iterable[tuple[Tensor, Tensor]]:
    for start in range(0, len(sequences), BATCH):
        batch = collate(sequences[start : start + BATCH], pad_id)
        yield batch["input_ids"], batch["labels"]


def _score(traker: TRAKer, state: Any, given: Given, damping: float, watch: Stopwatch) -> np.ndarray:
    """[Q, N]"""
    watch.seconds["score"] = 0.0
    with watch("score"):
        rows_ND = torch.as_tensor(traker.saver.current_store["grads"])
        traker.score_computer.lambda_reg = damping * float(rows_ND.square().sum()) / rows_ND.shape[1]
        traker.saver.model_ids[0]["is_finalized"] = 0
        traker.finalize_features(model_ids=[0])
        name = f"damping {damping}"
        traker.start_scoring_checkpoint(name, state, model_id=0, num_targets=len(given.queries))
        for batch in _batches(given.queries, given.pad_id):
            traker.score(batch=batch, num_samples=len(batch[0]))
        return np.array(traker.finalize_scores(exp_name=name)).T


def _write(
    asked: Arguments, dimensions: int, damping: float, watch: Stopwatch, scores_QN: np.ndarray, rows: int
) -> None:
    result = Result(
        "traker",
        version("traker"),
        "trak",
        asked.checkpoint,
        {"dimensions": dimensions, "damping": damping},
        watch.of("fit"),
        watch.of("score"),
        bytes_per_example=4.0 * 2 * dimensions,
        notes="bytes: projected gradients and features",
    )
    write(asked.out, result, scores_QN)


if __name__ == "__main__":
    main()
