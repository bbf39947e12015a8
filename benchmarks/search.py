"""One pass over an index's rows, against the memory it reads.

    python -m benchmarks.search [--rows 1000000] [--dims 512]

A shard's stored bytes in memory, one thread: `engine.scan` for one query and for eight, and FAISS's own search for all
rows (which goes through a heap). Reference: the time a plain sum over as many bytes takes, in the same run; its best of
several. Target for one query: twice that.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import torch

from benchmarks.report import report
from engine.scan import Queries, scan
from engine.shard import Shard, empty_index, row_scales

REPEATS, WHOLE_REPEATS = 7, 2
TARGET = 2.0
PIECE = 8192


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


def measure(rows: int, dims: int, dtype: str) -> list[dict[str, Any]]:
    shard = filled(rows, dims, dtype)
    words = torch.from_numpy(shard.codes).view(torch.uint8).flatten()
    words = words[: len(words) // 8 * 8].view(torch.int64)
    query_QW = np.random.default_rng(1).standard_normal((8, dims))
    one_1W = query_QW[:1].astype(np.float32)
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "scan, 1 query": (lambda: scan(shard, Queries(query_QW[:1])), REPEATS),
        "scan, 8 queries": (lambda: scan(shard, Queries(query_QW)), REPEATS),
        "FAISS search, k = 10": (lambda: shard.index.search(one_1W, 10), WHOLE_REPEATS),
        "FAISS search, k = all": (lambda: shard.index.search(one_1W, rows), WHOLE_REPEATS),
    }
    taken = {name: best(work, repeats) for name, (work, repeats) in ways.items()}
    reference = best(words.sum)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dims", type=int, default=512)
    given = parser.parse_args()
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    found = [row for dtype in ("int8", "float16") for row in measure(given.rows, given.dims, dtype)]
    report("search", f"python -m benchmarks.search --rows {given.rows} --dims {given.dims}", found)


if __name__ == "__main__":
    main()
