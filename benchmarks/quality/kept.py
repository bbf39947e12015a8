"""A recipe's outcomes and scores as one file beside the table, so that anyone can compute the table again.

    half_outcome_QMR, half_kept_MN, drop_outcome_QMR (the audited run's seed first), drop_kept_MN,
    full_outcome_QR, step_1_QV, step_2_QV, and scores/<method> [Q, N]

Outcomes are float64 nats; scores are float32, and the table is computed from those.

Shapes: Q questions, N rows, M subsets, R seeds, V directions.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np

from benchmarks.quality.table import MethodScores
from benchmarks.quality.truth import Truth
from benchmarks.report import RESULTS

FOLDER = RESULTS / "quality"
_SCORES = "scores/"
_KEPT_BITS = 12  # a relative error of 1e-4
_EPOCH = (1980, 1, 1, 0, 0, 0)  # no date in the file: the same figures give the same bytes


def as_kept(methods: Sequence[MethodScores]) -> list[MethodScores]:
    """The scores at the file's precision, each question's scaled by a power of two so that float32 can hold them."""
    return [replace(method, scores_QN=_scaled(method.scores_QN)) for method in methods]


def keep(recipe: str, truth: Truth, methods: Sequence[MethodScores], folder: Path = FOLDER) -> Path:
    """methods: as `as_kept` gives them. Returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{recipe}.npz"
    arrays = vars(truth) | {_SCORES + method.name: method.scores_QN for method in methods}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, array in arrays.items():
            content = BytesIO()
            np.lib.format.write_array(content, np.asarray(array), allow_pickle=False)
            file.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), content.getvalue(), zipfile.ZIP_DEFLATED)
    return path


def kept(recipe: str, folder: Path = FOLDER) -> tuple[Truth, dict[str, np.ndarray]]:
    """The outcomes, and every kept method's scores by name."""
    with np.load(folder / f"{recipe}.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    scores = {name.removeprefix(_SCORES): arrays.pop(name) for name in list(arrays) if name.startswith(_SCORES)}
    return Truth(**arrays), scores


def _scaled(scores_QN: np.ndarray) -> np.ndarray:
    """float32 [Q, N] of _KEPT_BITS significant bits, so that the file compresses to half. A question's ranking and its
    LDS do not change with the scale."""
    scores_QN = np.asarray(scores_QN, dtype=np.float64)
    exponent_Q1 = np.frexp(np.abs(scores_QN).max(axis=1, keepdims=True))[1]
    mantissa_QN, exponent_QN = np.frexp(np.ldexp(scores_QN, -exponent_Q1))
    return np.ldexp(np.rint(np.ldexp(mantissa_QN, _KEPT_BITS)), exponent_QN - _KEPT_BITS).astype(np.float32)
