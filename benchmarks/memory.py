"""What memory a build and a server take by the number of rows: anonymous memory, read from outside as they work.

    python -m benchmarks.memory [--rows 10000 1000000] [--build-rows 8192 32768] [--work DIRECTORY]

RssAnon of /proc/<process>/status, every 10 ms: what a process has made, without the pages of mapped files, which the
kernel takes back when it needs them.

    build    index builds of a tiny random Llama with LoRA (graddot), each in a process of its own: the peak less what
             the process held when the model was loaded. A million rows would take too long, so these are fewer, and
             tokens go to a file from 1 MiB on instead of 64, as they do of a million rows.
    server   one server a size, with the index of as many rows: the peak over 20 questions, less what it held when
             ready. Its indexes are 512 rows with noise (benchmarks/large_index.py), its model has 34M weights.

Growth is the slope from the smallest to the largest size. A row may take BUDGET bytes of its own (its number, length,
weight, key, scores: eight bytes each); its text, tokens and sketch lie in files. What else there is must not grow.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.large_index import short_rows
from benchmarks.load import serving
from benchmarks.report import report
from engine import flat_rows
from engine.build import build_index
from engine.config import IndexConfig, IndexOptions, ModelConfig
from engine.model import load_model
from tests import factories

COMMAND = "python -m benchmarks.memory"
ROWS, BUILD_ROWS = [10_000, 1_000_000], [8192, 32_768]
BUDGET = {"build": 256, "server": 256}  # bytes a row
SHARD_ROWS = 1024  # a shard is made in memory, and is the whole of a smaller index
QUESTIONS = 20
EVERY = 0.01  # seconds
Row = dict[str, Any]


def anonymous_bytes(process: int) -> int:
    """0 for a process that is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


@dataclass
class Peak:
    """The most that was seen, in bytes; `before` is what the process held when watching began."""

    process: int
    before: int = 0
    most: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        while not self.ended.is_set():
            self.most = max(self.most, anonymous_bytes(self.process))
            self.ended.wait(EVERY)


@contextmanager
def watched(process: int) -> Iterator[Peak]:
    before = anonymous_bytes(process)
    peak = Peak(process, before, before)
    thread = threading.Thread(target=peak.watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        peak.ended.set()
        thread.join()


# --- builds ---


def build_peak(work: Path, rows: int) -> Peak:
    """Of a process that loads the model, says so, waits for a line, and builds."""
    short_rows(work, rows)
    command = [sys.executable, "-m", "benchmarks.memory", "--build-here", str(rows), "--work", str(work)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline().strip() == "loaded"
        with watched(process.pid) as peak:
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline().strip() == "built"
    return peak


def build_here(work: Path, rows: int) -> None:
    flat_rows.IN_MEMORY = 1 << 20
    data = short_rows(work, rows)
    model = load_model(tiny_model(work))
    config = IndexConfig(
        "graddot", options=IndexOptions(projection_dim=4, sketch="random", shard_rows=SHARD_ROWS, search="flat")
    )
    warm = short_rows(work, 256)  # what is made once a process is made before
    with tempfile.TemporaryDirectory(dir=work) as place:
        build_index(model, warm, config, Path(place) / "warm", factories.ignore)
        print("loaded", flush=True)
        sys.stdin.readline()
        build_index(model, data, config, Path(place) / "index", factories.ignore)
        print("built", flush=True)


def tiny_model(work: Path) -> ModelConfig:
    """Written where it is not there yet."""
    if not (work / "adapter").exists():
        base = factories.llama(hidden=16, layers=1, max_position_embeddings=128)
        factories.save_base(work / "base", base)
        factories.save_adapter(work / "adapter", base, 1)
    return ModelConfig(str(work / "base"), adapter=str(work / "adapter"))


# --- servers ---


def server_peaks(work: Path, sizes: Sequence[int]) -> list[Peak]:
    from benchmarks.query_world import prepare  # here: builds are measured without a server

    world = prepare(work, "34M", sizes)
    return [server_peak(world.home, work / "34M", world.model_id, world.indexes[size]) for size in sizes]


def server_peak(home: Path, roots: Path, model: str, index: str) -> Peak:
    with serving(home, roots, "") as (process, address), httpx.Client(base_url=address, timeout=300) as client:
        client.get("/readyz").raise_for_status()
        with watched(process) as peak:
            for number in range(QUESTIONS):
                body = {"model": model, "index": index, "prompt": f"What is {number}?", "completion": " Number 5."}
                client.post("/v1/attributions", json=body, headers={"Cache-Control": "no-cache"}).raise_for_status()
    return peak


# --- what is made of them ---


def table(what: str, sizes: Sequence[int], peaks: Sequence[Peak]) -> list[Row]:
    """One row a size; the last has the growth from the first, and whether it is within the budget."""
    slope = growth(sizes, [peak.most - peak.before for peak in peaks])
    return [
        {
            "what": what,
            "rows": size,
            "before, MiB": round(peak.before / 2**20, 1),
            "peak, MiB": round(peak.most / 2**20, 1),
            "taken, MiB": round((peak.most - peak.before) / 2**20, 1),
            "bytes a row": round(slope, 1) if size == sizes[-1] else None,
            "target": f"at most {BUDGET[what]}" if size == sizes[-1] else None,
            "met": ("yes" if slope <= BUDGET[what] else "no") if size == sizes[-1] else None,
        }
        for size, peak in zip(sizes, peaks, strict=True)
    ]


def growth(sizes: Sequence[int], taken: Sequence[int]) -> float:
    """Bytes a row from the smallest size to the largest; sizes ascend."""
    return (taken[-1] - taken[0]) / (sizes[-1] - sizes[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--build-rows", type=int, nargs="+", default=BUILD_ROWS)
    parser.add_argument("--build-here", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, default=Path(".bench/queries"), help="kept, and not made again")
    parser.add_argument("--only", choices=list(BUDGET))
    chosen = parser.parse_args()
    if chosen.build_here is not None:
        build_here(chosen.work, chosen.build_here)
        return
    work: Path = chosen.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    rows = []
    if chosen.only != "server":
        tiny_model(work)
        sizes = sorted(chosen.build_rows)
        rows += table("build", sizes, [build_peak(work, size) for size in sizes])
    if chosen.only != "build":
        sizes = sorted(chosen.rows)
        rows += table("server", sizes, server_peaks(work, sizes))
    report("memory", COMMAND, rows)


if __name__ == "__main__":
    main()
