"""EK-FAC: Ĝ = (Q_SᵀG Q_A)·(Λ+λ)^-α/2, Λ = E[(Q_SᵀGQ_A)²] per example, λ = c·mean Λ; α = 1 is the inverse.

George et al. 2018 (arXiv:1806.03884), §3: K-FAC's eigenbasis with the second moments measured in it.
An α below 1 is for runs that stopped early: gradient descent follows a direction of small curvature only part of the
way to where the inverse sees it go (what SOURCE's (1−e^{−ηKσ})/σ says exactly); docs/decisions.md has the measurement.
Λ is of whole examples' gradients (summed over positions), so it already carries the length.

Shapes: I/O a module's input/output width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.curvature.base import Metric, Setting, register
from engine.modules import TrackedModule
from engine.sketch import EigenSketch, ModuleSketch


class EKFac(Metric):
    name = "ekfac"
    needs_covariance = True
    needs_eigen = True

    def module_sketches(self, tracked: Sequence[TrackedModule], setting: Setting) -> dict[str, ModuleSketch]:
        statistics = setting.statistics
        bases = {m.group: setting.place(statistics.inputs_basis[m.group]) for m in tracked}
        rights = {m.group: setting.projected_right(m) for m in tracked}
        sketches: dict[str, ModuleSketch] = {}
        for module in tracked:
            scale_OI = inverse_root_of_moments(
                statistics.eigen[module.name] / statistics.examples, setting.damping, setting.exponent
            )
            sketches[module.name] = EigenSketch(
                setting.place(statistics.outputs_basis[module.name]),
                bases[module.group],
                setting.place(scale_OI),
                setting.projected_left(module),
                rights[module.group],
            )
        return sketches


def inverse_root_of_moments(moments_OI: Tensor, damping: float, exponent: float = 1.0) -> Tensor:
    """(Λ + c·mean Λ)^-α/2; zero where nothing was measured (see `kfac.inverse_root`)."""
    moments_OI = moments_OI.double()
    mean = moments_OI.mean()
    return torch.zeros_like(moments_OI) if mean <= 0 else (moments_OI + damping * mean) ** (-exponent / 2)


register(EKFac())
