"""One pass over an index's rows, against the memory it reads; and lists of rows, against that pass.

    python -m benchmarks.search [--rows 1000000] [--dims 512]

Scans: a shard's stored bytes in memory: `engine.scan` for one query and for eight, on every core as a server does it,
and FAISS's own search for all rows (which goes through a heap; one query has one thread there). Reference: the time a
plain sum over as many bytes takes, in the same run, on one core or all, whichever is faster; its best of several.
Target for one query: twice that.

Lists (int8): an index of rows made like real gradients, whose few kinds lie in few directions and are of unlike length:
2,000 kinds with half as much noise as the row, and 20,000 kinds with as much noise, of a quarter of the rows. Searched
for the ten best and the ten worst rows, in turns with the flat search, which gives the recall; the queries are further
rows, none of the index. Target: a tenth of the flat search's time, at a recall of 0.95.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import torch

from benchmarks.report import show, write
from engine.cores import on_every_core
from engine.ivf import Lists, open_lists
from engine.ivf_build import build_lists
from engine.manifest import Block, Manifest, SearchRecord
from engine.scan import Queries, parts, scan
from engine.search import in_stored_units, scan_rows, score_all, top_k
from engine.shard import Shard, empty_index, row_scales
from engine.store import IndexStore

REPEATS, WHOLE_REPEATS = 7, 2
TARGET, FASTER = 2.0, 10.0
PIECE = 8192
K, QUERIES = 10, 48


def filled(rows: int, dims: int, dtype: str) -> Shard:
    random = np.random.default_rng(0)
    index: Any = empty_index(dims, dtype)
    scales = []
    for start in range(0, rows, PIECE):
        piece_KW = random.standard_normal((min(PIECE, rows - start), dims), dtype=np.float32)
        if dtype == "int8":
            scales.append(row_scales(piece_KW))
            piece_KW = np.rint(piece_KW / scales[-1][:, None])
        index.add(piece_KW)
    nothing: Any = SimpleNamespace(name="benchmark")
    none = np.zeros(0)
    return Shard(nothing, index, none, none, none, np.concatenate(scales) if scales else None)


def best(work: Callable[[], object], repeats: int = REPEATS) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def scan_parts(shard: Shard, queries: Queries) -> None:
    on_every_core(lambda rows: scan(shard, queries, rows), parts(shard))


def measure(rows: int, dims: int, dtype: str) -> list[dict[str, Any]]:
    shard = filled(rows, dims, dtype)
    words = torch.from_numpy(shard.codes).view(torch.uint8).flatten()
    words = words[: len(words) // 8 * 8].view(torch.int64)
    query_QW = np.random.default_rng(1).standard_normal((8, dims))
    one_1W = query_QW[:1].astype(np.float32)
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "scan, 1 query": (lambda: scan_parts(shard, Queries(query_QW[:1])), REPEATS),
        "scan, 8 queries": (lambda: scan_parts(shard, Queries(query_QW)), REPEATS),
        "FAISS search, k = 10": (lambda: shard.index.search(one_1W, 10), WHOLE_REPEATS),
        "FAISS search, k = all": (lambda: shard.index.search(one_1W, rows), WHOLE_REPEATS),
    }
    taken = {name: best(work, repeats) for name, (work, repeats) in ways.items()}
    pieces = words.split(1 << 20)
    reference = min(best(words.sum), best(lambda: on_every_core(torch.Tensor.sum, pieces)))
    return [
        {
            "dtype": dtype,
            "way": name,
            "/ one pass over the bytes": round(seconds / reference, 2),
            "target": TARGET if name == "scan, 1 query" else None,
            "rows": rows,
            "dims": dims,
        }
        for name, seconds in taken.items()
    ]


# --- lists ---


def gradients(rows: int, dims: int, kinds: int, noise: float, seed: int = 0) -> Iterator[np.ndarray]:
    """float32 [PIECE, D] and less, `rows` in all. noise: of each number, as a part of the row's root mean square."""
    random = np.random.default_rng(seed)
    kinds_KD = random.standard_normal((kinds, dims)) * np.arange(1, dims + 1) ** -0.5
    kinds_KD /= np.linalg.norm(kinds_KD, axis=1, keepdims=True)
    kinds_KD *= np.exp(0.5 * random.standard_normal((kinds, 1)))
    kinds_KD = (kinds_KD @ np.linalg.qr(random.standard_normal((dims, dims)))[0]).astype(np.float32)
    noise_K1 = noise * np.sqrt(np.square(kinds_KD).mean(1, keepdims=True))
    for start in range(0, rows, PIECE):
        chosen_N = random.integers(0, kinds, min(PIECE, rows - start))
        yield kinds_KD[chosen_N] + noise_K1[chosen_N] * random.standard_normal((len(chosen_N), dims), dtype=np.float32)


