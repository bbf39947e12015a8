"""The fair queue: turns, company in a batch, bounds, and what it promises under random arrivals."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.queueing import FairQueue, NoRoom


@dataclass(eq=False)
class Asked:
    group: str
    number: int
    key: str = "index"
    gone: bool = False

    def __repr__(self) -> str:
        return f"{self.group}{self.number}"


def queue_of(size: int = 100, per_group: int = 100, batch: int = 3) -> FairQueue[Asked]:
    return FairQueue(size, per_group, batch, lambda asked: asked.gone)


def put(queue: FairQueue[Asked], group: str, count: int = 1, key: str = "index") -> list[Asked]:
    made = [Asked(group, number, key) for number in range(count)]
    for asked in made:
        queue.put(asked, asked.key, group)
    return made


def taken(queue: FairQueue[Asked]) -> list[str]:
    return [repr(asked) for asked in queue.take()]


def test_one_group_alone_is_served_in_order() -> None:
    queue = queue_of()
    put(queue, "a", 5)
    assert [taken(queue), taken(queue), taken(queue)] == [["a0", "a1", "a2"], ["a3", "a4"], []]
    assert len(queue) == 0


def test_a_single_question_is_in_the_very_next_batch_however_many_another_group_has_waiting() -> None:
    queue = queue_of()
    put(queue, "a", 60)
    assert taken(queue) == ["a0", "a1", "a2"]
    put(queue, "b")
    assert taken(queue) == ["b0", "a3", "a4"]


def test_about_other_indexes_it_is_so_too() -> None:
    queue = queue_of()
    put(queue, "a", 60, key="one")
    taken(queue)
    put(queue, "b", key="two")
    assert [taken(queue), taken(queue)] == [["b0"], ["a3", "a4", "a5"]]


def test_groups_take_turns() -> None:
    queue = queue_of(batch=2)
    for group in "abc":
        put(queue, group, 3, key=group)
    assert [taken(queue) for _ in range(6)] == [["a0", "a1"], ["b0", "b1"], ["c0", "c1"], ["a2"], ["b2"], ["c2"]]


def test_a_batch_is_shared_among_those_who_wait_for_the_same_index() -> None:
    queue = queue_of(batch=8)
    put(queue, "a", 20)
    put(queue, "b", 1)
    put(queue, "c", 20)
    put(queue, "d", 20, key="other")
    assert taken(queue) == ["a0", "b0", "c0", "a1", "c1", "a2", "c2", "a3"]


def test_a_group_that_always_comes_back_does_not_get_ahead_of_one_that_waits() -> None:
    queue = queue_of(batch=1)
    put(queue, "a", 3, key="a")
    served = []
    for number in range(6):
        served.append(taken(queue)[0])
        put(queue, "b", 1, key=f"b{number}")
    assert [name[0] for name in served] == ["a", "b", "a", "b", "a", "b"]


def test_newcomers_without_end_do_not_starve_one_that_waits() -> None:
    queue = queue_of(batch=1)
    put(queue, "a", 2, key="a")
    assert taken(queue) == ["a0"]
    put(queue, "n0", key="n0")  # during a's turn: it goes first
    served = []
    for number in range(1, 4):
        served.append(taken(queue)[0])
        put(queue, f"n{number}", key=f"n{number}")
    assert served == ["n00", "a1", "n10"]


def test_both_bounds_are_kept_and_say_which_it_was() -> None:
    queue = queue_of(size=5, per_group=3)
    put(queue, "a", 3)
    with pytest.raises(NoRoom) as refused:
        put(queue, "a")
    assert (refused.value.waiting, refused.value.of_group) == (3, True)
    put(queue, "b", 2)
    with pytest.raises(NoRoom) as refused:
        put(queue, "b")
    assert (refused.value.waiting, refused.value.of_group) == (5, False)
    queue.take()
    put(queue, "b")


def test_what_nobody_waits_for_holds_no_place_and_takes_none_in_a_batch() -> None:
    queue = queue_of(size=4, batch=2)
    made = put(queue, "a", 4)
    made[0].gone = made[2].gone = True
    put(queue, "b", 2)
    assert len(queue) == 4
    with pytest.raises(NoRoom):
        put(queue, "b")
    made[1].gone = True
    assert [taken(queue), taken(queue)] == [["a3", "b0"], ["b1"]]


def test_a_refusal_counts_the_batches_until_what_waits_is_served() -> None:
    queue = queue_of(size=12, per_group=4, batch=2)
    put(queue, "a", 4, key="one")  # two turns
    put(queue, "b", 4, key="two")
    put(queue, "c", 1, key="three")
    with pytest.raises(NoRoom) as of_group:
        put(queue, "a")
    put(queue, "d", 3, key="four")
    with pytest.raises(NoRoom) as of_all:
        put(queue, "e")
    assert (of_group.value.batches, of_all.value.batches) == (2 + 2 + 1, 2 + 2 + 1 + 2)


def test_clearing_gives_back_everything() -> None:
    queue = queue_of()
    made = put(queue, "a", 3) + put(queue, "b", 2)
    assert queue.clear() == made
    assert (len(queue), queue.take()) == (0, [])


Arrival = tuple[str, str]
arrivals = st.tuples(st.sampled_from("abcde"), st.sampled_from(["one", "two", "three"]))
# Between two batches: who arrives, and whether one that waits is withdrawn.
steps = st.lists(st.tuples(st.lists(arrivals, max_size=6), st.booleans()), max_size=40)


class Watched:
    """A queue that checks after every step what it promises."""

    def __init__(self) -> None:
        self.queue: FairQueue[Asked] = queue_of(size=12, per_group=5, batch=3)
        self.waiting: list[Asked] = []
        self.passed: dict[str, Counter[str]] = {}  # since a group began to wait, or had its turn: the others' turns
        self.number = 0

    def arrive(self, arrival: Arrival) -> None:
        group, key = arrival
        self.number += 1
        asked = Asked(group, self.number, key)
        alive = [other for other in self.waiting if not other.gone]
        fits = len(alive) < 12 and sum(other.group == group for other in alive) < 5
        if not fits:
            with pytest.raises(NoRoom) as full:
                self.queue.put(asked, key, group)
            assert full.value.batches >= 1
            return
        self.queue.put(asked, key, group)
        if not any(other.group == group for other in alive):
            self.passed[group] = Counter()
        self.waiting.append(asked)

    def serve(self) -> int:
        batch = self.queue.take()
        self.waiting = [asked for asked in self.waiting if not asked.gone]
        if not batch:
            assert not self.waiting
            return 0
        assert len(batch) <= 3 and len({asked.key for asked in batch}) == 1 and not any(asked.gone for asked in batch)
        leader = batch[0]
        mine = [asked for asked in self.waiting if asked.group == leader.group]
        assert mine[0] is leader, "a turn belongs to its group's oldest"
        alike = [asked for asked in self.waiting if asked.key == leader.key]
        assert len(batch) == min(3, len(alive_of(alike)))
        got = Counter(asked.group for asked in batch)
        for group in {asked.group for asked in alive_of(alike)}:
            left = sum(asked.group == group for asked in alive_of(alike)) - got[group]
            assert not left or got[group] >= max(got.values()) - 1, "places go round"
        for group in got:
            own = [asked for asked in alike if asked.group == group]
            assert [asked for asked in batch if asked.group == group] == own[: sum(a.group == group for a in batch)]
        for group, turns in self.passed.items():
            if group != leader.group and any(asked.group == group for asked in self.waiting):
                turns[leader.group] += 1
                assert turns[leader.group] <= 1, f"{leader.group} overtook {group} twice"
        self.passed[leader.group] = Counter()
        self.waiting = [asked for asked in self.waiting if asked not in batch]
        assert len(self.queue) == len(self.waiting)
        return len(batch)


def alive_of(asked: list[Asked]) -> list[Asked]:
    return [one for one in asked if not one.gone]


@settings(max_examples=300, deadline=None)
@given(steps)
def test_under_any_arrivals_nobody_is_overtaken_twice_and_everyone_is_served(
    script: list[tuple[list[Arrival], bool]],
) -> None:
    watched = Watched()
    for arriving, withdraw in script:
        for arrival in arriving:
            watched.arrive(arrival)
        if withdraw and watched.waiting:
            watched.waiting[len(watched.waiting) // 2].gone = True
        watched.serve()
    left = len(alive_of(watched.waiting))
    assert sum(iter(watched.serve, 0)) == left


def test_a_batch_ends_where_the_next_ones_cost_does_not_fit() -> None:
    queue: FairQueue[str] = FairQueue(100, 100, 5, budget=100)
    for group, name, cost in [("a", "a0", 40), ("a", "a1", 10), ("b", "b0", 70), ("b", "b1", 5), ("b", "b2", 5)]:
        queue.put(name, "index", group, cost)
    for _ in range(95):
        queue.put("c", "other", "c", 400)
    with pytest.raises(NoRoom) as full:
        queue.put("c", "other", "c", 400)
    assert full.value.batches == 2 + 95
    # 70 does not fit beside 40, and nothing cheaper goes before it.
    assert [queue.take() for _ in range(3)] == [["a0"], ["b0", "a1", "b1", "b2"], ["c"]]


costed = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.integers(0, 150)), max_size=30)


@settings(max_examples=200, deadline=None)
@given(costed)
def test_batches_are_as_large_as_the_budget_allows_and_no_larger(arriving: list[tuple[str, str, int]]) -> None:
    queue: FairQueue[tuple[int, str, str, int]] = FairQueue(100, 100, 4, budget=100)
    for number, (group, key, cost) in enumerate(arriving):
        queue.put((number, group, key, cost), key, group, cost)
    seen: list[tuple[int, str, str, int]] = []
    while batch := queue.take():
        cost = sum(item[3] for item in batch)
        assert len(batch) <= 4 and len({item[2] for item in batch}) == 1
        assert cost <= 100 or len(batch) == 1
        left = [item for item in queue if item[2] == batch[0][2]]
        if left and len(batch) < 4:
            assert cost + max(item[3] for item in left) > 100, "there was room for one more"
        seen += batch
    assert sorted(item[0] for item in seen) == list(range(len(arriving)))
    for group in "abc":
        for key in "xy":
            own = [item[0] for item in seen if item[1:3] == (group, key)]
            assert own == sorted(own)
