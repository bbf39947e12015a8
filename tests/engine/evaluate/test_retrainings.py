"""What an evaluation retrains: subsets that grow without changing, seeds nobody else has, outcomes in their place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.causal.replicas import replica_seed
from engine.config import Training
from engine.evaluate.retrainings import Outcomes, Retrainings, left_out
from engine.evaluate.scorecard import EvaluationConfig
from engine.evaluate.splits import split_queries, split_subsets

CONFIG = EvaluationConfig(
    half_subsets=5,
    half_seeds=2,
    drop_subsets=4,
    drop_share=0.1,
    leave_out_queries=2,
    leave_out_draws=3,
    leave_out_seeds=2,
    directions=2,
)


def plan(rows: int = 30, config: EvaluationConfig = CONFIG) -> Retrainings:
    return Retrainings(rows, Training(seed=7), config)


def test_half_and_drop_subsets_remove_what_they_say() -> None:
    assert (~plan().half_kept_MN).sum(1).tolist() == [15] * 5
    assert (~plan().drop_kept_MN).sum(1).tolist() == [3] * 4
    assert (~plan(31).half_kept_MN).sum(1).tolist() == [16] * 5
    assert plan().random_rows_KL.shape == (3, 4)
    assert not np.array_equal(plan().half_kept_MN[0], plan().half_kept_MN[1])


def test_more_subsets_keep_those_that_were_made() -> None:
    more = EvaluationConfig(half_subsets=9, drop_subsets=8, drop_share=0.1)
    assert np.array_equal(plan(config=more).half_kept_MN[:5], plan().half_kept_MN)
    assert np.array_equal(plan(config=more).drop_kept_MN[:4], plan().drop_kept_MN)


def test_seeds_of_the_half_regime_are_nobody_elses() -> None:
    seeds = plan().other_seeds
    assert len({7, *seeds}) == 3
    assert not set(seeds) & {replica_seed(Training(seed=7), number) for number in range(1, 100)}


def test_every_name_is_distinct_and_directions_take_two_steps() -> None:
    variants = [*plan().variants(), *plan().without_rows("ekfac", 3, [1, 2])]
    assert len({variant.name for variant in variants}) == len(variants)
    halves = [v for v in variants if v.name.startswith("direction 0")]
    assert [set(dict(v.weights).values()) for v in halves] == [{0.5}, {0.0}]
    assert all(v.seed == 7 for v in variants if v.name.startswith(("drop", "direction")))


def test_outcomes_go_where_their_names_say() -> None:
    """Every retraining is given a number of its own, and must be found again in its place."""
    chosen, queries = plan(), 3
    variants = chosen.variants()
    found = {v.name: np.array([100 * i + q for q in range(queries)], float) for i, v in enumerate(variants)}
    number = {variant.name: i for i, variant in enumerate(variants)}
    outcomes = Outcomes.of(chosen, found, queries)
    assert outcomes.half_QMR.shape == (3, 5, 2) and outcomes.drop_QM.shape == (3, 4)
    first, second = chosen.other_seeds
    assert outcomes.half_QMR[2, 4, 1] == 100 * number[f"half 4 seed {second}"] + 2
    assert outcomes.half_QMR[1, 0, 0] == 100 * number[f"half 0 seed {first}"] + 1
    assert outcomes.drop_QM[0, 3] == 100 * number["drop 3 seed 7"]
    assert outcomes.full_Q[7][1] == 100 * number["full seed 7"] + 1
    assert outcomes.random_QKR.shape == (3, 3, 2)
    assert outcomes.random_QKR[1, 2, 1] == 100 * number[f"random 2 seed {first}"] + 1
    assert outcomes.step_2_QV[0, 1] == 100 * number["direction 1 step 2"]


def test_without_queries_to_leave_rows_out_for_there_are_no_random_draws() -> None:
    config = EvaluationConfig(half_subsets=3, drop_subsets=0, leave_out_queries=0, directions=0)
    chosen = plan(config=config)
    names = [variant.name for variant in chosen.variants()]
    assert not any(name.startswith(("random", "drop", "direction")) for name in names)
    outcomes = Outcomes.of(chosen, {name: np.zeros(4) for name in names}, 4)
    assert outcomes.drop_QM.shape == (4, 0) and outcomes.random_QKR.shape[1] == 0


def test_a_seed_too_many_is_not_invented() -> None:
    config = EvaluationConfig(half_seeds=1, leave_out_seeds=5)
    assert plan(config=config).leave_out_seeds == (7, *plan(config=config).other_seeds)
    assert left_out("ekfac", 3, 7) == "without top of ekfac for query 3 seed 7"


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.one_of(st.none(), st.sampled_from("abcdef")), min_size=2, max_size=40),
    st.floats(0, 0.9),
    st.integers(0, 99),
)
def test_no_group_is_on_both_sides(groups: list[str | None], share: float, seed: int) -> None:
    split = split_queries(groups, share, seed)
    assert sorted((*split.tuning, *split.test)) == list(range(len(groups)))
    assert not {groups[i] for i in split.tuning if groups[i]} & {groups[i] for i in split.test if groups[i]}
    assert split == split_queries(groups, share, seed)
    assert split.test


def test_the_share_is_of_the_groups() -> None:
    groups = [f"fact {n // 3}" for n in range(30)]
    split = split_queries(groups, 1 / 3, 0)
    assert len({groups[i] for i in split.tuning}) == 3 and len(split.tuning) == 9
    assert split_queries(groups, 0.0, 0).tuning == ()
    assert split_queries(["one", "two"], 0.5, 0).tuning == ()  # too few to measure anything on either side


@pytest.mark.parametrize(("count", "share", "tuning"), [(60, 1 / 3, 20), (60, 0.0, 0), (3, 0.5, 0), (9, 0.5, 4)])
def test_subsets_are_split(count: int, share: float, tuning: int) -> None:
    split = split_subsets(count, share)
    assert len(split.tuning) == tuning
    assert (*split.test, *split.tuning) == tuple(range(count))
