"""The lane: one thread, queries before builds, a bounded queue, answers that do not depend on company."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import IndexConfig, IndexOptions, ModelConfig, Recipe
from engine.errors import (
    Cancelled,
    CorruptIndex,
    EmptyCompletion,
    FingerprintMismatch,
    IndexUnavailable,
    InvalidQuery,
    ModelPathNotFound,
    QueueFull,
    ShuttingDown,
)
from engine.lane import Lane
from engine.types import AskOptions, Attribution, Progress, Query
from tests import factories


class World:
    def __init__(self, root: Path) -> None:
        base = factories.llama(hidden=8, layers=1)
        factories.save_base(root / "base", base)
        paths = tuple(str(factories.save_adapter(root / f"epoch-{i}", base, i, r=2)) for i in (1, 2))
        self.model = ModelConfig(str(root / "base"), checkpoints=paths, recipe=Recipe())
        self.dataset = factories.dataset(root / "data", factories.sentences(20))
        self.index = root / "index"
        lane = Lane()
        lane.build_index(self.model, self.dataset.path, IndexConfig("ekfac"), self.index, factories.ignore)
        lane.close()

    def ask(
        self, lane: Lane, row: int, index: Path | None = None, group: str = "", **options: object
    ) -> Future[Attribution]:
        example = self.dataset[row]
        query = Query(prompt=example.prompt, completion=example.completion)
        asked = AskOptions(**options)  # type: ignore[arg-type]
        return lane.submit_attribution(self.model, self.dataset.path, index or self.index, query, asked, group)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("lane"))


@pytest.fixture
def lane() -> Iterator[Lane]:
    lane = Lane(max_queue=4, max_batch=3)
    yield lane
    lane.close()


def test_describe_build_ask_and_self_influence(world: World, lane: Lane, tmp_path: Path) -> None:
    info = lane.describe_model(world.model)
    assert info.checkpoints == 2 and info.coverage.share == 1.0
    estimate = lane.estimate_index(world.model, world.dataset.path, IndexConfig("kfac"))
    assert estimate.rows == 20
    built = lane.build_index(world.model, world.dataset.path, IndexConfig("kfac"), tmp_path / "i", factories.ignore)
    assert built.method == "kfac" and built.rows == 20
    answer = world.ask(lane, 3).result(30)
    assert answer.proponents[0].example_id == "ex-3"
    assert set(answer.timings_ms) == {"queue", "tokenize", "gradient", "search", "explain"}
    strongest = lane.self_influence(world.dataset.path, world.index, "desc", 20)
    assert [s.score for s in strongest] == sorted((s.score for s in strongest), reverse=True)
    weakest = lane.self_influence(world.dataset.path, world.index, "asc", 3)
    assert [s.example_id for s in weakest] == [s.example_id for s in strongest[::-1][:3]]


def test_a_query_overtakes_a_build_and_both_are_right(world: World, lane: Lane, tmp_path: Path) -> None:
    """A query asked in the middle of a build is answered before the build's next batch."""
    alone = world.ask(lane, 5).result(30)
    answers: list[Attribution] = []
    after: list[int] = []

    def checkpoint(progress: Progress) -> None:
        if progress.phase in ("curvature", "sketch") and len(after) < 6:
            if answers_pending:
                answers.append(answers_pending.pop().result(0))  # already done: no wait
            after.append(progress.done)
            answers_pending.append(world.ask(lane, 5))

    answers_pending: list[Future[Attribution]] = []
    options = IndexOptions(token_budget=60)
    config = IndexConfig("ekfac", options=options)
    lane.build_index(world.model, world.dataset.path, config, tmp_path / "disturbed", checkpoint)
    assert len(answers) >= 4
    for answer in answers:
        assert answer.proponents == alone.proponents
    lane.build_index(world.model, world.dataset.path, config, tmp_path / "quiet", factories.ignore)
    for file in ("shards/00000.faiss", "curvature/checkpoint-001.safetensors"):
        assert (tmp_path / "disturbed" / file).read_bytes() == (tmp_path / "quiet" / file).read_bytes()


def test_a_steady_stream_of_queries_does_not_starve_a_build(world: World, lane: Lane, tmp_path: Path) -> None:
    """Each answer asks the next question, so that the queue is never empty."""
    answered: list[Attribution] = []

    def ask_again(future: Future[Attribution]) -> None:
        answered.append(future.result(0))
        if len(answered) < 100:
            world.ask(lane, 5).add_done_callback(ask_again)

    world.ask(lane, 5).add_done_callback(ask_again)
    lane.build_index(world.model, world.dataset.path, IndexConfig("graddot"), tmp_path / "i", factories.ignore)
    assert 0 < len(answered) < 100


