"""What a lane tells of itself: counts that add up, and the memory of its GPU."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from app.telemetry.metrics import STAGES
from engine.config import IndexConfig
from engine.errors import Cancelled, EmptyCompletion
from engine.lane import Lane
from engine.tally import Tally
from engine.types import AskOptions, Progress, Query
from tests.engine.test_lane import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("status"))


def asked_together(world: World, lane: Lane, rows: list[int], path: Path) -> int:
    """Asks while a build holds the lane, so that the questions wait together; tokens of the answers."""
    holding, waiting, futures = threading.Event(), threading.Event(), []

    def hold(_progress: Progress) -> None:
        holding.set()
        waiting.wait(10)
        raise Cancelled("held long enough")

    def build() -> None:
        with pytest.raises(Cancelled):
            lane.build_index(world.model, world.dataset.path, IndexConfig("kfac"), path, hold)

    thread = threading.Thread(target=build)
    thread.start()
    assert holding.wait(10)
    futures += [world.ask(lane, row) for row in rows]
    waiting.set()
    thread.join(30)
    return sum(len(future.result(30).tokens) for future in futures)


def test_counts_add_up(world: World, tmp_path: Path) -> None:
    lane = Lane(max_queue=8, max_batch=3)
    before = lane.status()
    assert (before["started"], before["batches"], before["batch_sizes"], before["busy_s"]) == (True, 0, {}, 0.0)
    tokens = asked_together(world, lane, [0, 1, 2, 3], tmp_path / "held")
    empty = Query(prompt="x", completion="")
    with pytest.raises(EmptyCompletion):
        lane.submit_attribution(world.model, world.dataset.path, world.index, empty, AskOptions()).result(30)
    lane.close()  # the last batch is counted by then
    after = lane.status()
    assert after["batch_sizes"] == {3: 1, 1: 2}
    assert (after["batches"], after["queries"], after["tokens"]) == (3, 5, tokens)
    assert 0 < after["busy_s"] < 60
    assert (after["models_loaded"], after["indexes_open"]) == (1, 1)


def test_every_stage_of_an_answer_is_one_that_is_measured(world: World) -> None:
    """A stage that is not in the list of metrics counts as "other"."""
    lane = Lane()
    answers = [world.ask(lane, 3, method=method).result(30) for method in (None, "bm25", "random")]
    lane.close()
    assert {stage for answer in answers for stage in answer.timings_ms} <= {*STAGES, "queue"}


def test_without_cuda_nothing_is_said_of_a_gpu(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lane = Lane()
    assert "gpu_memory" not in lane.status()
    figures = {"mem_get_info": (5, 9), "memory_allocated": 3, "memory_reserved": 4}
    for name, value in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value if device == "cuda:1" else None)
    lane.device = "cuda:1"  # as on a machine that has one
    memory = lane.status()["gpu_memory"]
    lane.close()
    assert memory == {"allocated_bytes": 3, "reserved_bytes": 4, "free_bytes": 5, "total_bytes": 9}


@pytest.mark.gpu
def test_memory_of_a_real_gpu(world: World) -> None:
    lane = Lane("cuda")
    world.ask(lane, 3).result(60)
    memory = lane.status()["gpu_memory"]
    lane.close()
    assert 0 < memory["allocated_bytes"] <= memory["reserved_bytes"] < memory["total_bytes"]
    assert 0 < memory["free_bytes"] < memory["total_bytes"]


def test_a_tally_read_while_it_is_written_stands_still() -> None:
    tally = Tally()
    tally.add(2, 0.5)
    figures = tally.figures()
    tally.add(7, 0.5)
    assert figures == {"batches": 1, "queries": 2, "tokens": 0, "busy_s": 0.5, "batch_sizes": {2: 1}}
