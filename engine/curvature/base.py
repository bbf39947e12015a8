"""What a metric is: the statistics it needs, and how they become each module's sketch.

Shapes: I/O a module's input/output width; N calibration examples, M = non-pad positions among them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from engine.modules import TrackedModule
from engine.sketch import ModuleSketch, Projection


@dataclass(frozen=True)
class Statistics:
    """Float64 sums over a calibration sample with labels sampled from the model.

    inputs: group → Σ aaᵀ [I, I]; outputs: module → Σ δδᵀ [O, O], over `positions` non-pad positions.
    eigen: module → Σ (Q_SᵀGQ_A)² [O, I] over `examples`, in the bases of `inputs_basis` / `outputs_basis`.
    """

    examples: int
    positions: int
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    eigen: dict[str, Tensor] = field(default_factory=dict)
    inputs_basis: dict[str, Tensor] = field(default_factory=dict)
    outputs_basis: dict[str, Tensor] = field(default_factory=dict)

    @property
    def mean_length(self) -> float:
        """T̄ of DESIGN §4: non-pad positions per example."""
        return self.positions / self.examples


class Metric(ABC):
    """A strategy. needs_covariance / needs_eigen: which calibration passes it asks for."""

    name: str
    needs_covariance: bool = False
    needs_eigen: bool = False

    @abstractmethod
    def module_sketches(self, tracked: Sequence[TrackedModule], setting: Setting) -> dict[str, ModuleSketch]:
        """Module name → sketch. `right` factors are one object per input group."""


@dataclass(frozen=True)
class Setting:
    """What a checkpoint's sketches are made from, and where they are to lie. damping: c of DESIGN §4."""

    statistics: Statistics
    projection: Projection
    damping: float
    dtype: torch.dtype
    device: torch.device

    def place(self, matrix: Tensor) -> Tensor:
        return matrix.to(self.device, self.dtype)

    def projected_left(self, module: TrackedModule) -> Tensor | None:
        side = self.projection.left(module)
        return None if side is None else self.place(torch.from_numpy(side))

    def projected_right(self, module: TrackedModule) -> Tensor | None:
        side = self.projection.right(module)
        return None if side is None else self.place(torch.from_numpy(side))


_METRICS: dict[str, Metric] = {}


def register(metric: Metric) -> Metric:
    _METRICS[metric.name] = metric
    return metric


def get_metric(name: str) -> Metric:
    return _METRICS[name]


def compose(side: np.ndarray | None, whitening: Tensor) -> Tensor:
    """Projection after whitening; float64."""
    return whitening if side is None else torch.from_numpy(side) @ whitening


def symmetric_eigen(matrix_DD: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (ascending, negatives of rounding clipped to 0) and eigenvectors in columns; float64."""
    values_D, vectors_DD = torch.linalg.eigh(matrix_DD.double())
    return values_D.clamp_min(0.0), vectors_DD
