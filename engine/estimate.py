"""What a build will cost, before it is paid: some rows are done for real and timed, the rest is arithmetic.

Shapes: N rows, L lists, W stored numbers a row, S rows of a sample, D numbers of a row over all checkpoints.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from engine.causal.replay import training_seconds
from engine.config import IndexConfig
from engine.coverage import require_coverage
from engine.dataset import Dataset
from engine.errors import NoLossToken
from engine.footprint import build_bytes, curvature_bytes, fitting_budget, rows_of_batch
from engine.ivf_build import list_products
from engine.manifest import row_bytes
from engine.memory import bytes_per_token
from engine.methods import GradientMethod, LossMethod, ReplayMethod, RowMethod
from engine.model import LoadedModel
from engine.plan import Plan, make_plan
from engine.replayed import run_of
from engine.text import Encoded
from engine.trial import Trial, try_rows
from engine.types import IndexEstimate

_SAMPLE_ROWS = 64
_PER_ROW_BYTES = 64  # self-scores, norms, lengths and the manifest's share
_TOKEN_BYTES = 4  # a row's tokens, in memory or in a mapped file
# What a processor's memory allocator holds of what a pass asks for at once: freed pieces between others
# (benchmarks/estimate.py). A GPU's is asked for the whole.
_HELD = {"cpu": 1.35}
_MATRIX = 512  # of the product that tells how fast this machine multiplies


def estimate_index(model: LoadedModel, dataset: Dataset, config: IndexConfig) -> IndexEstimate:
    """Time from rows of this dataset done in this metric; memory and disk from the layout and a measured pass."""
    plan = make_plan(model, len(dataset), config)
    require_coverage(model, plan)
    sample, encoding = _encode_sample(model, dataset, plan)
    mean_length = float(np.mean([len(row.ids) for row in sample]))
    budget = fitting_budget(model, plan, mean_length)
    seconds = encoding * plan.rows + _training(model, dataset, plan)
    memory = build_bytes(plan, rows_of_batch(budget, mean_length)) + round(_TOKEN_BYTES * mean_length * plan.rows)
    if not isinstance(plan.method, RowMethod | ReplayMethod):
        seconds += _seconds(plan, try_rows(model, plan, sample, budget))
        # the longest rows go first, and side by side
        batch_tokens = min(budget, max(len(row.ids) for row in sample) * plan.rows)
        held = _HELD.get(model.device.type, 1.0) * bytes_per_token(model, plan.tracked or model.tracked(None))
        memory += round(held * batch_tokens)
    return IndexEstimate(
        seconds=round(seconds + _products(plan), 2),
        memory_bytes=sum(p.numel() * p.element_size() for p in model.module.parameters()) + memory,
        disk_bytes=plan.rows * (row_bytes(plan.widths.stored, plan.options.dtype) + _PER_ROW_BYTES)
        + curvature_bytes(plan)
        + 2 * (plan.widths.learned or 0) * plan.dims,
        rows=plan.rows,
        dims=plan.dims,
        sketched=plan.sketched,
        basis=f"{len(sample)} rows done on this machine, times passes over rows and checkpoints",
    )


def _encode_sample(model: LoadedModel, dataset: Dataset, plan: Plan) -> tuple[list[Encoded], float]:
    """(rows from everywhere in the dataset, seconds a row)"""
    encoder = model.encoder(plan.options.max_length)
    sample = []
    count = min(len(dataset), _SAMPLE_ROWS)
    started = time.perf_counter()
    for position in (i * len(dataset) // count for i in range(count)):
        try:
            sample.append(encoder.encode(dataset[position]))
        except NoLossToken:
            continue  # the build will name the row; an estimate need not fail over it
    if not sample:
        raise NoLossToken("None of the sampled rows has a token to predict.")
    return sample, (time.perf_counter() - started) / count


def _seconds(plan: Plan, trial: Trial) -> float:
    """The passes over all rows and over the samples."""
    if not isinstance(plan.method, GradientMethod):
        passes = len(plan.checkpoint_indices) if isinstance(plan.method, LossMethod) else 1
        return trial.row * plan.rows * passes
    rows = plan.rows + (plan.widths.sketch_rows or 0)
    return plan.vectors * (trial.row * rows + trial.fitting * plan.curvature_rows + trial.fixed)


def _training(model: LoadedModel, dataset: Dataset, plan: Plan) -> float:
    """Replicas of the run, or the run once more for a replay index."""
    runs = 1 if isinstance(plan.method, ReplayMethod) else plan.options.replicas
    return runs * training_seconds(run_of(model, dataset)) if runs else 0.0


def _products(plan: Plan) -> float:
    """Fitting a learned basis (its sample's Gram matrix, then the basis), and lists for approximate search."""
    sample, learned = plan.widths.sketch_rows or 0, plan.widths.learned or 0
    double = 2.0 * plan.dims * sample * (sample + learned)
    single = list_products(plan) * 2.0
    if not double and not single:
        return 0.0
    return double * _seconds_each(torch.float64) + single * _seconds_each(torch.float32)


def _seconds_each(dtype: torch.dtype) -> float:
    """Of a multiplication or an addition within a large product."""
    matrix = torch.ones(_MATRIX, _MATRIX, dtype=dtype)
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        taken.append(time.perf_counter() - started)
    return min(taken) / (2 * _MATRIX**3)
