"""Work on a processor's other cores, in threads: torch and numpy let go of the interpreter while they compute.

Where torch spreads each operation over several threads by itself, nothing more is to be gained here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")

# that this process may use; more than eight do not read memory any faster
CORES = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)
# Told in each thread: `torch.set_num_threads` elsewhere reaches torch's own loops there, not those of its libraries.
_OTHERS = ThreadPoolExecutor(max(1, CORES - 1), "core", initializer=lambda: torch.set_num_threads(1))


def beside(work: Callable[[], Result], *, worthwhile: bool = True) -> Callable[[], Result]:
    """Begins now, if another core is free and it is worth a thread; what is returned is called once, for the result."""
    if not (worthwhile and _spare_core()):
        return work
    future = _OTHERS.submit(work)
    return lambda: work() if future.cancel() else future.result()


def on_every_core(work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """work(part) of every part, in their order. Each core takes the next part when it has done one."""
    found: list[Result | None] = [None] * len(parts)
    numbers = count()

    def until_none_is_left() -> None:
        for number in _below(len(parts), numbers):
            found[number] = work(parts[number])

    helpers = min(CORES, len(parts)) - 1
    others = [beside(until_none_is_left) for _ in range(helpers)]
    try:
        until_none_is_left()
    finally:
        for other in others:
            other()
    return found  # pyright: ignore[reportReturnType]


def _below(stop: int, numbers: Iterator[int]) -> Iterator[int]:
    """Shared by threads: each number goes to one of them."""
    while (number := next(numbers)) < stop:
        yield number


def _spare_core() -> bool:
    return CORES > 1 and torch.get_num_threads() == 1
