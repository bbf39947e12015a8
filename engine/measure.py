"""f(q) and its gradient: every sequence of a micro-batch of queries through every checkpoint.

Shapes: Q queries, S sequences of all queries, D numbers of a checkpoint, C checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor, nn

from engine.capture import Outcome, forward
from engine.cores import beside
from engine.ensemble import checkpoint_rates, ensemble_factors
from engine.explain import QueryVector
from engine.features import GradientFeatures, check_finite
from engine.model import LoadedModel
from engine.opened import OpenIndex
from engine.passes import plan_passes
from engine.question import Question
from engine.rows import Batch
from engine.solved import SolvedFeatures
from engine.text import Encoded

# The forward pass of the model before fine-tuning goes beside the tuned model's forward and backward, where it is work
# enough: two threads of a small model wait for each other between their operations.
_PASSES = 1.0  # of a pass's own cost


@dataclass(frozen=True)
class Measured:
    """f under the tuned model, f under the base (None = no base known), mean probability of the explained targets."""

    value: float
    base_value: float | None
    mean_probability: float


class _Sequences:
    """All queries' sequences side by side, and how they add up to queries again."""

    def __init__(self, index: OpenIndex, questions: Sequence[Question]) -> None:
        self.index = index
        self.encoded: list[Encoded] = [s for question in questions for s in question.sequences]
        self.weights = [weight for question in questions for weight in question.weights]
        self.owner = [i for i, question in enumerate(questions) for _ in question.sequences]
        self.odds = [question.odds for question in questions for _ in question.sequences]
        self.value_S = np.zeros(len(self.encoded))
        self.probability_S = np.zeros(len(self.encoded))
        self.queries = len(questions)

    @cached_property
    def batches(self) -> list[tuple[Batch, bool]]:
        """Padded once; every checkpoint and the base read the same. Log-odds (True) and log-probabilities apart."""
        return [(batch, odds) for odds in (False, True) for batch in self._batches(odds)]

    def _batches(self, odds: bool) -> Iterator[Batch]:
        slots = [s for s, wanted in enumerate(self.odds) if wanted == odds]
        lengths, batcher = [len(self.encoded[s].ids) for s in slots], self.index.batcher
        for together in plan_passes(lengths, self.index.model.pass_tokens, batcher.token_budget):
            chosen = [self.encoded[slots[i]] for i in together]
            for batch in batcher.batches(chosen, [1.0] * len(chosen), [-1] * len(chosen)):
                yield Batch(tuple(slots[together[i]] for i in batch.slots), batch.padded)

    def record(self, batch: Batch, outcome: Outcome, odds: bool) -> None:
        """odds: what is recorded; a method may have the outcome's own sum be of the log-odds in any case."""
        slots = list(batch.slots)
        weights_BC = batch.padded.weights_BT[:, outcome.columns_C]
        mean_B = (outcome.target_log_prob_BC.exp() * weights_BC).sum(1) / weights_BC.sum(1)
        value_B = outcome.log_prob_B if odds else (outcome.target_log_prob_BC * weights_BC).sum(1)
        self.value_S[slots] = value_B.double().cpu().numpy()
        self.probability_S[slots] = mean_B.double().cpu().numpy()

    def weighted_sum(self, values_S: np.ndarray) -> np.ndarray:
        """[S, …] → [Q, …]"""
        sums = np.zeros((self.queries, *values_S.shape[1:]), np.float64)
        for owner, weight, value in zip(self.owner, self.weights, values_S, strict=True):
            sums[owner] += weight * value
        return sums

    def mean_probabilities(self) -> np.ndarray:
        """[Q]: mean over what is explained; contrasts do not count."""
        sums, counts = np.zeros(self.queries), np.zeros(self.queries)
        for owner, weight, value in zip(self.owner, self.weights, self.probability_S, strict=True):
            sums[owner] += value * (weight > 0)
            counts[owner] += weight > 0
        return sums / counts


def measure_with_gradients(index: OpenIndex, questions: Sequence[Question]) -> tuple[list[QueryVector], list[Measured]]:
    """One forward and one activation-only backward a checkpoint; the tuned model's forward also gives f."""
    sequences = _Sequences(index, questions)
    before = _beside(index, sequences)
    vectors, selves, factors = [], [], []
    combine = index.plan.method.combine  # type: ignore[attr-defined]
    rates_C = checkpoint_rates(index.store, len(index.features))
    for features, rate in zip(index.features, rates_C, strict=True):
        gradients_QD, self_Q = _query_vectors(index, sequences, features)
        check_finite(torch.from_numpy(self_Q), (-1,) * len(self_Q))
        count, unit_norm = len(index.features), features.unit_norm
        factor_Q = ensemble_factors(self_Q, count, unit_norm=unit_norm, combine=combine, rate=rate)
        vectors.append(gradients_QD * factor_Q[:, None])
        selves.append(self_Q)
        factors.append(factor_Q)
    if index.features[-1].state is not index.model.states[-1]:
        measure_tuned(index, sequences)
    queries = [
        QueryVector(vector_D, factor_C, self_C)
        for vector_D, factor_C, self_C in zip(
            np.hstack(vectors), np.stack(factors, 1), np.stack(selves, 1), strict=True
        )
    ]
    return queries, _measured(sequences, before())


