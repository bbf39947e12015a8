"""What a build holds in memory, by its plan and one measured row, and the token budget that leaves room for it."""

from __future__ import annotations

from pathlib import Path

from engine.curvature import get_metric
from engine.loaded import LoadedModel
from engine.manifest import MANIFEST_FILE, read_manifest
from engine.memory import bytes_per_token, free_bytes, token_budget
from engine.methods import GradientMethod, RowMethod
from engine.plan import Plan

_SHARDS = 3  # one is filled, one is written, and that one is encoded beside it
_FITTING = 16  # bytes for each number of A and S: their float64 sums, float32 bases, and these as they are saved


def recorded_budget(path: Path) -> int | None:
    """The token budget that the build in `path` began with, or None where none lies there."""
    return int(read_manifest(path).plan["token_budget"]) if (path / MANIFEST_FILE).exists() else None


def fitting_budget(model: LoadedModel, plan: Plan, mean_length: float) -> int:
    """As many tokens a batch as the options allow and memory holds, measured on this machine and now."""
    if isinstance(plan.method, RowMethod):
        return plan.options.token_budget
    most = plan.options.token_budget
    fixed = build_bytes(plan, rows_of_batch(most, mean_length))
    return token_budget(bytes_per_token(model, plan.tracked), fixed, free_bytes(model.device), most)


def rows_of_batch(token_budget: int, mean_length: float) -> int:
    return max(1, round(token_budget / max(1.0, mean_length)))


def build_bytes(plan: Plan, batch_rows: int) -> int:
    """What the build holds beside the model and the passes of its batches."""
    shards = _SHARDS * 4 * min(plan.shard_rows, plan.rows) * max(plan.widths.stored, 1)
    if not isinstance(plan.method, GradientMethod):
        return shards
    metric = get_metric(plan.method.metric, plan.method_options)
    exact = 0
    if plan.max_batch_rows is not None:  # a gradient, its rotation, its scaled rotation
        exact = 3 * 4 * min(plan.max_batch_rows, batch_rows) * max(module.parameters for module in plan.tracked)
    vectors = 3 * 4 * batch_rows * plan.dims // plan.vectors
    fitting = _FITTING * _factor_numbers(plan) if metric.needs_covariance else 0
    sample = 8 * plan.curvature_rows * plan.dims // plan.vectors if metric.sample != "none" else 0
    return curvature_bytes(plan) + exact + vectors + max(shards, fitting, sample, basis_bytes(plan))


def basis_bytes(plan: Plan) -> int:
    """While a learned basis is fitted: the sample in float32 and the basis in float16."""
    return plan.dims * (4 * (plan.widths.sketch_rows or 0) + 2 * (plan.widths.learned or 0))


def curvature_bytes(plan: Plan) -> int:
    """What is kept of the curvature: as much on disk as in memory."""
    if not isinstance(plan.method, GradientMethod):
        return 0
    metric, numbers = get_metric(plan.method.metric, plan.method_options), 0
    if metric.needs_covariance:
        numbers += _factor_numbers(plan)
    if metric.needs_eigen:
        numbers += sum(module.parameters for module in plan.tracked)
    if metric.sample != "none":  # a basis of at most as many directions as rows were sampled
        numbers += plan.curvature_rows * plan.dims // plan.vectors
    return 4 * numbers * plan.vectors


def _factor_numbers(plan: Plan) -> int:
    """Of A and S of one checkpoint, or their eigenbases."""
    inputs = {module.group: module.inputs**2 for module in plan.tracked}
    return sum(inputs.values()) + sum(module.outputs**2 for module in plan.tracked)
