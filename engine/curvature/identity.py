"""The identity metric: plain inner products of gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engine.curvature.base import Metric, Statistics, as_tensor, register
from engine.modules import TrackedModule
from engine.sketch import ModuleSketch, Projection, SeparableSketch


class Identity(Metric):
    name = "identity"

    def module_sketches(
        self,
        tracked: Sequence[TrackedModule],
        statistics: Statistics,
        projection: Projection,
        *,
        damping: float,
        dtype: torch.dtype,
        device: torch.device,
    ) -> dict[str, ModuleSketch]:
        rights = {m.group: as_tensor(projection.right(m)) for m in tracked}
        rights = {group: None if side is None else side.to(device, dtype) for group, side in rights.items()}
        sketches: dict[str, ModuleSketch] = {}
        for module in tracked:
            left = as_tensor(projection.left(module))
            left = None if left is None else left.to(device, dtype)
            sketches[module.name] = SeparableSketch(module.outputs, module.inputs, left, rights[module.group])
        return sketches


register(Identity())
