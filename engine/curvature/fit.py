"""Calibration: one pass for A and S, one for Λ, over a fixed sample with labels drawn from the model itself.

Shapes: B examples, T positions, C target columns, V vocabulary, I/O a module's input/output width.

The labels of a row depend on (seed, checkpoint, row position) alone, so both passes see the same ones and
the result does not depend on how rows were batched. With the recipe's weight w on a row's loss, the sampled
gradient carries √w: E[(√w Σ_t g_t)(·)ᵀ] = w Σ_t H_t is the curvature of the weighted loss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from engine.batching import PaddedBatch
from engine.capture import GradientCapture, LabelSampler
from engine.consumers import CovarianceConsumer, EigenMomentConsumer
from engine.curvature.base import Metric, Statistics, symmetric_eigen

Batches = Callable[[], Iterable[PaddedBatch]]


def fit_statistics(
    capture: GradientCapture, batches: Batches, metric: Metric, *, seed: int, checkpoint: int
) -> Statistics:
    """The statistics `metric` needs, on the weights now loaded. `batches` is called once per pass."""
    if not metric.needs_covariance:
        return Statistics(examples=0, positions=0)
    covariances = CovarianceConsumer()
    for batch in batches():
        covariances.begin(batch.valid_BT)
        capture.run(batch, covariances, sampled_labels(batch, seed, checkpoint))
    statistics = covariances.statistics()
    if not metric.needs_eigen:
        return statistics
    statistics = replace(
        statistics,
        inputs_basis={name: symmetric_eigen(sum_II)[1] for name, sum_II in statistics.inputs.items()},
        outputs_basis={name: symmetric_eigen(sum_OO)[1] for name, sum_OO in statistics.outputs.items()},
    )
    return replace(statistics, eigen=_eigen_moments(capture, batches, statistics, seed, checkpoint))


def _eigen_moments(
    capture: GradientCapture, batches: Batches, statistics: Statistics, seed: int, checkpoint: int
) -> dict[str, Tensor]:
    # float32 bases for float32 models: the moments are averages over many examples
    dtype = torch.promote_types(capture.model.dtype, torch.float32)
    moments = EigenMomentConsumer(
        {name: basis.to(dtype) for name, basis in statistics.inputs_basis.items()},
        {name: basis.to(dtype) for name, basis in statistics.outputs_basis.items()},
    )
    for batch in batches():
        capture.run(batch, moments, sampled_labels(batch, seed, checkpoint))
    return moments.moments


def sampled_labels(batch: PaddedBatch, seed: int, checkpoint: int) -> LabelSampler:
    """Inverse-CDF draws, one uniform number per row and column."""
    uniform_BT = torch.from_numpy(
        np.stack([_uniforms(seed, checkpoint, position, batch.ids_BT.shape[1]) for position in batch.positions])
    ).to(batch.ids_BT.device)

    def sample(logits_BCV: Tensor, columns_C: Tensor) -> Tensor:
        cumulative_BCV = logits_BCV.softmax(-1).cumsum(-1)
        thresholds_BC1 = uniform_BT[:, columns_C].to(cumulative_BCV.dtype).unsqueeze(-1) * cumulative_BCV[..., -1:]
        return (cumulative_BCV <= thresholds_BC1).sum(-1).clamp_max(logits_BCV.shape[-1] - 1)

    return sample


def _uniforms(seed: int, checkpoint: int, position: int, count: int) -> np.ndarray:
    key = hashlib.blake2b(f"labels|{seed}|{checkpoint}|{position}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little"))).random(count)


def calibration_rows(rows: int, sample: int) -> list[int]:
    """Evenly spaced positions: every part of the dataset is seen, and the choice needs no seed."""
    if sample >= rows:
        return list(range(rows))
    return [int(i * rows / sample) for i in range(sample)]


def statistics_to_arrays(statistics: Statistics, dtype: torch.dtype) -> dict[str, np.ndarray]:
    """Flat names for safetensors. Only what sketches are made from is kept: bases instead of sums where they stand."""
    arrays = {"counts": np.array([statistics.examples, statistics.positions], dtype=np.int64)}
    parts = {"eigen": statistics.eigen, "inputs_basis": statistics.inputs_basis, "outputs_basis": statistics.outputs_basis}
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

