"""LoGra: gradients projected on both sides first, then the Fisher of the projected gradients, module by module.

Choe et al. 2024 (arXiv:2405.13954), §3.1–3.2: Φ = P_o G P_iᵀ and ⟨Φ_q, ((1/S) Σ ΦΦᵀ + λI)⁻¹ Φ_z⟩, with the rows' own
labels. The sides are random, or (`pca`) the leading eigenvectors of the covariances of δ and a (K-FAC's factors), of
norm 1. A side no wider than the projection is left alone.

Shapes: D a side's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from engine.curvature.base import Metric, Setting, register, symmetric_eigen
from engine.curvature.fisher import SampleMap, fisher_map
from engine.modules import TrackedModule
from engine.sketch import ModuleSketch, SeparableSketch
from engine.whitening import BlockMap


class LoGra(SampleMap):
    name = "logra"
    sample = "own"

    def __init__(self, *, pca: bool = False) -> None:
        self.needs_covariance = pca

    def chosen(self, options: Any) -> Metric:
        return LoGra(pca=options.init == "pca")

    def module_sketches(self, tracked: Sequence[TrackedModule], setting: Setting) -> dict[str, ModuleSketch]:
        if not self.needs_covariance:
            return super().module_sketches(tracked, setting)
        statistics, width = setting.statistics, setting.projection.width
        rights: dict[str, Tensor | None] = {}
        sketches: dict[str, ModuleSketch] = {}
        for module in tracked:
            if module.group not in rights:
                rights[module.group] = _principal(statistics.inputs[module.group], width, setting)
            left = _principal(statistics.outputs[module.name], width, setting)
            sketches[module.name] = SeparableSketch(module.outputs, module.inputs, left, rights[module.group])
        return sketches

    def fit_map(self, sample_SD: Tensor, columns: Sequence[slice], options: Any) -> BlockMap:
        return fisher_map(sample_SD, columns, options.damping)


def _principal(covariance_DD: Tensor, width: int | None, setting: Setting) -> Tensor | None:
    """The leading `width` eigenvectors, as rows; None where the side is no wider than that."""
    if width is None or len(covariance_DD) <= width:
        return None
    return setting.place(symmetric_eigen(covariance_DD)[1].flip(1)[:, :width].T)


register(LoGra())
