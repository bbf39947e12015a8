"""How long things take to start: the service's import, `whence --help`, and a server until it is ready and answers.

    python -m benchmarks.startup [--pairs 3] [--servers 2]

Every figure is the median of so many runs, taken in turns: each turn runs every command once, in an order of its own.

    import       python -c "import app.main", beside an interpreter that does nothing and the import of fastapi alone
    help         whence --help
    ready        from the start of a server process until GET /readyz is 200, the home migrated, a tiny model registered
                 and its index built
    first answer from the start until the first question is answered, which loads the model, against a process that
                 loads that model and ends
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.load import serving
from benchmarks.report import show, write
from tests import factories
from whence_client import Whence

COMMAND = "python -m benchmarks.startup"
PASS, FASTAPI, IMPORT, HELP = "python -c pass", "import fastapi", "import app.main", "whence --help"
READY, ANSWER, LOAD = "server ready", "first answer", "model load, a process of its own"
SECONDS = {IMPORT: 1.2, HELP: 0.5}  # the targets
OVER_LOAD = 1.0  # seconds beyond the model's load in which a server is ready and has answered
LOADING = """
import sys
from engine.config import ModelConfig
from engine.model import load_model
load_model(ModelConfig(sys.argv[1], adapter=sys.argv[2]))
"""
WHENCE = "import sys; from app.cli import main; sys.exit(main(['--help']))"
Row = dict[str, Any]


def taken(*arguments: str) -> float:
    """Seconds that a Python process with these arguments lasts. Raises CalledProcessError."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def commands() -> dict[str, Callable[[], float]]:
    return {
        PASS: lambda: taken("-c", "pass"),
        FASTAPI: lambda: taken("-c", "import fastapi"),
        IMPORT: lambda: taken("-c", "import app.main"),
        HELP: lambda: taken("-c", WHENCE),
    }


def prepare(work: Path) -> dict[str, Any]:
    """A home with one tiny model and its index; the question to ask of it."""
    base = factories.llama()
    factories.save_base(work / "base", base)
    factories.save_adapter(work / "adapter", base, 1)
    rows = work / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in factories.sentences(32)), encoding="utf-8")
    with serving(work / "home", work, "") as (_, address), Whence(address) as client:
        model = client.models.create("tiny", base=work / "base", adapter=work / "adapter")
        dataset = client.datasets.upload(rows, name="rows")
        index = client.indexes.build(model=model.id, dataset=dataset.id)
        client.jobs.wait(index.job_id or "")
    return {"model": model.id, "index": index.id, "prompt": "Where?", "completion": " Here."}


def served(work: Path, question: dict[str, Any]) -> tuple[float, float]:
    """Seconds from the start of a server until it is ready, and until it has answered."""
    began = time.perf_counter()
    with serving(work / "home", work, "") as (_, address), httpx.Client(base_url=address, timeout=120) as client:
        client.get("/readyz").raise_for_status()
        ready = time.perf_counter() - began
        client.post("/v1/attributions", json=question, headers={"Cache-Control": "no-cache"}).raise_for_status()
        return ready, time.perf_counter() - began


def measure(work: Path, turns: int, servers: int) -> dict[str, list[float]]:
    """What → its seconds, run by run."""
    question = prepare(work)
    found: dict[str, list[float]] = {name: [] for name in (*commands(), READY, ANSWER, LOAD)}
    for turn in range(turns):
        for name, run in _shuffled(list(commands().items()), turn):
            found[name].append(run())
    for turn in range(servers):
        for what in _shuffled([LOAD, ANSWER], turn):
            if what == LOAD:
                found[LOAD].append(taken("-c", LOADING, str(work / "base"), str(work / "adapter")))
            else:
                ready, answered = served(work, question)
                found[READY].append(ready)
                found[ANSWER].append(answered)
    return found


def _shuffled(items: Sequence[Any], turn: int) -> list[Any]:
    return random.Random(turn).sample(list(items), len(items))


def table(found: dict[str, list[float]]) -> list[Row]:
    """Medians beside the targets; ratios to the bare interpreter and to the import of fastapi."""
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    targets = SECONDS | {READY: medians[LOAD] + OVER_LOAD, ANSWER: medians[LOAD] + OVER_LOAD}
    return [
        {
            "what": name,
            "runs": len(found[name]),
            "seconds": round(median, 3),
            "slowest": round(max(found[name]), 3),
            "× python": round(median / medians[PASS], 1),
            "× fastapi": round(median / medians[FASTAPI], 2),
            "target": round(targets[name], 3) if name in targets else None,
            "met": ("yes" if median <= targets[name] else "no") if name in targets else None,
        }
        for name, median in medians.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3, help="turns of the commands")
    parser.add_argument("--servers", type=int, default=2, help="turns of the server")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        found = measure(Path(work), chosen.pairs, chosen.servers)
    rows = table(found)
    show("startup", rows)
    write("startup", COMMAND, rows, runs={name: [round(one, 4) for one in seconds] for name, seconds in found.items()})


if __name__ == "__main__":
    main()
