"""What a query costs over HTTP, against its own forward and backward pass, as the index grows.

    python -m benchmarks.queries [--rows 1000 100000 1000000] [--model 34M] [--repeats 16] [--work DIRECTORY]

A real server with a random Llama (34M or 110M parameters, LoRA r = 8), queries of 256 tokens, EK-FAC, one checkpoint,
learned sketches of 512 int8 numbers; every row is read (benchmarks/query_world makes the indexes). Reference: the
query's own forward pass and the gradient of every adapter weight, in plain PyTorch in this process. Indexes and
reference take turns, question by question. Target: the median within 1.25 times the reference's, and 10 ms.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import torch

from benchmarks.capture import TOKENS, plain_backward
from benchmarks.load import serving
from benchmarks.query_world import MODELS, QueryWorld, prepare
from benchmarks.random_llama import text_rows
from benchmarks.report import show, write
from engine.model import load_model
from engine.rows import Batcher

COMMAND = "python -m benchmarks.queries"
FACTOR, ALLOWED_MS = 1.25, 10.0
SIZES = (1000, 100_000, 1_000_000)
Row = dict[str, Any]


def measure(work: Path, world: QueryWorld, repeats: int, tokens: int) -> list[Row]:
    """The first question opens files and is not counted."""
    model = load_model(world.config)
    texts = [row.text or "" for row in text_rows(work / f"questions-{tokens}", repeats + 1, tokens)]
    ours: dict[int, list[Row]] = {size: [] for size in world.indexes}
    reference: list[float] = []
    with serving(world.home, world.home.parent, "") as (_, url), httpx.Client(base_url=url, timeout=600) as client:
        for text in texts:
            prompt, completion = text[: 3 * tokens // 4], text[3 * tokens // 4 :]
            for size, index in world.indexes.items():
                body = {"model": world.model_id, "index": index, "prompt": prompt, "completion": completion}
                ours[size].append(_asked(client, body))
            encoded = model.encoder().encode_query(prompt=prompt, completion=completion)
            batch = next(Batcher(model, tokens).batches([encoded], [1.0], [-1])).padded
            reference.append(_ms(lambda batch=batch: plain_backward(model, batch)))
    return [{"rows": size} | _figures(found[1:], reference[1:]) for size, found in ours.items()]


def _asked(client: httpx.Client, body: dict[str, Any]) -> Row:
    """Computed even where an earlier run has asked the same; until the answer is there, and read."""
    began = time.perf_counter()
    answer = client.post("/v1/attributions", json=body, headers={"Cache-Control": "no-cache"}).raise_for_status().json()
    return {"ms": 1000 * (time.perf_counter() - began), "timings": answer["timings_ms"]}


def _ms(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def _figures(ours: list[Row], reference: list[float]) -> Row:
    """p50 and p99 against the reference's median; every phase's share of what the client waited."""
    milliseconds = sorted(one["ms"] for one in ours)
    p50, alone = statistics.median(milliseconds), statistics.median(reference)
    shares = {name: _share(ours, name) for name in ours[0]["timings"] if name != "total"}
    shares["HTTP and database"] = statistics.median(1 - _engine(one) / one["ms"] for one in ours)
    return {
        "p50 / reference": round(p50 / alone, 3),
        "target": round(FACTOR + ALLOWED_MS / alone, 3),
        "within": p50 <= FACTOR * alone + ALLOWED_MS,
        "p99 / reference": round(milliseconds[min(len(milliseconds) - 1, int(len(milliseconds) * 0.99))] / alone, 3),
        "reference's own p99": round(max(reference) / alone, 3),
        "shares": ", ".join(f"{name} {share:.1%}" for name, share in shares.items() if share >= 0.0005),
    }


def _share(ours: list[Row], name: str) -> float:
    return statistics.median((one["timings"][name] or 0.0) / one["ms"] for one in ours)


def _engine(one: Row) -> float:
    return sum(value or 0.0 for name, value in one["timings"].items() if name not in ("total", "store"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--model", choices=list(MODELS), default="34M")
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--repeats", type=int, default=16)
    parser.add_argument("--work", type=Path, default=Path(".bench/queries"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    work = given.work.absolute()
    rows = measure(work, prepare(work, given.model, given.rows), given.repeats, given.tokens)
    show("a query over HTTP, against its own forward and backward pass", rows)
    print(write("queries", COMMAND, rows, model=given.model, tokens=given.tokens))


if __name__ == "__main__":
    main()
