"""Where a score comes from: by query position, by training position, by output token, by module.

Shapes: B rows, K hits, T positions, J explained targets, I/O a module's input/output width, P/R its sketch's widths,
D numbers of a row over all checkpoints.

All four are exact decompositions of a linear score: with W = adjoint(Φ_z), ⟨Φ_q, Φ_z⟩ = ⟨G_q, W⟩ = Σ_t δ_tᵀ W a_t.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.batching import PaddedBatch
from engine.consumers import RecordConsumer
from engine.features import GradientFeatures
from engine.manifest import Block
from engine.modules import TrackedModule
from engine.opened import OpenIndex
from engine.text import Encoded


@dataclass(frozen=True)
class QueryVector:
    """A query in the index's space. factors_C: each checkpoint's weight in the ensemble, already in vector_D."""

    vector_D: np.ndarray
    factors_C: np.ndarray
    self_C: np.ndarray


def module_scores(index: OpenIndex, query: QueryVector, rows_KD: np.ndarray) -> list[dict[str, float]]:
    """Per hit: module → its part of the score, summed over checkpoints; the values add up to the score."""
    parts: list[dict[str, float]] = [{} for _ in rows_KD]
    for block in index.store.manifest.blocks:
        columns = slice(block.offset, block.stop)
        for part, value in zip(parts, rows_KD[:, columns].astype(np.float64) @ query.vector_D[columns], strict=True):
            part[block.module] = part.get(block.module, 0.0) + float(value)
    return parts


def query_position_shares(index: OpenIndex, encoded: Encoded, query: QueryVector, rows_KD: np.ndarray) -> np.ndarray:
    """float64 [K, T]: what each position of the query (prompt included) adds to each hit's score."""
    shares_KT = np.zeros((len(rows_KD), len(encoded.ids)))
    for number, features in enumerate(index.features):
        batch = next(index.batcher.batches([encoded], [1.0], [-1])).padded
        for module, a_BTI, d_BTO in _recorded(index, features, batch):
            w_KOI = features.sketches[module.name].adjoint(_block(index, rows_KD, number, module, d_BTO))
            shares = torch.einsum("to,koi,ti->kt", d_BTO[0], w_KOI, a_BTI[0])
            shares_KT += float(query.factors_C[number]) * shares.double().cpu().numpy()
    return shares_KT


def train_position_shares(
    index: OpenIndex, rows: Sequence[Encoded], weights: Sequence[float], query: QueryVector
) -> list[np.ndarray]:
    """Per training row, float64 [T]: what each of its positions adds to its own score."""
    shares = [np.zeros(len(row.ids)) for row in rows]
    query_1D = query.vector_D[None].astype(np.float32)
    for number, features in enumerate(index.features):
        for batch in index.batcher.batches(rows, weights, [-1] * len(rows)):
            total_BT = np.zeros(batch.padded.ids_BT.shape)
            for module, a_BTI, d_BTO in _recorded(index, features, batch.padded):
                w_OI = features.sketches[module.name].adjoint(_block(index, query_1D, number, module, d_BTO))[0]
                total_BT += ((d_BTO @ w_OI) * a_BTI).sum(-1).double().cpu().numpy()
            for slot, row_T in zip(batch.slots, total_BT, strict=True):
                shares[slot] += row_T[: len(shares[slot])]
    return shares


def token_scores(index: OpenIndex, encoded: Encoded, query: QueryVector, rows_KD: np.ndarray) -> np.ndarray:
    """float64 [K, T]: the part of each output token (target), zero elsewhere; one backward a target."""
    targets = [t for t, is_target in enumerate(encoded.targets) if is_target]
    single = [_only_target(encoded, t) for t in targets]
    scores_KT = np.zeros((len(rows_KD), len(encoded.ids)))
    offset = 0
    for number, features in enumerate(index.features):
        stored_KD = rows_KD[:, offset : offset + features.width].astype(np.float64)
        for batch in index.batcher.batches(single, [1.0] * len(single), [-1] * len(single)):
            vectors_BD = features.compute(index.capture, batch.padded).vectors_BD.cpu().numpy().astype(np.float64)
            columns = [targets[slot] for slot in batch.slots]
            scores_KT[:, columns] += float(query.factors_C[number]) * (stored_KD @ vectors_BD.T)
        offset += features.width
    return scores_KT


def _only_target(encoded: Encoded, position: int) -> Encoded:
    targets = tuple(t == position for t in range(len(encoded.ids)))
    return Encoded(encoded.ids, targets, encoded.parts, encoded.spans, encoded.truncated)


def _recorded(
    index: OpenIndex, features: GradientFeatures, batch: PaddedBatch
) -> Iterator[tuple[TrackedModule, Tensor, Tensor]]:
    """(module, a_BTI, δ_BTO) of a batch under one checkpoint's weights; δ is zero at pads."""
    index.model.use(features.state)
    record = RecordConsumer()
    index.capture.run(batch, record)
    wide = torch.promote_types(index.model.dtype, torch.float32)
    for module in features.tracked:
        if module.name in record.gradients:
            yield module, record.inputs[module.name].to(wide), record.gradients[module.name].to(wide)


def _block(index: OpenIndex, vectors_KD: np.ndarray, number: int, module: TrackedModule, like: Tensor) -> Tensor:
    """Φ_KPR of one module of one checkpoint."""
    block = _find(index.store.manifest.blocks, number, module.name)
    phi = torch.from_numpy(np.ascontiguousarray(vectors_KD[:, block.offset : block.stop]))
    return phi.to(like.device, like.dtype).unflatten(1, (block.rows, block.cols))


def _find(blocks: Sequence[Block], number: int, module: str) -> Block:
    return next(block for block in blocks if block.checkpoint == number and block.module == module)
