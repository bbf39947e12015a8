"""An evaluation in processes of its own, to be killed: attempts start at once, and what lies on disk tells how far.

A process that has only imported the engine forks one attempt after the other: an import would take longer than the
whole evaluation. Every attempt leads a group of its own, which its training processes are in.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from engine.build import build_index
from engine.causal.recipe import load_recipe
from engine.causal.retrain import Study, Variant, retrain, stacks_of
from engine.causal.retrainer import Retrainer
from engine.causal.train import train_lora
from engine.config import IndexConfig, ModelConfig
from engine.dataset import open_dataset
from engine.evaluate import evaluation
from engine.evaluate.scorecard import EvaluationQuery, Scorecard, from_json, to_json
from engine.model import load_model
from engine.types import CheckpointFn, Progress, Query
from tests import factories
from tests.engine.evaluate.evaluated_world import QUERIES, ROWS, TRAINING, EvaluatedWorld

EPOCHS = 20  # so that a stack takes long enough to be killed in
WIDTH = 3
PATIENCE_SECONDS = 200.0
SCORECARD, PROGRESS = "scorecard.json", "progress.json"
ROOT = Path(__file__).resolve().parents[3]
Runs = dict[str, tuple[int, int, bytes]]  # finished retrainings: a variant's name → its file's inode, time and content
FORKING = "from tests.engine.evaluate.killed_evaluation import fork_attempts; fork_attempts()"


def make_world(root: Path) -> None:
    """The fine-tune of `evaluated_world` over more epochs, with an index of its last two."""
    factories.save_base(root / "base", factories.llama(hidden=8, layers=1))
    dataset = factories.dataset(root / "data", factories.sentences(ROWS, seed=3, longest=3))
    train_lora(root / "base", list(dataset), root / "run", replace(TRAINING, epochs=EPOCHS))
    world = open_world(root)
    build_index(load_model(world.model), world.dataset, IndexConfig("graddot"), world.index_dir, factories.ignore)


def open_world(root: Path) -> EvaluatedWorld:
    """What `make_world` made, in any process."""
    epochs = tuple(str(root / f"run/epoch-{epoch}") for epoch in (EPOCHS - 1, EPOCHS))
    model = ModelConfig(str(root / "base"), checkpoints=epochs, recipe=load_recipe(root / "run/recipe.json"))
    (stored,) = (root / "data/datasets").iterdir()
    queries = tuple(
        EvaluationQuery(Query(prompt=row["prompt"], completion=row["completion"]), f"group {n // 2}")
        for n, row in enumerate(factories.sentences(QUERIES, seed=9, longest=3))
    )
    return EvaluatedWorld(model, open_dataset(stored), root / "index", queries)


@contextmanager
def machine(cores: int) -> Iterator[None]:
    """Of so many cores, where stacks of WIDTH are the fastest: left to the clock, two runs would train other stacks,
    and these few retrainings would be done in two of them."""
    width = patch.object(Retrainer, "fastest_width", lambda *_given: (WIDTH, 0.01))
    with patch.object(os, "cpu_count", lambda: cores), width:
        yield


@contextmanager
def heard_variants() -> Iterator[list[Variant]]:
    """Of the evaluation that this process makes meanwhile, in its order."""
    asked: list[Variant] = []

    def heard(study: Study, variants: Sequence[Variant], out: Path, checkpoint: CheckpointFn) -> np.ndarray:
        asked.extend(variants)
        return retrain(study, variants, out, checkpoint)

    with patch.object(evaluation, "retrain", heard):
        yield asked


# --- the process that forks, and what it forks ---


def fork_attempts() -> None:
    """Reads [world, work, notes, cores], one attempt a line; answers with its process, and then with how it ended."""
    for line in sys.stdin:
        world, work, notes, cores = json.loads(line)
        child = os.fork()
        if not child:
            os.setsid()
            print(os.getpid(), flush=True)
            os._exit(_attempt(open_world(Path(world)), Path(work), Path(notes), cores))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _attempt(world: EvaluatedWorld, work: Path, notes: Path, cores: int) -> int:
    def note(progress: Progress) -> None:
        """Whoever listens takes a while, so that every phase lasts long enough to be hit."""
        (notes / PROGRESS).write_text(json.dumps(progress.phase))
        if progress.phase != "retrain":
            time.sleep(0.1 if progress.phase == "answer" else 0.005)

    try:
        with machine(cores):
            scorecard = world.evaluate(work, note)
    except BaseException:
        traceback.print_exc()
        return 1
    (notes / SCORECARD).write_text(json.dumps(to_json(scorecard)))
    return 0


# --- the side that kills ---


@dataclass(frozen=True)
class Moment:
    """`delay` seconds after `count` files of `pattern` lie in `work` and the evaluation is in `phase` (None: any).

    more: at least one file more than when the attempt began. whole: the group is killed, not the first process alone.
    """

    pattern: str
    count: int
    delay: float
    phase: str | None = None
    more: bool = False
    whole: bool = True
    cores: int = 1


@dataclass(frozen=True)
class Left:
    """What was there after a kill. outlived: by its training processes, for a moment. building: an index."""

    outlived: bool
    building: bool
    scores: int
    runs: Runs


class Attempts:
    """Attempts at one evaluation, all in the same `work`."""

    def __init__(self, process: subprocess.Popen[str], world: Path, work: Path, notes: Path) -> None:
        self.process, self.world, self.work, self.notes = process, world, work, notes
        self.groups: list[int] = []

    def killed_at(self, moment: Moment) -> Left:
        there = len(list(self.work.glob(moment.pattern)))
        group = self._start(moment.cores)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._reached(moment, there + 1 if moment.more else moment.count):
            assert time.monotonic() < deadline and alive(group), f"{moment} was not reached"
            time.sleep(0.003)
        time.sleep(moment.delay)
        (os.killpg if moment.whole else os.kill)(group, signal.SIGKILL)
        assert self._answer() == -signal.SIGKILL, f"it had ended before {moment}"
        outlived = not moment.whole and alive(group)
        manifests = [json.loads(file.read_text()) for file in self.work.glob("indexes/*/manifest.json")]
        building = any(manifest["state"] != "ready" for manifest in manifests)
        return Left(outlived, building, len(list(self.work.glob("scores/*.npz"))), runs_in(self.work))

    def to_the_end(self) -> Scorecard:
        self._start(1)
        assert self._answer() == 0, "the last attempt failed: see its traceback"
        return from_json(json.loads((self.notes / SCORECARD).read_text()))

    def _start(self, cores: int) -> int:
        assert self.process.stdin is not None
        (self.notes / PROGRESS).unlink(missing_ok=True)
        line = json.dumps([str(self.world), str(self.work), str(self.notes), cores])
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        self.groups.append(self._answer())
        return self.groups[-1]

    def _answer(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def _reached(self, moment: Moment, count: int) -> bool:
        if len(list(self.work.glob(moment.pattern))) < max(count, moment.count):
            return False
        progress = self.notes / PROGRESS
        return moment.phase is None or (progress.exists() and progress.read_text() == json.dumps(moment.phase))


@contextmanager
def attempts(world: Path, work: Path, notes: Path) -> Iterator[Attempts]:
    command = [sys.executable, "-c", FORKING]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    found = Attempts(process, world, work, notes)
    try:
        yield found
    finally:
        process.kill()
        process.wait()  # not for the end of its output: who is left behind would keep that open
        for group in filter(alive, found.groups):
            os.killpg(group, signal.SIGKILL)


def runs_in(work: Path) -> Runs:
    found: Runs = {}
    for file in work.glob("retrainings/runs/*.json"):
        content, status = file.read_bytes(), file.stat()
        found[json.loads(content)["variant"]["name"]] = (status.st_ino, status.st_mtime_ns, content)
    return found


def check_nothing_was_made_again(kills: Sequence[Runs], variants: Sequence[Variant], end: Runs) -> None:
    """A stack is trained together: one that was cut off between two of its files is trained again, to the same."""
    stacks = [{variant.name for variant in stack} for stack in stacks_of(variants, WIDTH, 1)]
    assert end.keys() == {variant.name for variant in variants}
    for number, runs in enumerate(kills, 1):
        whole = {name for stack in stacks if runs.keys() >= stack for name in stack}
        assert len(whole) > len(runs) - 2 * WIDTH  # two processes cut off two stacks at most
        again = [name for name in whole if end[name][:2] != runs[name][:2]]
        assert not again, f"made again after kill {number}: {again}"
        assert all(end[name][2] == content for name, (_, _, content) in runs.items())


def check_none_is_left_behind(groups: Sequence[int]) -> None:
    """A training process that still imports notices only afterwards."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(map(alive, groups)) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [group for group in groups if alive(group)]
    assert not left, f"processes of the groups {left} are left behind"


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
