"""One pass over the stored bytes: the scores are those of the stored numbers, exactly so for int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import scan as scanning
from engine import scan_device
from engine.errors import NonFiniteGradient
from engine.manifest import lay_out
from engine.scan import Queries, parts, scan
from engine.scan_device import DeviceRows
from engine.search import ROUNDING
from engine.shard import Shard
from tests.engine.index_factory import build, make_manifest

DTYPES = ("int8", "float16", "float32")


def shard_of(path: Path, rows_NW: np.ndarray, dtype: str) -> Shard:
    rows, width = rows_NW.shape
    manifest = make_manifest(rows, blocks=lay_out([("module", 1, width)], 1), plan={"shard_rows": rows}, dtype=dtype)
    store = build(path, rows_NW.astype(np.float32), manifest.with_scales([1.0]))
    return next(store.shards())


def stored(shard: Shard) -> np.ndarray:
    """float64 [N, W], as FAISS decodes it."""
    return shard.stored(np.arange(shard.index.ntotal)).astype(np.float64)


def allowed(shard: Shard, query_QW: np.ndarray) -> np.ndarray:
    """[Q, N]: what the order of an answer takes for granted (engine/search.py)."""
    norms_QN = np.linalg.norm(query_QW, axis=1)[:, None] * np.linalg.norm(stored(shard), axis=1)
    return ROUNDING * np.sqrt(query_QW.shape[1]) * norms_QN


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 20),
    width=st.integers(1, 70),
    queries=st.integers(1, 9),
    piece=st.sampled_from([1, 40, 200, 1 << 17]),
    dtype=st.sampled_from(DTYPES),
    spike=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_scores_are_within_rounding_of_the_stored_numbers(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    width: int,
    queries: int,
    piece: int,
    dtype: str,
    spike: bool,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    query_QW = random.standard_normal((queries, width))
    query_QW[:, 0] *= 1e4 if spike else 1.0  # one number so large that the others are small beside it
    shard = shard_of(tmp_path_factory.mktemp("index"), random.standard_normal((rows, width)), dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanning, "PIECE_NUMBERS", piece)
        found_QN = scan(shard, Queries(query_QW))
    assert found_QN.dtype == np.float32 and found_QN.shape == (queries, rows)
    assert (np.abs(found_QN - query_QW @ stored(shard).T) <= allowed(shard, query_QW)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 7, 64, 513])
def test_who_else_asks_changes_nothing(tmp_path: Path, dtype: str, width: int) -> None:
    random = np.random.default_rng(0)
    shard = shard_of(tmp_path, random.standard_normal((300, width)), dtype)
    query_QW = random.standard_normal((6, width))
    alone_QN = np.concatenate([scan(shard, Queries(query_1W[None])) for query_1W in query_QW])
    assert np.array_equal(scan(shard, Queries(query_QW)), alone_QN)


@pytest.mark.parametrize("queries", [3, 5])  # their planes one by one, and all at once
def test_int8_does_not_depend_on_pieces_threads_or_columns_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, queries: int
) -> None:
    random = np.random.default_rng(0)
    shard = shard_of(tmp_path, random.standard_normal((70, 200)), "int8")
    query_QW = random.standard_normal((queries, 200))
    whole_QN = scan(shard, Queries(query_QW))
    monkeypatch.setattr(scanning, "PIECE_NUMBERS", 150)
    monkeypatch.setattr(scanning, "_EXACT_WIDTH", 48)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert np.array_equal(scan(shard, Queries(query_QW)), whole_QN)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_parts_are_whole_pieces_and_change_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, cut: int
) -> None:
    random = np.random.default_rng(0)
    shard = shard_of(tmp_path, random.standard_normal((203, 65)), dtype)
    queries = Queries(random.standard_normal((3, 65)))
    monkeypatch.setattr(scanning, "PIECE_NUMBERS", 7 * 65)
    monkeypatch.setattr(scanning, "_PART_PIECES", cut)
    cut_up = parts(shard)
    assert len(cut_up) == -(-203 // (7 * cut))
    assert np.array_equal(np.hstack([scan(shard, queries, rows) for rows in cut_up]), scan(shard, queries))


def test_int8_is_the_sum_of_whole_numbers(tmp_path: Path) -> None:
    """The largest numbers there are, all of one sign: the sum that comes nearest to overflowing."""
    width = 4096
    rows_NW = np.stack([np.full(width, 1.0), np.full(width, -1.0), np.zeros(width), np.eye(width)[5]])
    shard = shard_of(tmp_path, rows_NW, "int8")
    found_QN = scan(shard, Queries(np.stack([np.full(width, 3.0), np.full(width, -3.0), np.zeros(width)])))
    assert found_QN == pytest.approx(np.array([[12288, -12288, 0, 3], [-12288, 12288, 0, -3], [0, 0, 0, 0]]), rel=1e-6)
    assert (found_QN[:, 2] == 0).all() and (found_QN[2] == 0).all()


def test_a_processor_that_saturates_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What vpmaddubsw does: pairs of products are added in 16 bits."""

    def saturating(a: torch.Tensor, b: torch.Tensor, _: Any = None) -> torch.Tensor:
        products = a.long()[:, :, None] * b.long()[None]
        pairs = products.unflatten(1, (-1, 2)).sum(2).clamp(-(2**15), 2**15 - 1)
        return pairs.sum(1).int()

    def missing(*_: Any) -> torch.Tensor:
        raise AttributeError("module 'torch' has no attribute '_int_mm'")

    check = scanning._integer_products_are_exact
    check.cache_clear()
    try:
        assert check()
        for broken in (saturating, missing):
            check.cache_clear()
            monkeypatch.setattr(scanning, "_integer_product", broken)
            assert not check()
    finally:
        check.cache_clear()


