"""Waiting for company: only after company, never longer than the bound, on a clock of our own."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.gathering import LONGEST_S, RECENT_S, Gathering
from engine.lane import Lane, _tokens
from engine.types import AskOptions, Attribution, Generate, Message, Query
from tests.engine.test_lane import Blocked, World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("gathering"))


def test_one_caller_alone_never_waits() -> None:
    gathering = Gathering()
    assert gathering.left_s(1, oldest=5.0, now=5.0) == 0
    for now in (5.0, 5.01, 5.02):
        gathering.answered(1, now)
        assert gathering.left_s(1, oldest=now, now=now) == 0


def test_company_is_waited_for_after_company_until_it_is_there_again() -> None:
    gathering = Gathering()
    gathering.answered(8, 1.0)
    assert gathering.left_s(1, oldest=1.002, now=1.002) == pytest.approx(LONGEST_S)
    assert gathering.left_s(7, oldest=1.002, now=1.004) == pytest.approx(LONGEST_S - 0.002)
    assert gathering.left_s(8, oldest=1.002, now=1.004) == 0
    assert gathering.left_s(2, oldest=1.002, now=1.002 + LONGEST_S) == 0
    assert gathering.left_s(1, oldest=1.0 + 2 * RECENT_S, now=1.0 + 2 * RECENT_S) == 0


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 40),
    st.floats(0, 0.2),
    st.lists(st.tuples(st.floats(0, 0.004), st.integers(0, 3)), max_size=30),
)
def test_on_any_arrivals_no_question_waits_longer_than_the_bound(
    last: int, idle_s: float, arrivals: list[tuple[float, int]]
) -> None:
    """The lane's own loop: it wakes when somebody comes, or when the time is over."""
    gathering, now, waiting = Gathering(), 100.0 + idle_s, 1
    gathering.answered(last, 100.0)
    oldest, coming = now, iter(arrivals)
    while (left := gathering.left_s(waiting, oldest, now)) > 0:
        pause, count = next(coming, (left, 0))
        now += min(pause, left)
        waiting += count if pause <= left else 0
        if pause == 0 and count == 0:
            now += 1e-6
    assert now - oldest <= LONGEST_S + 1e-6


def test_in_the_lane_a_lone_question_does_not_wait_and_one_after_company_does(world: World, tmp_path: Path) -> None:
    lane = Lane(max_queue=64)
    lane._gathering.longest_s = 30.0
    try:
        world.ask(lane, 1).result(30)
        began = time.perf_counter()
        for row in range(3):
            world.ask(lane, row).result(30)
        assert time.perf_counter() - began < 15
        blocked = Blocked(world, lane, tmp_path / "i")
        together = [world.ask(lane, row) for row in range(3)]
        blocked.end()
        for future in together:
            future.result(30)
        lane._gathering.ended += 3600  # however slow this machine is, the batch has just ended
        lane._gathering.expected = 2
        first = world.ask(lane, 4)
        threading.Event().wait(0.05)
        assert not first.done()
        second = world.ask(lane, 5)
        assert [future.result(25).proponents[0].example_id for future in (first, second)] == ["ex-4", "ex-5"]
    finally:
        lane.close()


def test_a_lane_that_gathers_can_be_closed_and_does_other_work_at_once(world: World) -> None:
    lane = Lane()
    lane._gathering.longest_s = 30.0
    world.ask(lane, 1).result(30)
    lane._gathering.answered(9, time.perf_counter() + 3600)
    waiting = world.ask(lane, 1)
    began = time.perf_counter()
    assert lane.describe_model(world.model).checkpoints == 2
    assert waiting.result(25).proponents
    assert time.perf_counter() - began < 20
    lane.close()


def test_a_batch_is_bounded_by_its_tokens(world: World, tmp_path: Path) -> None:
    rows = [world.dataset[row] for row in range(6)]
    tokens = [_tokens(Query(prompt=row.prompt, completion=row.completion)) for row in rows]
    lane = Lane(max_queue=64, batch_tokens=int(tokens[0] + tokens[1]) + 1)
    try:
        blocked = Blocked(world, lane, tmp_path / "i")
        futures = [world.ask(lane, row) for row in range(6)]
        blocked.end()
        assert [future.result(30).proponents[0].example_id for future in futures] == [f"ex-{row}" for row in range(6)]
    finally:
        lane.close()
    assert 2 <= lane.status()["batches"] < 6
    assert max(lane.status()["batch_sizes"]) < 6


def test_what_a_question_weighs() -> None:
    """About three bytes a token; a contrast stands behind the same prompt; what is generated counts as well."""
    assert _tokens(Query(prompt="a" * 30, completion="b" * 30)) == pytest.approx(20)
    assert _tokens(Query(prompt="a" * 30, completion="b" * 30, contrast="c" * 60)) == pytest.approx(50)
    assert _tokens(Query(messages=(Message("user", "é" * 15),), generate=Generate(max_new_tokens=7))) == pytest.approx(
        17
    )
    assert _tokens(Query(members=(Query(prompt="a" * 3, completion="b" * 3),) * 4)) == pytest.approx(8)
    assert _tokens(Query(prompt="\ud800", completion="x")) > 0


def test_sixteen_of_mixed_lengths_get_together_what_each_gets_alone(world: World, tmp_path: Path) -> None:
    """Contract 4: |difference| ≤ 1e-4·√(s_q s_z)."""
    rows = [world.dataset[row] for row in range(16)]
    texts = [((row.prompt or "") * (1 + number % 3), row.completion or "") for number, row in enumerate(rows)]
    queries = [Query(prompt=prompt, completion=completion) for prompt, completion in texts]
    assert len({len(prompt) for prompt, _ in texts}) > 6
    lane = Lane(max_queue=64)

    def ask(query: Query) -> Future[Attribution]:
        return lane.submit_attribution(world.model, world.dataset.path, world.index, query, AskOptions(top_k=20))

    try:
        alone = [ask(query).result(30) for query in queries]
        blocked = Blocked(world, lane, tmp_path / "i")
        waiting = [ask(query) for query in queries]
        blocked.end()
        together = [future.result(60) for future in waiting]
    finally:
        lane.close()
    assert lane.status()["batch_sizes"] == {1: 16, 16: 1}
    for one, other in zip(alone, together, strict=True):
        scores = {hit.example_id: hit.score for hit in (*one.proponents, *one.opponents)}
        largest = max(map(abs, scores.values()))
        assert {hit.example_id for hit in (*other.proponents, *other.opponents)} == set(scores)
        for hit in (*other.proponents, *other.opponents):
            assert hit.score == pytest.approx(scores[hit.example_id], abs=1e-4 * largest)
        assert one.tuned_minus_base is not None and other.tuned_minus_base is not None
        assert other.tuned_minus_base == pytest.approx(one.tuned_minus_base, abs=1e-4)
