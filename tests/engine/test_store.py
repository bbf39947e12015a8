"""The index on disk: exact contents, memory mapping, and what may not be stored."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import CorruptIndex, IndexUnavailable, NonFiniteGradient
from engine.manifest import block_scale, lay_out
from engine.store import IndexStore
from tests.engine.index_factory import SHAPES, build, flip_byte, make_manifest, random_rows, write_missing

SHARD = "shards/00001.faiss"


# --- contents ---


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 9),
    shard_rows=st.integers(1, 10),
    shapes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=3),
    checkpoints=st.integers(1, 2),
    dtype=st.sampled_from(["int8", "float16", "float32"]),
    exponent=st.integers(-15, 15),
)
def test_rows_read_back_within_their_dtype_whatever_their_magnitude(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    shard_rows: int,
    shapes: list[tuple[int, int]],
    checkpoints: int,
    dtype: Any,
    exponent: int,
) -> None:
    manifest = make_manifest(
        rows,
        blocks=lay_out([(f"m{i}", *shape) for i, shape in enumerate(shapes)], checkpoints),
        checkpoints=tuple(f"c{i}" for i in range(checkpoints)),
        dtype=dtype,
        plan={"shard_rows": shard_rows},
    )
    vectors_ND = random_rows(manifest) * np.float32(10.0**exponent)
    scale = block_scale(float(np.abs(vectors_ND).max()))
    store = build(tmp_path_factory.mktemp("index"), vectors_ND, manifest.with_scales([scale] * len(manifest.blocks)))
    positions_K = np.arange(rows)[::-1]
    error_KD = np.abs(store.rows(positions_K) - vectors_ND[positions_K])
    norms_K1 = np.linalg.norm(vectors_ND[positions_K], axis=1, keepdims=True)
    assert (error_KD <= {"int8": 4e-3, "float16": 2e-3, "float32": 1e-7}[dtype] * norms_K1).all()
    assert store.norms() == pytest.approx(np.linalg.norm(store.rows(np.arange(rows)), axis=1), rel=1e-6)


def test_self_scores_and_lengths_come_back_in_row_order(tmp_path: Path) -> None:
    manifest = make_manifest()
    vectors_ND = random_rows(manifest)
    store = build(tmp_path, vectors_ND, manifest)
    assert store.self_scores()[:, 0] == pytest.approx(np.square(vectors_ND).sum(axis=1))
    assert store.lengths().tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert (store.self_scores().dtype, store.lengths().dtype) == (np.float32, np.int32)


def test_self_scores_are_read_without_the_sketches(tmp_path: Path) -> None:
    """These are a thousand times as large: whoever lists rows does not wait for their checksums."""
    manifest = make_manifest()
    scores_NC = build(tmp_path, random_rows(manifest), manifest).self_scores()
    for sketches in (tmp_path / "shards").glob("*.faiss"):
        sketches.unlink()
    np.testing.assert_array_equal(IndexStore.open(tmp_path).self_scores(), scores_NC)
    with pytest.raises(CorruptIndex):
        IndexStore.open(tmp_path).norms()
    norms = next((tmp_path / "shards").glob("*.safetensors"))
    norms.write_bytes(norms.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptIndex, match=norms.name):
        IndexStore.open(tmp_path).self_scores()


def test_each_block_is_multiplied_by_its_own_scale(tmp_path: Path) -> None:
    manifest = make_manifest().with_scales([4.0, 0.25])
    vectors_ND = random_rows(manifest).astype(np.float16).astype(np.float32)
    store = build(tmp_path, vectors_ND, manifest)
    assert np.array_equal(store.stored(np.arange(7)), vectors_ND * np.repeat(np.float32([4, 0.25]), [6, 4]))
    assert np.array_equal(store.rows(np.array([6, 0, 6])), vectors_ND[[6, 0, 6]])


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [("int8", faiss.IndexScalarQuantizer), ("float16", faiss.IndexScalarQuantizer), ("float32", faiss.IndexFlatIP)],
)
def test_a_shard_is_an_ordinary_faiss_file(tmp_path: Path, dtype: str, kind: type) -> None:
    build(tmp_path, random_rows(make_manifest()), make_manifest(dtype=dtype))
    index = faiss.read_index(str(tmp_path / SHARD))
    assert isinstance(index, kind) and index.metric_type == faiss.METRIC_INNER_PRODUCT and index.ntotal == 3


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
def test_shards_are_mapped_into_memory_not_read(tmp_path: Path, dtype: str) -> None:
    manifest = make_manifest(dtype=dtype)
    store = build(tmp_path, random_rows(manifest), manifest)
    list(store.shards())
    assert str(tmp_path / SHARD) in Path("/proc/self/maps").read_text()


def test_positions_outside_the_index_are_refused(tmp_path: Path) -> None:
    store = build(tmp_path, random_rows(make_manifest()), make_manifest())
    for position in (-1, 7):
        with pytest.raises(IndexError):
            store.rows(np.array([position]))
    assert store.rows(np.array([], np.int64)).shape == (0, 10)


def test_several_threads_may_open_and_read_at_once(tmp_path: Path) -> None:
    manifest = make_manifest(rows=40)
    vectors_ND = random_rows(manifest).astype(np.float16).astype(np.float32)
    store = build(tmp_path, vectors_ND, manifest)
    with ThreadPoolExecutor(8) as pool:
        for rows_ND in pool.map(lambda _: store.rows(np.arange(40)), range(16)):
            assert np.array_equal(rows_ND, vectors_ND)


def test_bytes_counts_everything_on_disk(tmp_path: Path) -> None:
    store = build(tmp_path, random_rows(make_manifest()), make_manifest())
    recorded = sum(record.bytes for record in store.manifest.shards)
    assert store.bytes() == recorded + (tmp_path / "manifest.json").stat().st_size


# --- int8 ---


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 9), exponent=st.integers(-30, 30), seed=st.integers(0, 2**16))
def test_int8_is_within_half_a_step_of_each_rows_own_largest_number(
    tmp_path_factory: pytest.TempPathFactory, rows: int, exponent: int, seed: int
) -> None:
    manifest = make_manifest(rows, dtype="int8")
    magnitudes_N1 = 10.0 ** np.random.default_rng(seed).uniform(-3, 3, (rows, 1)) * 2.0**exponent
    vectors_ND = (random_rows(manifest, seed) * magnitudes_N1).astype(np.float32)
    vectors_ND[0] = 0
    found_ND = build(tmp_path_factory.mktemp("index"), vectors_ND, manifest).rows(np.arange(rows))
    half_N1 = np.abs(vectors_ND).max(axis=1, keepdims=True) / 254
    assert (np.abs(found_ND - vectors_ND) <= half_N1 * (1 + 1e-5)).all()
    assert not found_ND[0].any()
    largest_N = np.abs(vectors_ND).argmax(axis=1)
    assert found_ND[np.arange(rows), largest_N] == pytest.approx(vectors_ND[np.arange(rows), largest_N], rel=1e-6)


def test_int8_takes_a_byte_a_number_and_its_codes_are_whole(tmp_path: Path) -> None:
    manifest = make_manifest(dtype="int8")
    shards = list(build(tmp_path, random_rows(manifest), manifest).shards())
    assert [shard.index.code_size for shard in shards] == [10] * 3
    codes_ND = np.concatenate([shard.index.reconstruct_n(0, shard.index.ntotal) for shard in shards])
    assert np.array_equal(codes_ND, np.rint(codes_ND)) and np.abs(codes_ND).max(axis=1).tolist() == [127] * 7


# --- what may not be stored ---


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_naming_row_and_module(tmp_path: Path, dtype: str, value: float) -> None:
    manifest = make_manifest(dtype=dtype)
    vectors_ND = random_rows(manifest)
    vectors_ND[4, 7] = value
    store = IndexStore.open_or_create(tmp_path, manifest)
    with pytest.raises(NonFiniteGradient, match=r"NaN or infinity.*row 4, module 'model\.layers\.0\.up_proj'"):
        write_missing(store, vectors_ND)
    assert [number for number, _, _ in store.missing_shards()] == [1, 2]


def test_a_scaled_value_beyond_float16_is_refused_with_its_remedy(tmp_path: Path) -> None:
    manifest = make_manifest().with_scales([2.0, 1.0])
    vectors_ND = random_rows(manifest)
    vectors_ND[5, 0] = -32753.0
    with pytest.raises(NonFiniteGradient, match="too large to store in float16: row 5") as caught:
        write_missing(IndexStore.open_or_create(tmp_path, manifest), vectors_ND)
    assert "float32" in caught.value.remedy


def test_the_largest_float16_is_stored(tmp_path: Path) -> None:
    vectors_ND = random_rows(make_manifest())
    vectors_ND[5, 0] = 65504.0
    assert build(tmp_path, vectors_ND, make_manifest()).rows(np.array([5]))[0, 0] == 65504.0


def test_a_self_score_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    store = IndexStore.open_or_create(tmp_path, make_manifest())
    with pytest.raises(NonFiniteGradient, match="self-score of row 4"):
        store.write_shard(1, np.ones((3, 10), np.float32), np.array([[1], [np.inf], [1]]), np.ones(3, np.int32))


@pytest.mark.parametrize("shapes", [((2, 10), (3, 1), (3,)), ((3, 9), (3, 1), (3,)), ((3, 10), (3, 2), (3,))])
def test_rows_of_the_wrong_shape_are_refused(tmp_path: Path, shapes: tuple) -> None:
    store = IndexStore.open_or_create(tmp_path, make_manifest())
    with pytest.raises(ValueError, match="expected"):
        store.write_shard(0, *(np.ones(shape, np.float32) for shape in shapes))


# --- curvature ---


def test_tensors_come_back_exactly_and_damage_makes_them_missing(tmp_path: Path) -> None:
    store = IndexStore.open_or_create(tmp_path, make_manifest())
    tensors = {"A": np.random.default_rng(0).standard_normal((3, 4)), "S": np.float32([[1, 2], [3, 4]]).T}
    store.save_tensors("ckpt-0", tensors)
    loaded = store.load_tensors("ckpt-0")
    assert all(np.array_equal(loaded[name], tensors[name]) for name in tensors)
    assert loaded["A"].dtype == np.float64
    flip_byte(tmp_path / "curvature/ckpt-0.safetensors")
    with pytest.raises(CorruptIndex, match=r"curvature/ckpt-0\.safetensors"):
        store.load_tensors("ckpt-0")
    resumed = IndexStore.open_or_create(tmp_path, make_manifest())
    assert resumed.dropped == ("curvature/ckpt-0.safetensors",) and not resumed.has_tensors("ckpt-0")


def test_tensors_never_saved_are_named(tmp_path: Path) -> None:
    store = IndexStore.open_or_create(tmp_path, make_manifest())
    with pytest.raises(IndexUnavailable, match=r"curvature/ckpt-0\.safetensors"):
        store.load_tensors("ckpt-0")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden"])
def test_a_tensors_name_cannot_leave_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError):
        IndexStore.open_or_create(tmp_path, make_manifest()).save_tensors(name, {"A": np.ones(1)})


def test_every_module_and_checkpoint_has_its_place_in_a_row(tmp_path: Path) -> None:
    manifest = make_manifest(blocks=lay_out(SHAPES, 2), checkpoints=("epoch-1", "epoch-2"))
    store = build(tmp_path, random_rows(manifest), manifest)
    assert store.self_scores().shape == (7, 2)
    assert [(b.checkpoint, b.offset) for b in store.manifest.blocks] == [(0, 0), (0, 6), (1, 10), (1, 16)]
