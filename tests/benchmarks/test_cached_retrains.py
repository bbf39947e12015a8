"""The quality benchmark's table, computed again from the cached retrainings by other means.

Nothing here comes from engine/evaluate or from the benchmark: LDS by plain loops, exactly rounded sums and a Spearman
of its own. Only the last test imports the benchmark, to make files in which a wrong figure must be noticed.

Shapes: Q questions, N rows, M subsets, R seeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
# Per regime: the file's outcomes, its subsets, and which seeds count.
REGIMES = {
    "half": ("half_outcome_QMR", "half_kept_MN", slice(None)),
    "drop": ("drop_outcome_QMR", "drop_kept_MN", slice(0, 1)),
    "drop over seeds": ("drop_outcome_QMR", "drop_kept_MN", slice(None)),
}
TOLERANCE = 1e-6
MEASURED = (RESULTS / "quality.json").exists() and any((RESULTS / "quality").glob("*.npz"))
needs_results = pytest.mark.skipif(not MEASURED, reason="the quality benchmark's results are not there")


def average_ranks(values: list[float]) -> list[float]:
    """Ranks from 1; equal values share the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    first = 0
    while first < len(order):
        last = first
        while last + 1 < len(order) and values[order[last + 1]] == values[order[first]]:
            last += 1
        for place in range(first, last + 1):
            ranks[order[place]] = (first + last) / 2 + 1
        first = last + 1
    return ranks


def own_spearman(one: list[float], other: list[float]) -> float | None:
    """None where one of the two is constant."""
    x, y = average_ranks(one), average_ranks(other)
    middle = (len(x) + 1) / 2
    xy = sum((a - middle) * (b - middle) for a, b in zip(x, y, strict=True))
    xx, yy = sum((a - middle) ** 2 for a in x), sum((b - middle) ** 2 for b in y)
    return None if xx == 0 or yy == 0 else xy / math.sqrt(xx * yy)


def per_query(scores_QN: np.ndarray, kept_MN: np.ndarray, outcome_QMR: np.ndarray) -> list[float | None]:
    """Each question's Spearman between the kept rows' summed scores and the outcome's mean over seeds."""
    kept = [[n for n, keep in enumerate(row) if keep] for row in kept_MN.tolist()]
    found = []
    for scores, outcome_MR in zip(scores_QN.astype(np.float64).tolist(), outcome_QMR.tolist(), strict=True):
        predicted = [math.fsum(map(scores.__getitem__, rows)) for rows in kept]
        outcome = [math.fsum(seeds) / len(seeds) for seeds in outcome_MR]
        found.append(own_spearman(predicted, outcome))
    return found


def mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def own_lds(found: list[float | None]) -> float | None:
    return mean([value for value in found if value is not None])


def own_difference(one: list[float | None], other: list[float | None]) -> float | None:
    """Over the questions where both are defined."""
    return mean([a - b for a, b in zip(one, other, strict=True) if a is not None and b is not None])


@cache
def table(results: Path) -> list[dict[str, Any]]:
    return json.loads((results / "quality.json").read_text())["rows"]


