"""What `POST /v1/indexes/estimate` says of a build, and what the build then takes: seconds, memory, disk.

    python -m benchmarks.estimate [--only "34M LoRA, ekfac"]

Each case is a process of its own: it loads the model, estimates and builds, on one thread. Memory is anonymous memory
(RssAnon), its peak as seen from outside, less what the process held before it loaded the model. Target: within 30 %.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.memory import anonymous_bytes, watched
from benchmarks.random_llama import save_small_model, save_tiny_model
from benchmarks.report import report
from engine.build import build_index
from engine.config import IndexConfig, IndexOptions, ModelConfig
from engine.dataset import Dataset
from engine.estimate import estimate_index
from engine.model import load_model
from tests import factories

COMMAND = "python -m benchmarks.estimate"
WITHIN = 0.3
LONGEST, SHORTEST = 128, 24


@dataclass(frozen=True)
class Case:
    model: Callable[[Path], ModelConfig]
    rows: int
    method: str
    options: IndexOptions


# the tiny model's embedding is most of it
DENSE = IndexOptions(projection_dim=16, curvature_rows=64, allow_partial=True)
CASES = {
    "34M LoRA, graddot": Case(save_small_model, 40, "graddot", IndexOptions()),
    "small LoRA, ekfac": Case(
        lambda root: save_tiny_model(root, lora=True), 256, "ekfac", IndexOptions(curvature_rows=64)
    ),
    "small dense, kfac, p = 16": Case(lambda root: save_tiny_model(root, lora=False), 256, "kfac", DENSE),
}


def mixed_rows(root: Path, count: int) -> Dataset:
    """`text` rows of SHORTEST to LONGEST tokens (one a character, BOS included)."""
    generator = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz "
    lengths = [generator.randint(SHORTEST, LONGEST) for _ in range(count)]
    return factories.dataset(root, [{"text": "".join(generator.choices(letters, k=n - 1))} for n in lengths])


def measure(name: str) -> dict[str, Any]:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.estimate", "--here", name], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        before = int(process.stdout.readline())
        with watched(process.pid) as peak:
            told = json.loads(process.stdout.readline())
    if process.returncode:
        raise SystemExit(f"The case {name!r} failed.")
    actual = told["actual"] | {"memory": peak.most - before}
    ratios = {what: round(told["estimate"][what] / actual[what], 2) for what in ("seconds", "memory", "disk")}
    row: dict[str, Any] = {"case": name, "rows": CASES[name].rows}
    row |= {f"{what}, estimated / taken": ratio for what, ratio in ratios.items()}
    return row | {"within": all(1 - WITHIN <= ratio <= 1 + WITHIN for ratio in ratios.values()), "taken": actual}


def here(name: str) -> None:
    case = CASES[name]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="whence-bench-") as scratch:
        root = Path(scratch)
        config, data = case.model(root), mixed_rows(root / "rows", case.rows)
        print(anonymous_bytes(os.getpid()), flush=True)
        model = load_model(config)
        chosen = IndexConfig(case.method, options=case.options)
        said = estimate_index(model, data, chosen)
        started = time.perf_counter()
        build_index(model, data, chosen, root / "index", lambda _progress: None)
        seconds = time.perf_counter() - started
        disk = sum(file.stat().st_size for file in (root / "index").rglob("*") if file.is_file())
    estimate = {"seconds": said.seconds, "memory": said.memory_bytes, "disk": said.disk_bytes}
    print(json.dumps({"estimate": estimate, "actual": {"seconds": round(seconds, 2), "disk": disk}}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--here", choices=list(CASES), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        here(given.here)
        return
    rows = []
    for name in given.only:
        rows.append(measure(name))
        print(rows[-1], flush=True)
    report("estimate", COMMAND, rows)


if __name__ == "__main__":
    main()
