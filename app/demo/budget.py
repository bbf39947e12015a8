"""What a given number of retrainings is spent on: as much certainty about the verdict as they buy.

The order of spending is fixed, so that a larger budget measures no less of anything. `composition` is the headline, and
a dozen random halves tell the controls apart on runs like this one; then comes what `trusted` needs besides: a small
leave-out, and 25 halves, from which on intervals are known to cover what they claim; then more queries for the
leave-out, whose interval is over queries; single rows of this run and their effects; at last all that `whence evaluate`
measures unasked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from engine.evaluate.scorecard import EvaluationConfig
from engine.evaluate.verdict import FEWEST_SUBSETS

WHOLE = EvaluationConfig()
LEAST = replace(
    WHOLE, half_subsets=3, half_seeds=1, drop_subsets=0, leave_out_queries=0, leave_out_draws=2, directions=0
)
_WITH_EFFECTS = 10  # queries of the leave-out; 9 are the least that effects are fitted to
_ORDER = (  # what, up to how many, how many at once
    ("half_subsets", 12, 1),
    ("leave_out_queries", 2, 2),  # one has no interval
    ("leave_out_queries", 4, 1),
    ("leave_out_draws", 4, 1),
    ("half_subsets", FEWEST_SUBSETS, 1),
    ("leave_out_queries", _WITH_EFFECTS, 1),
    ("drop_subsets", 12, 1),
    ("half_subsets", 40, 1),
    ("drop_subsets", FEWEST_SUBSETS, 1),
    ("half_subsets", WHOLE.half_subsets, 1),
    ("leave_out_queries", WHOLE.leave_out_queries, 1),
    ("leave_out_draws", WHOLE.leave_out_draws, 1),
    ("drop_subsets", WHOLE.drop_subsets, 1),
    ("directions", WHOLE.directions, 1),
    ("half_seeds", WHOLE.half_seeds, 1),
)
SPENT_ON = tuple(dict.fromkeys(name for name, _, _ in _ORDER))


def affordable(retrainings: float) -> EvaluationConfig:
    """The largest evaluation of at most so many retrainings; LEAST where not even that is among them."""
    chosen = LEAST
    for larger in _growing():
        if retrainings_of(larger) > retrainings:
            break
        chosen = larger
    return chosen


def retrainings_of(config: EvaluationConfig) -> int:
    """Of one method without candidates: engine/evaluate/retrainings.py has them by name."""
    return sum(shares(config).values())


def shares(config: EvaluationConfig) -> dict[str, int]:
    """Retrainings by what they are for: full, half, drop, leave_out (its own, BM25's and random rows), directions."""
    left_out = 2 * config.leave_out_queries + config.leave_out_draws if config.leave_out_queries else 0
    return {
        "full": config.leave_out_seeds if config.leave_out_queries else 1,
        "half": config.half_subsets * config.half_seeds,
        "drop": config.drop_subsets,
        "leave_out": left_out * config.leave_out_seeds,
        "directions": 2 * config.directions,
    }


def _growing() -> Iterator[EvaluationConfig]:
    config = LEAST
    for name, most, at_once in _ORDER:
        while getattr(config, name) < most:
            config = replace(config, **{name: min(most, getattr(config, name) + at_once)})
            yield config
