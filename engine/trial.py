"""A few rows of a build done for real and timed: what the estimate of the whole is made of.

Shapes: B examples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from engine.batching import PaddedBatch
from engine.capture import GradientCapture
from engine.curvature import get_metric
from engine.curvature.base import Metric, Setting, Statistics
from engine.curvature.fit import fit_statistics
from engine.curvature.labels import LabelDraws, row_key
from engine.features import GradientFeatures
from engine.forward_rows import mean_token_loss
from engine.memory import plain_features
from engine.methods import GradientMethod, LossMethod, RepresentationMethod
from engine.model import LoadedModel
from engine.moments import read_moments
from engine.plan import Plan
from engine.rows import Batcher
from engine.text import Encoded

_TIMES = 2  # the better of them: somebody else may have had the processor


@dataclass(frozen=True)
class Trial:
    """Seconds. row: the stored vector of a row, of one checkpoint. fitting: all calibration passes over a row.
    fixed: a checkpoint's eigenbases and what else does not grow with the rows."""

    row: float
    fitting: float = 0.0
    fixed: float = 0.0


def try_rows(model: LoadedModel, plan: Plan, sample: Sequence[Encoded], token_budget: int) -> Trial:
    """`sample`: rows as they come. What is timed has been done once before, uncounted, so that caches are warm."""
    batches = [
        batch.padded
        for batch in Batcher(model, token_budget, plan.max_batch_rows).batches(
            sample, [1.0] * len(sample), range(len(sample))
        )
    ]
    if isinstance(plan.method, GradientMethod):
        return _gradients(model, plan, sample, batches)
    if isinstance(plan.method, LossMethod) or (
        isinstance(plan.method, RepresentationMethod) and plan.method.parts == 1
    ):
        return Trial(_best(lambda: [mean_token_loss(model, model.states[-1], b) for b in batches]) / len(sample))
    tracked = model.tracked(None)
    features = plain_features(model, tracked)
    with GradientCapture(model, tracked) as capture:
        return Trial(_best(lambda: [features.compute(capture, b) for b in batches]) / len(sample))


def _gradients(model: LoadedModel, plan: Plan, sample: Sequence[Encoded], batches: list[PaddedBatch]) -> Trial:
    metric = get_metric(plan.method.metric, plan.method_options)  # type: ignore[attr-defined]
    with GradientCapture(model, plan.tracked) as capture:
        plain = plain_features(model, plan.tracked)
        plain.compute(capture, batches[0])
        statistics, fitting, fixed = _fit(capture, metric, sample, batches, plan.options.seed)
        features = _features(model, plan, metric, statistics)
        row = _best(lambda: [features.compute(capture, batch) for batch in batches]) / len(sample)
    mapped = row if metric.sample != "none" else 0.0  # the calibration rows' vectors, before the map is fitted to them
    return Trial(row, fitting + mapped, fixed)


def _fit(
    capture: GradientCapture, metric: Metric, sample: Sequence[Encoded], batches: list[PaddedBatch], seed: int
) -> tuple[Statistics, float, float]:
    """(the sample's statistics, seconds of a row's passes, seconds beside the passes)"""
    if not metric.needs_covariance:
        return Statistics(0, 0), 0.0, 0.0
    watch = _Watch()
    draws = LabelDraws(seed, 0, [row_key(row.ids) for row in sample])
    started = time.perf_counter()
    statistics = fit_statistics(capture, lambda: watch.over(batches), metric, draws)
    whole = time.perf_counter() - started
    return statistics, watch.seconds / len(sample), whole - watch.seconds


@dataclass
class _Watch:
    """What passes take, from the first batch that is asked for until there is none left."""

    seconds: float = field(default=0.0)

    def over(self, batches: Sequence[PaddedBatch]) -> Iterator[PaddedBatch]:
        started = time.perf_counter()
        yield from batches
        self.seconds += time.perf_counter() - started


def _features(model: LoadedModel, plan: Plan, metric: Metric, statistics: Statistics) -> GradientFeatures:
    """As the build makes them of the last checkpoint."""
    state = model.states[-1]
    setting = Setting(
        statistics,
        plan.projection(0),
        damping=getattr(plan.method_options, "damping", 0.0),
        dtype=torch.promote_types(model.dtype, torch.float32),
        device=model.device,
        options=plan.method_options,
        moments=read_moments(model, state, plan.tracked) if metric.needs_moments else None,
    )
    return GradientFeatures(
        model,
        state,
        plan.tracked,
        metric.module_sketches(plan.tracked, setting),
        train_sketches=metric.train_sketches(plan.tracked, setting),
        unit_norm=False,
    )


def _best(work: Callable[[], list[Any]]) -> float:
    """Seconds; the first time is not counted."""
    taken = []
    for _ in range(1 + _TIMES):
        started = time.perf_counter()
        done = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
        del done
    return min(taken[1:])
