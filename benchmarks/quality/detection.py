"""What a ranking finds of the rows known to have taught an answer; for reading beside LDS, not instead of it.

Shapes: Q questions, N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.quality.world import Question
from engine.evaluate.retrieval import (
    auc,
    auprc,
    length_correlation,
    mislabelled_auroc,
    over_queries,
    precision_at,
    recall_at,
    recall_at_class_size,
    top1_concentration,
)
from engine.types import Example

TOP = 3  # of a fact's four rows


@dataclass(frozen=True, eq=False)
class Relevance:
    """true_QN, decoy_QN: which rows teach an answer, which only share its words. lengths_N: characters of a row.
    labelled_N: rows of a task with classes, the only ones whose label can be wrong."""

    kind_Q: np.ndarray
    true_QN: np.ndarray
    decoy_QN: np.ndarray
    lengths_N: np.ndarray
    labelled_N: np.ndarray
    mislabelled_N: np.ndarray


def relevance(rows: Sequence[Example], questions: Sequence[Question]) -> Relevance:
    """rows, questions: in the order of the scores' axes."""
    ids = [row.id for row in rows]
    return Relevance(
        kind_Q=np.array([question.kind for question in questions]),
        true_QN=_among(ids, [question.true_ids for question in questions]),
        decoy_QN=_among(ids, [question.decoy_ids for question in questions]),
        lengths_N=np.array([len(f"{row.prompt}{row.completion}") for row in rows]),
        labelled_N=np.array([row.label is not None for row in rows]),
        mislabelled_N=np.array(["mislabelled" in row.tags for row in rows]),
    )


def detection(scores_QN: np.ndarray, self_scores_N: np.ndarray | None, known: Relevance) -> dict[str, float | None]:
    """P@3 of facts, and the share of a fact's rows among the first ten; how often a row that teaches a fact outranks
    one that only looks alike (chance ½); poison; how often a mislabelled row's self-score exceeds a right one's, among
    rows with a label; the two signs of a ranking that ignores the question: one row on top everywhere, longer rows
    first."""
    fact_Q, poison_Q = known.kind_Q == "fact", known.kind_Q == "poison"
    facts, poison = (scores_QN[fact_Q], known.true_QN[fact_Q]), (scores_QN[poison_Q], known.true_QN[poison_Q])
    return {
        "P@3": over_queries(lambda scores_N, true_N: precision_at(scores_N, true_N, TOP), *facts).value,
        "recall@10": over_queries(partial(recall_at, k=10), *facts).value,
        "truth over decoys": _truth_over_decoys(scores_QN[fact_Q], known.true_QN[fact_Q], known.decoy_QN[fact_Q]),
        "poison AUPRC": over_queries(auprc, *poison).value,
        "poison recall": over_queries(recall_at_class_size, *poison).value,
        "mislabelled AUROC": _mislabelled(self_scores_N, known),
        "top-1 concentration": top1_concentration(scores_QN),
        "length correlation": length_correlation(scores_QN, known.lengths_N),
    }


def _truth_over_decoys(scores_QN: np.ndarray, true_QN: np.ndarray, decoy_QN: np.ndarray) -> float | None:
    """Mean AUC over the questions that have both; equal scores count half."""
    found = []
    for scores_N, true_N, decoy_N in zip(scores_QN, true_QN, decoy_QN, strict=True):
        if true_N.any() and decoy_N.any():
            either_N = true_N | decoy_N
            value = auc(scores_N[either_N], true_N[either_N])
            found.append(0.5 if value is None else value)  # all equal: every pair is a tie
    return float(np.mean(found)) if found else None


def _mislabelled(self_scores_N: np.ndarray | None, known: Relevance) -> float | None:
    if self_scores_N is None:
        return None
    return mislabelled_auroc(self_scores_N[known.labelled_N], known.mislabelled_N[known.labelled_N])


def _among(ids: Sequence[str], wanted: Sequence[Sequence[str]]) -> np.ndarray:
    """bool [Q, N]"""
    return np.array([np.isin(ids, list(some)) for some in wanted])
