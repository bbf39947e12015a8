# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""dattri: gradient dot product and cosine (TracIn), DataInf, EK-FAC and TRAK, on every lora_A and lora_B.

Runs in dattri's own environment; see run.py. Shapes: Q queries, N rows, B sequences, D LoRA weights.

Loss and target are −log p summed over targets (TRAK: the sum of log odds): a positive score is a proponent. dattri's
dampings are one absolute number for all modules; here they are given as a share of the mean eigenvalue, over all
modules. EK-FAC takes the rows' own labels and has no mask for pads: its factors are fitted on batches of equal length.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from dattri.algorithm.influence_function import IFAttributorDataInf, IFAttributorEKFAC
from dattri.algorithm.tracin import TracInAttributor
from dattri.algorithm.trak import TRAKAttributor
from dattri.task import AttributionTask
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.quality.peers.batch import TokenSet, collate
from benchmarks.quality.peers.functional import batch_losses, log_odds, mean_probability
from benchmarks.quality.peers.given import Given, Tokens, load_tuned, lora_modules
from benchmarks.quality.peers.written import Arguments, Result, Stopwatch, arguments, each, write

METHODS = ("dot", "cosine", "datainf", "ekfac", "trak")
DAMPINGS = (0.01, 0.1, 1.0, 10.0)
DATAINF_DAMPINGS = (0.1,)  # 0.01 to 10 gave the same ranking, that of the dot product
DIMENSIONS = 512  # of TRAK: dattri's own choice
BATCH = 128
NO_PROJECTION = {"proj_type": "identity", "proj_dim": -1}


def main() -> None:
    torch.set_num_threads(1)
    asked = arguments(METHODS)
    given = Given(asked.task)
    runs = {
        "dot": partial(_tracin, method="dot"),
        "cosine": partial(_tracin, method="cosine"),
        "datainf": _datainf,
        "ekfac": _ekfac,
        "trak": _trak,
    }
    each(asked, lambda method: runs[method](_Dattri(asked, given)))


