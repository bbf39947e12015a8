"""Calibration: one pass for A and S, one for Λ, over a fixed sample with labels drawn from the model itself.

Shapes: D a module's input or output width.

The result depends neither on how rows were batched nor on their order. The second pass draws its own labels: in a
basis fitted to the very same gradients the largest Λ come out too large and the smallest too small, and the ranking
follows the draw (docs/decisions.md). With the recipe's weight w on a row's loss, the sampled gradient carries √w:
E[(√w Σ_t g_t)(·)ᵀ] = w Σ_t H_t is the weighted loss's curvature.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from engine.batching import PaddedBatch
from engine.capture import GradientCapture
from engine.consumers import CovarianceConsumer, EigenMomentConsumer
from engine.cores import CORES, on_every_core
from engine.curvature.base import Metric, Statistics, symmetric_eigen
from engine.curvature.labels import LabelDraws

Batches = Callable[[], Iterable[PaddedBatch]]

_SLOW_WIDTH = 512  # from here on a decomposition takes a tenth of a second and more


def fit_statistics(
    capture: GradientCapture,
    batches: Batches,
    metric: Metric,
    draws: LabelDraws,
    between: Callable[[], None] = lambda: None,
) -> Statistics:
    """The statistics `metric` needs, on the weights now loaded. `batches` is called once per pass.

    between: called before decompositions that take long; it may load other weights.
    """
    if not metric.needs_covariance:
        return Statistics(examples=0, positions=0)
    covariances = CovarianceConsumer()
    for batch in batches():
        covariances.begin(batch.valid_BT)
        capture.run(batch, covariances, draws.sampler(batch))
    statistics = covariances.statistics()
    if not metric.needs_eigen:
        return statistics
    # float32 bases for float32 models: the moments are averages over many examples
    dtype = torch.promote_types(capture.model.dtype, torch.float32)
    statistics = replace(
        statistics,
        inputs_basis=_bases(statistics.inputs, dtype, between),
        outputs_basis=_bases(statistics.outputs, dtype, between),
    )
    fresh = replace(draws, fresh=True)
    return replace(statistics, eigen=_eigen_moments(capture, batches, statistics, fresh))


def _bases(sums: dict[str, Tensor], dtype: torch.dtype, between: Callable[[], None]) -> dict[str, Tensor]:
    """Eigenvectors in columns. On a processor as many at once as it has cores, those of like width together."""
    names = sorted(sums, key=lambda name: -len(sums[name]))
    together = CORES if all(sum_DD.device.type == "cpu" for sum_DD in sums.values()) else 1
    bases: dict[str, Tensor] = {}
    for start in range(0, len(names), together):
        some = names[start : start + together]
        if len(sums[some[0]]) >= _SLOW_WIDTH:
            between()
        found = on_every_core(lambda name: symmetric_eigen(sums[name])[1].to(dtype), some)
        bases.update(zip(some, found, strict=True))
    return {name: bases[name] for name in sums}


def _eigen_moments(
    capture: GradientCapture, batches: Batches, statistics: Statistics, draws: LabelDraws
) -> dict[str, Tensor]:
    moments = EigenMomentConsumer(statistics.inputs_basis, statistics.outputs_basis)
    for batch in batches():
        capture.run(batch, moments, draws.sampler(batch))
    return moments.moments


def calibration_rows(row_keys: Sequence[str], sample: int) -> list[int]:
    """The `sample` rows with the lowest keys, by position: a random choice that the rows' order does not change."""
    return sorted(heapq.nsmallest(sample, range(len(row_keys)), key=lambda position: (row_keys[position], position)))


def statistics_to_arrays(statistics: Statistics, dtype: torch.dtype) -> dict[str, np.ndarray]:
    """Flat names for safetensors. Only what sketches are made from is kept: bases instead of sums where they stand."""
    arrays = {"counts": np.array([statistics.examples, statistics.positions], dtype=np.int64)}
    parts = {
        "eigen": statistics.eigen,
        "inputs_basis": statistics.inputs_basis,
        "outputs_basis": statistics.outputs_basis,
    }
    if not statistics.eigen:
        parts = {"inputs": statistics.inputs, "outputs": statistics.outputs}
    for part, tensors in parts.items():
        for name, tensor in tensors.items():
            arrays[f"{part}|{name}"] = np.ascontiguousarray(tensor.to("cpu", dtype).numpy())
    return arrays


def statistics_from_arrays(arrays: dict[str, np.ndarray]) -> Statistics:
    examples, positions = (int(count) for count in arrays["counts"])
    parts: dict[str, dict[str, Tensor]] = {
        part: {} for part in ("inputs", "outputs", "eigen", "inputs_basis", "outputs_basis")
    }
    for key, array in arrays.items():
        part, bar, name = key.partition("|")
        if bar:
            parts[part][name] = torch.from_numpy(array)
    return Statistics(examples, positions, **parts)
