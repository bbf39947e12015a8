"""Where a score comes from: by query position, by training position, by output token, by module.

Shapes: B rows, K hits, T positions, J explained targets, I/O a module's input/output width, P/R its sketch's widths,
D numbers of a row over all checkpoints.

All four are exact decompositions of a linear score: with W = adjoint(Φ_z), ⟨Φ_q, Φ_z⟩ = ⟨G_q, W⟩ = Σ_t δ_tᵀ W a_t.
Where a symmetric map M follows the sketches, what is stored is MΦ_z and W = adjoint(M·MΦ_z).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.batching import PaddedBatch
from engine.capture import Outcome
from engine.consumers import RecordConsumer
from engine.features import GradientFeatures, mean_probability
from engine.manifest import Block
from engine.modules import TrackedModule
from engine.opened import OpenIndex
from engine.solved import SolvedFeatures
from engine.text import Encoded


@dataclass(frozen=True)
class QueryVector:
    """A query in the index's space. factors_C: each checkpoint's weight in the ensemble, already in vector_D."""

    vector_D: np.ndarray
    factors_C: np.ndarray
    self_C: np.ndarray


def module_scores(index: OpenIndex, query: QueryVector, rows_KD: np.ndarray) -> list[dict[str, float]]:
    """Per hit: module → its part of the score, summed over checkpoints; the values add up to the score.

    A map over several modules mixes them, so a module's part is that of the query's own gradient in it, u_m, before
    any map M: ⟨M u, s⟩ = Σ_m ⟨u_m, (M s)_m⟩, with u = M⁻¹v from the query's vector v. For a map that keeps to modules
    this is ⟨v_m, s_m⟩.
    """
    parts: list[dict[str, float]] = [{} for _ in rows_KD]
    for number, features in enumerate(index.features):
        query_1D = _own_columns(index, number, query.vector_D[None])
        if features.row_map is not None:
            query_1D = features.row_map.undo(query_1D)
        mapped_KD = _through_map(index, number, rows_KD)
        for module in features.tracked:
            columns = _columns(index, number, module)
            values_K = (mapped_KD[:, columns] @ query_1D[0, columns]).tolist()
            for part, value in zip(parts, values_K, strict=True):
                part[module.name] = part.get(module.name, 0.0) + value
    return parts


def query_position_shares(
    index: OpenIndex, encoded: Encoded, query: QueryVector, rows_KD: np.ndarray, *, odds: bool = False
) -> np.ndarray:
    """float64 [K, T]: what each position of the query (prompt included) adds to each hit's score."""
    shares_KT = np.zeros((len(rows_KD), len(encoded.ids)))
    for number, features in enumerate(index.features):
        batch = next(index.batcher.batches([encoded], [1.0], [-1])).padded
        mapped_KD = _through_map(index, number, rows_KD)
        recorded, _ = _recorded(index, features, batch, odds, of_query=True)
        weights = _query_weights(index, number, mapped_KD)
        for module, a_BTI, d_BTO in recorded:
            shares = torch.einsum("to,koi,ti->kt", d_BTO[0], weights(module), a_BTI[0])
            shares_KT += float(query.factors_C[number]) * shares.double().cpu().numpy()
    return shares_KT


def train_position_shares(
    index: OpenIndex, rows: Sequence[Encoded], positions_K: np.ndarray, query: QueryVector
) -> list[np.ndarray]:
    """Per training row, float64 [T]: what each of its positions adds to its own score."""
    weights = index.weights_N[positions_K].tolist()
    shares = [np.zeros(len(row.ids)) for row in rows]
    left_N = np.zeros(len(rows))
    lifted_1D = index.store.lifted(query.vector_D)[None]
    for number, features in enumerate(index.features):
        mapped_1D = _through_map(index, number, lifted_1D)
        for batch in index.batcher.batches(rows, weights, [-1] * len(rows)):
            recorded, outcome = _recorded(index, features, batch.padded)
            total_BT = np.zeros(batch.padded.ids_BT.shape)
            for module, a_BTI, d_BTO in recorded:
                sketch = features.train_sketches[module.name]
                w_OI = sketch.adjoint(_block(index, mapped_1D, number, module, d_BTO))[0]
                total_BT += ((d_BTO @ w_OI) * a_BTI).sum(-1).double().cpu().numpy()
            for slot, row_T in zip(batch.slots, total_BT, strict=True):
                shares[slot] += row_T[: len(shares[slot])] * index.row_factors_NC[positions_K[slot], number]
            left_N[list(batch.slots)] += 1 - mean_probability(outcome, batch.padded).double().cpu().numpy()
    if not index.features[0].damage:
        return shares
    return [row_T * left / len(index.features) for row_T, left in zip(shares, left_N, strict=True)]


