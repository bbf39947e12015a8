"""The benchmark's one table: what each method predicted, against what retraining really did.

A method's row has a dict for each regime: "half" (half of the rows removed, over seeds), "drop" (2 % removed, with the
audited run's own seed), "drop over seeds" (where there are several), and "detection". Figures that are not defined or
not measured are None. "difference" is the method's LDS minus that of the regime's best peer, chosen on the same
outcomes, which favours the peer; its p-value is two-sided and not corrected for the number of methods.

Shapes: Q questions, N rows, M subsets, R seeds, V directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.quality.detection import Relevance, detection
from benchmarks.quality.truth import Truth
from benchmarks.report import show
from engine.evaluate.ceiling import corrected_lds, noise_ceiling, seed_reliability
from engine.evaluate.lds import compare_lds, predict, score_lds
from engine.evaluate.metasmooth import metasmoothness

WHENCE, CONTROL = "whence", "control"  # the sources that are no peer
REGIMES = {
    "half": "half of the rows removed",
    "drop": "2 % of the rows removed, the audited run's seed",
    "drop over seeds": "2 % of the rows removed, mean over seeds",
}


@dataclass(frozen=True, eq=False)
class MethodScores:
    """source: "whence", "control" or the peer's name. self_scores_N: a row's self-influence or loss, None without one.
    seconds: index and questions; None if not measured."""

    name: str
    source: str
    scores_QN: np.ndarray
    seconds: float | None = None
    bytes_per_example: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    version: str = ""
    self_scores_N: np.ndarray | None = None

    @property
    def is_peer(self) -> bool:
        return self.source not in (WHENCE, CONTROL)


@dataclass(frozen=True, eq=False)
class Regime:
    """ceiling: of the LDS; None where the seeds do not agree at all, or there is one only."""

    name: str
    kept_MN: np.ndarray
    outcome_QMR: np.ndarray
    ceiling: float | None


def regimes(truth: Truth) -> list[Regime]:
    """With the audited run's own seed an outcome has no noise of the seed: its ceiling is 1."""
    half, drop = truth.half_outcome_QMR, truth.drop_outcome_QMR
    found = [
        Regime("half", truth.half_kept_MN, half, _ceiling(half)),
        Regime("drop", truth.drop_kept_MN, drop[:, :, :1], 1.0),
    ]
    several = Regime("drop over seeds", truth.drop_kept_MN, drop, _ceiling(drop))
    return [*found, several] if drop.shape[2] > 1 else found


def table_rows(
    recipe: str, methods: Sequence[MethodScores], truth: Truth, relevance: Relevance
) -> list[dict[str, Any]]:
    """One dict a method, fit for JSON, in the order given."""
    measured = {regime.name: _measured(methods, regime) for regime in regimes(truth)}
    return [
        {
            "recipe": recipe,
            "method": method.name,
            "source": method.source,
            "version": method.version,
            "options": method.options,
            **{name: found[at] for name, found in measured.items()},
            "detection": detection(method.scores_QN, method.self_scores_N, relevance),
            "seconds": method.seconds,
            "bytes per example": method.bytes_per_example,
        }
        for at, method in enumerate(methods)
    ]


def run_summary(recipe: str, truth: Truth) -> dict[str, Any]:
    """What holds for the run and not for a method: how smooth it is, how far its seeds agree."""
    smooth = metasmoothness(truth.full_outcome_QR[:, 0], truth.step_1_QV.T, truth.step_2_QV.T)
    return {
        "recipe": recipe,
        "questions": len(truth.full_outcome_QR),
        "rows": truth.half_kept_MN.shape[1],
        "metasmoothness": {"value": smooth.value, "low": smooth.low, "high": smooth.high},
        **{regime.name: _about(regime) for regime in regimes(truth)},
    }


def print_table(recipe: str, rows: Sequence[dict[str, Any]]) -> None:
    """The same rows as tables that a terminal can hold: one a regime, one for detection, one for cost."""
    for name, what in REGIMES.items():
        if name in rows[0]:
            show(f"{recipe}: {what}", [_predicts(row, row[name]) for row in rows])
    show(f"{recipe}: detection", [_detects(row) for row in rows])
    show(f"{recipe}: cost", [_costs(row) for row in rows])


def _measured(methods: Sequence[MethodScores], regime: Regime) -> list[dict[str, Any]]:
    predictions = [predict(method.scores_QN, regime.kept_MN) for method in methods]
    scored = [score_lds(prediction_QM, regime.outcome_QMR) for prediction_QM in predictions]
    values = {at: lds.value for at, lds in enumerate(scored) if lds.value is not None and methods[at].is_peer}
    best = max(values, key=lambda at: values[at], default=None)
    measured = []
    for at, lds in enumerate(scored):
        figures = {
            "lds": lds.value,
            "low": lds.low,
            "high": lds.high,
            "lds / ceiling": corrected_lds(lds.value, regime.ceiling),
            "significant share": lds.significant_share,
            "undefined": lds.undefined,
        }
        against = None if best in (None, at) else predictions[best]
        measured.append(figures | _difference(predictions[at], against, regime))
        measured[-1]["best peer"] = None if best is None else methods[best].name
    return measured


def _difference(prediction_QM: np.ndarray, peer_QM: np.ndarray | None, regime: Regime) -> dict[str, float | None]:
    names = ("difference", "difference low", "difference high", "p")
    if peer_QM is None:
        return dict.fromkeys(names)
    paired = compare_lds(prediction_QM, peer_QM, regime.outcome_QMR)
    return dict(zip(names, (paired.difference, paired.low, paired.high, paired.p_value), strict=True))


def _ceiling(outcome_QMR: np.ndarray) -> float | None:
    return noise_ceiling(seed_reliability(outcome_QMR), outcome_QMR.shape[2])


def _about(regime: Regime) -> dict[str, Any]:
    _, subsets, seeds = regime.outcome_QMR.shape
    removed = int((~regime.kept_MN[0]).sum())
    reliability = seed_reliability(regime.outcome_QMR)
    return {
        "subsets": subsets,
        "seeds": seeds,
        "rows removed": removed,
        "reliability": reliability,
        "ceiling": regime.ceiling,
    }


def _predicts(row: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
    """A regime's figures as text: two digits say what the intervals allow."""
    return {
        "method": row["method"],
        "LDS": _short(figures["lds"]),
        "95 %": _interval(figures["low"], figures["high"]),
        "/ ceiling": _short(figures["lds / ceiling"]),
        "− best peer": None if figures["difference"] is None else f"{figures['difference']:+.2f}",
        "its 95 %": _interval(figures["difference low"], figures["difference high"]),
        "p": p_value(figures["p"]),
        "significant": _short(figures["significant share"]),
    }


def _detects(row: dict[str, Any]) -> dict[str, Any]:
    return {"method": row["method"], **{name: _short(value) for name, value in row["detection"].items()}}


def _costs(row: dict[str, Any]) -> dict[str, Any]:
    seconds, size = row["seconds"], row["bytes per example"]
    return {
        "method": row["method"],
        "source": f"{row['source']} {row['version']}".strip(),
        "seconds": None if seconds is None else f"{seconds:.1f}",
        "bytes per example": None if size is None else f"{size:,.0f}",
        "options": ", ".join(f"{name} {value}" for name, value in row["options"].items()),
    }


def _interval(low: float | None, high: float | None) -> str | None:
    return None if low is None or high is None else f"{low:.2f} to {high:.2f}"


def p_value(value: float | None) -> str | None:
    """As it is shown."""
    if value is None:
        return None
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _short(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"
