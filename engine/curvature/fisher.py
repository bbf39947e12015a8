"""Fisher, empirical or sampled: H = (1/S) Σ_s g_s g_sᵀ + λI over a sample of S rows, λ = c·tr/d per block.

Stored is H^-½ g, from the sample's own spectrum (engine/whitening.py): of d numbers while d ≤ S, else of its S×S Gram
matrix, so that an exact solve costs S² and not D². With all rows in the sample and one block this is the full
empirical Fisher. Its dual form, N(K+NλI)⁻¹k (DESIGN §4), is the same number.

Shapes: S rows of the sample, D numbers of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor

from engine.curvature.base import Metric, Setting, register
from engine.curvature.identity import Identity
from engine.whitening import BlockMap, inverse_root, spectrum_map, storage_dtype


class SampleMap(Identity):
    """Plain (projected) gradients, then what was fitted on a sample of them."""

    def load_map(self, arrays: dict[str, np.ndarray], setting: Setting) -> BlockMap:
        return BlockMap.from_arrays(arrays, setting.device)


class Fisher(SampleMap):
    name = "fisher"

    def __init__(self, labels: Literal["own", "drawn"] = "own") -> None:
        self.sample = labels

    def chosen(self, options: Any) -> Metric:
        return Fisher(options.labels)

    def fit_map(self, sample_SD: Tensor, columns: Sequence[slice], options: Any) -> BlockMap:
        blocks = whole(columns) if options.blocks == "all" else columns
        return fisher_map(sample_SD, blocks, options.damping)


def fisher_map(sample_SD: Tensor, columns: Sequence[slice], damping: float) -> BlockMap:
    """H^-½, one H per block of `columns`."""
    return spectrum_map(sample_SD, columns, inverse_root(damping)).to(storage_dtype(sample_SD, damping))


def whole(columns: Sequence[slice]) -> list[slice]:
    """All modules as one block."""
    return [slice(columns[0].start, columns[-1].stop)]


register(Fisher())