class Blocked:
    """Keeps the lane busy until released."""

    def __init__(self, world: World, lane: Lane, path: Path) -> None:
        self.entered, self.release = threading.Event(), threading.Event()

        def checkpoint(_progress: Progress) -> None:
            self.entered.set()
            self.release.wait(30)

        def build() -> None:
            lane.build_index(world.model, world.dataset.path, IndexConfig("graddot"), path, checkpoint)

        self.thread = threading.Thread(target=build)
        self.thread.start()
        assert self.entered.wait(30)

    def end(self) -> None:
        self.release.set()
        self.thread.join(30)


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(world: World, lane: Lane, tmp_path: Path) -> None:
    blocked = Blocked(world, lane, tmp_path / "i")
    futures = [world.ask(lane, row) for row in range(4)]
    assert lane.status()["queue_depth"] == 4
    with pytest.raises(QueueFull) as refusal:
        world.ask(lane, 4)
    assert refusal.value.retry_after_s >= 1
    blocked.end()
    assert [f.result(30).proponents[0].example_id for f in futures] == ["ex-0", "ex-1", "ex-2", "ex-3"]


def test_one_group_cannot_fill_the_queue(world: World, tmp_path: Path) -> None:
    lane = Lane(max_queue=4, max_batch=1, max_queue_per_group=2)
    lane._mean_s = 10.0
    try:
        blocked = Blocked(world, lane, tmp_path / "i")
        futures = [world.ask(lane, row, group="busy") for row in range(2)]
        with pytest.raises(QueueFull, match="2 queries of yours") as of_group:
            world.ask(lane, 2, group="busy")
        futures += [world.ask(lane, row, group="other") for row in (2, 3)]
        with pytest.raises(QueueFull, match="4 queries are waiting") as of_all:
            world.ask(lane, 4, group="third")
        # The batch at hand and one for each query that waits, ten seconds each.
        assert (of_group.value.retry_after_s, of_all.value.retry_after_s) == (30.0, 50.0)
        assert lane.status()["queue_depth"] == 4
        blocked.end()
        assert [f.result(30).proponents[0].example_id for f in futures] == ["ex-0", "ex-1", "ex-2", "ex-3"]
        assert lane.status()["queue_depth"] == 0
    finally:
        lane.close()


def test_a_group_with_much_to_ask_delays_anothers_question_by_a_batch_at_most(world: World, tmp_path: Path) -> None:
    """And the answer is the one that the group would have had alone."""
    lane = Lane(max_queue=64, max_batch=2)
    order: list[str] = []
    try:
        alone = world.ask(lane, 7).result(30)
        blocked = Blocked(world, lane, tmp_path / "i")
        busy = [world.ask(lane, row % 20, group="busy") for row in range(20)]
        single = world.ask(lane, 7, group="single")
        for future, name in [*((future, "busy") for future in busy), (single, "single")]:
            future.add_done_callback(lambda _future, name=name: order.append(name))
        blocked.end()
        assert [future.result(30) and None for future in busy] == [None] * 20
        assert order.index("single") < 2
        answer = single.result(0)
        assert [hit.example_id for hit in answer.proponents] == [hit.example_id for hit in alone.proponents]
        assert answer.proponents[0].score == pytest.approx(alone.proponents[0].score, rel=1e-4)
    finally:
        lane.close()


def test_what_a_batch_takes_counts_what_the_lane_did_while_its_queries_waited(world: World, tmp_path: Path) -> None:
    lane = Lane()
    try:
        world.ask(lane, 1).result(30)
        lane._mean_s = 0.0
        blocked = Blocked(world, lane, tmp_path / "i")
        waiting = world.ask(lane, 1)
        time.sleep(0.5)
        blocked.end()
        waiting.result(30)
        assert lane._mean_s >= 0.2 * 0.5
    finally:
        lane.close()


def test_a_cancelled_query_holds_no_place(world: World, lane: Lane, tmp_path: Path) -> None:
    blocked = Blocked(world, lane, tmp_path / "i")
    futures = [world.ask(lane, row) for row in range(4)]
    assert futures[1].cancel()
    replacement = world.ask(lane, 4)
    with pytest.raises(QueueFull):
        world.ask(lane, 5)
    blocked.end()
    assert replacement.result(30).proponents[0].example_id == "ex-4"


def test_waiting_queries_are_answered_together_and_one_bad_one_harms_no_other(
    world: World, lane: Lane, tmp_path: Path
) -> None:
    alone = world.ask(lane, 2).result(30)
    before = lane.status()["batches"]
    blocked = Blocked(world, lane, tmp_path / "i")
    good = world.ask(lane, 2)
    bad = lane.submit_attribution(
        world.model, world.dataset.path, world.index, Query(prompt="a", completion=""), AskOptions()
    )
    unknown = world.ask(lane, 6, group_by="nonsense")
    blocked.end()
    assert good.result(30).proponents[0].score == pytest.approx(alone.proponents[0].score, rel=1e-4)
    with pytest.raises(EmptyCompletion):
        bad.result(30)
    with pytest.raises(InvalidQuery, match="nonsense"):
        unknown.result(30)
    assert lane.status()["batches"] == before + 1