def test_int8_without_exact_products_is_widened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    shard = shard_of(tmp_path, random.standard_normal((50, 33)), "int8")
    query_QW = random.standard_normal((4, 33))
    monkeypatch.setattr(scanning, "_integer_products_are_exact", lambda: False)
    assert (np.abs(scan(shard, Queries(query_QW)) - query_QW @ stored(shard).T) <= allowed(shard, query_QW)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_score_beyond_float32_is_refused(tmp_path: Path, dtype: str) -> None:
    shard = shard_of(tmp_path, np.full((3, 40), 60_000.0), dtype)
    with pytest.raises(NonFiniteGradient, match="overflows"):
        scan(shard, Queries(np.full((1, 40), 3e37)))


# --- on a device ---


def devices() -> list[Any]:
    return [pytest.param("cpu"), pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 33, 512])
def test_a_device_gives_the_processors_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, dtype: str, width: int
) -> None:
    monkeypatch.setattr(scan_device, "PIECE_NUMBERS", 100 * width)
    random = np.random.default_rng(0)
    shard = shard_of(tmp_path, random.standard_normal((350, width)), dtype)
    queries = Queries(random.standard_normal((3, width)) * [[1.0], [1e4], [0.0]])
    rows = DeviceRows(torch.device(device))
    expected_QN = scan(shard, queries)
    for _ in range(2):  # the second time from what was kept
        found_QN = rows.scan(shard, queries)
        assert found_QN.dtype == np.float32
        if dtype == "int8":
            assert np.array_equal(found_QN, expected_QN)
        else:
            assert (np.abs(found_QN - expected_QN) <= allowed(shard, queries.query_QW)).all()
    alone_1N = rows.scan(shard, Queries(queries.query_QW[:1]))
    assert np.array_equal(alone_1N[0], found_QN[0])


@pytest.mark.gpu
def test_what_does_not_fit_is_copied_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    shard = shard_of(tmp_path, random.standard_normal((300, 40)), "int8")
    queries = Queries(random.standard_normal((2, 40)))
    kept = DeviceRows(torch.device("cuda"))
    monkeypatch.setattr(scan_device, "ROOM", 1.0)
    streamed = DeviceRows(torch.device("cuda"))
    assert np.array_equal(streamed.scan(shard, queries), scan(shard, queries)) and not streamed._kept
    monkeypatch.setattr(scan_device, "ROOM", 0.0)
    assert np.array_equal(kept.scan(shard, queries), scan(shard, queries)) and kept._kept


@pytest.mark.parametrize("device", devices())
def test_a_device_refuses_a_score_beyond_float32(tmp_path: Path, device: str) -> None:
    shard = shard_of(tmp_path, np.full((3, 40), 60_000.0), "float16")
    with pytest.raises(NonFiniteGradient, match="overflows"):
        DeviceRows(torch.device(device)).scan(shard, Queries(np.full((1, 40), 3e37)))
