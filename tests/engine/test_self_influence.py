"""Rows in the order of their scores on themselves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engine.dataset import Dataset, RowFilter, open_dataset, store_dataset
from engine.self_influence import placed, ranked

ROWS = 300
SCORES = np.random.default_rng(0).integers(0, 40, ROWS).astype(np.float64)  # with many ties


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("rows")
    source = root / "rows.jsonl"
    source.write_text("".join(json.dumps({"text": f"row {n}", "tags": {"odd": n % 2}}) + "\n" for n in range(ROWS)))
    return open_dataset(root / store_dataset(source, format=None, root=root).sha256)


@pytest.mark.parametrize("order", ["desc", "asc"])
def test_a_page_is_what_sorting_everything_gives(dataset: Dataset, order: str) -> None:
    sign = -1 if order == "desc" else 1
    whole = sorted(range(ROWS), key=lambda at: (sign * SCORES[at], at))
    for start, limit in ((0, 1), (0, 50), (7, 50), (280, 50), (0, ROWS), (ROWS, 10), (ROWS + 5, 10)):
        found = ranked(SCORES, dataset, order, limit, start)  # type: ignore[arg-type]
        assert [row.position for row in found] == whole[start : start + limit]
        assert [row.rank for row in found] == list(range(start + 1, start + len(found) + 1))
        assert all((row.score, row.example_id) == (SCORES[row.position], f"row-{row.position}") for row in found)


def test_a_filter_keeps_the_ranks_among_all_rows(dataset: Dataset) -> None:
    whole = ranked(SCORES, dataset, "desc", ROWS, 0)
    odd = [row for row in whole if row.position % 2]
    assert ranked(SCORES, dataset, "desc", 20, 10, RowFilter({"odd": "1"})) == odd[10:30]
    assert ranked(SCORES, dataset, "desc", 20, 0, RowFilter(query="no such text")) == []


def test_a_row_alone_has_the_rank_it_has_in_the_list(dataset: Dataset) -> None:
    for row in ranked(SCORES, dataset, "desc", ROWS, 0)[::17]:
        assert placed(SCORES, dataset, row.position) == row


def test_scores_that_are_all_equal_go_by_position(dataset: Dataset, tmp_path: Path) -> None:
    found = ranked(np.ones(ROWS), dataset, "desc", 5, 3)
    assert [row.position for row in found] == [3, 4, 5, 6, 7]
