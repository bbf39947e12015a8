"""A run's learning-rate schedule, told from the rates that it logged.

Shapes: P logged points, W candidate warm-ups.

Every candidate (schedule, warm-up) fixes the rates up to one factor, the peak. Those that pass through every point are
kept; a field is known only where all of them agree on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Schedule = Literal["linear", "cosine", "constant"]
SCHEDULES: tuple[Schedule, ...] = ("linear", "cosine", "constant")
TOLERANCE = 1e-6  # of the highest rate: what a fit may miss a point by, and peaks may differ
_MOST_POINTS = 64
_MOST_STEPS = 1 << 20  # of a run; each step is a warm-up to try
_CANDIDATES = 4096  # warm-ups tried at a time


@dataclass(frozen=True)
class FittedSchedule:
    """unknown: the fields of engine.config.Training that the points leave open; they hold the shortest warm-up's."""

    schedule: Schedule
    learning_rate: float
    warmup_steps: int
    unknown: tuple[str, ...]


def fit_schedule(points: Sequence[tuple[int, float]], steps: int) -> FittedSchedule | None:
    """points: (optimizer step, from 1; its logged rate) of a run of `steps`. None where no schedule fits them or
    the run is too long to try.

    Transformers logs the rate that the step used; older versions logged the next step's, which is tried second.
    """
    step_P, rate_P = _thinned(points)
    if steps > _MOST_STEPS or not len(step_P) or not rate_P.max() > 0:
        return None
    for used_P in (step_P - 1, step_P):
        fits = sorted(_fits(used_P, rate_P, steps))
        if fits:
            return _agreement(fits)
    return None


def _agreement(fits: list[tuple[int, int, float]]) -> FittedSchedule:
    warmup, place, peak = fits[0]
    unknown: list[str] = []
    if any(abs(other - peak) > TOLERANCE * peak for _, _, other in fits):
        unknown.append("learning_rate")
    if any(other != place for _, other, _ in fits):
        unknown.append("schedule")
    if any(other != warmup for other, _, _ in fits):
        unknown.append("warmup_share")
    return FittedSchedule(SCHEDULES[place], peak, warmup, tuple(unknown))


def _thinned(points: Sequence[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    """The first points, where the warm-up is, and some of the rest."""
    known = sorted(dict(points).items())
    half = _MOST_POINTS // 2
    later = known[half:]
    known = known[:half] + later[:: max(1, len(later) // half)]
    return np.array([step for step, _ in known], dtype=np.float64), np.array([rate for _, rate in known], dtype=float)


def _fits(used_P: np.ndarray, rate_P: np.ndarray, steps: int) -> Iterator[tuple[int, int, float]]:
    """(warm-up, place in SCHEDULES, peak) of every candidate through all points."""
    for start in range(0, steps, _CANDIDATES):
        warmup_W = np.arange(start, min(start + _CANDIDATES, steps))
        for place, schedule in enumerate(SCHEDULES):
            share_WP = shares(schedule, used_P, warmup_W, steps)
            norm_W = (share_WP**2).sum(1)
            peak_W = np.divide(share_WP @ rate_P, norm_W, out=np.zeros(len(warmup_W)), where=norm_W > 0)
            missed_W = np.abs(peak_W[:, None] * share_WP - rate_P).max(1)
            for found in np.flatnonzero(missed_W <= TOLERANCE * rate_P.max()):
                yield int(warmup_W[found]), place, float(peak_W[found])


def shares(schedule: Schedule, step_P: np.ndarray, warmup_W: np.ndarray, steps: int) -> np.ndarray:
    """[W, P]: the learning rate at `step_P` (from 0), as a share of the peak; the formula of engine.causal.steps."""
    warmup_W1 = warmup_W[:, None].astype(np.float64)
    done_WP = (step_P - warmup_W1) / np.maximum(1.0, steps - warmup_W1)
    after_WP = np.ones_like(done_WP)
    if schedule == "linear":
        after_WP = np.maximum(0.0, 1.0 - done_WP)
    elif schedule == "cosine":
        after_WP = 0.5 * (1.0 + np.cos(np.pi * done_WP))
    return np.where(step_P < warmup_W1, step_P / np.maximum(1.0, warmup_W1), after_WP)
