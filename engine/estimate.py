"""What a build will cost, before it is paid: one small batch is timed, the rest is arithmetic."""

from __future__ import annotations

import time

from engine.capture import GradientCapture
from engine.config import IndexConfig
from engine.coverage import require_coverage
from engine.curvature import get_metric
from engine.curvature.base import Setting, Statistics
from engine.dataset import Dataset
from engine.errors import NoLossToken
from engine.features import GradientFeatures
from engine.manifest import row_bytes
from engine.methods import GradientMethod, RowMethod
from engine.model import LoadedModel
from engine.plan import Plan, make_plan
from engine.rows import Batcher
from engine.sketch import Projection
from engine.text import Encoded
from engine.types import IndexEstimate

_SAMPLE_ROWS = 32
_PER_ROW_BYTES = 64  # self-scores, norms, lengths and the manifest's share
_ROTATION = 1.15  # a row in the metric takes a little longer than the plain gradient that was timed


def estimate_index(model: LoadedModel, dataset: Dataset, config: IndexConfig) -> IndexEstimate:
    """Time from one timed batch × passes; memory and disk from the layout."""
    plan = make_plan(model, len(dataset), config)
    require_coverage(model, plan)
    sample = _encode_sample(model, dataset, plan)
    seconds_per_row = 0.0 if isinstance(plan.method, RowMethod) else _seconds_per_row(model, plan, sample)
    weights = sum(p.numel() * p.element_size() for p in model.module.parameters())
    return IndexEstimate(
        seconds=round(seconds_per_row * _row_passes(plan), 2),
        memory_bytes=weights
        + 4 * plan.shard_rows * max(plan.widths.stored, 1)
        + _curvature_bytes(plan)
        + _fitting_bytes(plan),
        disk_bytes=plan.rows * (row_bytes(plan.widths.stored, plan.options.dtype) + _PER_ROW_BYTES)
        + _curvature_bytes(plan)
        + 2 * (plan.widths.learned or 0) * plan.dims,
        rows=plan.rows,
        dims=plan.dims,
        sketched=plan.sketched,
        basis=f"one batch of {len(sample)} rows timed on this machine, times passes over rows and checkpoints",
    )


def _encode_sample(model: LoadedModel, dataset: Dataset, plan: Plan) -> list[Encoded]:
    encoder = model.encoder(plan.options.max_length)
    sample = []
    count = min(len(dataset), _SAMPLE_ROWS)
    for position in (i * len(dataset) // count for i in range(count)):
        try:
            sample.append(encoder.encode(dataset[position]))
        except NoLossToken:
            continue  # the build will name the row; an estimate need not fail over it
    if not sample:
        raise NoLossToken("None of the sampled rows has a token to predict.")
    return sample


def _seconds_per_row(model: LoadedModel, plan: Plan, sample: list[Encoded]) -> float:
    """A plain gradient pass; the first batch warms caches and is not counted."""
    tracked = plan.tracked or model.tracked(None)
    setting = Setting(Statistics(0, 0), Projection(8, 0, 0), 0.0, model.dtype, model.device)
    sketches = get_metric("identity").module_sketches(tracked, setting)
    features = GradientFeatures(model, model.states[-1], tracked, sketches, unit_norm=False)
    batcher = Batcher(model, plan.options.token_budget, plan.max_batch_rows)
    elapsed = 0.0
    with GradientCapture(model, tracked) as capture:
        for _ in range(2):
            started = time.perf_counter()
            for batch in batcher.batches(sample, [1.0] * len(sample), list(range(len(sample)))):
                features.compute(capture, batch.padded).self_B.sum().item()
            elapsed = time.perf_counter() - started
    return _ROTATION * elapsed / len(sample)


def _row_passes(plan: Plan) -> int:
    if not isinstance(plan.method, GradientMethod):
        return plan.rows
    metric = get_metric(plan.method.metric, plan.method_options)
    passes = metric.needs_covariance + metric.needs_eigen + (metric.sample != "none")
    return plan.vectors * (plan.rows + passes * plan.curvature_rows + (plan.widths.sketch_rows or 0))


def _fitting_bytes(plan: Plan) -> int:
    """While a learned basis is fitted: the sample in float32 and the basis in float16."""
    return plan.dims * (4 * (plan.widths.sketch_rows or 0) + 2 * (plan.widths.learned or 0))


def _curvature_bytes(plan: Plan) -> int:
    if not isinstance(plan.method, GradientMethod):
        return 0
    metric, numbers = get_metric(plan.method.metric, plan.method_options), 0
    if metric.needs_covariance:
        inputs = {m.group: m.inputs**2 for m in plan.tracked}
        numbers += sum(inputs.values()) + sum(m.outputs**2 + m.parameters for m in plan.tracked)
    if metric.sample != "none":  # a basis of at most as many directions as rows were sampled
        numbers += plan.curvature_rows * plan.dims // plan.vectors
    return 4 * numbers * plan.vectors
