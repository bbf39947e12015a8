"""The peers' score matrices, read back, weighted and summed over checkpoints.

Shapes: Q queries, N rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.quality.peers.written import Result


@dataclass(frozen=True)
class PeerScores:
    """about.checkpoint: one's name, ALL_CHECKPOINTS, or what was summed. scores_QN: float32, positive = proponent."""

    about: Result
    scores_QN: np.ndarray


def read(folder: Path) -> list[PeerScores]:
    """Every result of one peer's folder, by name."""
    return [_read(path) for path in sorted(folder.glob("*.npz")) if not path.name.startswith(".")]


def _read(path: Path) -> PeerScores:
    with np.load(path, allow_pickle=False) as kept:
        return PeerScores(Result(**json.loads(str(kept["about"]))), kept["scores"])


def weighted(scores: PeerScores, weights_N: np.ndarray) -> PeerScores:
    """Scores of rows as the recipe weighs them in the training loss; peers are told nothing of that.

    A row's effect grows with its weight, but for peers that normalise the rows' gradients: those are left as they are.
    """
    if not scores.about.linear:
        return scores
    return replace(scores, scores_QN=(scores.scores_QN * weights_N).astype(np.float32))


def summed(results: Iterable[PeerScores], checkpoints: Sequence[str], scaled: bool = False) -> list[PeerScores]:
    """One matrix for every method and options that ran on all the checkpoints.

    scaled: every question's scores are brought to root mean square 1 at every checkpoint before they are added, so
    that no checkpoint outweighs the others; False: added as they are.
    """
    groups: dict[tuple[str, str, str], dict[str, PeerScores]] = {}
    for result in results:
        about = result.about
        key = (about.peer, about.method, json.dumps(about.options, sort_keys=True))
        groups.setdefault(key, {})[about.checkpoint] = result
    whole = [group for group in groups.values() if all(name in group for name in checkpoints)]
    return [_sum([group[name] for name in checkpoints], scaled) for group in whole]


def _sum(parts: list[PeerScores], scaled: bool) -> PeerScores:
    about = replace(
        parts[-1].about,
        checkpoint=f"{'scaled ' if scaled else ''}sum of {len(parts)}",
        fit_seconds=sum(part.about.fit_seconds for part in parts),
        score_seconds=sum(part.about.score_seconds for part in parts),
        bytes_per_example=sum(part.about.bytes_per_example for part in parts),
    )
    matrices = [_unit(part.scores_QN) if scaled else part.scores_QN for part in parts]
    return PeerScores(about, np.stack(matrices).sum(0, dtype=np.float64).astype(np.float32))


def _unit(scores_QN: np.ndarray) -> np.ndarray:
    """Each question's scores at root mean square 1; a question without scores stays at 0."""
    size_Q1 = np.sqrt(np.square(scores_QN, dtype=np.float64).mean(1, keepdims=True))
    return np.divide(scores_QN, size_Q1, out=np.zeros(scores_QN.shape), where=size_Q1 > 0)
