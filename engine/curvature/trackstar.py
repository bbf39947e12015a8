"""TrackStar: gradients divided by Adam's √v̂, projected, whitened by R^-½; unit norm comes last (the pipeline's).

Chang et al. 2024 (arXiv:2410.17413), §3: R is the second moment of the corrected, projected gradients, module by
module. R may be mixed with the queries' own, λ·R_query + (1−λ)·R_train (appendix A.1.3), so that what all queries of a
task have in common weighs less: `mixed`. λ is where the two sorted spectra, pooled over modules, meet at the 1000th
component: λ·σ_query[k] = (1−λ)·σ_train[k]. Equal spectra give ½.

Shapes: S rows of the sample, Q queries, D numbers of a checkpoint, R directions of all blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from engine.curvature.adam import ElementSketch, adam_scale, moments_of, sides
from engine.curvature.base import Setting, register
from engine.curvature.fisher import SampleMap, fisher_map
from engine.modules import TrackedModule
from engine.sketch import ModuleSketch
from engine.whitening import BlockMap, spectrum

COMPONENTS = 1000


class TrackStar(SampleMap):
    name = "trackstar"
    needs_moments = True
    sample = "own"

    def module_sketches(self, tracked: Sequence[TrackedModule], setting: Setting) -> dict[str, ModuleSketch]:
        moments = moments_of(setting)
        return {
            module.name: ElementSketch(setting.place(adam_scale(moments, module.name)), *sides(module, setting))
            for module in tracked
        }

    def fit_map(self, sample_SD: Tensor, columns: Sequence[slice], options: Any) -> BlockMap:
        return fisher_map(sample_SD, columns, options.damping)


def mixed(
    sample_SD: Tensor, queries_QD: Tensor, columns: Sequence[slice], components: int = COMPONENTS
) -> tuple[Tensor, float]:
    """(rows [S+Q, D] whose mean of x xᵀ is λ·R_query + (1−λ)·R_train, λ): to be whitened like any sample."""
    share = query_share(spectra(sample_SD, columns), spectra(queries_QD, columns), components)
    rows = len(sample_SD) + len(queries_QD)
    train_SD = sample_SD * ((1 - share) * rows / len(sample_SD)) ** 0.5
    return torch.cat([train_SD, queries_QD * (share * rows / len(queries_QD)) ** 0.5]), share


def spectra(sample_SD: Tensor, columns: Sequence[slice]) -> Tensor:
    """[R] float64, largest first: the eigenvalues above zero of (1/S) Σ x xᵀ of every block, pooled."""
    values_R = torch.cat([spectrum(sample_SD[:, block])[0] for block in columns])
    return values_R[values_R > 0].sort(descending=True).values


def query_share(train_R: Tensor, query_R: Tensor, components: int = COMPONENTS) -> float:
    """λ with λ·σ_query[k] = (1−λ)·σ_train[k], k the `components`-th of the shorter spectrum or its last.

    0 where no query was measured, 1 where no row was.
    """
    k = min(components, len(train_R), len(query_R)) - 1
    if k < 0:
        return 0.0 if len(query_R) == 0 else 1.0
    return float(train_R[k] / (train_R[k] + query_R[k]))


register(TrackStar())
