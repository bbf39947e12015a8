"""Whether an idle lane waits for company before it answers, and how long.

Callers that ask again as soon as they are answered come back within milliseconds of each other. An idle lane would
take the first of them alone and let all others wait for that pass. So after a batch of several queries it waits until
as many are there again, but never beyond LONGEST_S from the arrival of the oldest, and not at all where the last batch
was a single query or is long over: one caller alone never waits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LONGEST_S = 0.005
RECENT_S = 0.1  # a batch that ended earlier says nothing of who asks now


@dataclass
class Gathering:
    """Times are of one clock, in seconds."""

    longest_s: float = LONGEST_S
    expected: int = 0
    ended: float = -math.inf

    def answered(self, queries: int, now: float) -> None:
        """A batch of so many has ended."""
        self.expected, self.ended = queries, now

    def left_s(self, waiting: int, oldest: float, now: float) -> float:
        """How much longer company is waited for; 0: answer now. oldest: when the first of those that wait arrived."""
        alone = self.expected < 2 or now - self.ended > RECENT_S
        if alone or waiting >= self.expected:
            return 0.0
        return max(0.0, min(self.longest_s, oldest + self.longest_s - now))
