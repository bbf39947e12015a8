"""f(q) and its gradient: every sequence of a micro-batch of queries through every checkpoint.

Shapes: Q queries, S sequences of all queries, D numbers of a checkpoint, C checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from engine.capture import Outcome, forward
from engine.explain import QueryVector
from engine.features import GradientFeatures, check_finite
from engine.opened import OpenIndex
from engine.question import Question
from engine.rows import Batch
from engine.text import Encoded


@dataclass(frozen=True)
class Measured:
    """f under the tuned model, f under the base (None = no base known), mean probability of the targets."""

    value: float
    base_value: float | None
    mean_probability: float


class _Sequences:
    """All queries' sequences side by side, and how they add up to queries again."""

    def __init__(self, index: OpenIndex, questions: Sequence[Question]) -> None:
        self.index = index
        self.encoded: list[Encoded] = [s for question in questions for s in question.sequences]
        self.signs = [sign for question in questions for sign in question.signs]
        self.owner = [i for i, question in enumerate(questions) for _ in question.sequences]
        self.log_prob_S = np.zeros(len(self.encoded))
        self.probability_S = np.zeros(len(self.encoded))
        self.queries = len(questions)

    @cached_property
    def batches(self) -> list[Batch]:
        """Padded once; every checkpoint and the base read the same."""
        ones = [1.0] * len(self.encoded)
        return list(self.index.batcher.batches(self.encoded, ones, [-1] * len(self.encoded)))

    def record(self, batch: Batch, outcome: Outcome) -> None:
        slots = list(batch.slots)
        weights_BC = batch.padded.weights_BT[:, outcome.columns_C]
        mean_B = (outcome.target_log_prob_BC.exp() * weights_BC).sum(1) / weights_BC.sum(1)
        self.log_prob_S[slots] = outcome.log_prob_B.double().cpu().numpy()
        self.probability_S[slots] = mean_B.double().cpu().numpy()

    def signed_sum(self, values_S: np.ndarray) -> np.ndarray:
        """[S, …] → [Q, …]"""
        sums = np.zeros((self.queries, *values_S.shape[1:]), np.float64)
        for owner, sign, value in zip(self.owner, self.signs, values_S, strict=True):
            sums[owner] += sign * value
        return sums


def measure_with_gradients(index: OpenIndex, questions: Sequence[Question]) -> tuple[list[QueryVector], list[Measured]]:
    """One forward and one activation-only backward a checkpoint; the tuned model's forward also gives f."""
    sequences = _Sequences(index, questions)
    vectors, selves, factors = [], [], []
    for features in index.features:
        gradients_QD = sequences.signed_sum(_gradients(index, sequences, features))
        self_Q = np.square(gradients_QD).sum(1)
        check_finite(torch.from_numpy(self_Q), (-1,) * len(self_Q))
        factor_Q = ensemble_factors(self_Q, len(index.features), unit_norm=features.unit_norm)
        vectors.append(gradients_QD * factor_Q[:, None])
        selves.append(self_Q)
        factors.append(factor_Q)
    if index.features[-1].state != len(index.model.states) - 1:
        measure_tuned(index, sequences)
    queries = [
        QueryVector(vector_D, factor_C, self_C)
        for vector_D, factor_C, self_C in zip(
            np.hstack(vectors), np.stack(factors, 1), np.stack(selves, 1), strict=True
        )
    ]
    return queries, _measured(index, sequences)


def measure_only(index: OpenIndex, questions: Sequence[Question]) -> list[Measured]:
    sequences = _Sequences(index, questions)
    measure_tuned(index, sequences)
    return _measured(index, sequences)


def ensemble_factors(self_Q: np.ndarray, checkpoints: int, *, unit_norm: bool) -> np.ndarray:
    """What a checkpoint's query gradient is multiplied by (DESIGN §4, p = 0): 1 for a single checkpoint,
    1/√s_c(q) in an ensemble, 1/(C·√s_c(q)) where a mean of cosines is meant; 0 for a zero gradient."""
    if checkpoints == 1 and not unit_norm:
        return np.ones_like(self_Q)
    roots_Q = np.sqrt(self_Q)
    count = checkpoints if unit_norm else 1
    return np.divide(1.0, roots_Q * count, out=np.zeros_like(roots_Q), where=roots_Q > 0)


def _gradients(index: OpenIndex, sequences: _Sequences, features: GradientFeatures) -> np.ndarray:
    gradients_SD = np.zeros((len(sequences.encoded), features.width))
    for batch in sequences.batches:
        vectors = features.compute(index.capture, batch.padded)
        gradients_SD[list(batch.slots)] = vectors.vectors_BD.double().cpu().numpy()
        sequences.record(batch, vectors.outcome)
    return gradients_SD


@torch.no_grad()
def measure_tuned(index: OpenIndex, sequences: _Sequences) -> None:
    index.model.use(-1)
    for batch in sequences.batches:
        sequences.record(batch, forward(index.model, batch.padded))


@torch.no_grad()
def _base_log_probs(index: OpenIndex, sequences: _Sequences) -> np.ndarray | None:
    """f before fine-tuning, per sequence: one forward."""
    if not index.model.has_base:
        return None
    log_prob_S = np.zeros(len(sequences.encoded))
    with index.model.base_weights():
        for batch in sequences.batches:
            log_prob_B: Tensor = forward(index.model, batch.padded).log_prob_B
            log_prob_S[list(batch.slots)] = log_prob_B.double().cpu().numpy()
    return log_prob_S


def _measured(index: OpenIndex, sequences: _Sequences) -> list[Measured]:
    tuned_Q = sequences.signed_sum(sequences.log_prob_S)
    base_S = _base_log_probs(index, sequences)
    base_Q = None if base_S is None else sequences.signed_sum(base_S)
    first = {owner: slot for slot, owner in reversed(list(enumerate(sequences.owner)))}
    return [
        Measured(
            float(tuned_Q[q]), None if base_Q is None else float(base_Q[q]), float(sequences.probability_S[first[q]])
        )
        for q in range(sequences.queries)
    ]
