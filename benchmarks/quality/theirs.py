"""The peers' scores as rows of the table: each method on the final checkpoint, and summed over the checkpoints.

Where a peer was run with several dampings, or may be summed as it is or scaled, the one that predicts the benchmark's
own half regime best is taken. That choice is made on the test itself and favours the peer; Whence's rows have none.

Shapes: Q questions, N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.quality.peers.results import PeerScores, summed
from benchmarks.quality.peers.run import PEERS, run_peers
from benchmarks.quality.peers.task import write_task
from benchmarks.quality.peers.written import ALL_CHECKPOINTS
from benchmarks.quality.table import MethodScores
from engine.config import ModelConfig
from engine.dataset import Dataset
from engine.types import Query

Judge = Callable[[np.ndarray], float]


def peer_scores(
    model: ModelConfig,
    data: Dataset,
    queries: Sequence[Query],
    out: Path,
    environments: Path,
    judge: Judge,
    *,
    peers: Sequence[str] = tuple(PEERS),
    checkpoints: Literal["all", "final"] = "all",
    say: Callable[[str], object] = lambda _line: None,
) -> tuple[list[MethodScores], list[dict[str, Any]]]:
    """(one a method and way of using checkpoints, what could not run and why). out: kept between runs.

    judge: LDS of a score matrix on the half regime; the larger, the better the choice.
    """
    task = write_task(model, data, queries, out / "task")
    outcome = run_peers(task, out / "results", peers, checkpoints, environments, say)
    names = [Path(path).name for path in model.checkpoints]
    final = [found for found in outcome.scores if found.about.checkpoint == names[-1]]
    sums: list[PeerScores] = []
    if checkpoints == "all":
        every = [found for found in outcome.scores if found.about.method in PEERS[found.about.peer].every]
        sums = summed(every, names) + summed(every, names, scaled=True)
    by_itself = [found for found in outcome.scores if found.about.checkpoint == ALL_CHECKPOINTS]
    rows = [
        *_best(final, "final", judge),
        *_best(sums, "summed", judge),
        *_best(by_itself, ALL_CHECKPOINTS, judge),
    ]
    return rows, [asdict(found) for found in outcome.not_run]


def _best(found: Iterable[PeerScores], way: str, judge: Judge) -> list[MethodScores]:
    groups: dict[tuple[str, str], list[PeerScores]] = {}
    for scores in found:
        groups.setdefault((scores.about.peer, scores.about.method), []).append(scores)
    return [_as_row(group, way, judge) for group in groups.values()]


def _as_row(group: Sequence[PeerScores], way: str, judge: Judge) -> MethodScores:
    lds = [judge(scores.scores_QN) for scores in group]
    best = group[int(np.argmax(lds))]
    about = best.about
    tried = {_described(scores): round(value, 4) for scores, value in zip(group, lds, strict=True)}
    return MethodScores(
        f"{about.peer} {about.method}, {way}",
        about.peer,
        best.scores_QN,
        seconds=about.fit_seconds + about.score_seconds,
        bytes_per_example=about.bytes_per_example,
        options={**about.options, "checkpoints": about.checkpoint, "tried": tried} | _notes(about.notes),
        version=about.version,
    )


def _described(scores: PeerScores) -> str:
    options = ", ".join(f"{name} {value}" for name, value in scores.about.options.items())
    return f"{options}; {scores.about.checkpoint}" if options else scores.about.checkpoint


def _notes(notes: str) -> dict[str, str]:
    return {"notes": notes} if notes else {}
