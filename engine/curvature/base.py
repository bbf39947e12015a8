"""What a metric is: the statistics it needs, and how they become each module's sketch.

Shapes: I/O a module's input/output width; N calibration examples, M = non-pad positions among them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

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


@dataclass(frozen=True)
class Moments:
    """Adam's state after `step` steps, module name → [O, I] as gradients are laid out; of the loss's gradient.

    betas and epsilon: the recipe's.
    """

    step: int
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    betas: tuple[float, float]
    epsilon: float


class RowMap(Protocol):
    """A symmetric linear map of a checkpoint's whole vector, applied after the modules' sketches to both sides."""

    def apply(self, vectors_BD: Tensor) -> Tensor: ...

    def undo(self, vectors_BD: Tensor) -> Tensor:
        """The pseudo-inverse of `apply`."""
        ...

    def to_arrays(self) -> dict[str, np.ndarray]: ...


class Metric(ABC):
    """A strategy.

    needs_covariance / needs_eigen: which calibration passes it asks for. needs_moments: Adam's state beside every
    checkpoint. needs_horizons: the run's learning rates and steps (engine/ensemble.py). sample: whether `fit_map` is to
    see the calibration rows' vectors, and with which labels.
    """

    name: str
    needs_covariance: bool = False
    needs_eigen: bool = False
    needs_moments: bool = False
    needs_horizons: bool = False
    sample: Literal["none", "own", "drawn"] = "none"

    def chosen(self, options: Any) -> Metric:
        """This strategy as the method's options want it."""
        return self

    @abstractmethod
    def module_sketches(self, tracked: Sequence[TrackedModule], setting: Setting) -> dict[str, ModuleSketch]:
        """Module name → sketch. `right` factors are one object per input group."""

    def train_sketches(self, tracked: Sequence[TrackedModule], setting: Setting) -> dict[str, ModuleSketch] | None:
        """The training side's sketches where they are not the query's; of the same shapes."""
        return None

    def fit_map(self, sample_SD: Tensor, columns: Sequence[slice], options: Any) -> RowMap:
        """From the calibration rows' vectors; `columns`: each module's part. Asked where `sample` is not "none"."""
        raise TypeError(f"{self.name} fits no map")

    def load_map(self, arrays: dict[str, np.ndarray], setting: Setting) -> RowMap:
        raise TypeError(f"{self.name} fits no map")


@dataclass(frozen=True)
class Setting:
    """What a checkpoint's sketches are made from, and where they are to lie. damping: c of DESIGN §4.

    options: the method's. moments: Adam's state at this checkpoint, where the metric needs it.
    """

    statistics: Statistics
    projection: Projection
    damping: float
    dtype: torch.dtype
    device: torch.device
    options: Any = None
    moments: Moments | None = None

    @property
    def exponent(self) -> float:
        """α of H^-α: 1 where the method has no such option."""
        return getattr(self.options, "exponent", 1.0)

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


def get_metric(name: str, options: Any = None) -> Metric:
    """`options`: the method's, where what the metric needs depends on them."""
    return _METRICS[name] if options is None else _METRICS[name].chosen(options)


def compose(side: np.ndarray | None, whitening: Tensor) -> Tensor:
    """Projection after whitening; float64."""
    return whitening if side is None else torch.from_numpy(side) @ whitening


def symmetric_eigen(matrix_DD: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (ascending, negatives of rounding clipped to 0) and eigenvectors in columns; float64."""
    values_D, vectors_DD = torch.linalg.eigh(matrix_DD.double())
    return values_D.clamp_min(0.0), vectors_DD