def token_scores(
    index: OpenIndex, encoded: Encoded, query: QueryVector, rows_KD: np.ndarray, *, odds: bool = False
) -> np.ndarray:
    """float64 [K, T]: the part of each output token (target), zero elsewhere; one backward a target."""
    targets = [t for t, is_target in enumerate(encoded.targets) if is_target]
    single = [_only_target(encoded, t) for t in targets]
    scores_KT = np.zeros((len(rows_KD), len(encoded.ids)))
    offset = 0
    for number, features in enumerate(index.features):
        stored_KD = rows_KD[:, offset : offset + features.width].astype(np.float64)
        for batch in index.batcher.batches(single, [1.0] * len(single), [-1] * len(single)):
            vectors_BD = features.query(index.capture, batch.padded, odds=odds).vectors_BD.cpu().double().numpy()
            columns = [targets[slot] for slot in batch.slots]
            scores_KT[:, columns] += float(query.factors_C[number]) * (stored_KD @ vectors_BD.T)
        offset += features.width
    return scores_KT


def _query_weights(index: OpenIndex, number: int, mapped_KD: Tensor) -> Callable[[TrackedModule], Tensor]:
    """Module → W_KOI, what a query's gradient is multiplied by; where it is solved for, that solve is in it."""
    features = index.features[number]
    like = torch.zeros(0, dtype=torch.promote_types(index.model.dtype, torch.float32), device=index.model.device)

    def block(module: TrackedModule) -> Tensor:
        return _block(index, mapped_KD, number, module, like)

    if isinstance(features, SolvedFeatures):
        pulled = features.pull_back({m.name: block(m) for m in features.tracked})
        return lambda module: pulled[module.name]
    return lambda module: features.sketches[module.name].adjoint(block(module))


def _only_target(encoded: Encoded, position: int) -> Encoded:
    targets = tuple(t == position for t in range(len(encoded.ids)))
    return Encoded(encoded.ids, targets, encoded.parts, encoded.spans, encoded.truncated)


def _recorded(
    index: OpenIndex, features: GradientFeatures, batch: PaddedBatch, odds: bool = False, *, of_query: bool = False
) -> tuple[Iterator[tuple[TrackedModule, Tensor, Tensor]], Outcome]:
    """(module, a_BTI, δ_BTO) of a batch under one checkpoint's weights; δ is zero at pads. And its outcome."""
    index.model.use(features.query_state if of_query and isinstance(features, SolvedFeatures) else features.state)
    record = RecordConsumer()
    outcome = index.capture.run(batch, record, odds=features.odds or odds)
    wide = torch.promote_types(index.model.dtype, torch.float32)
    recorded = (
        (module, record.inputs[module.name].to(wide), record.gradients[module.name].to(wide))
        for module in features.tracked
        if module.name in record.gradients
    )
    return recorded, outcome


def _through_map(index: OpenIndex, number: int, vectors_KD: np.ndarray) -> Tensor:
    """float64 [K, numbers of one checkpoint]: after that checkpoint's map, which is symmetric: ⟨M u, s⟩ = ⟨u, M s⟩."""
    own_KD, row_map = _own_columns(index, number, vectors_KD), index.features[number].row_map
    return own_KD if row_map is None else row_map.apply(own_KD)


def _own_columns(index: OpenIndex, number: int, vectors_KD: np.ndarray) -> Tensor:
    offset = sum(features.width for features in index.features[:number])
    own_KD = vectors_KD[:, offset : offset + index.features[number].width].astype(np.float64)
    return torch.from_numpy(own_KD).to(index.model.device)


def _columns(index: OpenIndex, number: int, module: TrackedModule) -> slice:
    """Of one checkpoint's numbers, the module's."""
    block = _find(index.store.manifest.blocks, number, module.name)
    offset = sum(features.width for features in index.features[:number])
    return slice(block.offset - offset, block.stop - offset)


def _block(index: OpenIndex, own_KD: Tensor, number: int, module: TrackedModule, like: Tensor) -> Tensor:
    """Φ_KPR of one module, from one checkpoint's numbers."""
    block = _find(index.store.manifest.blocks, number, module.name)
    phi_KN = own_KD[:, _columns(index, number, module)].contiguous()
    return phi_KN.to(like.device, like.dtype).unflatten(1, (block.rows, block.cols))


def _find(blocks: Sequence[Block], number: int, module: str) -> Block:
    return next(block for block in blocks if block.checkpoint == number and block.module == module)
