"""The curve of quality against bytes: its measures by hand, its rows, and one small run of all of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.large_world import large_queries, large_rows
from benchmarks.sketches import overlap, small, spearman, tables


def test_agreement_is_measured_per_query() -> None:
    exact_QN = np.array([np.arange(40.0), np.arange(40.0)])
    found_QN = np.array([np.exp(np.arange(40.0) / 8), -np.arange(40.0)])
    assert spearman(found_QN, exact_QN) == pytest.approx([1, -1])
    assert overlap(found_QN, exact_QN).tolist() == [1, 0]
    half_1N = np.where(np.arange(40) >= 35, 100, 60 - np.arange(40))[None]
    assert overlap(half_1N, exact_QN[:1]) == pytest.approx(0.5)


def test_tables_are_one_a_world_without_its_empty_columns() -> None:
    shared = {"sketch": "learned", "basis MB": 837.2}
    large = [{"N": 5681, "bytes a row": size, "LDS": None, "query ms": 12.6} | shared for size in (2048, 128)]
    few = {"N": 594, "bytes a row": 128, "LDS": 0.6824, "query ms": None} | shared
    assert tables([*large, few]).splitlines() == [
        "| N | bytes a row | query ms | sketch | basis MB |",
        "| --- | --- | --- | --- | --- |",
        "| 5,681 | 128 | 13 | learned | 837 |",
        "| 5,681 | 2,048 | 13 | learned | 837 |",
        "",
        "| N | bytes a row | LDS | sketch | basis MB |",
        "| --- | --- | --- | --- | --- |",
        "| 594 | 128 | 0.682 | learned | 837 |",
    ]


def test_the_large_world_has_five_thousand_rows_each_once() -> None:
    rows = large_rows()
    assert len(rows) >= 5000 and len({(row.prompt, row.completion) for row in rows}) == len(rows)
    assert len({row.id for row in rows}) == len(rows)
    asked = large_queries(96)
    assert len({query.prompt for query in asked}) > 90
    assert not {query.prompt for query in asked} & {row.prompt for row in rows if row.tags["kind"] == "fact"}


@pytest.mark.slow
def test_a_small_run_ranks_formats_as_their_bytes_would_have_it(tmp_path: Path) -> None:
    rows = small(tmp_path)
    found = {(row["sketch"], row["dtype"], row["numbers"]): row for row in rows}
    assert found["none", "int8", 81920]["Spearman"] > 0.99
    assert found["learned", "int8", 60]["Spearman"] > found["learned", "int8", 12]["Spearman"]
    learned, random = found["learned", "int8", 60], found["random 1", "float16", 112]
    assert learned["bytes a row"] == 64 and random["bytes a row"] == 224
    assert learned["Spearman"] > random["Spearman"] + 0.2
    assert learned["basis MB"] == pytest.approx(2 * 60 * 81920 / 1e6)
