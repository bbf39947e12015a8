"""Search against brute force in float64: every score, and an order that never varies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import NonFiniteGradient
from engine.manifest import lay_out
from engine.search import rank, score_all, top_k
from engine.store import IndexStore
from tests.engine.index_factory import build, make_manifest


def build_rows(path: Path, vectors_ND: np.ndarray, *, scale: float = 1.0, **changes: Any) -> IndexStore:
    """One block of D numbers a row, unless `blocks` are given."""
    rows, dims = vectors_ND.shape
    fields: dict[str, Any] = {"blocks": lay_out([("module", 1, dims)], 1), "plan": {"shard_rows": 4}}
    manifest = make_manifest(rows, **(fields | changes))
    return build(path, vectors_ND.astype(np.float32), manifest.with_scales([scale] * len(manifest.blocks)))


def brute_force(
    store: IndexStore, query_D: np.ndarray, k: int, largest: bool = True, allowed_N: np.ndarray | None = None
) -> tuple[list[int], list[float]]:
    """The k best stored rows by (−score, position), one Python sum a row."""
    rows_ND = store.rows(np.arange(store.manifest.rows)).astype(np.float64)
    scores = [float(np.add.reduce(row_D * query_D.astype(np.float64))) for row_D in rows_ND]
    searched = [i for i in range(len(scores)) if allowed_N is None or allowed_N[i]]
    best = sorted(searched, key=lambda i: (-scores[i] if largest else scores[i], i))[:k]
    return best, [scores[i] for i in best]


def ask(store: IndexStore, query_D: np.ndarray, k: int, **options: Any) -> tuple[list[int], list[float]]:
    positions_K, scores_K = top_k(store, query_D, score_all(store, query_D[None])[0], k, **options)
    return positions_K.tolist(), scores_K.tolist()


# --- scores ---


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 12),
    dims=st.integers(1, 40),
    queries=st.integers(1, 3),
    shard_rows=st.integers(1, 13),
    dtype=st.sampled_from(["int8", "float16", "float32"]),
    exponent=st.integers(-20, 20),
    seed=st.integers(0, 2**16),
)
def test_scores_equal_brute_force_within_the_contract(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    dims: int,
    queries: int,
    shard_rows: int,
    dtype: str,
    exponent: int,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    vectors_ND = random.standard_normal((rows, dims))
    query_QD = random.standard_normal((queries, dims)).astype(np.float32)
    store = build_rows(
        tmp_path_factory.mktemp("index"),
        vectors_ND,
        dtype=dtype,
        plan={"shard_rows": shard_rows},
        scale=2.0**-exponent if abs(exponent) < 10 else 1.0,
    )
    if dtype == "int8":  # steps of a row's largest number / 127: each number errs by half a step at most
        allowed_QN = np.abs(query_QD).sum(1)[:, None] * np.abs(vectors_ND).max(1) / 254 * 1.01
    else:
        relative = {"float16": 2e-3, "float32": 1e-5}[dtype]
        allowed_QN = relative * np.linalg.norm(query_QD, axis=1)[:, None] * np.linalg.norm(vectors_ND, axis=1)
    assert (np.abs(score_all(store, query_QD) - query_QD @ vectors_ND.T) <= allowed_QN).all()


def test_scores_that_are_all_negative_are_found(tmp_path: Path) -> None:
    vectors_ND = -np.random.default_rng(0).uniform(1, 2, (11, 6))
    scores_QN = score_all(build_rows(tmp_path, vectors_ND), np.ones((1, 6), np.float32))
    assert scores_QN[0] == pytest.approx(vectors_ND.sum(axis=1), rel=1e-3)


def test_block_scales_do_not_change_scores(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    vectors_ND = random.standard_normal((9, 8)) * 1e-6
    query_QD = random.standard_normal((1, 8)).astype(np.float32)
    scaled = score_all(build_rows(tmp_path / "scaled", vectors_ND, scale=2.0**27), query_QD)
    plain = score_all(build_rows(tmp_path / "plain", vectors_ND, dtype="float32"), query_QD)
    assert scaled[0] == pytest.approx(plain[0], abs=2e-3 * np.linalg.norm(query_QD) * np.linalg.norm(vectors_ND))


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
def test_a_querys_scores_do_not_depend_on_who_else_asks(tmp_path: Path, dtype: str) -> None:
    random = np.random.default_rng(0)
    store = build_rows(tmp_path, random.standard_normal((50, 33)), dtype=dtype, plan={"shard_rows": 16})
    query_QD = random.standard_normal((30, 33)).astype(np.float32)
    alone = np.concatenate([score_all(store, query_QD[i : i + 1]) for i in range(30)])
    assert np.array_equal(score_all(store, query_QD), alone)


def test_only_the_chosen_checkpoints_count(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    vectors_ND = random.standard_normal((9, 10))
    query_D = random.standard_normal(10).astype(np.float32)
    blocks = lay_out([("a", 1, 2), ("b", 1, 3)], 2)
    store = build_rows(tmp_path, vectors_ND, blocks=blocks, checkpoints=("epoch-1", "epoch-2"), dtype="float32")
    first, second = (score_all(store, query_D[None], checkpoints=[c])[0] for c in (0, 1))
    assert second == pytest.approx(vectors_ND[:, 5:] @ query_D[5:], abs=1e-5)
    assert first + second == pytest.approx(score_all(store, query_D[None])[0], abs=1e-5)
    _, exact_K = top_k(store, query_D, second, 9, checkpoints=[1])
    assert exact_K == pytest.approx(sorted(second, reverse=True), abs=1e-5)


def test_a_query_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    store = build_rows(tmp_path, np.ones((3, 2)))
    for value in (np.nan, np.inf):
        with pytest.raises(NonFiniteGradient, match="query"):
            score_all(store, np.array([[1.0, value]], np.float32))


def test_a_score_beyond_float32_is_refused(tmp_path: Path) -> None:
    store = build_rows(tmp_path, np.full((3, 2), 1000.0))
    for sign in (1, -1):
        with pytest.raises(NonFiniteGradient, match="overflows"):
            score_all(store, np.full((1, 2), sign * 3e38, np.float32))


def test_a_query_of_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 numbers a row"):
        score_all(build_rows(tmp_path, np.ones((3, 2))), np.ones((1, 3), np.float32))


# --- order ---


@settings(max_examples=60, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(["int8", "float16", "float32"]), largest=st.booleans())
def test_the_order_equals_brute_force_with_many_ties(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, dtype: str, largest: bool
) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    distinct_KD = random.standard_normal((data.draw(st.integers(1, 4)), data.draw(st.integers(1, 37))))
    rows = data.draw(st.integers(1, 30))
    vectors_ND = distinct_KD[random.integers(0, len(distinct_KD), rows)]
    store = build_rows(
        tmp_path_factory.mktemp("index"), vectors_ND, dtype=dtype, plan={"shard_rows": data.draw(st.integers(1, 31))}
    )
    query_D = random.standard_normal(vectors_ND.shape[1]).astype(np.float32)
    allowed_N = random.random(rows) < data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    k = data.draw(st.integers(0, rows + 3))
    found = ask(store, query_D, k, largest=largest, allowed_N=allowed_N)
    assert found == brute_force(store, query_D, k, largest, allowed_N)


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
@pytest.mark.parametrize("k", [1, 3, 5, 6, 7, 8, 12])
def test_ties_at_the_last_place_go_to_the_lowest_positions(tmp_path: Path, dtype: str, k: int) -> None:
    """Two better rows, then seven identical ones spread over all shards, then worse ones."""
    random = np.random.default_rng(0)
    query_D = random.standard_normal(37).astype(np.float32)
    vectors_ND = np.repeat(-query_D[None], 23, axis=0)
    tied = [1, 4, 5, 11, 14, 20, 22]
    vectors_ND[tied] = query_D
    vectors_ND[[17, 9]] = 2 * query_D
    store = build_rows(tmp_path, vectors_ND, dtype=dtype)
    positions, scores = ask(store, query_D, k)
    assert positions == [9, 17, *tied, 0, 2, 3][:k]
    assert len(set(scores[2:9])) <= 1
    assert ask(store, -query_D, k, largest=False)[0] == positions


@pytest.mark.parametrize("weight", [None, 1.0, 1000.0])
def test_rounding_in_the_scores_cannot_change_the_order(tmp_path: Path, weight: float | None) -> None:
    """Scores wrong by as much as float32 summation may make them, in the worst direction for each row."""
    random = np.random.default_rng(0)
    base_D = random.standard_normal(64)
    vectors_ND = base_D + 1e-7 * random.standard_normal((40, 64))  # best and worst differ in the last digits
    query_D = random.standard_normal(64).astype(np.float32)
    store = build_rows(tmp_path, vectors_ND, dtype="float32", plan={"shard_rows": 16})
    positions, scores = brute_force(store, query_D, 10)
    margin = 2.0**-24 * np.sqrt(64) * np.linalg.norm(query_D) * np.linalg.norm(base_D)
    wrong_N = score_all(store, query_D[None])[0] + np.where(np.isin(np.arange(40), positions), -margin, margin)
    weights_NC = None if weight is None else np.full((40, 1), weight)
    found_K, exact_K = top_k(store, query_D, wrong_N * (weight or 1.0), 10, weights_NC=weights_NC)
    assert found_K.tolist() == positions
    assert exact_K.tolist() == [score * (weight or 1.0) for score in scores]


@pytest.mark.parametrize("shard_rows", [1, 3, 5, 64])
def test_the_answer_does_not_depend_on_the_number_of_shards(tmp_path: Path, shard_rows: int) -> None:
    random = np.random.default_rng(0)
    vectors_ND, query_D = random.standard_normal((20, 19)), random.standard_normal(19).astype(np.float32)
    one = build_rows(tmp_path / "one", vectors_ND, plan={"shard_rows": 20})
    many = build_rows(tmp_path / "many", vectors_ND, plan={"shard_rows": shard_rows})
    assert ask(many, query_D, 20) == ask(one, query_D, 20)


def test_identical_rows_score_identically_wherever_they_lie(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    store = build_rows(tmp_path, np.repeat(random.standard_normal((1, 101)), 23, axis=0), plan={"shard_rows": 7})
    positions, scores = ask(store, random.standard_normal(101).astype(np.float32), 23)
    assert positions == list(range(23)) and len(set(scores)) == 1


def test_a_duplicate_of_the_query_ranks_first_among_unit_rows(tmp_path: Path) -> None:
    vectors_ND = np.random.default_rng(0).standard_normal((30, 12))
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    positions, scores = ask(build_rows(tmp_path, vectors_ND), vectors_ND[21].astype(np.float32), 1)
    assert positions == [21] and scores[0] == pytest.approx(1, abs=2e-3)


def test_a_mean_of_cosines_ranks_by_the_mean_with_ties_by_position(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    vectors_ND, query_D = random.standard_normal((30, 12)), random.standard_normal(12).astype(np.float32)
    vectors_ND[[3, 17, 25]] = np.tile(query_D, (3, 1))  # the best, three times
    vectors_ND *= np.repeat(random.uniform(0.1, 10, (1, 2)), [8, 4], axis=1)
    blocks = lay_out([("a", 1, 4)], 3)
    store = build_rows(tmp_path, vectors_ND, blocks=blocks, checkpoints=("c0", "c1", "c2"), dtype="float32")
    parts = [slice(0, 4), slice(4, 8), slice(8, 12)]
    norms_NC = np.stack([np.linalg.norm(vectors_ND[:, p], axis=1) * np.linalg.norm(query_D[p]) for p in parts], 1)
    weights_NC = 1 / (3 * norms_NC)
    scores_CN = np.stack([score_all(store, query_D[None], checkpoints=[c])[0] for c in range(3)])
    weighted_N = (weights_NC * scores_CN.T).sum(axis=1)
    positions_K, scores_K = top_k(store, query_D, weighted_N, 30, weights_NC=weights_NC)
    cosines_N = np.mean([vectors_ND[:, p] @ query_D[p] / norms_NC[:, c] for c, p in enumerate(parts)], axis=0)
    assert positions_K.tolist() == np.lexsort((np.arange(30), -cosines_N.round(9))).tolist()
    assert scores_K == pytest.approx(np.sort(cosines_N)[::-1], abs=1e-6)
    assert scores_K[0] == scores_K[1] == scores_K[2]


def test_a_query_of_zeros_ranks_by_position(tmp_path: Path) -> None:
    store = build_rows(tmp_path, np.random.default_rng(0).standard_normal((9, 4)))
    assert ask(store, np.zeros(4, np.float32), 4) == ([0, 1, 2, 3], [0.0] * 4)


def test_more_rows_asked_for_than_there_are(tmp_path: Path) -> None:
    store = build_rows(tmp_path, np.arange(1, 7).reshape(6, 1))
    assert ask(store, np.ones(1, np.float32), 100) == ([5, 4, 3, 2, 1, 0], [6.0, 5.0, 4.0, 3.0, 2.0, 1.0])


@pytest.mark.parametrize(("k", "mask"), [(5, np.zeros(6, bool)), (0, None), (-1, None)])
def test_nothing_to_rank_gives_an_empty_answer(tmp_path: Path, k: int, mask: np.ndarray | None) -> None:
    store = build_rows(tmp_path, np.arange(6).reshape(6, 1))
    assert ask(store, np.ones(1, np.float32), k, allowed_N=mask) == ([], [])


def test_scores_of_rows_are_ranked_by_the_same_rule() -> None:
    scores_N = np.float32([1, 3, 3, -2, 3, 0])
    assert rank(scores_N, 4)[0].tolist() == [1, 2, 4, 0]
    assert rank(scores_N, 2, largest=False)[0].tolist() == [3, 5]
    positions_K, scores_K = rank(scores_N, 9, allowed_N=scores_N != 3)
    assert (positions_K.tolist(), scores_K.tolist()) == ([0, 5, 3], [1.0, 0.0, -2.0])
    assert rank(scores_N, 0)[0].size == 0
