"""LESS: the training side is Adam's next step on the row alone, the query side its plain gradient.

Xia et al. 2024 (arXiv:2402.04333), §3.1–3.2: Σ_c η̄_c cos(∇ℓ(q), Γ(z)), both sides projected alike. Γ has Adam's
bias corrections, as in the paper's definition; the authors' code leaves them out and puts ε under the root. A row's
loss is its own mean over its targets: Γ is not linear, so the gradient's size matters beside the moments.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.curvature.adam import AdamStepSketch, moments_of, sides
from engine.curvature.base import Setting, register
from engine.curvature.identity import Identity
from engine.modules import TrackedModule
from engine.sketch import ModuleSketch


class Less(Identity):
    name = "less"
    needs_moments = True

    def train_sketches(self, tracked: Sequence[TrackedModule], setting: Setting) -> dict[str, ModuleSketch]:
        moments = moments_of(setting)
        sketches: dict[str, ModuleSketch] = {}
        for module in tracked:
            first_OI, second_OI = (setting.place(m[module.name]) for m in (moments.first, moments.second))
            sketches[module.name] = AdamStepSketch(
                first_OI, second_OI, moments.step, moments.betas, moments.epsilon, *sides(module, setting)
            )
        return sketches


register(Less())
