"""Are the rows that teach an answer ranked high, are wrong rows noticed? Tags tell, else planted canaries do.

Shapes: Q queries, N rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from engine.dataset import Dataset
from engine.evaluate.evidence import Evidence
from engine.evaluate.retrieval import auc, auprc, mislabelled_auroc, over_queries, precision_at, recall_at_class_size
from engine.evaluate.scorecard import MethodEvidence
from engine.evaluate.scored import Scored


def detection(methods: Sequence[MethodEvidence], evidence: Evidence, dataset: Dataset) -> tuple[MethodEvidence, ...]:
    """The methods with their detection metrics; unchanged where neither queries nor config name any tags, and no
    canaries were planted."""
    tags = [example.tags for example in dataset]
    known = [q for q, asked in enumerate(evidence.queries) if asked.relevant]
    relevant_QN = np.array([[_has(row, evidence.queries[q].relevant) for row in tags] for q in known], bool)
    wrong_N = np.array([_has(row, evidence.config.mislabelled) for row in tags], bool)
    if not evidence.config.mislabelled:
        wrong_N[:] = False
    return tuple(
        replace(method, detection=_metrics(scored, known, relevant_QN, wrong_N) | _of_canaries(scored, evidence))
        for method, scored in zip(methods, evidence.scores.all, strict=True)
    )


def _metrics(
    scored: Scored, known: Sequence[int], relevant_QN: np.ndarray, wrong_N: np.ndarray
) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    if len(known):
        scores_QN = scored.scores_QN[list(known)]
        found["P@3"] = over_queries(lambda s, r: precision_at(s, r, 3), scores_QN, relevant_QN).value
        for name, metric in (("R-precision", recall_at_class_size), ("AUC", auc), ("AUPRC", auprc)):
            found[name] = over_queries(metric, scores_QN, relevant_QN).value
    if wrong_N.any() and scored.self_scores_N is not None:
        found["mislabelled AUROC"] = mislabelled_auroc(scored.self_scores_N, wrong_N)
    return found


def _of_canaries(scored: Scored, evidence: Evidence) -> dict[str, float | None]:
    return {} if evidence.canaries is None else evidence.canaries.metrics(scored.name)


def _has(tags: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(tags.get(key) == value for key, value in wanted.items())