class _Dattri:
    """The model, and losses of it as dattri wants them: of one sequence [T] or the mean over a batch [B, T]."""

    def __init__(self, asked: Arguments, given: Given) -> None:
        self.asked, self.given = asked, given
        self.model = load_tuned(given, asked.checkpoint, attn_implementation="eager")

    def task(self, odds: bool = False) -> AttributionTask:
        function = self._odds if odds else self._loss
        return AttributionTask(loss_func=function, model=self.model, checkpoints=[self.model.state_dict()])

    def loaders(self) -> tuple[DataLoader, DataLoader]:
        """Rows and queries in their order, all of one width: dattri asks for tensors."""
        return tuple(_loader(part, self.given.pad_id) for part in (self.given.rows, self.given.queries))  # type: ignore[return-value]

    def correct_probability(self, weights: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        losses_BT, labels_BT = self._losses(weights, batch)
        return mean_probability(losses_BT, labels_BT)[0]

    def mean_square(self, task: AttributionTask) -> float:
        """Mean over LoRA weights of the rows' summed squared gradients: the mean eigenvalue of their Gram."""
        weights_D, _ = task.get_param(ckpt_idx=0)
        gradients = task.get_grad_loss_func(in_dims=(None, 0), ckpt_idx=0)
        total = sum(float(gradients(weights_D, batch).square().sum()) for batch in self.loaders()[0])
        return total / weights_D.numel()

    def _loss(self, weights: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        losses_BT, _ = self._losses(weights, batch)
        return losses_BT.sum() / losses_BT.shape[0]

    def _odds(self, weights: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        return log_odds(*self._losses(weights, batch)).mean()

    def _losses(self, weights: Any, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        ids_BT, labels_BT = (part if part.dim() == 2 else part[None] for part in batch)
        return batch_losses(self.model, weights, ids_BT, labels_BT), labels_BT


def _loader(sequences: list[Tokens], pad_id: int) -> DataLoader:
    width = max(len(tokens.ids) for tokens in sequences)
    return DataLoader(TokenSet(sequences), batch_size=BATCH, collate_fn=partial(_tensors, pad_id=pad_id, width=width))


def _tensors(sequences: list[Tokens], pad_id: int, width: int | None = None) -> tuple[Tensor, Tensor]:
    batch = collate(sequences, pad_id, width)
    return batch["input_ids"], batch["labels"]


def _even_loader(sequences: list[Tokens]) -> DataLoader:
    """Batches of rows of one length: no pads."""
    by_length: dict[int, list[int]] = {}
    for place, tokens in enumerate(sequences):
        by_length.setdefault(len(tokens.ids), []).append(place)
    batches = [places[start : start + BATCH] for places in by_length.values() for start in range(0, len(places), BATCH)]
    return DataLoader(TokenSet(sequences), batch_sampler=batches, collate_fn=partial(_tensors, pad_id=0))


@torch.no_grad()  # the weights ask for gradients, and every result would keep its graph
def _tracin(peer: _Dattri, method: str) -> None:
    watch, (rows, queries) = Stopwatch({"fit": 0.0}), peer.loaders()
    with watch("score"):
        attributor = TracInAttributor(
            peer.task(), torch.ones(1), normalized_grad=method == "cosine", projector_kwargs=dict(NO_PROJECTION)
        )
        scores_NQ = attributor.attribute(rows, queries)
    _write(peer, method, {}, watch, scores_NQ, linear=method == "dot")


@torch.no_grad()
def _datainf(peer: _Dattri) -> None:
    task, (rows, queries), fit = peer.task(), peer.loaders(), Stopwatch()
    mean = peer.mean_square(task) / len(peer.given.rows)
    attributor = IFAttributorDataInf(task, regularization=1.0)
    with fit("fit"):
        attributor.cache(rows)
    for damping in DATAINF_DAMPINGS:
        watch = Stopwatch(dict(fit.seconds))
        attributor.regularization = damping * mean
        with watch("score"):
            scores_NQ = attributor.attribute(rows, queries)
        _write(peer, "datainf", {"damping": damping}, watch, scores_NQ, bytes_per_example=_gradient_bytes(peer))


def _ekfac(peer: _Dattri) -> None:
    (rows, queries), fit = peer.loaders(), Stopwatch()
    attributor = IFAttributorEKFAC(peer.task(), module_name=lora_modules(peer.model))
    with fit("fit"):
        attributor.cache(_even_loader(peer.given.rows))
    values = torch.cat([found.flatten() for found in attributor.cached_lambdas.values()])
    for damping in DAMPINGS:
        watch = Stopwatch(dict(fit.seconds))
        attributor.damping = damping * float(values.mean())
        with watch("score"), torch.no_grad():
            scores_NQ = attributor.attribute(rows, queries)
        _write(peer, "ekfac", {"damping": damping}, watch, scores_NQ)


@torch.no_grad()
def _trak(peer: _Dattri) -> None:
    """dattri divides gradients by √D and keeps their norm in projecting: the projected Gram has the same trace."""
    task, (rows, queries) = peer.task(odds=True), peer.loaders()
    mean = peer.mean_square(task) / DIMENSIONS
    for damping in (0.0, *DAMPINGS[1:]):
        watch = Stopwatch()
        attributor = TRAKAttributor(
            task,
            peer.correct_probability,
            projector_kwargs={"proj_dim": DIMENSIONS, "proj_type": "normal"},
            regularization=damping * mean,
        )
        with watch("fit"):
            attributor.cache(rows)
        with watch("score"):
            scores_NQ = attributor.attribute(queries)
        options = {"dimensions": DIMENSIONS, "damping": damping}
        _write(peer, "trak", options, watch, scores_NQ, bytes_per_example=4.0 * DIMENSIONS)


def _gradient_bytes(peer: _Dattri) -> float:
    return 4.0 * sum(weight.numel() for weight in peer.model.parameters() if weight.requires_grad)


def _write(
    peer: _Dattri, method: str, options: dict[str, Any], watch: Stopwatch, scores_NQ: Tensor, **about: Any
) -> None:
    result = Result(
        "dattri",
        version("dattri"),
        method,
        peer.asked.checkpoint,
        options,
        watch.of("fit"),
        watch.of("score"),
        **about,
    )
    write(peer.asked.out, result, np.asarray(scores_NQ.detach()).T)


if __name__ == "__main__":
    main()
