"""The learned sketch: its basis against an explicit SVD, and the score contract through build_index and attribute."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.answer import score_query
from engine.build import build_index
from engine.compression import LearnedBasis, fit_basis
from engine.config import IndexConfig, IndexOptions
from engine.errors import Cancelled, FingerprintMismatch
from engine.opened import OpenIndex
from engine.search import score_all, top_k
from engine.store import BASIS_TENSORS, IndexStore
from engine.types import AskOptions, Progress
from tests import factories
from tests.engine.contract_world import ROWS, World, answer, digests, magnitude
from tests.engine.index_factory import flip_byte

HALF = 2.0**-11  # float16's rounding, relative


def sample(rows: int, dims: int, seed: int = 0) -> np.ndarray:
    """float32 [S, D] of a falling spectrum, as gradients have."""
    random = np.random.default_rng(seed)
    return (random.standard_normal((rows, dims)) * np.linspace(2, 0.2, dims)).astype(np.float32)


def fitted(sample_SD: np.ndarray, width: int) -> LearnedBasis:
    return fit_basis(torch.from_numpy(sample_SD), width, seed=0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("lora"), "lora")


# --- the basis ---


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 12), dims=st.integers(1, 40), width=st.integers(1, 14), seed=st.integers(0, 2**16))
def test_the_basis_is_orthonormal_and_spans_the_leading_singular_vectors(
    rows: int, dims: int, width: int, seed: int
) -> None:
    sample_SD = sample(rows, dims, seed)
    basis_KD = fitted(sample_SD, width).basis_KD.double().numpy()
    rank = min(rows, dims, width)
    assert np.allclose(basis_KD[:rank] @ basis_KD[:rank].T, np.eye(rank), atol=8 * HALF)
    assert not basis_KD[rank:].any()
    leading_RD = np.linalg.svd(sample_SD.astype(np.float64), full_matrices=False)[2][:rank]
    assert np.allclose(basis_KD.T @ basis_KD, leading_RD.T @ leading_RD, atol=8 * HALF)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 10), dims=st.integers(1, 30), extra=st.integers(0, 5), seed=st.integers(0, 2**16))
def test_a_sketch_of_full_rank_keeps_every_score(rows: int, dims: int, extra: int, seed: int) -> None:
    sample_SD = sample(rows, dims, seed)
    query_D = np.random.default_rng(seed + 1).standard_normal(dims).astype(np.float32)
    basis = fitted(sample_SD, min(rows, dims) + extra)
    scores_S = basis.project_part(torch.from_numpy(sample_SD), 0).double().numpy() @ basis.project(query_D)
    allowed_S = 16 * HALF * np.linalg.norm(sample_SD, axis=1) * np.linalg.norm(query_D)
    assert (np.abs(scores_S - sample_SD.astype(np.float64) @ query_D) <= allowed_S).all()


def test_directions_far_weaker_than_the_first_are_kept_and_repeated_rows_give_none() -> None:
    sample_SD = np.eye(6, 9, dtype=np.float32) * 10.0 ** -np.arange(6)[:, None] / 3
    basis_KD = fitted(np.concatenate([sample_SD, sample_SD]).astype(np.float32), 8).basis_KD.double().numpy()
    kept = 5  # the sixth's eigenvalue is 1e-10 of the first: rounding
    assert np.allclose(basis_KD.T @ basis_KD, np.diag([1] * kept + [0] * (9 - kept)), atol=8 * HALF)
    assert not fitted(np.zeros((3, 4), np.float32), 2).basis_KD.any()


def test_the_same_sample_gives_the_same_basis_and_the_seed_only_turns_it() -> None:
    sample_SD = torch.from_numpy(sample(9, 25))
    one, two, other = fit_basis(sample_SD, 4, 0), fit_basis(sample_SD, 4, 0), fit_basis(sample_SD, 4, 1)
    assert torch.equal(one.basis_KD, two.basis_KD) and not torch.equal(one.basis_KD, other.basis_KD)
    spans = [basis.basis_KD.double().T @ basis.basis_KD.double() for basis in (one, other)]
    assert torch.allclose(spans[0], spans[1], atol=8 * HALF)


@settings(max_examples=25, deadline=None)
@given(dims=st.integers(2, 30), width=st.integers(1, 6), seed=st.integers(0, 2**16))
def test_lifting_is_the_adjoint_of_projecting_and_parts_add_up(dims: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    basis = fitted(sample(7, dims, seed), width)
    vector_D, sketch_K = random.standard_normal(dims).astype(np.float32), random.standard_normal(basis.width)
    projected_K = basis.project(vector_D)
    assert basis.lift(sketch_K[None])[0].astype(np.float64) @ vector_D == pytest.approx(
        sketch_K @ projected_K, abs=1e-4
    )
    cut = dims // 2
    first_1W, second_1W = torch.from_numpy(vector_D)[None].split([cut, dims - cut], 1)
    both_1K = basis.project_part(first_1W, 0) + basis.project_part(second_1W, cut)
    assert both_1K[0].numpy() == pytest.approx(projected_K, abs=1e-4)


def test_one_basis_for_all_checkpoints_keeps_more_than_one_for_each() -> None:
    """What two checkpoints have in common is stored once."""
    first_SD = sample(60, 40)
    turned_DD = np.linalg.qr(np.random.default_rng(1).standard_normal((40, 40)))[0].astype(np.float32)
    both_S2D = np.concatenate([first_SD, first_SD @ turned_DD], 1)

    def lost(vectors_SD: np.ndarray, width: int) -> float:
        sketch_SK = fitted(vectors_SD, width).project_part(torch.from_numpy(vectors_SD), 0).numpy()
        return float((vectors_SD**2).sum() - (sketch_SK**2).sum())

    assert lost(both_S2D, 20) < 0.5 * (lost(both_S2D[:, :40], 10) + lost(both_S2D[:, 40:], 10))


def test_the_rotation_spreads_a_row_over_its_numbers() -> None:
    """Else int8's one scale a row is the first component's, and the small ones drown in its rounding."""
    random = np.random.default_rng(0)
    sample_SD = (random.standard_normal((400, 64)) * 0.8 ** np.arange(64) * 100).astype(np.float32)
    sketch_SK = fitted(sample_SD, 64).project_part(torch.from_numpy(sample_SD), 0).numpy()
    peak_S = np.abs(sketch_SK).max(1) / np.sqrt(np.square(sketch_SK).mean(1))
    assert np.median(peak_S) < 3.5  # a row's largest component alone is 5 times its root mean square


# --- through the pipeline ---


@pytest.mark.parametrize("method", ["graddot", "ekfac", "gradcos"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-3), ("float16", 4e-3), ("int8", 1e-2)])
def test_a_full_learned_sketch_scores_as_the_exact_index(
    world: World, method: str, dtype: str, tolerance: float
) -> None:
    exact = world.index(method, dtype="float32")
    learned = world.index(method, dtype=dtype, learned_dim=ROWS)
    assert learned.store.manifest.width == ROWS < learned.store.manifest.dims == exact.store.manifest.dims
    for row in (2, 11):
        found_N, expected_N = (score_query(index, world.query(row)) for index in (learned, exact))
        assert (np.abs(found_N - expected_N) <= tolerance * magnitude(exact, row)).all()
    assert learned.self_scores_NC == pytest.approx(exact.self_scores_NC, rel=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_parts_add_up_to_the_stored_score_of_a_narrow_sketch(world: World, dtype: str) -> None:
    index = world.index("ekfac", dtype=dtype, learned_dim=6)
    exact = world.index("ekfac", dtype="float32")
    result = answer(index, world.query(3), AskOptions(top_k=4, tokens=True, modules=True))
    scores_N = score_query(index, world.query(3))
    assert np.abs(scores_N - score_query(exact, world.query(3))).max() > 0.02 * magnitude(exact, 3).max()
    for hit in (*result.proponents, *result.opponents):
        scale = 1e-4 * magnitude(index, 3)[hit.position]
        assert hit.module_scores and hit.position_shares and hit.query_token_scores and hit.train_position_shares
        assert abs(float(scores_N[hit.position]) - hit.score) <= scale
        assert abs(sum(hit.module_scores.values()) - hit.score) <= scale
        assert abs(sum(hit.position_shares) - hit.score) <= scale
        assert abs(sum(hit.query_token_scores) - hit.score) <= scale
        # of the row's own gradient, before its sketch was rounded
        assert abs(sum(hit.train_position_shares) - hit.score) <= 100 * scale


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_search_scores_what_is_stored_by_checkpoint_and_altogether(world: World, dtype: str) -> None:
    store = world.index("ekfac", dtype=dtype, learned_dim=6, shard_rows=5).store
    query_D = np.random.default_rng(0).standard_normal(store.manifest.dims).astype(np.float32)
    rows_ND = store.rows(np.arange(ROWS)).astype(np.float64)
    columns_C = store.manifest.checkpoint_columns()
    by_hand_NC = np.stack([rows_ND[:, c] @ query_D[c] for c in columns_C], 1)
    allowed = 1e-4 * np.linalg.norm(rows_ND, axis=1).max() * np.linalg.norm(query_D)
    assert score_all(store, query_D[None])[0] == pytest.approx(by_hand_NC.sum(1), abs=allowed)
    for c in range(2):
        assert score_all(store, query_D[None], checkpoints=[c])[0] == pytest.approx(by_hand_NC[:, c], abs=allowed)
    weights_NC = np.random.default_rng(1).uniform(0, 1, (ROWS, 2))
    weighted_N = (by_hand_NC * weights_NC).sum(1)
    positions_K, scores_K = top_k(store, query_D, weighted_N.astype(np.float32), 5, weights_NC=weights_NC)
    assert scores_K == pytest.approx(weighted_N[positions_K], abs=allowed)
    assert np.array_equal(positions_K, np.argsort(-weighted_N)[:5])


def test_cosines_of_a_learned_sketch_are_means_over_checkpoints(world: World) -> None:
    exact, learned = (world.index("ekfac", dtype="float32", **more) for more in ({}, {"learned_dim": ROWS}))
    options = AskOptions(normalize="cosine", top_k=8)
    results = [answer(index, world.query(5), options) for index in (exact, learned)]
    best = [{hit.example_id: hit.score for hit in result.proponents} for result in results]
    assert best[0].keys() == best[1].keys()
    assert list(best[1].values()) == pytest.approx([best[0][key] for key in best[1]], abs=4e-3)


# --- on disk ---


def test_the_basis_is_stored_once_checked_and_counted(world: World) -> None:
    narrow, wide = (world.index("graddot", learned_dim=k).store for k in (4, 12))
    for store, width in ((narrow, 4), (wide, 12)):
        assert store.load_tensors(BASIS_TENSORS)["basis"].shape == (width, store.manifest.dims)
        assert store.manifest.options["bytes_per_row"] == 2 * width
    assert wide.bytes() - narrow.bytes() == pytest.approx(2 * 8 * (wide.manifest.dims + ROWS), abs=200)
    assert BASIS_TENSORS in "".join(narrow.manifest.curvature) and narrow.manifest.revision != wide.manifest.revision


def test_cancelled_at_any_batch_and_resumed_gives_the_same_bytes(world: World, tmp_path: Path) -> None:
    config = IndexConfig("ekfac", options=IndexOptions(dtype="int8", learned_dim=5, shard_rows=9, curvature_rows=8))
    ticks: list[Progress] = []
    build_index(world.model, world.dataset, config, tmp_path / "undisturbed", ticks.append)
    expected = digests(tmp_path / "undisturbed")
    assert ticks[-1].done == ticks[-1].total
    for stop in range(1, len(ticks), 4):
        path = tmp_path / f"stopped-{stop}"
        calls = iter(range(10**6))

        def cancel(_progress: Progress, calls=calls, stop=stop) -> None:  # type: ignore[no-untyped-def]
            if next(calls) == stop:
                raise Cancelled("enough")

        with pytest.raises(Cancelled):
            build_index(world.model, world.dataset, config, path, cancel)
        build_index(world.model, world.dataset, config, path, factories.ignore)
        assert digests(path) == expected


def test_a_damaged_basis_is_fitted_again_to_the_same_bytes(world: World, tmp_path: Path) -> None:
    config = IndexConfig("graddot", options=IndexOptions(learned_dim=5, shard_rows=9))
    build_index(world.model, world.dataset, config, tmp_path / "index", factories.ignore)
    expected = digests(tmp_path / "index")
    flip_byte(tmp_path / f"index/curvature/{BASIS_TENSORS}.safetensors")
    info = build_index(world.model, world.dataset, config, tmp_path / "index", factories.ignore)
    assert digests(tmp_path / "index") == expected and "basis" in " ".join(info.warnings)


def test_sketches_of_another_width_or_sample_are_another_projection(world: World, tmp_path: Path) -> None:
    store = world.index("graddot", learned_dim=5).store
    prints = [store.manifest.fingerprints["projection"]]
    for options in ({"learned_dim": 6}, {"learned_dim": 5, "sketch_rows": 9}, {"dtype": "int8", "learned_dim": 5}, {}):
        prints.append(world.index("graddot", **options).store.manifest.fingerprints["projection"])
    assert len(set(prints)) == 5
    config = IndexConfig("graddot", options=IndexOptions(learned_dim=6))
    build_index(world.model, world.dataset, config, tmp_path / "index", factories.ignore)
    narrower = dataclasses.replace(config, options=IndexOptions(learned_dim=5))
    with pytest.raises(FingerprintMismatch, match="compression"):
        build_index(world.model, world.dataset, narrower, tmp_path / "index", factories.ignore)


def test_an_index_opens_by_its_manifest_alone(world: World, tmp_path: Path) -> None:
    options = IndexOptions(sketch="learned", dtype="int8", bytes_per_row=12)
    build_index(world.model, world.dataset, IndexConfig("graddot", options=options), tmp_path / "a", factories.ignore)
    with OpenIndex(world.model, world.dataset, tmp_path / "a") as index:
        assert index.store.manifest.width == 8 and np.isfinite(score_query(index, world.query(0))).all()
    assert IndexStore.open(tmp_path / "a").manifest.options["sketch"] == "learned"
