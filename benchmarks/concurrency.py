"""Many callers at once: what they get together, against what one batch of gradients gains.

    python -m benchmarks.concurrency [--model 34M] [--seconds 12] [--work DIRECTORY]

A real server process with a random Llama (benchmarks/query_world), 1, 4, 16 and 64 callers, each asking again as soon
as it is answered; no question is asked twice. The queue has QUEUE places, so that 64 callers are more than wait: those
refused have to be told when to come back, and come back then.

In the same run and in this process, `gain`: the time of 16 questions' gradients one after the other over the time of
all 16 in one batch, in turns. Target: 16 callers get at least 0.8 of that times what one gets.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import string
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch

from benchmarks.load import Outcome, serving
from benchmarks.query_world import BUILT_ROWS, MODELS, QueryWorld, prepare
from benchmarks.report import show, write
from engine.dataset import open_dataset
from engine.measure import measure_with_gradients
from engine.model import load_model
from engine.opened import OpenIndex
from engine.question import prepare as prepared
from engine.types import Query

COMMAND = "python -m benchmarks.concurrency"
CALLERS = (1, 4, 16, 64)
BATCH, QUEUE, TURNS = 16, 24, 5
TARGET = 0.8
LENGTHS = (24, 96)  # tokens of a question, one a character
LONGEST_PAUSE_S = 2.0
COMPUTED = {"Cache-Control": "no-cache"}  # even where an earlier run has asked the same
Row = dict[str, Any]


def texts() -> Iterator[tuple[str, str]]:
    """(prompt, completion) without end, no two alike."""
    chance = random.Random(0)
    for _ in itertools.count():
        text = "".join(chance.choices(string.ascii_lowercase + " ", k=chance.randint(*LENGTHS)))
        yield text[: 3 * len(text) // 4], text[3 * len(text) // 4 :]


# --- what a batch gains, in this process ---


def batch_gain(world: QueryWorld, asked: Iterator[tuple[str, str]]) -> float:
    model = load_model(world.config)
    home, index_id = world.home, world.indexes[BUILT_ROWS]
    with OpenIndex(model, open_dataset(world.dataset), home / "indexes" / index_id) as index:
        ratios = []
        for _ in range(TURNS + 1):
            pairs = itertools.islice(asked, BATCH)
            questions = [prepared(model, None, Query(prompt=one, completion=two)) for one, two in pairs]
            began = time.perf_counter()
            for question in questions:
                measure_with_gradients(index, [question])
            between = time.perf_counter()
            measure_with_gradients(index, questions)
            ratios.append((between - began) / (time.perf_counter() - between))
    return statistics.median(ratios[1:])


# --- callers ---


@dataclass
class Callers:
    client: httpx.AsyncClient
    common: Mapping[str, str]
    asked: Iterator[tuple[str, str]]
    pauses: list[float] = field(default_factory=list)

    async def run(self, count: int, seconds: float) -> Row:
        outcome, before = Outcome(), await self._batches()
        began = time.perf_counter()
        await asyncio.gather(*(self._one(outcome, began + seconds) for _ in range(count)))
        took = time.perf_counter() - began
        queries, batches = (now - then for now, then in zip(await self._batches(), before, strict=True))
        slow = sorted(outcome.seconds)
        return {
            "callers": count,
            "per second": len(slow) / took,
            "p50": statistics.median(slow),
            "p99": slow[int(len(slow) * 0.99)],
            "429": outcome.statuses[429],
            "without Retry-After": outcome.without_retry_after,
            "other": sum(n for status, n in outcome.statuses.items() if status not in (200, 429)),
            "failures": sum(outcome.failures.values()),
            "batch": queries / max(1, batches),
        }

    async def _one(self, outcome: Outcome, until: float) -> None:
        while time.perf_counter() < until:
            prompt, completion = next(self.asked)
            began = time.perf_counter()
            try:
                body = {**self.common, "prompt": prompt, "completion": completion}
                answer = await self.client.post("/v1/attributions", json=body, headers=COMPUTED)
            except httpx.HTTPError as error:
                outcome.failures[type(error).__name__] += 1
                continue
            outcome.statuses[answer.status_code] += 1
            if answer.status_code == 200:
                outcome.seconds.append(time.perf_counter() - began)
            elif answer.status_code == 429:
                wait = answer.headers.get("retry-after", "")
                outcome.without_retry_after += not wait.isdecimal()
                await asyncio.sleep(min(float(wait or 1), LONGEST_PAUSE_S))

    async def _batches(self) -> tuple[int, int]:
        """(questions, batches) that the engine has answered."""
        engine = (await self.client.get("/v1/status")).json()["engine"]
        return engine.get("queries", 0), engine.get("batches", 0)


async def measure(address: str, world: QueryWorld, asked: Iterator[tuple[str, str]], seconds: float) -> list[Row]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as client:
        callers = Callers(client, {"model": world.model_id, "index": world.indexes[BUILT_ROWS]}, asked)
        await callers.run(1, 1.0)  # opens model and index
        return [await callers.run(count, seconds) for count in CALLERS]


def rows_of(found: list[Row], gain: float) -> list[Row]:
    """Everything against one caller."""
    alone = found[0]
    return [
        {
            "callers": row["callers"],
            "throughput / one caller's": round(row["per second"] / alone["per second"], 2),
            "of a batch's gain": round(row["per second"] / alone["per second"] / gain, 2),
            "p50 / one caller's": round(row["p50"] / alone["p50"], 1),
            "p99 / one caller's p50": round(row["p99"] / alone["p50"], 1),
            "queries a batch": round(row["batch"], 1),
            **{name: row[name] for name in ("429", "without Retry-After", "other", "failures")},
        }
        for row in found
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), default="34M")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each number of callers")
    parser.add_argument("--work", type=Path, default=Path(".bench/queries"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    world, asked = prepare(given.work.absolute(), given.model, [BUILT_ROWS]), texts()
    gain = batch_gain(world, asked)
    with serving(world.home, world.home.parent, "", WHENCE_MAX_QUEUE=str(QUEUE)) as (_, address):
        rows = rows_of(asyncio.run(measure(address, world, asked, given.seconds)), gain)
    show(f"callers at once; one batch of {BATCH} gains {gain:.2f}", rows)
    about = {"model": given.model, "queue": QUEUE, "gain of one batch of 16": round(gain, 2), "target": TARGET}
    print(write("concurrency", COMMAND, rows, **about))


if __name__ == "__main__":
    main()
