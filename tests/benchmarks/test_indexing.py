"""The interval of a ratio, what a failed contender leaves in the tables, and that all read the same tokens."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.indexing import Measured, comparison_rows, cost_rows, ratio_of
from benchmarks.indexing_peers.world import config, write_world
from engine.dataset import open_dataset
from engine.model import load_model
from engine.rows import encode_rows


def test_a_ratio_has_the_t_interval_of_its_logarithms() -> None:
    generator = np.random.default_rng(0)
    theirs, ours = generator.lognormal(1.0, 0.3, 7), generator.lognormal(0.0, 0.3, 7)
    logs = [math.log(a / b) for a, b in zip(theirs, ours, strict=True)]
    low, high = stats.t.interval(0.95, len(logs) - 1, loc=np.mean(logs), scale=stats.sem(logs))
    found = ratio_of(list(theirs), list(ours))
    assert found.mean == pytest.approx(stats.gmean(theirs / ours))
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)))


def test_rounds_that_are_all_alike_have_no_width() -> None:
    found = ratio_of([4.0, 2.0, 6.0], [2.0, 1.0, 3.0])
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))


@pytest.mark.parametrize(("theirs", "ours"), [([1.0], [1.0]), ([1.0, 2.0], [1.0])])
def test_a_ratio_needs_two_rounds_of_each(theirs: list[float], ours: list[float]) -> None:
    with pytest.raises(ValueError, match="rounds"):
        ratio_of(theirs, ours)


def test_parts_are_told_apart_and_summed() -> None:
    measured = Measured()
    for index, queries in ((4.0, 1.0), (6.0, 2.0)):
        measured.add("whence ekfac whole", {"seconds": {"index": index, "queries": queries}, "cpu": index})
    found = [measured.of("whence ekfac whole", part) for part in ("index", "queries", "all")]
    assert found == [[4.0, 6.0], [1.0, 2.0], [5.0, 8.0]]


def test_a_contender_that_failed_says_why_and_the_rest_is_compared() -> None:
    runs = ("plain training", "whence ekfac whole", "whence graddot whole", "whence graddot p16")
    measured = Measured(settings=dict.fromkeys([*runs, "bergson whole", "bergson ekfac"], 64))
    for run in (*runs, "bergson whole", "bergson ekfac"):
        for taken in (1.0, 2.0, 3.0):
            slower = 3 * taken if run == "bergson whole" else taken
            measured.add(run, {"seconds": {"index": slower}, "cpu": taken})
    measured.failed = {"bergson p16": "too narrow", "kronfluence": "no CPU build"}
    costs = {row["what"]: row for row in cost_rows(measured)}
    assert costs["bergson whole"]["ratio"] == pytest.approx(3.0)
    assert costs["bergson p16"]["interval"] == "too narrow"
    assert costs["kronfluence"]["interval"] == "no CPU build"
    compared = {row["what"]: row["interval"] for row in comparison_rows(measured)}
    assert compared["bergson whole / graddot whole"] == "above 1"
    assert "too narrow" in compared["bergson p16 / graddot p16"]
    assert "no CPU build" in compared["kronfluence ekfac / ekfac whole"]


def test_whence_reads_the_tokens_and_targets_that_peers_are_given(tmp_path: Path) -> None:
    given = write_world(tmp_path / "work", 5, 2)
    (stored,) = (tmp_path / "work" / "rows" / "datasets").iterdir()
    rows = encode_rows(load_model(config(given.path)), open_dataset(stored), None, lambda _done: None)
    assert [tuple(row.ids) for row in rows.rows] == [row.ids for row in given.rows]
    assert [tuple(row.targets) for row in rows.rows] == [row.targets for row in given.rows]
    assert all(24 <= len(row.ids) <= 256 and any(row.targets) for row in given.rows)
