"""What a peer's script writes: one .npz for every method, its options and its checkpoint. Imports numpy alone.

Shapes: Q queries, N rows.

<out>/<name>.npz holds scores [Q, N] float32, positive = proponent, and `about`: the JSON of a Result.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ALL_CHECKPOINTS = "all checkpoints"  # a result's checkpoint where the method takes them all by itself


@dataclass(frozen=True)
class Result:
    """What is known of a score matrix beside its numbers.

    fit_seconds: whatever is done once for all queries. score_seconds: the rest. bytes_per_example: what the peer keeps
    of a row between the two; 0 for a peer that computes the rows' gradients anew at every scoring.
    linear: a row's score grows with its weight in the training loss; False where the peer normalises rows.
    """

    peer: str
    version: str
    method: str
    checkpoint: str
    options: dict[str, Any]
    fit_seconds: float
    score_seconds: float
    bytes_per_example: float = 0.0
    linear: bool = True
    notes: str = ""

    @property
    def name(self) -> str:
        parts = [self.method, *(f"{key}={value}" for key, value in self.options.items()), self.checkpoint]
        return " ".join(parts).replace("/", "_")


@dataclass
class Stopwatch:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started

    def of(self, *parts: str) -> float:
        return sum(self.seconds[part] for part in parts)


def write(out: Path, result: Result, scores_QN: np.ndarray) -> None:
    """Raises ValueError for scores that are not finite: a method that overflowed has no result."""
    if not np.isfinite(scores_QN).all():
        raise ValueError(f"{result.name}: {np.count_nonzero(~np.isfinite(scores_QN))} scores are not finite.")
    out.mkdir(parents=True, exist_ok=True)
    partial = out / f".{result.name}.partial.npz"
    np.savez(partial, scores=scores_QN.astype(np.float32), about=np.array(json.dumps(asdict(result))))
    partial.rename(out / f"{result.name}.npz")
    print(f"  {result.peer}: {result.name} ({result.fit_seconds:.1f} s + {result.score_seconds:.1f} s)", flush=True)


def folder_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@dataclass(frozen=True)
class Arguments:
    """A script's command line: the task, where results and scratch files go, one checkpoint, methods to run."""

    task: Path
    out: Path
    checkpoint: str
    methods: tuple[str, ...]


def arguments(methods: Sequence[str]) -> Arguments:
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--methods", nargs="*", default=list(methods))
    given = parser.parse_args()
    return Arguments(given.task, given.out, given.checkpoint, tuple(given.methods))


def each(given: Arguments, run: Callable[[str], object]) -> None:
    """Run every method; one that fails leaves <method> <checkpoint>.failed with its reason, and the others go on."""
    given.out.mkdir(parents=True, exist_ok=True)
    for method in given.methods:
        done, failed = (given.out / f"{method} {given.checkpoint}.{kind}" for kind in ("done", "failed"))
        if done.exists():
            continue
        failed.unlink(missing_ok=True)
        try:
            run(method)
            done.touch()
        except Exception as error:  # a peer may fail in any way; the reason is a result too
            traceback.print_exc()
            failed.write_text(f"{type(error).__name__}: {error}"[:600])
