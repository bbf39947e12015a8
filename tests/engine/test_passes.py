"""Cutting a micro-batch into passes: against every way of cutting the sorted lengths; and what comes of it."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.passes import pass_tokens, plan_passes


def cost(passes: list[list[int]], lengths: list[int], own: float) -> float:
    return sum(own + len(together) * max(lengths[i] for i in together) for together in passes)


def cheapest(lengths: list[int], own: float, budget: int) -> float:
    """By trial of every set of cuts."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    found = []
    for cuts in product([False, True], repeat=max(0, len(order) - 1)):
        passes: list[list[int]] = [[order[0]]]
        for index, cut in zip(order[1:], cuts, strict=True):
            if cut:
                passes.append([])
            passes[-1].append(index)
        if all(len(p) == 1 or len(p) * max(lengths[i] for i in p) <= budget for p in passes):
            found.append(cost(passes, lengths, own))
    return min(found)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.floats(0, 80), st.integers(1, 200))
def test_no_other_cuts_cost_less(lengths: list[int], own: float, budget: int) -> None:
    passes = plan_passes(lengths, own, budget)
    assert sorted(i for together in passes for i in together) == list(range(len(lengths)))
    assert all(len(p) == 1 or len(p) * max(lengths[i] for i in p) <= budget for p in passes)
    assert cost(passes, lengths, own) == pytest.approx(cheapest(lengths, own, budget))


def test_alike_go_together_and_very_different_ones_do_not() -> None:
    assert plan_passes([20, 20, 20, 20], 30, 4096) == [[0, 1, 2, 3]]
    assert plan_passes([500, 20, 510, 21], 30, 4096) == [[2, 0], [3, 1]]
    assert plan_passes([500, 20], 1e9, 4096) == [[0, 1]]
    assert plan_passes([], 30, 4096) == []


def test_a_pass_costs_the_more_tokens_the_smaller_the_model_is() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert pass_tokens(10**6, cpu) > 10 * pass_tokens(10**9, cpu)
    assert pass_tokens(10**8, gpu) > pass_tokens(10**8, cpu)
