"""Rank intervals against a loop over pairs; what is tied, what is not, and how often another run agrees."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from engine.agreement import rows_around
from engine.config import IndexOptions, ModelConfig
from engine.measure import measure_with_gradients
from engine.model import load_model
from engine.opened import OpenIndex
from engine.question import prepare
from engine.rank_intervals import Terms, rank_intervals
from engine.score_errors import storage_deviations
from engine.search import score_all
from engine.types import AskOptions, Attribution, Filter, Hit
from tests import factories
from tests.engine.contract_world import answer
from tests.engine.index_factory import build, make_manifest
from tests.engine.tuned_world import TunedWorld


def naive(terms: Terms, counts_M: np.ndarray, hit: int, largest: bool) -> tuple[int, int]:
    """Pair by pair, with the paired t as textbooks have it."""
    count, above, below = len(terms.terms_CM), 0.0, 0.0
    for other in range(len(counts_M)):
        differences_C = terms.terms_CM[:, hit] - terms.terms_CM[:, other]
        error = 1.6448536269514722 * np.hypot(terms.deviations_M[hit], terms.deviations_M[other])
        error += terms.slack_M[hit] + terms.slack_M[other]
        if count >= 3:
            standard_error_of_mean = np.std(differences_C, ddof=1) / np.sqrt(count)
            error += stats.t.ppf(0.95, count - 1) * np.sqrt(2) * count * standard_error_of_mean
        lead = differences_C.sum() * (1 if largest else -1)
        above += counts_M[other] * (lead < -error)
        below += counts_M[other] * (lead > error)
    return round(1 + above), round(counts_M.sum() - below)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 30),
    checkpoints=st.integers(1, 6),
    hits=st.integers(1, 40),
    largest=st.booleans(),
    stored=st.booleans(),
)
def test_intervals_are_those_of_a_loop_over_pairs(
    seed: int, rows: int, checkpoints: int, hits: int, largest: bool, stored: bool
) -> None:
    random = np.random.default_rng(seed)
    terms_CM = random.standard_normal((1, rows)) + 0.4 * random.standard_normal((checkpoints, rows))
    error_M = (0.2 if stored else 0.0) * random.random(rows)
    terms, counts_M = Terms(terms_CM, error_M, error_M / 3), random.integers(1, 4, rows).astype(float)
    hits_K = random.integers(0, rows, hits)
    best_K, worst_K = rank_intervals(terms, counts_M, hits_K, largest=largest)
    expected = [naive(terms, counts_M, hit, largest) for hit in hits_K]
    assert list(zip(best_K, worst_K, strict=True)) == expected


def test_checkpoints_that_agree_leave_no_doubt_and_those_that_do_not_leave_all_of_it() -> None:
    agreed_CM = np.tile([5.0, 3.0, 1.0], (4, 1))
    doubtful_CM = agreed_CM + 50 * np.random.default_rng(0).standard_normal((4, 3))
    nothing, ones, hits = np.zeros(3), np.ones(3), np.arange(3)
    best_K, worst_K = rank_intervals(Terms(agreed_CM, nothing, nothing), ones, hits)
    assert best_K.tolist() == worst_K.tolist() == [1, 2, 3]
    best_K, worst_K = rank_intervals(Terms(doubtful_CM, nothing, nothing), ones, hits)
    assert best_K.tolist() == [1, 1, 1]
    assert worst_K.tolist() == [3, 3, 3]


def test_another_run_s_difference_lies_inside_nine_times_of_ten_where_checkpoints_are_a_fair_sample() -> None:
    random, wrong, runs = np.random.default_rng(1), 0, 3000
    for _ in range(runs):
        differences_C, elsewhere = random.standard_normal(5), random.standard_normal(5).sum()
        terms = Terms(np.stack([differences_C - elsewhere / 5, np.zeros(5)], 1), np.zeros(2), np.zeros(2))
        best_K, worst_K = rank_intervals(terms, np.ones(2), np.array([0]))
        wrong += best_K[0] == worst_K[0]
    assert wrong / runs == pytest.approx(0.1, abs=0.015)


def test_the_hits_are_among_the_rows_compared_and_counts_add_up_to_all() -> None:
    random = np.random.default_rng(0)
    scores_N, allowed_N = random.standard_normal(500), random.random(500) < 0.7
    hits_K = np.sort(random.choice(np.flatnonzero(allowed_N), 40, replace=False))
    for limit in (1, 60, 10_000):
        positions_M, counts_M = rows_around(hits_K, scores_N, allowed_N, limit)
        assert (np.diff(positions_M) > 0).all()
        assert set(hits_K) <= set(positions_M.tolist()) <= set(np.flatnonzero(allowed_N).tolist())
        assert counts_M.sum() == pytest.approx(allowed_N.sum())
        assert (counts_M[np.isin(positions_M, hits_K)] == 1).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_rounding_stays_within_what_is_said_of_it(tmp_path: Path, dtype: str) -> None:
    random = np.random.default_rng(3)
    manifest = make_manifest(200, dtype=dtype, plan={"shard_rows": 64})
    true_ND = random.standard_normal((200, manifest.dims)) * np.exp(2 * random.standard_normal((200, 1)))
    store = build(tmp_path / "index", true_ND.astype(np.float32), manifest)
    query_D = random.standard_normal(manifest.dims)
    errors_N = (store.rows(np.arange(200)).astype(np.float64) - true_ND) @ query_D
    ratio_N = errors_N / storage_deviations(store, query_D, np.arange(store.manifest.rows))
    assert 0.2 < np.sqrt(np.mean(ratio_N**2)) <= 1.1  # a bound, and not a loose one


class Ensemble(TunedWorld):
    """Four checkpoints, and three rows that are the same."""

    def __init__(self, root: Path) -> None:
        base = factories.llama(hidden=8, layers=1)
        factories.save_base(root / "base", base)
        adapters = tuple(str(factories.save_adapter(root / f"epoch-{i}", base, i, r=2)) for i in range(4))
        self.root, self.model = root, load_model(ModelConfig(str(root / "base"), checkpoints=adapters))
        rows = factories.sentences(9, seed=3, longest=3)
        rows += [rows[2] | {"id": "twin-1"}, rows[2] | {"id": "twin-2"}]
        self.dataset = factories.dataset(root / "data", rows)
        self._built: dict[str, OpenIndex] = {}
        self._numbers = count()


TWINS = ("ex-2", "twin-1", "twin-2")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    return Ensemble(tmp_path_factory.mktemp("ranks"))


def hits_of(attribution: Attribution) -> dict[str, Hit]:
    return {hit.example_id: hit for hit in (*attribution.proponents, *attribution.opponents)}


@pytest.mark.parametrize("normalize", ["none", "cosine"])
def test_an_answer_s_intervals_are_those_of_its_checkpoints_scores(world: Ensemble, normalize: str) -> None:
    index, query = world.index("ekfac"), world.query(4, contrast=" sky sky")
    found = world.ask(index, query, normalize=normalize)
    (vector,), _ = measure_with_gradients(index, [prepare(index.model, None, query)])
    query_1D = vector.vector_D[None].astype(np.float32)
    terms_CM = np.array([score_all(index.store, query_1D, checkpoints=[c])[0] for c in range(4)], float)
    if normalize == "cosine":  # the query is divided by its own norm, a row by s^¼ (ensemble_power ½), already
        terms_CM /= 4 * index.self_scores_NC.T.astype(float) ** 0.25
    np.testing.assert_allclose([hit.score for hit in found.proponents[:1]], [terms_CM.sum(0).max()], rtol=1e-4)
    nothing, ones = np.zeros(len(world.dataset)), np.ones(len(world.dataset))
    for side, largest in ((found.proponents, True), (found.opponents, False)):
        assert side
        for hit in side:
            expected = naive(Terms(terms_CM, nothing, nothing), ones, hit.position, largest)
            assert (hit.rank_low, hit.rank_high) == expected or hit.example_id in TWINS  # equal up to rounding
            assert hit.rank_error == "checkpoints"
            assert not hit.rank_estimated


def test_rows_that_are_the_same_are_tied_with_each_other(world: Ensemble) -> None:
    for index in (world.index("ekfac"), world.index("ekfac", "final"), world.index("repsim", "final")):
        found = hits_of(world.ask(index, world.query(2)))
        twins = [found[name] for name in TWINS]
        assert len({(hit.rank_low, hit.rank_high) for hit in twins}) == 1
        for hit in twins:
            assert hit.tied
            assert (hit.rank_low or 0) <= min(twin.rank for twin in twins)
            assert (hit.rank_high or 0) >= max(twin.rank for twin in twins)


def test_with_one_checkpoint_only_rounding_counts_and_unlike_rows_are_not_tied(world: Ensemble) -> None:
    found = world.ask(world.index("ekfac", "final"), world.query(2))
    for hit in (*found.proponents, *found.opponents):
        assert hit.rank_error == "storage"
        if hit.example_id not in TWINS:
            assert (hit.rank_low, hit.rank_high, hit.tied) == (hit.rank, hit.rank, False)


def test_scores_made_from_text_have_no_error_and_only_equal_ones_tie(world: Ensemble) -> None:
    found = world.ask(world.index("ekfac"), world.query(2), method="length").proponents
    for hit in found:
        same = [other.rank for other in found if other.score == hit.score]
        assert (hit.rank_low, hit.rank_high) == (min(same), max(same))
        assert hit.tied == (len(same) > 1)
        assert hit.rank_error == "none"


def test_a_learned_sketch_mixes_checkpoints_and_says_storage(world: Ensemble) -> None:
    options = IndexOptions(sketch="learned", learned_dim=6, dtype="int8")
    found = hits_of(world.ask(world.index("ekfac", options=options), world.query(2)))
    assert {hit.rank_error for hit in found.values()} == {"storage"}
    assert found["twin-1"].tied


def test_an_interval_holds_the_rank_and_counts_only_the_rows_a_filter_leaves(world: Ensemble) -> None:
    wanted = Filter(tags={"parity": "0"}, exclude_ids=("ex-0",))
    found = world.ask(world.index("ekfac"), world.query(4), filter=wanted)
    left = sum(row.tags["parity"] == "0" and row.id != "ex-0" for row in world.dataset)
    assert found.diagnostics.searched == left
    for hit in (*found.proponents, *found.opponents):
        assert 1 <= (hit.rank_low or 0) <= hit.rank <= (hit.rank_high or 0) <= left


def test_more_rows_asked_for_than_there_are_or_none_at_all(world: Ensemble) -> None:
    index, query = world.index("ekfac"), world.query(4)
    everything = answer(index, query, AskOptions(top_k=10_000))
    few = answer(index, query, AskOptions(top_k=2))
    whole = hits_of(everything)
    for hit in few.proponents:
        assert (hit.rank_low, hit.rank_high) == (whole[hit.example_id].rank_low, whole[hit.example_id].rank_high)
    nobody = answer(index, query, AskOptions(filter=Filter(tags={"parity": "of another kind"})))
    assert nobody.proponents == nobody.opponents == ()
    assert nobody.clusters == ()


def test_a_sample_says_that_it_is_one(world: Ensemble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.agreement.READ_NUMBERS", 1)
    monkeypatch.setattr("engine.agreement.LEAST_ROWS", 4)
    found = answer(world.index("ekfac"), world.query(4), AskOptions(top_k=1))
    for hit in (*found.proponents, *found.opponents):
        assert hit.rank_estimated
        assert 1 <= (hit.rank_low or 0) <= hit.rank <= (hit.rank_high or 0) <= len(world.dataset)
