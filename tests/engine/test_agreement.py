"""Agreement of checkpoints and with words, against loops over stored rows.

Shapes: N rows, K rows that are read, C checkpoints, D numbers of a row.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import agreement
from engine.agreement import bm25_agreement, checkpoint_agreement, chosen_rows, mean_correlation, scores_apart
from engine.config import IndexOptions
from engine.manifest import lay_out
from engine.scores import Scores
from engine.search import score_all
from engine.store import IndexStore
from engine.types import AskOptions
from tests.engine.contract_world import answer
from tests.engine.index_factory import SHAPES, build, make_manifest, random_rows
from tests.engine.tuned_world import TunedWorld


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TunedWorld:
    return TunedWorld(tmp_path_factory.mktemp("agreement"))


def naive(store: IndexStore, query_D: np.ndarray, rows: list[int]) -> float:
    """Pearson's of every two checkpoints' scores, one row and one block at a time."""
    scores = {c: [0.0] * len(rows) for c in range(len(store.manifest.checkpoints))}
    for place, row_D in enumerate(store.rows(np.array(rows))):
        for block in store.manifest.blocks:
            part = slice(block.offset, block.stop)
            scores[block.checkpoint][place] += float(row_D[part].astype(np.float64) @ query_D[part])
    return float(np.mean([np.corrcoef(scores[a], scores[b])[0, 1] for a, b in combinations(scores, 2)]))


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_checkpoints_are_correlated_as_by_a_loop(tmp_path_factory: pytest.TempPathFactory, dtype: str) -> None:
    manifest = make_manifest(rows=23, dtype=dtype, blocks=lay_out(SHAPES, 3), checkpoints=("1", "2", "3"))
    store = build(tmp_path_factory.mktemp("store"), random_rows(manifest), manifest)
    query_D = np.random.default_rng(5).standard_normal(manifest.dims)
    scores_N = score_all(store, query_D[None].astype(np.float32))[0]
    assert checkpoint_agreement(scores_apart(store, query_D, Scores(23, scores_N))) == pytest.approx(
        naive(store, query_D, [*range(23)]), abs=1e-5
    )
    allowed_N = np.arange(23) % 3 > 0
    expected = naive(store, query_D, np.flatnonzero(allowed_N).tolist())
    found = scores_apart(store, query_D, Scores(23, scores_N), allowed_N)
    assert checkpoint_agreement(found) == pytest.approx(expected, abs=1e-5)


def test_of_a_large_index_the_first_rows_and_a_sample_are_read() -> None:
    scores_N = np.random.default_rng(0).standard_normal(1000)
    positions_K, counts_K = chosen_rows(scores_N, None, 100)
    assert len(positions_K) == 100 and counts_K.sum() == pytest.approx(1000)
    assert sorted(positions_K) == positions_K.tolist()
    assert set(np.argsort(-np.abs(scores_N))[:50]) == set(positions_K[counts_K == 1])
    allowed_N = np.arange(1000) % 2 == 0
    positions_K, counts_K = chosen_rows(scores_N, allowed_N, 100)
    assert allowed_N[positions_K].all() and counts_K.sum() == pytest.approx(500)


def test_the_estimate_is_near_the_exact_figure() -> None:
    random = np.random.default_rng(3)
    common_N = random.standard_t(3, 2000)
    scores_CN = common_N + 0.7 * random.standard_normal((4, 2000))
    exact = mean_correlation(scores_CN, np.ones(2000))
    positions_K, counts_K = chosen_rows(scores_CN.sum(0), None, 200)
    assert mean_correlation(scores_CN[:, positions_K], counts_K) == pytest.approx(exact, abs=0.05)


@settings(deadline=None)
@given(st.integers(2, 4), st.integers(3, 12), st.integers(0, 1000))
def test_counts_are_repetitions(checkpoints: int, rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores_CK, counts_K = random.standard_normal((checkpoints, rows)), random.integers(1, 5, rows)
    repeated = np.repeat(scores_CK, counts_K, axis=1)
    expected = np.mean([np.corrcoef(repeated[a], repeated[b])[0, 1] for a, b in combinations(range(checkpoints), 2)])
    assert mean_correlation(scores_CK, counts_K.astype(float)) == pytest.approx(expected)


def test_a_checkpoint_that_scores_all_rows_alike_does_not_count() -> None:
    scores_CK = np.array([[1.0, 2.0, 3.0], [0.1, 0.1, 0.1], [3.0, 2.0, 1.0]])
    assert mean_correlation(scores_CK, np.ones(3)) == pytest.approx(-1)
    assert mean_correlation(scores_CK[:2], np.ones(3)) is None
    assert mean_correlation(scores_CK[:, :2], np.ones(2)) is None


def test_an_answer_shows_norm_and_agreement(world: TunedWorld) -> None:
    index = world.index("ekfac", ensemble_power=0.0)
    shown = world.ask(index, world.query(0)).diagnostics
    rows_ND = index.store.rows(np.arange(len(world.dataset)))
    columns_C = index.store.manifest.checkpoint_columns()
    own = [rows_ND[0, columns] for columns in columns_C]  # the query is row 0
    assert shown.query_norm == pytest.approx(np.mean([np.linalg.norm(g) for g in own]), rel=1e-3)
    scaled = [rows_ND[:, columns] @ g / np.linalg.norm(g) for columns, g in zip(columns_C, own, strict=True)]
    assert shown.checkpoint_agreement == pytest.approx(np.corrcoef(*scaled)[0, 1], abs=1e-4)


def test_of_cosines_the_checkpoints_cosines_agree(world: TunedWorld) -> None:
    index = world.index("ekfac", ensemble_power=0.0)
    shown = answer(index, world.query(0), AskOptions(top_k=3, normalize="cosine")).diagnostics
    rows_ND = index.store.rows(np.arange(len(world.dataset)))
    blocks = [rows_ND[:, columns] for columns in index.store.manifest.checkpoint_columns()]
    cosines = [b @ b[0] / (np.linalg.norm(b, axis=1) * np.linalg.norm(b[0])) for b in blocks]
    assert shown.checkpoint_agreement == pytest.approx(np.corrcoef(*cosines)[0, 1], abs=1e-4)


def test_what_a_method_has_not_is_none(world: TunedWorld) -> None:
    index = world.index("ekfac", ensemble_power=0.0)
    by_words = world.ask(index, world.query(0), method="bm25").diagnostics
    assert (by_words.query_norm, by_words.checkpoint_agreement, by_words.bm25_agreement) == (None, None, None)
    assert by_words.score_spread is not None
    single = world.ask(world.index("ekfac", "final"), world.query(0)).diagnostics
    assert single.checkpoint_agreement is None and single.query_norm is not None
    learned = world.index("ekfac", options=IndexOptions(sketch="learned", learned_dim=4))
    assert world.ask(learned, world.query(0)).diagnostics.checkpoint_agreement is None
    states = world.ask(world.index("repsim", "final"), world.query(0)).diagnostics
    assert (states.query_norm, states.checkpoint_agreement) == (None, None)


def test_agreement_with_words(world: TunedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    index = world.index("ekfac", ensemble_power=0.0)
    asked = world.query(1)
    found = world.ask(index, asked)
    scores_N = np.zeros(len(world.dataset))
    for hit in (*found.proponents, *found.opponents):
        scores_N[hit.position] = hit.score
    words_N = index.corpus.bm25.scores(f"{asked.prompt}\n{asked.completion}")
    assert found.diagnostics.bm25_agreement == pytest.approx(np.corrcoef(scores_N, words_N)[0, 1], abs=1e-4)
    monkeypatch.setattr(agreement, "BM25_ROWS", len(scores_N) - 1)
    assert bm25_agreement(index, "any", Scores(len(scores_N), scores_N)) is None
