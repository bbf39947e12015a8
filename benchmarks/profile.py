"""What takes the time in an index build and in a query: torch.profiler's own time by operation.

    python -m benchmarks.profile

A 34M-parameter random Llama with LoRA r = 8, EK-FAC, one thread: the calibration of an index of 48 rows of 256 tokens
(on 24 of them, with its eigenbases, which take as long for any number of rows), then the rows themselves, then eight
queries of 256 tokens in process. Each in shares of the time within torch's operations, all threads together; below it
the answers' own phases. What is not in torch (tokenising, FAISS, files, Python) is not in it.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile

from benchmarks.random_llama import save_small_model, text_rows
from benchmarks.report import show, write
from engine.answer import attribute
from engine.build import build_index
from engine.config import IndexConfig, IndexOptions
from engine.dataset import Dataset
from engine.model import LoadedModel, load_model
from engine.opened import OpenIndex
from engine.types import AskOptions, Attribution, Progress, Query

COMMAND = "python -m benchmarks.profile"
ROWS, CURVATURE_ROWS, TOKENS, QUERIES = 48, 24, 256, 8
SHOWN = 9
Row = dict[str, Any]
# What an operation is for; the first that its name begins with.
NAMES = {
    "aten::addmm": "matrix products (addmm)",
    "aten::mm": "matrix products (mm)",
    "aten::bmm": "products by row (bmm): gradients, rotations",
    "aten::_scaled_dot_product": "attention",
    "aten::addmv": "matrix products (mv)",
    "aten::mul": "products and sums by element",
    "aten::add": "products and sums by element",
    "aten::_log_softmax": "softmax of the vocabulary and its gradient",
    "aten::linalg": "eigenbases",
    "aten::_linalg": "eigenbases",
    "aten::copy_": "copies",
    "aten::index": "labels drawn from the model",
    "aten::argmax": "labels drawn from the model",
}


def profiled(what: str, work: Callable[[], object]) -> list[Row]:
    # a query's forward pass before fine-tuning has a thread of its own
    every = _ExperimentalConfig(profile_all_threads=True)
    with profile(activities=[ProfilerActivity.CPU], experimental_config=every) as found:
        work()
    seconds: dict[str, float] = {}
    for event in found.key_averages():
        named = next((text for prefix, text in NAMES.items() if event.key.startswith(prefix)), event.key)
        seconds[named] = seconds.get(named, 0.0) + event.self_cpu_time_total / 1e6
    whole = sum(seconds.values())
    largest = sorted(seconds.items(), key=lambda pair: -pair[1])[:SHOWN]
    rows: list[Row] = [{"of": what, "operation": name, "share": round(taken / whole, 3)} for name, taken in largest]
    return [*rows, {"of": what, "operation": "everything else", "share": round(1 - sum(r["share"] for r in rows), 3)}]


class _Calibrated(Exception):
    """The build has come to its rows; what it has done so far is kept, and a second call goes on from there."""


def until_calibrated(progress: Progress) -> None:
    if progress.phase == "sketch":
        raise _Calibrated


def calibrate(model: LoadedModel, data: Dataset, config: IndexConfig, path: Path) -> None:
    with suppress(_Calibrated):
        build_index(model, data, config, path, until_calibrated)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="whence-bench-") as scratch:
        root = Path(scratch)
        model = load_model(save_small_model(root))
        data = text_rows(root / "rows", ROWS, TOKENS)
        config = IndexConfig("ekfac", options=IndexOptions(curvature_rows=CURVATURE_ROWS))
        rows = profiled(f"calibration, {CURVATURE_ROWS} rows", lambda: calibrate(model, data, config, root / "index"))
        rows += profiled(f"{ROWS} rows", lambda: build_index(model, data, config, root / "index", lambda _p: None))
        texts = [row.text or "" for row in text_rows(root / "queries", QUERIES + 1, TOKENS)]
        asked = [(Query(prompt=text[:192], completion=text[192:]), AskOptions()) for text in texts]
        answers: list[Attribution] = []
        with OpenIndex(model, data, root / "index") as index:
            attribute(index, asked[:1])  # the first opens files

            def ask() -> None:
                answers.extend(a for one in asked[1:] for a in attribute(index, [one]) if isinstance(a, Attribution))

            rows += profiled("query", ask)
    timed = {name: statistics.median(a.timings_ms[name] or 0.0 for a in answers) for name in answers[0].timings_ms}
    shares = {name: round(taken / sum(timed.values()), 3) for name, taken in timed.items()}
    show("own time by operation", rows)
    show("phases of a query", [shares])
    write("profile", COMMAND, rows, query_phases=shares)


if __name__ == "__main__":
    main()
