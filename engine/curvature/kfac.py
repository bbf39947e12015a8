"""K-FAC with factored damping: H = T̄·(S+λ_S)⊗(A+λ_A), λ_A = √c·tr A/I, λ_S = √c·tr S/O; the metric is H^-α.

Martens & Grosse 2015 (arXiv:1503.05671), §6.3, with both factors damped in proportion to their own mean
eigenvalue, which keeps H a Kronecker product: H^-α/2 then factors into one matrix a side, absorbed into the
projections (L' = L(S+λ_S)^-α/2·T̄^-α/2, R' = R(A+λ_A)^-α/2). Whitening costs nothing more per example. α: see ekfac.py.

Shapes: D a side's width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from engine.curvature.base import Metric, Setting, compose, register, symmetric_eigen
from engine.modules import TrackedModule
from engine.sketch import ModuleSketch, SeparableSketch


class KFac(Metric):
    name = "kfac"
    needs_covariance = True

    def module_sketches(self, tracked: Sequence[TrackedModule], setting: Setting) -> dict[str, ModuleSketch]:
        statistics = setting.statistics
        rights: dict[str, Tensor] = {}
        sketches: dict[str, ModuleSketch] = {}
        for module in tracked:
            if module.group not in rights:
                whitening = inverse_root(
                    statistics.inputs[module.group] / statistics.positions, setting.damping, setting.exponent
                )
                rights[module.group] = setting.place(compose(setting.projection.right(module), whitening))
            whitening = inverse_root(
                statistics.outputs[module.name] / statistics.positions, setting.damping, setting.exponent
            )
            whitening = whitening * statistics.mean_length ** (-setting.exponent / 2)
            left = compose(setting.projection.left(module), whitening)
            sketches[module.name] = SeparableSketch(
                module.outputs, module.inputs, setting.place(left), rights[module.group]
            )
        return sketches


def inverse_root(covariance_DD: Tensor, damping: float, exponent: float = 1.0) -> Tensor:
    """(C + λ)^-α/2 with λ = √c·tr C/D; float64.

    A zero covariance (lora_A while B = 0) gives zero: every gradient of that module is zero too, and the
    inverse of nothing measured would be an invention.
    """
    values_D, vectors_DD = symmetric_eigen(covariance_DD)
    mean = values_D.mean()
    if mean <= 0:
        return torch.zeros_like(vectors_DD)
    roots_D = (values_D + math.sqrt(damping) * mean) ** (-exponent / 2)
    return (vectors_DD * roots_D) @ vectors_DD.T


register(KFac())
