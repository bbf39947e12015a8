"""What the fake engine measures: one scorecard for all, with every part that an answer's trust is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.evaluate.effect_model import EffectModel
from engine.evaluate.scorecard import (
    CONTROLS,
    Compared,
    EvaluationConfig,
    EvaluationQuery,
    LdsEvidence,
    MethodEvidence,
    Role,
    Scope,
    Scorecard,
    Tuned,
    Verdict,
    VerdictName,
)

REMEDIES = {"weak": "Read it beside BM25.", "untrusted": "Do not act on this ranking."}
EFFECTS = EffectModel(4, 2.0, 1.0, 3.0, 0.0, 0.1, 0.0, 1.0, 1.0, False, True, 10, 20)
RELIABILITY: dict[str, Any] = {
    "values": {"null_z": [0.0, 1.0]}, "weights": {"null_z": 0.1}, "centre": 0.5, "mean": 0.5, "slope": 1.0,
    "calibration": [[0.4, 0.4], [0.6, 0.6]], "mean_low": 0.4, "low_to": 0.3, "high_from": 0.55, "skill": True,
    "floor": [0.1, "chance"],
}  # fmt: skip


def scorecard_of(
    revision: str, queries: Sequence[EvaluationQuery], config: EvaluationConfig, rows: int, verdict: VerdictName
) -> Scorecard:
    """The index's method is ekfac; the last candidate is the best."""
    names = [candidate.method for candidate in config.candidates]
    candidates = [_method(c.method, "candidate", verdict, 0.8, c.options) for c in config.candidates]
    controls = [_method(name, "control", "weak", 0.2) for name in CONTROLS]
    return Scorecard(
        index_revision=revision,
        config=config,
        scope=Scope("log_prob", "as the engine says", {"completion_tokens": (1.0, 8.0)}),
        rows=rows,
        test_queries=tuple(range(len(queries))),
        tuning_queries=(),
        methods=(_method("ekfac", "index", verdict, 0.7), *candidates, *controls),
        metasmoothness=0.9,
        retrainings=config.half_subsets * config.half_seeds,
        seconds=12.5,
        tuned={"composition": Tuned(names[-1], dict.fromkeys(names, 0.8), 2, 3)} if names else {},
        reliability=RELIABILITY,
        effects={"this_run": EFFECTS.to_json()},
    )


def figures_of(queries: Sequence[EvaluationQuery]) -> dict[str, Any]:
    """Of the last query: predictions and outcomes of four subsets; every fall; one curve."""
    pairs = {"query": len(queries) - 1, "lds": 0.8, "predicted": [-1.2, -0.4, 0.4, 1.2], "measured": [-4, -2, -3, -1]}
    falls = [{"query": q, "top": {"ekfac": 3.0 - q, "bm25": 1.0}, "random": 0.1} for q in range(len(queries))]
    found = {"ekfac": [0.5, 1.0, 1.0], "bm25": [0.0, 0.5, 1.0]}
    curve = {"name": "mislabelled rows", "rows": [1, 2, 4], "relevant": 2.0, "found": found}
    return {"method": "ekfac", "composition": [pairs], "this_run": [], "leave_out": falls, "curves": [curve]}


def _method(
    name: str, role: Role, verdict: VerdictName, value: float, options: dict[str, Any] | None = None
) -> MethodEvidence:
    lds = LdsEvidence(
        value, value - 0.1, value + 0.1, 0.9, 1.0, 6, 1, {"bm25": Compared(0.5, 0.4, 0.6, 0.01)}, (value,) * 2
    )
    said = Verdict(verdict, f"Retraining said so of {name}.", REMEDIES.get(verdict))
    return MethodEvidence(
        name,
        role,
        name,
        options or {},
        {"composition": lds, "this_run": lds},
        {"composition": said, "this_run": said},
        detection={"P@3": 0.75, "AUC": None, "mislabelled AUROC": 0.5} if role == "index" else {},
    )