def listed(path: Path, rows: int, dims: int, made: Iterator[np.ndarray]) -> IndexStore:
    """A finished int8 index with lists, opened."""
    blocks = (Block(0, "gradient", 1, dims, 0, 64.0),)
    store = IndexStore.open_or_create(
        path, Manifest("ekfac", {}, blocks, rows, ("final",), "int8", plan={"shard_rows": PIECE})
    )
    for (number, start, stop), rows_ND in zip(store.missing_shards(), made, strict=False):
        store.write_shard(number, rows_ND, np.ones((stop - start, 1)), np.ones(stop - start, np.int32))
    store.finish(search=build_lists(store, True, lambda: None))
    return IndexStore.open(path)


Found = tuple[np.ndarray, np.ndarray]


def flat_search(store: IndexStore, query_D: np.ndarray) -> Found:
    scores_N = score_all(store, query_D[None])[0]
    best, worst = (top_k(store, query_D, scores_N, K, largest=side)[0] for side in (True, False))
    return best, worst


def list_search(store: IndexStore, lists: Lists, record: SearchRecord, query_D: np.ndarray) -> Found:
    stored_W = in_stored_units(store, query_D, None)
    positions_M = lists.rows(lists.centroids.chosen(stored_W * store.manifest.scales(), record.probes, both=True))
    scores_M = scan_rows(store, stored_W[None], positions_M)[0]
    best, worst = (
        top_k(store, query_D, scores_M, K, largest=side, positions_M=positions_M)[0] for side in (True, False)
    )
    return best, worst


def measure_lists(rows: int, dims: int, kinds: int, noise: float) -> dict[str, Any]:
    made = gradients(rows + PIECE, dims, kinds, noise)
    query_QD = next(made)[:QUERIES]  # what is left of this piece is in no index
    with TemporaryDirectory() as folder:
        started = time.perf_counter()
        store = listed(Path(folder), rows, dims, made)
        built = time.perf_counter() - started
        record = store.manifest.search
        assert record is not None
        return {
            "rows": rows,
            "kinds": kinds,
            "noise": noise,
            "kind": record.kind,
            "lists": record.lists,
            "probes": record.probes,
            "rows read": round(record.share, 4),
            "recall@10 recorded": round(record.recall_at_10, 3),
            **in_turns(store, record, query_QD),
            "target": FASTER,
            "built in s": round(built, 1),
        }


def in_turns(store: IndexStore, record: SearchRecord, query_QD: np.ndarray) -> dict[str, float | None]:
    lists = open_lists(store)
    if lists is None:
        return {"recall@10, best": None, "recall@10, worst": None, "flat / lists": None}
    flat_search(store, query_QD[0])  # maps the files
    taken, recalls = [], []
    for query_D in query_QD:
        times = [time.perf_counter()]
        exact = flat_search(store, query_D)
        times.append(time.perf_counter())
        found = list_search(store, lists, record, query_D)
        times.append(time.perf_counter())
        taken.append(np.diff(times))
        recalls.append([np.isin(e, f).mean() for e, f in zip(exact, found, strict=True)])
    flat_s, list_s = np.median(taken, axis=0)
    best, worst = np.mean(recalls, axis=0).round(3).tolist()
    return {"recall@10, best": best, "recall@10, worst": worst, "flat / lists": round(flat_s / list_s, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dims", type=int, default=512)
    given = parser.parse_args()
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    found = [row for dtype in ("int8", "float16") for row in measure(given.rows, given.dims, dtype)]
    lists = [
        measure_lists(given.rows, given.dims, kinds=2000, noise=0.5),
        measure_lists(given.rows // 4, given.dims, kinds=20_000, noise=1.0),
    ]
    show("one pass over the rows", found)
    show("lists", lists)
    write("search", f"python -m benchmarks.search --rows {given.rows} --dims {given.dims}", found, lists=lists)


if __name__ == "__main__":
    main()