def test_a_cancelled_query_is_not_computed(world: World, lane: Lane, tmp_path: Path) -> None:
    blocked = Blocked(world, lane, tmp_path / "i")
    waiting = world.ask(lane, 0)
    assert waiting.cancel()
    blocked.end()
    assert world.ask(lane, 1).result(30).proponents


def test_errors_of_errands_reach_the_caller_and_the_lane_goes_on(world: World, lane: Lane) -> None:
    with pytest.raises(ModelPathNotFound):
        lane.describe_model(ModelConfig("nowhere"))
    with pytest.raises(ModelPathNotFound):
        lane.submit_attribution(
            ModelConfig("nowhere"), world.dataset.path, world.index, Query(prompt="a", completion="b"), AskOptions()
        ).result(30)
    assert world.ask(lane, 1).result(30).proponents


def test_models_are_kept_within_the_limit(world: World, tmp_path: Path) -> None:
    lane = Lane(model_bytes=1)
    try:
        world.ask(lane, 1).result(30)
        lane.describe_model(replace(world.model, checkpoints=world.model.checkpoints[:1]))
        assert lane.status()["models_loaded"] == 1
        assert world.ask(lane, 1).result(30).proponents[0].example_id == "ex-1"
    finally:
        lane.close()


def test_a_model_retrained_in_place_is_loaded_anew(lane: Lane, tmp_path: Path) -> None:
    """Its old index then belongs to another model, and says so; the resident weights never answer for the new."""
    world = World(tmp_path)
    before = lane.describe_model(world.model)
    world.ask(lane, 3).result(30)
    shutil.rmtree(tmp_path / "epoch-2")
    factories.save_adapter(tmp_path / "epoch-2", factories.llama(hidden=8, layers=1), 9, r=2)
    with pytest.raises(FingerprintMismatch):
        world.ask(lane, 3).result(30)
    assert lane.describe_model(world.model).fingerprint != before.fingerprint
    assert lane.status()["models_loaded"] == 1


def hooks(lane: Lane) -> int:
    """On the resident model's embedding: one for each open index."""
    return sum(len(model.module.get_input_embeddings()._forward_hooks) for model in lane._residents.models)  # type: ignore[operator]


def test_an_index_that_cannot_be_opened_leaves_no_hook_on_the_model(world: World, lane: Lane, tmp_path: Path) -> None:
    shutil.copytree(world.index, tmp_path / "damaged")
    for file in (tmp_path / "damaged" / "curvature").glob("checkpoint-001*"):
        file.write_bytes(b"x" + file.read_bytes()[1:])
    for _ in range(2):
        with pytest.raises(CorruptIndex):
            world.ask(lane, 3, index=tmp_path / "damaged").result(30)
    assert hooks(lane) == 0


def test_a_deleted_index_is_closed_by_the_next_question(world: World, lane: Lane, tmp_path: Path) -> None:
    shutil.copytree(world.index, tmp_path / "copy")
    world.ask(lane, 3, index=tmp_path / "copy").result(30)
    shutil.rmtree(tmp_path / "copy")
    world.ask(lane, 3).result(30)
    assert hooks(lane) == 1
    with pytest.raises(IndexUnavailable):
        world.ask(lane, 3, index=tmp_path / "copy").result(30)
    assert hooks(lane) == 1


def test_closing_ends_a_build_between_batches_and_fails_what_waits(world: World, tmp_path: Path) -> None:
    lane = Lane()
    blocked: list[BaseException] = []
    entered, release = threading.Event(), threading.Event()

    def checkpoint(_progress: Progress) -> None:
        entered.set()
        release.wait(30)

    def build() -> None:
        try:
            lane.build_index(world.model, world.dataset.path, IndexConfig("graddot"), tmp_path / "i", checkpoint)
        except BaseException as error:
            blocked.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    assert entered.wait(30)
    waiting, withdrawn = world.ask(lane, 0), world.ask(lane, 1)
    assert withdrawn.cancel()
    closer = threading.Thread(target=lane.close)
    closer.start()
    time.sleep(0.05)
    release.set()
    closer.join(30)
    thread.join(30)
    assert isinstance(blocked[0], Cancelled)
    with pytest.raises(ShuttingDown):
        waiting.result(1)
    with pytest.raises(ShuttingDown):
        world.ask(lane, 0)
