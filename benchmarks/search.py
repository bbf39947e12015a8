"""Scoring every row of a flat index: FAISS search for all rows, against two other ways to the same numbers.

    python -m benchmarks.search [--rows 20000] [--dims 1000]

Ratios to FAISS's `search(k = all)` in one run, float16 codes, one thread: `range_search` without a bound, and decoding
chunks to float32 with a matrix product.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import torch

from benchmarks.report import report

REPEATS = 9
CHUNK = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dims", type=int, default=1_000)
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    index: Any = faiss.IndexScalarQuantizer(arguments.dims, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.add(generator.standard_normal((arguments.rows, arguments.dims), dtype=np.float32))
    query_1D = generator.standard_normal((1, arguments.dims), dtype=np.float32)
    ways: dict[str, Callable[[], object]] = {
        "search, k = all": lambda: index.search(query_1D, index.ntotal),
        "range_search, no bound": lambda: index.range_search(query_1D, -3e38),
        "decode + matrix product": lambda: _decode_and_multiply(index, query_1D),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    reference = statistics.median(seconds["search, k = all"])
    rows = [
        {"way": name, "ratio": statistics.median(taken) / reference, "rows": arguments.rows, "dims": arguments.dims}
        for name, taken in seconds.items()
    ]
    report("search", f"python -m benchmarks.search --rows {arguments.rows} --dims {arguments.dims}", rows)


def _decode_and_multiply(index: Any, query_1D: np.ndarray) -> np.ndarray:
    query = torch.from_numpy(query_1D[0])
    parts = []
    for start in range(0, index.ntotal, CHUNK):
        rows = index.reconstruct_n(start, min(CHUNK, index.ntotal - start))
        parts.append(torch.from_numpy(rows) @ query)
    return torch.cat(parts).numpy()


if __name__ == "__main__":
    main()
