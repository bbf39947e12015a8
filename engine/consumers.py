"""What is made of (a, δ): sketches, curvature statistics, or the pair itself.

Shapes: B examples, T positions, I/O a module's input/output width, D all sketch numbers of one checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.curvature.base import Statistics
from engine.modules import TrackedModule
from engine.sketch import ModuleSketch, outer_sum, rotated


class SketchConsumer:
    """Writes every module's Φ, flattened, into its columns of one matrix `vectors_BD`."""

    def __init__(self, tracked: Sequence[TrackedModule], sketches: dict[str, ModuleSketch]) -> None:
        self._sketches = sketches
        self._columns: dict[str, slice] = {}
        start = 0
        for module in tracked:
            rows, cols = sketches[module.name].shape
            self._columns[module.name] = slice(start, start + rows * cols)
            start += rows * cols
        self.width = start

    def begin(self, examples: int, device: torch.device, dtype: torch.dtype) -> None:
        # zeros: a module the batch never reached (an expert, say) has a zero gradient
        self.vectors_BD = torch.zeros(examples, self.width, device=device, dtype=dtype)

    def keep(self, module: TrackedModule, a_BTI: Tensor) -> Tensor:
        return self._sketches[module.name].prepare(a_BTI)

    def take(self, module: TrackedModule, kept: Tensor, d_BTO: Tensor) -> None:
        phi_BPR = self._sketches[module.name].sketch(kept, d_BTO)
        self.vectors_BD[:, self._columns[module.name]].unflatten(1, phi_BPR.shape[1:]).copy_(phi_BPR)


class RecordConsumer:
    """Keeps a and δ of every module: what shares per position are computed from."""

    def __init__(self) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}

    def keep(self, module: TrackedModule, a_BTI: Tensor) -> Tensor:
        return a_BTI

    def take(self, module: TrackedModule, kept: Tensor, d_BTO: Tensor) -> None:
        self.inputs[module.name], self.gradients[module.name] = kept, d_BTO


class CovarianceConsumer:
    """Σ aaᵀ per input group and Σ δδᵀ per module over non-pad positions: products in float32, sums in float64."""

    def __init__(self) -> None:
        self._inputs: dict[str, Tensor] = {}  # of all sums, the upper triangle
        self._outputs: dict[str, Tensor] = {}
        self._examples = 0
        self._positions: Tensor | int = 0  # stays on the device until it is asked for

    def begin(self, valid_BT: Tensor) -> None:
        self._valid_BT1 = valid_BT.unsqueeze(-1)
        self._examples += valid_BT.shape[0]
        self._positions = self._positions + valid_BT.sum()

    def keep(self, module: TrackedModule, a_BTI: Tensor) -> Tensor:
        _add_gram(self._inputs, module.group, a_BTI * self._valid_BT1)
        return a_BTI

    def take(self, module: TrackedModule, kept: Tensor, d_BTO: Tensor) -> None:
        _add_gram(self._outputs, module.name, d_BTO)  # δ is zero at pads: nothing to mask

    def statistics(self) -> Statistics:
        for sum_DD in (*self._inputs.values(), *self._outputs.values()):
            sum_DD.triu_().add_(sum_DD.triu(1).T)  # in place: of a dense model these are the largest matrices there are
        return Statistics(self._examples, int(self._positions), self._inputs, self._outputs)


class EigenMomentConsumer:
    """Σ (Q_SᵀGQ_A)² per module over examples, G summed over the example's positions, in float64."""

    def __init__(self, inputs_basis: dict[str, Tensor], outputs_basis: dict[str, Tensor]) -> None:
        self._inputs_basis = inputs_basis
        self._outputs_basis = outputs_basis
        self.moments: dict[str, Tensor] = {}

    def keep(self, module: TrackedModule, a_BTI: Tensor) -> Tensor:
        return a_BTI

    def take(self, module: TrackedModule, kept: Tensor, d_BTO: Tensor) -> None:
        q_out_OO, q_in_II = self._outputs_basis[module.name], self._inputs_basis[module.group]
        g_BOI = outer_sum(d_BTO, kept).to(q_in_II.dtype)
        _add(self.moments, module.name, rotated(g_BOI, q_out_OO, q_in_II).square().sum(0).double())


# So many columns are multiplied with all from their own on: narrow strips leave out half of the square.
_STRIP = {"cpu": 64, "cuda": 512}


def _add_gram(sums: dict[str, Tensor], name: str, x_BTD: Tensor) -> None:
    """To the sum's upper triangle, the upper triangle of Σ xxᵀ over B and T; of what lies below it, something."""
    x_MD = x_BTD.flatten(0, -2)
    x_MD = x_MD.to(torch.promote_types(x_MD.dtype, torch.float32))
    width, strip = x_MD.shape[1], _STRIP.get(x_MD.device.type, _STRIP["cuda"])
    if name not in sums:
        sums[name] = torch.zeros(width, width, dtype=torch.float64, device=x_MD.device)
    for start in range(0, width, strip):
        sums[name][start : start + strip, start:] += x_MD[:, start : start + strip].T @ x_MD[:, start:]


def _add(sums: dict[str, Tensor], name: str, term: Tensor) -> None:
    if name in sums:
        sums[name] += term
    else:
        sums[name] = term
