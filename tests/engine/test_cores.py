"""Work on other cores: the same results, in order, whatever the threads do."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from engine.cores import beside, on_every_core


@pytest.fixture(autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("parts", [0, 1, 2, 50])
def test_every_part_once_and_in_order(parts: int) -> None:
    done: list[int] = []

    def square(part: int) -> int:
        time.sleep(0.001 * (part % 3))
        done.append(part)
        return part * part

    assert on_every_core(square, range(parts)) == [part * part for part in range(parts)]
    assert sorted(done) == list(range(parts))


def test_what_a_part_raises_is_raised() -> None:
    def work(part: int) -> None:
        if part == 3:
            raise ValueError("part 3")

    with pytest.raises(ValueError, match="part 3"):
        on_every_core(work, range(8))


def test_parts_that_have_parts_of_their_own_do_not_wait_for_each_other() -> None:
    found = on_every_core(lambda part: sum(on_every_core(lambda number: number * part, range(20))), range(20))
    assert found == [190 * part for part in range(20)]


def test_what_runs_beside_has_a_result_or_an_error() -> None:
    assert beside(lambda: 7)() == 7
    assert beside(lambda: 7, worthwhile=False)() == 7
    failed = beside(lambda: [][0])
    with pytest.raises(IndexError):
        failed()


def test_where_every_thread_is_busy_the_caller_does_it() -> None:
    release = threading.Event()
    waiting = [beside(lambda: release.wait(5)) for _ in range(8)]
    began = time.monotonic()
    assert beside(lambda: 7)() == 7
    assert time.monotonic() - began < 4
    release.set()
    assert all(wait() for wait in waiting)
