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
    known, relevant_QN = relevant_rows(evidence, dataset)
    wrong_N = wrong_rows(evidence, dataset)
    return tuple(
        replace(method, detection=_metrics(scored, known, relevant_QN, wrong_N) | _of_canaries(scored, evidence))
        for method, scored in zip(methods, evidence.scores.all, strict=True)
    )


def relevant_rows(evidence: Evidence, dataset: Dataset) -> tuple[list[int], np.ndarray]:
    """The queries of which is known which rows teach the answer, and those rows: bool [Q, N]."""
    known = [q for q, asked in enumerate(evidence.queries) if asked.relevant]
    tags = [example.tags for example in dataset] if known else []
    return known, np.array([[_has(row, evidence.queries[q].relevant) for row in tags] for q in known], bool)


def wrong_rows(evidence: Evidence, dataset: Dataset) -> np.ndarray:
    """bool [N]: the rows known to be wrong."""
    wrong = evidence.config.mislabelled
    return np.array([bool(wrong) and _has(example.tags, wrong) for example in dataset], bool)


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
