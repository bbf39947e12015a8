"""Products by a function of EK-FAC's curvature (engine/curvature/ekfac.py), on exact gradients.

Shapes: K gradients, I/O a module's input/output width, D the numbers of all tracked modules' gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.curvature.base import Setting
from engine.modules import TrackedModule

OfMoments = Callable[[Tensor], Tensor]  # Λ [O, I], float64, per example → [O, I]


class EKFacProduct:
    """v [K, D] → Q_S (f(Λ) ∘ (Q_Sᵀ v Q_A)) Q_Aᵀ, module by module: a function of EK-FAC's curvature."""

    def __init__(self, tracked: Sequence[TrackedModule], setting: Setting, function: OfMoments) -> None:
        self._tracked = tracked
        statistics = setting.statistics
        self._inputs = {m.group: setting.place(statistics.inputs_basis[m.group]) for m in tracked}
        self._outputs = {m.name: setting.place(statistics.outputs_basis[m.name]) for m in tracked}
        self._gains = {
            m.name: setting.place(function(statistics.eigen[m.name].double() / statistics.examples)) for m in tracked
        }

    def __call__(self, vectors_KD: Tensor) -> Tensor:
        start, parts = 0, []
        for module in self._tracked:
            stop = start + module.parameters
            part_KOI = vectors_KD[:, start:stop].unflatten(1, (module.outputs, module.inputs))
            parts.append(self.of_module(module, part_KOI).flatten(1))
            start = stop
        return torch.cat(parts, 1)

    def of_module(self, module: TrackedModule, part_KOI: Tensor) -> Tensor:
        q_out_OO, q_in_II = self._outputs[module.name].to(part_KOI), self._inputs[module.group].to(part_KOI)
        rotated_KOI = q_out_OO.T @ (part_KOI @ q_in_II)
        return q_out_OO @ (rotated_KOI * self._gains[module.name].to(part_KOI)) @ q_in_II.T
