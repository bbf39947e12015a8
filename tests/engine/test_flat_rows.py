"""Rows in flat arrays are the rows: the same tokens, targets, keys, weights and batches, in memory and in a file."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.batching import example_weights, pad_batch, plan_batches
from engine.curvature.fit import calibration_rows
from engine.curvature.labels import row_key
from engine.encoded import Encoded
from engine.flat_rows import FlatRows, RowKeys, RowsWriter

TOKENS = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), min_size=1, max_size=20)
ROWS = st.lists(TOKENS, min_size=1, max_size=12).map(lambda rows: [encoded(row) for row in rows])
IN_MEMORY = st.sampled_from([0, 40, 2**20])  # bytes: every row goes to the file, some, none


def encoded(tokens: list[tuple[int, bool]]) -> Encoded:
    ids, targets = zip(*tokens, strict=True)
    return Encoded(ids, (False, *targets[1:-1], True)[-len(ids) :], ("prompt",) * len(ids), ((0, 1),) * len(ids))


def flat(rows: list[Encoded], in_memory: int) -> tuple[FlatRows, RowKeys]:
    writer = RowsWriter(in_memory)
    for row in rows:
        writer.add(row)
    return writer.finished()


@given(rows=ROWS, in_memory=IN_MEMORY)
def test_every_row_is_what_was_written(rows: list[Encoded], in_memory: int) -> None:
    found, keys = flat(rows, in_memory)
    assert [(tuple(row.ids), tuple(row.targets), row.target_count) for row in found] == [
        (row.ids, row.targets, row.target_count) for row in rows
    ]
    assert found.lengths.tolist() == [len(row.ids) for row in rows]
    assert list(keys) == [row_key(row.ids) for row in rows] == [row_key(row.ids) for row in found]


@given(rows=ROWS, in_memory=IN_MEMORY, budget=st.integers(1, 80))
def test_the_batches_are_the_same(rows: list[Encoded], in_memory: int, budget: int) -> None:
    found, _ = flat(rows, in_memory)
    for reduction in ("token_sum", "example_mean"):
        weights = example_weights(rows, reduction, None)
        assert example_weights(found, reduction, None) == weights
        for slots in plan_batches([len(row.ids) for row in rows], budget):
            chosen = [weights[i] for i in slots]
            one = pad_batch([rows[i] for i in slots], chosen, 0, torch.float32)
            other = pad_batch([found[i] for i in slots], chosen, 0, torch.float32)
            for name in ("ids_BT", "valid_BT", "weights_BT", "target_columns"):
                a, b = getattr(one, name), getattr(other, name)
                assert a.dtype == b.dtype
                assert torch.equal(a, b)


@given(keys=st.lists(st.sampled_from("abcdef"), max_size=30), sample=st.integers(0, 40))
def test_the_sample_is_the_lowest_keys(keys: list[str], sample: int) -> None:
    lowest = sorted(range(len(keys)), key=lambda position: (keys[position], position))[:sample]
    assert calibration_rows(keys, sample) == sorted(lowest)


@pytest.mark.parametrize("in_memory", [0, 2**20])
def test_positions_beyond_the_rows_are_refused_and_slices_are_rows(in_memory: int) -> None:
    rows, keys = flat([encoded([(n, True), (n + 1, True)]) for n in range(5)], in_memory)
    with pytest.raises(IndexError):
        rows[5]
    with pytest.raises(IndexError):
        keys[5]
    assert [row.ids.tolist() for row in rows[1:3]] == [[1, 2], [2, 3]]
    assert rows[-1].ids.tolist() == [4, 5]
    assert keys[3:] == [keys[3], keys[4]]
