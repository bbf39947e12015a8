"""The identity metric: plain inner products of gradients."""

from __future__ import annotations

from collections.abc import Sequence

from engine.curvature.base import Metric, Setting, register
from engine.modules import TrackedModule
from engine.sketch import ModuleSketch, SeparableSketch


class Identity(Metric):
    name = "identity"

    def module_sketches(self, tracked: Sequence[TrackedModule], setting: Setting) -> dict[str, ModuleSketch]:
        rights = {m.group: setting.projected_right(m) for m in tracked}
        sketches: dict[str, ModuleSketch] = {}
        for module in tracked:
            left = setting.projected_left(module)
            sketches[module.name] = SeparableSketch(module.outputs, module.inputs, left, rights[module.group])
        return sketches


register(Identity())
