"""Lists: with all of them read an answer is the flat one; what was recorded of them is what a loop measures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import ivf_build
from engine.agreement import rows_compared
from engine.errors import CorruptIndex
from engine.ivf import LIST_TENSORS, Centroids, Lists, check_lists, open_lists
from engine.ivf_build import AT, build_lists
from engine.manifest import SearchRecord, lay_out
from engine.scores import Scores
from engine.search import in_stored_units, scan_rows, score_all, top_k
from engine.store import IndexStore
from tests.engine.contract_world import digests
from tests.engine.index_factory import flip_byte, make_manifest, write_missing


def clustered(rows: int, width: int, kinds: int, seed: int = 0) -> np.ndarray:
    """float32 [N, W]: each row one of `kinds` vectors, and half as much noise; some larger than others."""
    random = np.random.default_rng(seed)
    kinds_KW = random.standard_normal((kinds, width)) * np.exp(0.3 * random.standard_normal((kinds, 1)))
    rows_NW = kinds_KW[random.integers(0, kinds, rows)] + 0.3 * random.standard_normal((rows, width))
    return rows_NW.astype(np.float32)


def written(path: Path, rows_NW: np.ndarray, dtype: str = "float32", shard_rows: int = 64) -> IndexStore:
    """All shards, not finished."""
    blocks = lay_out([("module", 1, rows_NW.shape[1])], 1)
    manifest = make_manifest(len(rows_NW), blocks=blocks, plan={"shard_rows": shard_rows}, dtype=dtype)
    store = IndexStore.open_or_create(path, manifest.with_scales([4.0]))
    write_missing(store, rows_NW)
    return store


def nothing() -> None:
    pass


def finished(path: Path, rows_NW: np.ndarray, **options: Any) -> tuple[IndexStore, SearchRecord]:
    store = written(path, rows_NW, **options)
    record = build_lists(store, True, nothing)
    assert record is not None
    store.finish(search=record)
    return IndexStore.open(path), record


def probed(store: IndexStore, lists: Lists, query_W: np.ndarray, probes: int) -> np.ndarray:
    return lists.rows(lists.centroids.chosen(query_W, probes, both=True))


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(30, 150),
    width=st.integers(2, 40),
    dtype=st.sampled_from(["int8", "float16", "float32"]),
    shard_rows=st.integers(7, 200),
    twins=st.booleans(),
    filtered=st.booleans(),
    largest=st.booleans(),
    k=st.integers(1, 40),
    seed=st.integers(0, 2**16),
)
def test_with_all_lists_read_the_best_rows_are_those_of_the_flat_scan(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    width: int,
    dtype: str,
    shard_rows: int,
    twins: bool,
    filtered: bool,
    largest: bool,
    k: int,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    rows_NW = clustered(rows, width, 4, seed)
    if twins:
        rows_NW[random.integers(0, rows, rows // 2)] = rows_NW[0]
    path = tmp_path_factory.mktemp("index")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ivf_build, "MOST_SHARE", 1.0)
        patch.setattr(ivf_build, "TARGET", 0.0)
        store, record = finished(path, rows_NW, dtype=dtype, shard_rows=shard_rows)
    lists = open_lists(store)
    assert lists is not None and record.kind == "ivf"
    query_W = random.standard_normal(width).astype(np.float32)
    positions_M = probed(store, lists, query_W, record.lists)
    assert np.array_equal(positions_M, np.arange(rows))
    scores_N = score_all(store, query_W[None])[0]
    scores_M = scan_rows(store, in_stored_units(store, query_W, None)[None], positions_M)[0]
    allowed_N = random.random(rows) < 0.6 if filtered else None
    flat = top_k(store, query_W, scores_N, k, largest=largest, allowed_N=allowed_N)
    found = top_k(store, query_W, scores_M, k, largest=largest, allowed_N=allowed_N, positions_M=positions_M)
    assert np.array_equal(flat[0], found[0]) and np.array_equal(flat[1], found[1])


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
def test_a_row_has_the_same_score_whichever_way_it_is_found(tmp_path: Path, dtype: str) -> None:
    random = np.random.default_rng(1)
    store = written(tmp_path, clustered(200, 33, 5), dtype)
    query_W = random.standard_normal(33).astype(np.float32)
    positions_M = np.sort(random.choice(200, 50, replace=False))
    scores_N = score_all(store, query_W[None])[0]
    scores_M = scan_rows(store, in_stored_units(store, query_W, None)[None], positions_M)[0]
    assert scores_M == pytest.approx(scores_N[positions_M], rel=1e-5, abs=1e-5)
    of_all = dict(zip(*(part.tolist() for part in top_k(store, query_W, scores_N, 200)), strict=True))
    positions_K, exact_K = top_k(store, query_W, scores_M, 50, positions_M=positions_M)
    assert [of_all[position] for position in positions_K] == exact_K.tolist()


def test_what_is_recorded_is_what_a_loop_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ivf_build, "MOST_SHARE", 0.5)
    rows_NW = clustered(600, 24, 40)
    store, record = finished(tmp_path, rows_NW)
    lists = open_lists(store)
    assert lists is not None and record.kind == "ivf" and record.recall_at_10 >= 0.95
    asked_Q, sample_S, count = ivf_build._drawn(store.norms(), 24)
    assert (len(asked_Q), len(sample_S), count) == (record.queries, record.sample, record.lists)
    assert not set(asked_Q) & set(sample_S)
    recalls: dict[bool, list[float]] = {True: [], False: []}
    shares = []
    for position in asked_Q:
        query_W = store.rows(np.array([position]))[0].astype(np.float64)
        scores = {i: float(row_W @ query_W) for i, row_W in enumerate(store.rows(np.arange(600))) if i != position}
        read = set(probed(store, lists, query_W, record.probes).tolist())
        shares.append(len(read) / 600)
        for largest, shown in recalls.items():
            sign = 1 if largest else -1
            best = sorted((i for i in scores if sign * scores[i] > 0), key=lambda i: (-sign * scores[i], i))[:AT]
            if best:
                shown.append(len(read & set(best)) / len(best))
    assert record.recall_at_10 == pytest.approx(min(np.mean(recalls[True]), np.mean(recalls[False])))
    assert record.share == pytest.approx(np.mean(shares))


def test_every_row_is_in_one_list_the_nearest(tmp_path: Path) -> None:
    store = written(tmp_path, clustered(300, 12, 9), shard_rows=50)
    rows = ivf_build._Rows(store, float(store.norms().max()))
    centroids_LW = clustered(7, 12, 7, seed=5)
    made = ivf_build._assigned(rows, centroids_LW, nothing)
    assert sorted(made["positions"].tolist()) == [*range(300)]
    rows_NW = store.rows(np.arange(300)) / rows.unit
    squares_NL = np.square(rows_NW[:, None] - centroids_LW).sum(2)
    for number, (start, stop) in enumerate(zip(made["offsets"][:-1], made["offsets"][1:], strict=True)):
        inside = made["positions"][start:stop]
        assert (np.diff(inside.astype(int)) > 0).all() and (squares_NL[inside].argmin(1) == number).all()
        expected = np.sqrt(squares_NL[inside, number].mean()) if len(inside) else 0.0
        assert made["radius"][number] == pytest.approx(expected, rel=1e-4)


def test_rows_without_structure_are_searched_flat(tmp_path: Path) -> None:
    store = written(tmp_path, np.random.default_rng(0).standard_normal((400, 32)).astype(np.float32))
    record = build_lists(store, True, nothing)
    assert record is not None and record.kind == "flat" and record.recall_at_10 < 0.95
    assert not store.has_tensors(LIST_TENSORS) and not list((tmp_path / "curvature").iterdir())
    store.finish(search=record)
    assert open_lists(IndexStore.open(tmp_path)) is None


def test_an_index_of_zeros_has_no_lists(tmp_path: Path) -> None:
    assert build_lists(written(tmp_path, np.zeros((50, 3), np.float32)), True, nothing) is None


class Killed(BaseException):
    """Stands for kill -9."""


def test_killed_between_any_two_steps_it_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ivf_build, "MOST_SHARE", 0.5)
    rows_NW = clustered(300, 16, 20)
    whole, record = finished(tmp_path / "whole", rows_NW)
    step = 0
    while True:
        path, left = tmp_path / f"killed-{step}", [step]

        def tick(left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Killed

        try:
            build_lists(written(path, rows_NW), True, tick)
        except Killed:
            store, again = finished(path, rows_NW)
            assert again == record and digests(path) == digests(whole.path)
            assert store.manifest.revision == whole.manifest.revision
            step += 1
            continue
        break
    assert step > 9


def test_lists_are_part_of_the_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ivf_build, "MOST_SHARE", 0.5)
    rows_NW = clustered(300, 16, 20)
    plain = written(tmp_path / "plain", rows_NW)
    plain.finish()
    listed, _ = finished(tmp_path / "listed", rows_NW)
    assert plain.manifest.revision != listed.manifest.revision


def test_damaged_lists_are_named_and_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ivf_build, "MOST_SHARE", 0.5)
    rows_NW = clustered(300, 16, 20)
    store, record = finished(tmp_path, rows_NW)
    before = digests(tmp_path)
    flip_byte(tmp_path / "curvature" / "lists.safetensors")
    for check in (store.verify, lambda: open_lists(store)):
        with pytest.raises(CorruptIndex, match=r"curvature/lists\.safetensors"):
            check()
    _, again = finished(tmp_path, rows_NW)
    assert again == record and digests(tmp_path) == before


def test_lists_of_another_index_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ivf_build, "MOST_SHARE", 0.5)
    store, _ = finished(tmp_path, clustered(300, 16, 20))
    store.save_tensors(LIST_TENSORS, {"positions": np.zeros(4, np.uint32)})
    with pytest.raises(CorruptIndex, match="not those of this index"):
        open_lists(store)


def test_lists_that_came_from_elsewhere_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ivf_build, "MOST_SHARE", 0.5)
    store, record = finished(tmp_path, clustered(300, 16, 20))
    check_lists(store)
    fine = store.load_tensors(LIST_TENSORS)
    wrong = {
        "twice": fine | {"positions": np.where(fine["positions"] == 7, np.uint32(8), fine["positions"])},
        "beyond": fine | {"positions": np.where(fine["positions"] == 7, np.uint32(300), fine["positions"])},
        "backwards": fine | {"offsets": fine["offsets"][::-1].copy()},
        "not finite": fine | {"radius": fine["radius"] * np.nan},
        "words": fine | {"offsets": fine["offsets"].astype(np.float64)},
    }
    for tensors in wrong.values():
        store.save_tensors(LIST_TENSORS, tensors)
        with pytest.raises(CorruptIndex, match="every row once"):
            check_lists(store)
    store.save_tensors(LIST_TENSORS, fine)
    store.finish(search=dataclasses.replace(record, probes=record.lists + 1))
    with pytest.raises(CorruptIndex, match="every row once"):
        check_lists(store)


def test_empty_lists_hold_nothing(tmp_path: Path) -> None:
    store = written(tmp_path, clustered(30, 4, 3))
    store.save_tensors(LIST_TENSORS, {"positions": np.arange(30, dtype=np.uint32)})
    offsets_L = np.array([0, 0, 12, 12, 30, 30])
    lists = Lists(Centroids(np.zeros((5, 4), np.float32), np.zeros(5)), offsets_L, store.tensors_file(LIST_TENSORS))
    assert lists.rows(np.array([0, 2, 4])).tolist() == []
    assert lists.rows(np.array([1, 2])).tolist() == [*range(12)] and len(lists.rows(np.arange(5))) == 30


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("limit", [80, 4000])
def test_rows_compared_stand_for_all_rows(filtered: bool, limit: int) -> None:
    random = np.random.default_rng(2)
    read, sample = (np.sort(random.choice(5000, count, replace=False)) for count in (300, 400))
    positions_M = np.union1d(read, sample)
    scores_M = random.standard_normal(len(positions_M)).astype(np.float32)
    scores = Scores(5000, scores_M, positions_M, np.isin(positions_M, read), np.searchsorted(positions_M, sample), 0.97)
    allowed_N = random.random(5000) < 0.7 if filtered else None
    wanted = 5000 if allowed_N is None else np.count_nonzero(allowed_N)
    hits_K = read[:9] if allowed_N is None else read[allowed_N[read]][:9]
    positions_K, counts_K = rows_compared(hits_K, scores, allowed_N, limit)
    assert (np.diff(positions_K) > 0).all() and counts_K.sum() == pytest.approx(wanted)
    assert (counts_K[np.isin(positions_K, hits_K)] == 1).all() and np.isin(hits_K, positions_K).all()
    assert allowed_N is None or allowed_N[positions_K].all()
