"""Index builds beside Bergson and Kronfluence, and beside plain training passes: same model, rows, tokens and targets.

    python -m benchmarks.indexing [--quick] [--size 110M] [--rounds 6] [--work .bench/indexing]

A small random Llama with LoRA r = 8 on every Linear, and rows of 24 to 256 tokens, a third of them targets. Every
contender is a process of its own with one core, in its own environment (benchmarks/indexing_peers, installed on first
use), and loads model and tokens before anything is timed; what it writes to disk counts. Each first goes over a quarter
of the rows at every batch size it names, and keeps the fastest. Then all take turns, round after round, so a slow
minute of the machine hits all alike: ratios are of one round, their geometric mean has a 95 % t interval on logarithms.

Bergson's plain build is held against `graddot`, its EK-FAC factors and build against our EK-FAC index. Kronfluence
keeps no index: its factors are held against the EK-FAC build, factors and the scores of three queries against the build
and three answers. Curvature is fitted on all rows everywhere. At p16 Bergson keeps
16 × 16 numbers a module, Whence 16 × 8: it does not widen a side that is narrower. Bergson writes float32 and does not
wait for the disk; Whence tokenizes within the timed build, writes float16 and syncs what it writes.

--quick: fewer rows, two rounds, the largest batch size; nothing is written.
--size 110M: a random Llama of that size and rows of 256 tokens, all without curvature, whose eigenbases take longer
than so few rows; written to indexing_110M.json. Not part of `make bench`: it takes longer than all of that.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from scipy import stats

from benchmarks.indexing_peers.world import SIZES, write_world
from benchmarks.quality.peers import install
from benchmarks.quality.peers.given import Given
from benchmarks.quality.peers.run import REPOSITORY, environment
from benchmarks.report import show, write

COMMAND = "python -m benchmarks.indexing"
ROWS, QUICK_ROWS, QUERIES = {"1M": 112, "110M": 16}, 64, 3
CURVATURE = "ekfac"  # in the name of a run that has one
PLAIN, OURS, PEERS = "plain", "whence", ("bergson", "kronfluence")
TRAINING = "plain training"  # what every line is also measured in
# (whose time, what for, over whose, what for, what it says): parts "index" or "all" = index and queries
COMPARISONS = (
    ("bergson ekfac", "index", "whence ekfac whole", "index", "same sketch (none), same work"),
    ("bergson whole", "index", "whence graddot whole", "index", "same sketch (none), same work"),
    ("bergson p16", "index", "whence graddot p16", "index", "same sketch, same work"),
    ("kronfluence ekfac", "index", "whence ekfac whole", "index", "their factors / our curvature and index"),
    ("kronfluence ekfac", "all", "whence ekfac whole", "all", f"and {QUERIES} queries"),
)


# --- ratios ---


@dataclass(frozen=True)
class Ratio:
    """Geometric mean over rounds, and its t interval."""

    mean: float
    low: float
    high: float


def ratio_of(theirs: Sequence[float], ours: Sequence[float], confidence: float = 0.95) -> Ratio:
    """Seconds of the same rounds, two at least. Raises ValueError for fewer, or where the numbers differ."""
    logs = np.log(np.asarray(theirs, float)) - np.log(np.asarray(ours, float))
    if len(theirs) != len(ours) or len(logs) < 2:
        raise ValueError(f"{len(theirs)} and {len(ours)} rounds: two of each are needed at least.")
    half = float(stats.t.ppf((1 + confidence) / 2, len(logs) - 1) * logs.std(ddof=1)) / math.sqrt(len(logs))
    middle = float(logs.mean())
    return Ratio(math.exp(middle), math.exp(middle - half), math.exp(middle + half))


# --- contenders ---


@dataclass
class Worker:
    """A contender's process (benchmarks/indexing_peers/worker.py). settings: each run's batch size, once tuned."""

    name: str
    process: subprocess.Popen[str]
    about: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, int] = field(default_factory=dict)

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise PeerFailed(f"{self.name} ended with status {self.process.wait()}.")
        return json.loads(line)

    def ask(self, run: str, setting: int, few: bool) -> dict[str, Any]:
        """{"seconds": {part: …}, "cpu": …}. Raises PeerFailed."""
        assert self.process.stdin is not None
        try:
            print(json.dumps({"name": run, "setting": setting, "few": few}), file=self.process.stdin, flush=True)
        except OSError as error:
            raise PeerFailed(f"{self.name} is gone: {error}") from None
        answer = self.read()
        if "error" in answer:
            raise PeerFailed(answer["error"])
        return answer


class PeerFailed(Exception):
    """Says what the peer said."""


@contextmanager
def started(name: str, python: Path | str, given: Given, work: Path) -> Iterator[Worker]:
    """Raises PeerFailed where it does not come up; its log lies in <work>/<name>.log."""
    command = [str(python), "-m", "benchmarks.indexing_peers.worker", name, "--task", str(given.path)]
    command += ["--scratch", str(work.absolute() / "scratch" / name)]
    with (work / f"{name}.log").open("w") as log, _process(command, log) as process:
        worker = Worker(name, process)
        worker.about = worker.read()
        yield worker


@contextmanager
def _process(command: Sequence[str], log: TextIO) -> Iterator[subprocess.Popen[str]]:
    """Ended with the block."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment(), text=True, **pipes)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


# --- the measurement ---


@dataclass
class Measured:
    """seconds: of every run ("<contender> <run>"), by part, one number a round. failed: what could not run, and why."""

    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    settings: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def of(self, run: str, part: str) -> list[float]:
        """part: "index", "queries", or "all" for their sum."""
        parts = self.seconds[run]
        return [sum(each) for each in zip(*parts.values(), strict=True)] if part == "all" else parts[part]

    def add(self, run: str, answer: dict[str, Any]) -> None:
        self.cpu.setdefault(run, []).append(answer["cpu"])
        for part, taken in answer["seconds"].items():
            self.seconds.setdefault(run, {}).setdefault(part, []).append(taken)


