"""The replay check: the exact derivative through the recorded run beside what the ranking predicted.

One pass gives every row's effect, so the check also says which rows the ranking missed.

Shapes: N rows of the dataset.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.causal.check_work import CheckWork
from engine.causal.checks import CheckCost, CheckResult, Effect
from engine.causal.replay import Replay, estimate_replay, replay
from engine.dataset import Dataset
from engine.types import CheckpointFn

_FIRST = 10  # rows of the replay's own ranking that are told


def run_replay(work: CheckWork, checkpoint: CheckpointFn) -> CheckResult:
    """Effects: −∂f/∂w of the ranking's first `rows`, what taking the row out does to first order. Raises what `replay`
    raises, MissingNeed without a recipe."""
    found = replay(work.study(), checkpoint, work=work.directory)
    positions = work.positions(work.ranked)
    removed_N = -found.derivative_QN[0]
    effects = tuple(
        Effect(row.id, work.predicted([row.id]), float(removed_N[position]))
        for row, position in zip(work.named, positions, strict=False)
    )
    return CheckResult(
        kind="replay",
        effects=effects,
        seconds=found.seconds,
        retrainings=1,
        details=_details(found, work.dataset, removed_N, positions),
    )


def estimate_replay_check(work: CheckWork) -> CheckCost:
    """A few steps are timed. Raises what `replay` raises."""
    cost = estimate_replay(work.study())
    return CheckCost(retrainings=1, seconds=cost.seconds, memory_bytes=cost.memory_bytes)


def _details(found: Replay, dataset: Dataset, removed_N: np.ndarray, positions: Sequence[int]) -> dict[str, Any]:
    """value: f at the end of the repeated run. first: the rows that replay itself puts first, with their effects.
    among_first: how many of the ranking's rows are among as many first ones of replay."""
    order_N = np.lexsort((np.arange(len(removed_N)), removed_N))
    among = len(set(order_N[: len(positions)].tolist()) & set(positions))
    return {
        "value": float(found.value_Q[0]),
        "first": [{"id": dataset[int(p)].id, "effect": float(removed_N[p])} for p in order_N[:_FIRST]],
        "among_first": among,
        "ranked": len(positions),
        "steps": found.steps,
        "steps_trained": found.trained_steps,
        "cost_in_trainings": round(found.seconds / max(found.training_seconds, 1e-9), 1),
    }
