"""What a metric is whose inverse is applied to the query alone: rows are stored as plain gradients.

The score is ⟨u, g_z⟩ with u = H⁻¹ g_q found when the question is asked, so it may take iterations and exact products,
which no row could be given one by one.

Shapes: K gradients, D the numbers of all tracked modules' gradients ([O, I] after [O, I] in the modules' order).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engine.curvature.base import Setting
from engine.curvature.identity import Identity
from engine.modules import TrackedModule

Product = Callable[[Tensor], Tensor]  # [K, D] → [K, D]


class QuerySolver(Protocol):
    """A linear map of query gradients; what it makes of one does not depend on those beside it."""

    def solve(self, gradients_KD: Tensor) -> Tensor:
        """u [K, D]. Raises InvalidOption where the options do not let it end."""
        ...

    def transposed(self, vectors_KD: Tensor) -> Tensor:
        """w [K, D] with ⟨solve(g), v⟩ = ⟨g, w⟩."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint as its solver sees it.

    product: by the Gauss-Newton matrix of the calibration rows (engine/ggn.py). diagonals: the mean of its diagonal in
    each module. horizon: Σ η over the optimizer's steps since the checkpoint before, times the rows a step adds up.
    """

    setting: Setting
    product: Product
    diagonals: Callable[[], Mapping[str, float]]
    horizon: float = 0.0


class SolvedMetric(Identity):
    """Sketches are the identity's, on both sides."""

    @abstractmethod
    def solvers(self, tracked: Sequence[TrackedModule], checkpoints: Sequence[Checkpoint]) -> list[QuerySolver]:
        """One a checkpoint. The gradient each is given: of `query_checkpoint`."""

    def query_checkpoint(self, number: int, count: int) -> int:
        """At which of the index's checkpoints the query's gradient is taken for checkpoint `number`."""
        return number


class SymmetricSolver:
    """solve() is its own transpose."""

    @abstractmethod
    def solve(self, gradients_KD: Tensor) -> Tensor: ...

    def transposed(self, vectors_KD: Tensor) -> Tensor:
        return self.solve(vectors_KD)


def per_number(levels: Mapping[str, float], tracked: Sequence[TrackedModule], like: Tensor) -> Tensor:
    """[D]: each module's level at each of its numbers."""
    values_M = torch.tensor([levels[m.name] for m in tracked], dtype=like.dtype, device=like.device)
    counts_M = torch.tensor([m.parameters for m in tracked], device=like.device)
    return values_M.repeat_interleave(counts_M)