def measure_only(index: OpenIndex, questions: Sequence[Question]) -> list[Measured]:
    sequences = _Sequences(index, questions)
    before = _beside(index, sequences)
    measure_tuned(index, sequences)
    return _measured(sequences, before())


def _query_vectors(
    index: OpenIndex, sequences: _Sequences, features: GradientFeatures
) -> tuple[np.ndarray, np.ndarray]:
    """(float64 [Q, D], self-scores [Q]) of one checkpoint, before the ensemble's factor."""
    if isinstance(features, SolvedFeatures):
        return _solved(index, sequences, features)
    gradients_QD = sequences.weighted_sum(_gradients(index, sequences, features))
    return gradients_QD, np.square(gradients_QD).sum(1)


def _solved(index: OpenIndex, sequences: _Sequences, features: SolvedFeatures) -> tuple[np.ndarray, np.ndarray]:
    """Added up first, solved then: one solve a query, however many sequences it has."""
    sums_QD = torch.zeros(sequences.queries, features.exact_width, device=index.model.device)
    for batch, odds in sequences.batches:
        gradients_BD, outcome = features.gradients(index.capture, batch.padded, odds=odds)
        sums_QD = sums_QD.to(gradients_BD.dtype)
        for slot, gradient_D in zip(batch.slots, gradients_BD, strict=True):
            sums_QD[sequences.owner[slot]] += sequences.weights[slot] * gradient_D
        sequences.record(batch, outcome, odds)
    check_finite(sums_QD.square().sum(1), (-1,) * len(sums_QD))  # before an iteration makes more of it
    vectors_QP, self_Q = features.solve(sums_QD)
    return vectors_QP.double().cpu().numpy(), self_Q.double().cpu().numpy()


def _gradients(index: OpenIndex, sequences: _Sequences, features: GradientFeatures) -> np.ndarray:
    gradients_SD = np.zeros((len(sequences.encoded), features.width))
    for batch, odds in sequences.batches:
        vectors = features.query(index.capture, batch.padded, odds=odds)
        gradients_SD[list(batch.slots)] = vectors.vectors_BD.double().cpu().numpy()
        sequences.record(batch, vectors.outcome, odds)
    return gradients_SD


@torch.no_grad()
def measure_tuned(index: OpenIndex, sequences: _Sequences) -> None:
    index.model.use(-1)
    for batch, odds in sequences.batches:
        sequences.record(batch, forward(index.model, batch.padded, odds=odds), odds)


def _beside(index: OpenIndex, sequences: _Sequences) -> Callable[[], np.ndarray | None]:
    """f before fine-tuning, per sequence, and None where that is not known: begun now where a core is free, and
    otherwise when it is asked for.
    """
    before = index.model.before
    if before is None:
        return lambda: None
    work = partial(_base_values, index.model, before, sequences)
    tokens = sum(batch.padded.ids_BT.numel() for batch, _ in sequences.batches)
    worthwhile = index.model.device.type == "cpu" and tokens >= _PASSES * index.model.pass_tokens
    return beside(work, worthwhile=worthwhile)


@torch.no_grad()
def _base_values(model: LoadedModel, before: nn.Module, sequences: _Sequences) -> np.ndarray:
    """One forward."""
    value_S = np.zeros(len(sequences.encoded))
    for batch, odds in sequences.batches:
        value_B: Tensor = forward(model, batch.padded, odds=odds, module=before).log_prob_B
        value_S[list(batch.slots)] = value_B.double().cpu().numpy()
    return value_S


def _measured(sequences: _Sequences, base_S: np.ndarray | None) -> list[Measured]:
    tuned_Q = sequences.weighted_sum(sequences.value_S)
    base_Q = None if base_S is None else sequences.weighted_sum(base_S)
    probability_Q = sequences.mean_probabilities()
    return [
        Measured(float(tuned_Q[q]), None if base_Q is None else float(base_Q[q]), float(probability_Q[q]))
        for q in range(sequences.queries)
    ]
