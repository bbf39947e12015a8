"""Batches: every row once, within the budget; pads and unpredicted tokens weigh nothing; the recipe's loss weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.batching import example_weights, pad_batch, plan_batches
from engine.encoded import Encoded
from engine.errors import InvalidOption


def row(length: int, targets: int, first_id: int = 1) -> Encoded:
    """The last `targets` of `length` tokens are targets."""
    flags = tuple(t >= length - targets for t in range(length))
    return Encoded(tuple(range(first_id, first_id + length)), flags, ("prompt",) * length, ((0, 1),) * length)


@given(
    lengths=st.lists(st.integers(1, 60), max_size=60),
    budget=st.integers(1, 200),
    max_rows=st.none() | st.integers(1, 9),
)
def test_every_row_is_in_one_batch_and_padded_tokens_stay_within_the_budget(
    lengths: list[int], budget: int, max_rows: int | None
) -> None:
    batches = plan_batches(lengths, budget, max_rows)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[index] for index in batch)
        assert padded <= budget or len(batch) == 1
        assert max_rows is None or len(batch) <= max_rows


@given(lengths=st.lists(st.integers(1, 60), max_size=60), budget=st.integers(1, 200))
def test_a_batch_is_as_full_as_the_budget_lets_it_be(lengths: list[int], budget: int) -> None:
    batches = plan_batches(lengths, budget)
    for batch in batches[:-1]:
        assert (len(batch) + 1) * max(lengths[index] for index in batch) > budget


def test_rows_of_like_length_share_a_batch_and_ties_go_by_position() -> None:
    assert plan_batches([3, 9, 3, 9, 3], 18) == [[1, 3], [0, 2, 4]]
    assert plan_batches([5, 5, 5, 5], 10) == [[0, 1], [2, 3]]
    assert plan_batches([], 10) == []


@pytest.mark.parametrize(("budget", "max_rows"), [(0, None), (10, 0)])
def test_a_budget_without_room_is_refused(budget: int, max_rows: int | None) -> None:
    with pytest.raises(InvalidOption, match="at least 1"):
        plan_batches([1, 2], budget, max_rows)


def test_pads_are_on_the_right_not_valid_and_weigh_nothing() -> None:
    batch = pad_batch([row(2, 1), row(4, 2, first_id=7)], [0.5, 2.0], pad_id=99, dtype=torch.float64)
    assert batch.ids_BT.tolist() == [[1, 2, 99, 99], [7, 8, 9, 10]]
    assert batch.valid_BT.tolist() == [[True, True, False, False], [True] * 4]
    assert batch.weights_BT.tolist() == [[0, 0.5, 0, 0], [0, 0, 2, 2]]
    assert batch.weights_BT.dtype == torch.float64
    assert batch.target_columns.tolist() == [1, 2, 3]


def test_a_pad_id_that_is_also_a_token_of_the_row_changes_nothing() -> None:
    batch = pad_batch([row(3, 2), row(5, 1)], None, pad_id=3, dtype=torch.float32)
    assert batch.valid_BT.sum(1).tolist() == [3, 5]
    assert batch.weights_BT.tolist() == [[0, 1, 1, 0, 0], [0, 0, 0, 0, 1]]


def test_ids_are_never_negative_whatever_is_not_a_target() -> None:
    batch = pad_batch([row(3, 1), row(6, 2)], None, pad_id=0, dtype=torch.float32)
    assert int(batch.ids_BT.min()) >= 0


def test_positions_name_the_rows_and_travel_with_the_batch() -> None:
    rows = [row(2, 1), row(3, 1)]
    assert pad_batch(rows, None, 0, torch.float32).positions == (0, 1)
    moved = pad_batch(rows, None, 0, torch.float32, positions=[40, 7]).to("meta", non_blocking=True)
    assert moved.positions == (40, 7)
    tensors = (moved.ids_BT, moved.valid_BT, moved.weights_BT, moved.target_columns)
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_token_sum_weighs_every_row_alike() -> None:
    assert example_weights([row(4, 3), row(9, 1)], "token_sum", None) == [1.0, 1.0]


def test_example_mean_weighs_by_the_rows_own_targets() -> None:
    assert example_weights([row(5, 4), row(9, 2)], "example_mean", None) == [0.25, 0.5]


def test_batch_token_mean_weighs_by_the_targets_of_the_rows_steps() -> None:
    rows = [row(9, 3), row(9, 5), row(9, 1)]
    weights = example_weights(rows, "batch_token_mean", [[0, 1], [2], [0, 2], [1]])
    assert weights == pytest.approx([(1 / 8 + 1 / 4) / 2, (1 / 8 + 1 / 5) / 2, (1 + 1 / 4) / 2])


def test_a_row_twice_in_one_step_counts_twice() -> None:
    rows = [row(9, 3), row(9, 5)]
    assert example_weights(rows, "batch_token_mean", [[0, 0, 1]]) == pytest.approx([1 / 11, 1 / 11])


@pytest.mark.parametrize("steps", [None, []])
def test_batch_token_mean_needs_steps(steps: list[list[int]] | None) -> None:
    with pytest.raises(InvalidOption, match="every optimizer step"):
        example_weights([row(3, 1)], "batch_token_mean", steps)


def test_a_row_in_no_step_is_refused_by_position() -> None:
    with pytest.raises(InvalidOption, match="Row 1 and 1 more rows are in no optimizer step"):
        example_weights([row(3, 1)] * 3, "batch_token_mean", [[0], [0]])


@pytest.mark.parametrize("position", [-1, 2])
def test_a_step_that_names_a_row_that_is_not_there_is_refused(position: int) -> None:
    with pytest.raises(InvalidOption, match=f"Step 1 names row {position}; the dataset has rows 0 to 1"):
        example_weights([row(3, 1)] * 2, "batch_token_mean", [[0, 1], [position]])
