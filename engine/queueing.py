"""Who is served next: a bounded queue that groups of callers share fairly.

Groups take turns: however much one of them asks, another's question waits until each group before it has had one turn.
A turn takes what its group's oldest item is about (its key), and the places of its batch go round among all groups
that wait for the same, until there are as many as it may hold or the next one's cost no longer fits.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Generic, TypeVar

Item = TypeVar("Item")


class NoRoom(Exception):
    """`waiting` items wait already, of this group alone when `of_group`; all of those are served within `batches`."""

    def __init__(self, waiting: int, batches: int, *, of_group: bool) -> None:
        super().__init__(f"{waiting} items wait")
        self.waiting, self.batches, self.of_group = waiting, batches, of_group


@dataclass(frozen=True, eq=False)
class _Place(Generic[Item]):
    item: Item
    key: Hashable
    cost: float


class FairQueue(Generic[Item]):
    """max_items: how many may wait in all; max_per_group: how many of one group. batch: the most that `take` gives.

    gone(item): nobody waits for it any more; called once for what is then dropped. budget: what the items of a batch
    cost together at most; one that costs more is a batch of its own. Not safe between threads: its owner holds a lock
    around every call but `len()`.
    """

    def __init__(
        self,
        max_items: int,
        max_per_group: int,
        batch: int,
        gone: Callable[[Item], bool] = lambda _item: False,
        budget: float = math.inf,
    ) -> None:
        self._max_items, self._max_per_group, self._batch, self._gone = max_items, max_per_group, batch, gone
        self._budget = budget
        self._groups: dict[str, list[_Place[Item]]] = {}  # in the order of their turns; those that wait, no others
        self._served: str | None = None  # whose turn it was last
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Item]:
        """What waits, group after group."""
        return (place.item for places in self._groups.values() for place in places)

    def put(self, item: Item, key: Hashable, group: str, cost: float = 0.0) -> None:
        """Items of equal keys may be taken together. Raises NoRoom."""
        if self._is_full(group):
            self._keep(lambda place: not self._gone(place.item))
        if self._is_full(group):
            raise self._no_room(group)
        if group not in self._groups:
            self._join(group)
        self._groups[group].append(_Place(item, key, cost))
        self._size += 1

    def take(self) -> list[Item]:
        """The next batch: items of one key. Empty when nothing waits."""
        self._keep(lambda place: not self._gone(place.item))
        if not self._groups:
            return []
        leader = next(iter(self._groups))
        key = self._groups[leader][0].key
        alike = [[place for place in places if place.key == key] for places in self._groups.values()]
        rounds = chain.from_iterable(zip_longest(*alike))  # the leader's first, each other group's first, seconds, …
        batch = self._first_batch(place for place in rounds if place is not None)
        taken = set(batch)
        self._keep(lambda place: place not in taken)
        self._served = leader
        self._to_the_end(leader)
        return [place.item for place in batch]

    def clear(self) -> list[Item]:
        """Everything that waits, which then waits no more."""
        left = list(self)
        self._groups, self._size = {}, 0
        return left

    def _join(self, group: str) -> None:
        """A newcomer's turn comes last, but before another one of the group whose turn it was last: it would else wait
        for two batches of that group, the one at hand and the next."""
        self._groups[group] = []
        if self._served != group:
            self._to_the_end(self._served)

    def _to_the_end(self, group: str | None) -> None:
        if group in self._groups:
            self._groups[group] = self._groups.pop(group)

    def _keep(self, wanted: Callable[[_Place[Item]], bool]) -> None:
        kept = ((group, [place for place in places if wanted(place)]) for group, places in self._groups.items())
        self._groups = {group: places for group, places in kept if places}
        self._size = sum(map(len, self._groups.values()))

    def _is_full(self, group: str) -> bool:
        return self._size >= self._max_items or len(self._groups.get(group, ())) >= self._max_per_group

    def _no_room(self, group: str) -> NoRoom:
        """While one group has its turns, each other one has as many at most."""
        in_all = self._turns(chain.from_iterable(self._groups.values()))
        if self._size >= self._max_items:
            return NoRoom(self._size, in_all, of_group=False)
        own = self._turns(self._groups[group])
        others = sum(min(own, self._turns(places)) for name, places in self._groups.items() if name != group)
        return NoRoom(len(self._groups[group]), min(in_all, own + others), of_group=True)

    def _first_batch(self, places: Iterable[_Place[Item]]) -> list[_Place[Item]]:
        """Never beyond one that does not fit: what is dear would be overtaken for as long as cheap ones come."""
        batch: list[_Place[Item]] = []
        cost = 0.0
        for place in places:
            cost += place.cost
            if batch and (len(batch) == self._batch or cost > self._budget):
                break
            batch.append(place)
        return batch

    def _turns(self, places: Iterable[_Place[Item]]) -> int:
        """How many batches these make."""
        alike: dict[Hashable, list[_Place[Item]]] = defaultdict(list)
        for place in places:
            alike[place.key].append(place)
        return sum(map(self._batches, alike.values()))

    def _batches(self, places: list[_Place[Item]]) -> int:
        """Of one key."""
        count = 0
        while places:
            places = places[len(self._first_batch(places)) :]
            count += 1
        return count
