"""The retrainings of a check: sets of rows left out, at several seeds, each made once.

A set's name comes from its rows alone: two sets of the same rows are one, and a check that is gone on with, or asked
again for more of them, finds what is there.

Shapes: V retrainings, Q queries and answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import safe_open

from engine.causal.check_intervals import check_finite
from engine.causal.checks import CheckCost
from engine.causal.outcomes import OutcomeStore
from engine.causal.retrain import Cost, Study, Variant, estimate, kept_answers, retrain
from engine.config import DType, fingerprint
from engine.types import CheckpointFn
from engine.weights import weight_files

_BYTES: dict[DType, int] = {"float64": 8, "float32": 4, "bfloat16": 2}
_COPIES = 6  # of an adapter's numbers: θ, its gradient, two moments, two temporaries
_SAME = 0.02  # nats, and of f: what another machine's rounding may make of a training
FOLDER = "retrainings"


def without(positions: Sequence[int], seed: int) -> Variant:
    rows = sorted(set(positions))
    return Variant.without(f"without {fingerprint(rows)[:16]} seed {seed}" if rows else f"full seed {seed}", seed, rows)


@dataclass(frozen=True)
class Trainings:
    """Of one study, below `out`."""

    study: Study
    out: Path

    def measure(self, variants: Sequence[Variant], checkpoint: CheckpointFn, phase: str) -> dict[str, np.ndarray]:
        """Name → float64 [Q]. What is finished is not done again. Raises what `retrain` does, and NonFiniteGradient."""
        variants = _distinct(variants)
        outcome_VQ = retrain(self.study, variants, self.out, lambda p: checkpoint(replace(p, phase=phase)))
        check_finite(outcome_VQ, "A retraining")
        return {variant.name: outcome_Q for variant, outcome_Q in zip(variants, outcome_VQ, strict=True)}

    def answer(self, variant: Variant) -> str:
        """The greedy answer after a retraining that was measured."""
        return kept_answers([variant], self.out)[0][0]

    def known(self, variant: Variant) -> np.ndarray | None:
        """[Q] where the retraining is there already."""
        return OutcomeStore.at(self.out).read(variant) if self.out.exists() else None

    def cost(self, variants: Sequence[Variant]) -> CheckCost:
        """A few steps are timed."""
        return self.priced(estimate(self.study, _distinct(variants), self.out))

    def priced(self, cost: Cost) -> CheckCost:
        lora = self.study.training.lora
        numbers = 0 if lora is None else adapter_numbers(self.study.base, lora.rank)
        stacked = cost.processes * cost.width * _COPIES * numbers * max(4, _BYTES[self.study.dtype])
        resident = (1 + cost.processes) * resident_bytes(self.study.base, self.study.dtype)
        return CheckCost(cost.retrainings, cost.seconds, resident + stacked)


def repeated_note(tuned: float, repeated: float) -> tuple[str, ...]:
    """A warning where the recorded run, repeated with every row at its own seed, is not the model that was explained.

    tuned, repeated: f of the query.
    """
    if abs(tuned - repeated) <= _SAME + _SAME * abs(tuned):
        return ()
    return (
        f"the recorded run, repeated as it was, gives f = {repeated:.3f} and the model {tuned:.3f}: it is another run",
    )


def resident_bytes(base: Path, dtype: DType) -> int:
    """What the weights in a directory take once they are loaded."""
    return sum(rows * columns for rows, columns in _shapes(base)) * _BYTES[dtype]


def adapter_numbers(base: Path, rank: int) -> int:
    """Of a LoRA on every matrix: an upper bound, whatever its targets are."""
    return sum(rank * (rows + columns) for rows, columns in _shapes(base) if rows > 1)


def _shapes(base: Path) -> list[tuple[int, int]]:
    """(all but the last width multiplied, the last) of every tensor; only headers are read."""
    found: list[tuple[int, int]] = []
    for file in weight_files(base):
        with safe_open(file, "pt") as tensors:
            names: list[str] = tensors.keys()
            for name in names:
                shape = tensors.get_slice(name).get_shape()
                found.append((int(np.prod(shape[:-1], initial=1)), shape[-1] if shape else 1))
    return found


def _distinct(variants: Sequence[Variant]) -> list[Variant]:
    return list({variant.name: variant for variant in variants}.values())