def measure(given: Given, work: Path, rounds: int, settings: int, curvature: bool = True) -> Measured:
    """settings: how many of a contender's batch sizes are tried, the largest first. curvature: runs with one, too."""
    measured = Measured()
    with ExitStack() as stack:
        workers = [_start(stack, name, given, work, measured) for name in (PLAIN, OURS, *PEERS)]
        ready = [worker for worker in workers if worker is not None]
        for worker in ready:
            runs = [run for run in worker.about["runs"] if curvature or CURVATURE not in run]
            _tune(worker, runs, worker.about["settings"][-settings:], measured)
        for number in range(rounds):
            for worker in ready if number % 2 == 0 else reversed(ready):
                _turn(worker, measured)
            print(f"round {number + 1} of {rounds}", flush=True)
    return measured


def _start(stack: ExitStack, name: str, given: Given, work: Path, measured: Measured) -> Worker | None:
    print(f"{name} …", flush=True)
    try:
        python = install.ensure(name) if name in PEERS else sys.executable
        worker = stack.enter_context(started(name, python, given, work))
    except (install.CannotInstall, PeerFailed) as reason:
        measured.failed[name] = str(reason)
        return None
    measured.versions[name] = worker.about["version"]
    return worker


def _tune(worker: Worker, runs: Sequence[str], settings: Sequence[int], measured: Measured) -> None:
    """Each run's fastest batch size; a run that fails is left out from here on."""
    for run in runs:
        name, taken = f"{worker.name} {run}", {}
        try:
            worker.ask(run, settings[-1], True)  # whatever is done once a process
            for setting in settings if len(settings) > 1 else ():
                taken[setting] = sum(worker.ask(run, setting, True)["seconds"].values())
        except PeerFailed as reason:
            if not taken:
                measured.failed[name] = str(reason)
                continue
        best = min(taken, key=lambda setting: taken[setting], default=settings[-1])
        worker.settings[run] = measured.settings[name] = best


def _turn(worker: Worker, measured: Measured) -> None:
    for run, setting in list(worker.settings.items()):
        name = f"{worker.name} {run}"
        try:
            measured.add(name, worker.ask(run, setting, False))
        except PeerFailed as reason:
            measured.failed[name] = str(reason)
            del worker.settings[run]


# --- the tables ---


def cost_rows(measured: Measured) -> list[dict[str, Any]]:
    """Every run in plain training passes."""
    return [
        {"what": f"{run}, {part}" if len(parts) > 1 else run, "batch": measured.settings[run] or None}
        | _columns(measured, (run, part), (TRAINING, "index"))
        for run, parts in measured.seconds.items()
        for part in parts
        if run != TRAINING
    ] + [
        {"what": name, "batch": None} | _none(reason)
        for name, reason in measured.failed.items()
        if name not in measured.seconds
    ]


def comparison_rows(measured: Measured, curvature: bool = True) -> list[dict[str, Any]]:
    """Peer / Whence: above 1 means that Whence is faster. curvature: as for `measure`."""
    rows: list[dict[str, Any]] = []
    for theirs, part, ours, our_part, note in COMPARISONS:
        if CURVATURE in theirs and not curvature:
            continue
        columns = _columns(measured, (theirs, part), (ours, our_part))
        rows.append({"what": f"{theirs} / {ours.removeprefix('whence ')}", "note": note} | columns)
    return rows


def _columns(measured: Measured, one: tuple[str, str], other: tuple[str, str]) -> dict[str, Any]:
    for run in (one[0], other[0]):
        if reason := measured.failed.get(run) or measured.failed.get(run.split()[0]):
            return _none(f"{run}: {reason}")
    ratio = ratio_of(measured.of(*one), measured.of(*other))
    verdict = "above 1" if ratio.low > 1 else "below 1" if ratio.high < 1 else "holds 1"
    return {"ratio": ratio.mean, "low": ratio.low, "high": ratio.high, "interval": verdict}


def _none(reason: str) -> dict[str, Any]:
    return {"ratio": None, "low": None, "high": None, "interval": reason}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--size", choices=list(SIZES), default="1M")
    parser.add_argument("--rounds", type=int, help="default 6, with --quick 2")
    parser.add_argument("--work", type=Path, default=Path(".bench/indexing"))
    asked = parser.parse_args()
    rounds = asked.rounds or (2 if asked.quick else 6)
    if rounds < 2:
        parser.error("an interval needs two rounds at least")
    torch.set_num_threads(1)
    size, curvature = SIZES[asked.size], asked.size == "1M"
    given = write_world(asked.work, QUICK_ROWS if asked.quick else ROWS[asked.size], QUERIES, size)
    measured = measure(given, asked.work, rounds, 1 if asked.quick else 2, curvature)
    costs, comparisons = cost_rows(measured), comparison_rows(measured, curvature)
    show(f"in plain training passes (8 rows a step), {rounds} rounds", costs)
    show("peer / Whence: above 1, Whence is faster", comparisons)
    if not asked.quick:
        tokens = sum(len(row.ids) for row in given.rows)
        about = {"rows": len(given.rows), "tokens": tokens, "layers": size.layers, "width": size.width}
        kept = {"versions": measured.versions, "seconds": measured.seconds, "cpu seconds": measured.cpu}
        name, command = ("indexing", COMMAND) if curvature else ("indexing_110M", f"{COMMAND} --size {asked.size}")
        write(name, command, costs, about=about | {"rounds": rounds}, comparisons=comparisons, **kept)


if __name__ == "__main__":
    main()