@cache
def arrays(results: Path, recipe: str) -> dict[str, np.ndarray]:
    with np.load(results / "quality" / f"{recipe}.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@cache
def recomputed(results: Path, recipe: str, method: str, regime: str) -> list[float | None]:
    file = arrays(results, recipe)
    outcome, kept, seeds = REGIMES[regime]
    return per_query(file[f"scores/{method}"], file[kept], file[outcome][:, :, seeds])


def disagreements(results: Path, row: dict[str, Any]) -> Iterator[str]:
    """Figures of a row of the table that the cached retrainings do not give."""
    recipe, name = row["recipe"], row["method"]
    for regime in REGIMES.keys() & row.keys():
        written = row[regime]
        own = recomputed(results, recipe, name, regime)
        figures = {"lds": own_lds(own)}
        if written["difference"] is not None:
            peer = recomputed(results, recipe, written["best peer"], regime)
            figures["difference"] = own_difference(own, peer)
        for figure, value in figures.items():
            if not agree(value, written[figure]):
                yield f"{recipe}, {name}, {regime}, {figure}: written {written[figure]}, recomputed {value}"


def agree(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= TOLERANCE


def kept_rows() -> list[dict[str, Any]]:
    """The table's rows whose scores were kept."""
    if not MEASURED:
        return []
    return [row for row in table(RESULTS) if f"scores/{row['method']}" in arrays(RESULTS, row["recipe"])]


def test_own_ranks_and_spearman_are_right_by_hand() -> None:
    assert average_ranks([5.0, 1.0, 5.0, 0.0]) == [3.5, 2.0, 3.5, 1.0]
    assert own_spearman([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5.0))
    assert own_spearman([1, 2, 3], [9, 5, 1]) == -1.0
    assert own_spearman([1, 2, 3], [4, 4, 4]) is None


@needs_results
def test_the_scores_of_random_bm25_and_every_peer_were_kept() -> None:
    for recipe in {row["recipe"] for row in table(RESULTS)}:
        rows = [row for row in table(RESULTS) if row["recipe"] == recipe]
        needed = {row["method"] for row in rows if row["source"] not in ("whence", "control")} | {"random", "bm25"}
        kept = {name.removeprefix("scores/") for name in arrays(RESULTS, recipe) if name.startswith("scores/")}
        assert needed <= kept
        assert needed <= {row["method"] for row in rows}


@needs_results
@pytest.mark.parametrize("row", kept_rows(), ids=lambda row: f"{row['recipe']} {row['method']}")
def test_the_table_agrees_with_the_cached_retrainings(row: dict[str, Any]) -> None:
    assert list(disagreements(RESULTS, row)) == []
    assert {"half", "drop"} <= row.keys()


@needs_results
def test_the_cached_retrainings_are_as_many_as_they_must_be_and_of_the_right_sizes() -> None:
    """60 subsets without half of the rows by two seeds and 60 without 2 %; all different; outcomes that vary."""
    for path in (RESULTS / "quality").glob("*.npz"):
        file = arrays(RESULTS, path.stem)
        for name, share, seeds in (("half", 0.5, 2), ("drop", 0.98, 1)):
            kept_MN, outcome_QMR = file[f"{name}_kept_MN"], file[f"{name}_outcome_QMR"]
            assert kept_MN.dtype == np.bool_
            assert outcome_QMR.shape[1] == len(kept_MN) == len(np.unique(kept_MN, axis=0))
            assert np.abs(kept_MN.mean(axis=1) - share).max() < 0.01
            assert (np.array(outcome_QMR.shape) >= (50, 60, seeds)).all()
            assert np.isfinite(outcome_QMR).all()
            assert outcome_QMR.std(axis=1).min() > 0


def made_up_results(folder: Path) -> None:
    """A small benchmark written by the benchmark's own code, with ties, a constant method and two peers."""
    from benchmarks.quality.detection import Relevance
    from benchmarks.quality.kept import as_kept, keep
    from benchmarks.quality.table import MethodScores, table_rows
    from benchmarks.quality.truth import Truth

    random = np.random.default_rng(3)
    half_MN = np.stack([random.permutation(30) < 15 for _ in range(12)])
    drop_MN = np.stack([random.permutation(30) >= 2 for _ in range(12)])
    half_QMR, drop_QMR = random.normal(size=(6, 12, 2)), random.normal(size=(6, 12, 3))
    truth = Truth(half_MN, half_QMR, drop_MN, drop_QMR, np.zeros((6, 3)), np.ones((6, 2)), np.ones((6, 2)))
    none_QN, none_N = np.zeros((6, 30), bool), np.zeros(30, bool)
    unknown = Relevance(np.array(["task"] * 6), none_QN, none_QN, np.arange(30), none_N, none_N)
    methods = [
        MethodScores("sparse", "control", np.where(random.random((6, 30)) < 0.3, 0.7, 0.0)),
        MethodScores("constant", "control", np.ones((6, 30))),
        MethodScores("peer a", "a", random.normal(size=(6, 30))),
        MethodScores("peer b", "b", random.normal(size=(6, 30)) * 1e-20),
    ]
    keep("made up", truth, as_kept(methods), folder / "quality")
    rows = table_rows("made up", as_kept(methods), truth, unknown)
    (folder / "quality.json").write_text(json.dumps({"rows": rows}))


def test_a_made_up_benchmark_agrees_and_a_changed_figure_is_noticed(tmp_path: Path) -> None:
    made_up_results(tmp_path)
    rows = table(tmp_path)
    assert [list(disagreements(tmp_path, row)) for row in rows] == [[], [], [], []]
    for regime in REGIMES:
        for figure in ("lds", "difference"):
            row = next(row for row in rows if row[regime][figure] is not None)
            for wrong in (row[regime][figure] + 2e-6, None):
                if figure == "difference" and wrong is None:
                    continue  # nothing is claimed then
                changed = row | {regime: row[regime] | {figure: wrong}}
                assert len(list(disagreements(tmp_path, changed))) == 1
