"""Reliability and effects judged on groups of queries that the fit never saw.

Shapes: Q queries, N rows, V retrainings without random rows, L queries whose top rows were left out, C cells: a query
and a retraining.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.trust.worlds import World
from engine.answer import attribute
from engine.config import ModelConfig
from engine.dataset import Dataset
from engine.errors import EngineError
from engine.evaluate.effects import EffectModel, Named, fit_effects
from engine.evaluate.reliability import Halves, cross_fitted, halves, query_features
from engine.evaluate.scorecard import Scorecard
from engine.evaluate.scored import top_rows
from engine.model import load_model
from engine.opened import OpenIndex
from engine.types import AskOptions

FOLDS = 5
FEATURES = "features.json"
HITS, RANDOM = "hits", "random rows"


@dataclass(frozen=True, eq=False)
class Covered:
    """shares: what the table says. arrays: every held-out cell, for the figure."""

    shares: dict[str, Any]
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class _Effects:
    """One world's retrainings. left: rows named for each asked query; predicted: −Σ score/N."""

    scores_QN: np.ndarray
    removed_VN: np.ndarray
    change_QV: np.ndarray
    full_Q: np.ndarray
    asked_L: np.ndarray
    top_L: list[list[int]]
    change_L: np.ndarray
    groups: list[str]

    @property
    def rows(self) -> int:
        return self.scores_QN.shape[1]

    @property
    def top_scores_L(self) -> np.ndarray:
        return np.array([self.scores_QN[q, rows].sum() for q, rows in zip(self.asked_L, self.top_L, strict=True)])

    def fitted(self, seen_Q: np.ndarray) -> EffectModel:
        seen_L = seen_Q[self.asked_L]
        place_Q = np.cumsum(seen_Q) - 1
        named = Named(place_Q[self.asked_L[seen_L]], -self.top_scores_L[seen_L] / self.rows, self.change_L[seen_L])
        predicted_QV = -(self.scores_QN[seen_Q] @ self.removed_VN.T) / self.rows
        groups = [group for group, seen in zip(self.groups, seen_Q, strict=True) if seen]
        change_QV, full_Q = self.change_QV[seen_Q], self.full_Q[seen_Q]
        model = fit_effects(predicted_QV, change_QV, groups, rows=self.rows, named=named, log_prob_Q=full_Q)
        assert model is not None, "too few groups"
        return model


def reliability(
    world: World, scorecard: Scorecard, model: ModelConfig, data: Dataset, work: Path
) -> tuple[np.ndarray, np.ndarray, Halves]:
    """(predicted_Q, lds_Q, their halves); queries without an LDS are left out."""
    features = _features(world, model, data, work)
    own = next(method for method in scorecard.methods if method.role == "index")
    lds_Q = np.array([np.nan if value is None else value for value in own.lds["composition"].per_query])
    known = np.flatnonzero(np.isfinite(lds_Q)).tolist()
    groups = [str(world.questions[q].group) for q in known]
    predicted_Q = cross_fitted([features[q] for q in known], lds_Q[known], groups)
    return predicted_Q, lds_Q[known], halves(predicted_Q, lds_Q[known])


def _features(world: World, model: ModelConfig, data: Dataset, work: Path) -> list[dict[str, float]]:
    kept = work / FEATURES
    if not kept.exists():
        found = []
        with OpenIndex(load_model(model), data, work / "study index") as index:
            for asked in world.questions:
                (answer,) = attribute(index, [(asked.query, AskOptions(top_k=10))])
                if isinstance(answer, EngineError):
                    raise answer
                found.append(query_features(answer))
        kept.write_text(json.dumps(found))
    features: list[dict[str, float]] = json.loads(kept.read_text())
    return features


def covered(world: World, scorecard: Scorecard, evidence: Mapping[str, np.ndarray]) -> Covered:
    """How often the 90 % interval of an effect holds it: of the queries' own top rows, and of random rows."""
    effects = _effects(world, scorecard, evidence)
    cells: dict[str, list[tuple[float, ...]]] = {HITS: [], RANDOM: []}
    for held_Q in _folds(effects.groups):
        model = effects.fitted(~held_Q)
        cells[HITS] += _hits(effects, model, held_Q)
        cells[RANDOM] += _random(effects, model, held_Q)
    shares: dict[str, Any] = {}
    arrays = {}
    for kind, found in cells.items():
        value_C, low_C, high_C, measured_C = np.array(found).T
        shares[f"effects of {kind} inside"] = float(np.mean((low_C <= measured_C) & (measured_C <= high_C)))
        shares[f"{kind}: median width"] = float(np.median(high_C - low_C))
        shares[f"{kind}: correlation"] = float(np.corrcoef(value_C, measured_C)[0, 1])
        arrays[kind] = np.array(found, np.float32)
    return Covered(shares, arrays)


def _hits(effects: _Effects, model: EffectModel, held_Q: np.ndarray) -> Iterator[tuple[float, ...]]:
    for place, q in enumerate(effects.asked_L):
        if held_Q[q]:
            said = model.predict(float(effects.top_scores_L[place]), float(effects.full_Q[q]))
            yield said.value, said.low, said.high, float(effects.change_L[place])


def _random(effects: _Effects, model: EffectModel, held_Q: np.ndarray) -> Iterator[tuple[float, ...]]:
    sums_QV = effects.scores_QN @ effects.removed_VN.T
    for q in np.flatnonzero(held_Q):
        for v in range(sums_QV.shape[1]):
            said = model.predict(float(sums_QV[q, v]), float(effects.full_Q[q]))
            yield said.value, said.low, said.high, float(effects.change_QV[q, v])


def _effects(world: World, scorecard: Scorecard, evidence: Mapping[str, np.ndarray]) -> _Effects:
    own = next(method.name for method in scorecard.methods if method.role == "index")
    scores_QN, asked_L = evidence[f"scores/{own}"].astype(np.float64), evidence["asked_L"]
    return _Effects(
        scores_QN=scores_QN,
        removed_VN=~evidence["drop_kept_MN"],
        change_QV=evidence["drop_outcome_QM"] - evidence["full_outcome_Q"][:, None],
        full_Q=evidence["full_outcome_Q"],
        asked_L=asked_L,
        top_L=[top_rows(scores_QN[q], scorecard.config.leave_out_rows) for q in asked_L],
        change_L=-evidence[f"fall_LR/{own}"][:, 0],
        groups=[str(asked.group) for asked in world.questions],
    )


def _folds(groups: list[str]) -> Iterator[np.ndarray]:
    """bool [Q]: the queries held out; whole groups."""
    distinct = sorted(set(groups))
    dealt = dict(zip(distinct, np.random.default_rng(0).permutation(len(distinct)) % FOLDS, strict=True))
    for fold in range(FOLDS):
        yield np.array([dealt[group] == fold for group in groups])
