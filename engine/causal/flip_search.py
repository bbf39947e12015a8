"""Which sizes of a set to try, until the least is found that changes an answer.

Powers of two first, with the size that the scores predict; then what lies between the least that changes the answer and
the greatest below it that does not, a few at once. What is found changes the answer, and one row fewer does not; where
removals do not add up, a smaller size that was not tried might. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from engine.causal.checks import RankedRow

_TOGETHER = 3  # sizes between two others that are tried at once


def next_sizes(changes: Mapping[int, bool], most: int, predicted: int | None) -> list[int]:
    """The sizes to try next, [] when it is settled. changes: size → whether so many rows left out change the answer."""
    if missing := [k for k in _first_sizes(most, predicted) if k not in changes]:
        return missing
    changing = [k for k, changed in changes.items() if changed]
    if not changing or changes[0]:
        return []
    least = min(changing)
    below = max(k for k in changes if k < least)
    between = range(below + 1, least)
    if between:
        return _spread(between)
    return [least // 2] if least // 2 not in changes else []


def sizes_at_most(most: int, predicted: int | None) -> list[int]:
    """As many sizes as a search ever tries."""
    first = _first_sizes(most, predicted)
    widest = max((high - low - 1 for low, high in pairwise(first)), default=0)
    count = len(first) + _tried_within(widest) + 1
    others = [k for k in range(1, most + 1) if k not in first]
    return sorted([*first, *others[: count - len(first)]])


def predicted_size(ranked: Sequence[RankedRow], rows: int, margin: float) -> int | None:
    """The size at which the linear prediction lets another token overtake; None where scores are in no unit or too
    small.

    With two tokens in play, p = σ(m) at margin m and df = (1 − p)·dm: f must fall by m·(1 − σ(m)), and leaving out the
    first k rows lowers it by Σ score/N.
    """
    needed = margin / (1 + math.exp(min(margin, 700.0)))
    fall = 0.0
    for size, row in enumerate(ranked, 1):
        fall += row.score / rows
        if not row.in_nats:
            return None
        if fall >= needed:
            return size
    return None


def _first_sizes(most: int, predicted: int | None) -> list[int]:
    powers = [1 << power for power in range(most.bit_length()) if 1 << power <= most]
    return sorted({0, *powers, most, *([] if predicted is None else [min(predicted, most)])})


def _spread(between: range) -> list[int]:
    if len(between) <= _TOGETHER:
        return list(between)
    step = (len(between) + 1) / (_TOGETHER + 1)
    return [between[round(step * number) - 1] for number in range(1, _TOGETHER + 1)]


def _tried_within(sizes: int) -> int:
    """Of so many sizes between two others, how many are tried at most."""
    if sizes <= _TOGETHER:
        return sizes
    chosen = [-1, *(k - 1 for k in _spread(range(1, sizes + 1))), sizes]
    return _TOGETHER + max(_tried_within(high - low - 1) for low, high in pairwise(chosen))
