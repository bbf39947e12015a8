"""Figures about one query's whole score vector: percentiles, warning signs, sums by tag.

Up to FLAT_LIMIT they are computed from every row. Above it, and of an approximate search, percentiles and warning signs
come from a fixed sample of rows (and say `estimated`); above it sums by tag are refused.

Dimensions: N rows of the index, M rows that were searched.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from engine.errors import InvalidOption
from engine.types import Diagnostics, Group

FLAT_LIMIT = 1 << 33  # rows × dims that one query may read: 16 GiB of float16, some seconds a query
SAMPLE_ROWS = 4096
TIE_WIDTH = 1e-5  # scores closer than this, relative to the score, differ by float32 rounding only
UNTAGGED = "(untagged)"  # the group of the rows that lack the tag
DOMINANT_SHARE = 0.5
DOMINANT_MIN_ROWS = 10  # among fewer rows one may well carry half
LENGTH_CORRELATION = 0.5
LENGTH_MIN_ROWS = 20
NORMAL_MAD = 1.4826  # MAD × this = standard deviation, for normally distributed scores


def sample_rows(rows: int, dims: int) -> np.ndarray | None:
    """int64 [SAMPLE_ROWS], ascending: the rows that stand for a large index; None below FLAT_LIMIT."""
    return None if rows * dims <= FLAT_LIMIT else fixed_sample(rows)


def fixed_sample(rows: int) -> np.ndarray | None:
    """As `sample_rows`, however few numbers a row has; None of so few rows that all are taken."""
    if rows <= SAMPLE_ROWS:
        return None
    return np.sort(np.random.default_rng(0).choice(rows, SAMPLE_ROWS, replace=False))


def percentile(scores_N: np.ndarray, score: float, sample: np.ndarray | None = None) -> float:
    """Percentile rank of `score` among all rows, 0–100: the share of rows at or below it.

    Tied rows take the mean of their ranks, so equal rows have equal percentiles; the single best is 100.
    """
    scores_M = scores_N if sample is None else scores_N[sample]
    width = TIE_WIDTH * abs(score)
    below = np.count_nonzero(scores_M < score - width)
    tied = np.count_nonzero(scores_M <= score + width) - below
    rank = below + (tied + 1) / 2 if tied else below
    return float(100.0 * rank / len(scores_M))


def diagnostics(
    scores_N: np.ndarray,
    lengths_N: np.ndarray,
    allowed_N: np.ndarray | None = None,
    sample: np.ndarray | None = None,
) -> Diagnostics:
    """What the shape of the score vector says about the answer, over the rows that were searched.

    positive_share_top_1pct, top1_concentration: share of the total positive score carried by the top
    1 % of rows (rounded up) and by the top row; None when no score is positive. length_correlation:
    Spearman's of score and tokens; None when either is constant. null_z: distance of the top score
    from the median, in standard deviations estimated by the MAD; None when that is 0. score_spread,
    effective_rows: see Diagnostics; None of no row, and effective_rows when all scores are 0.
    """
    chosen = _chosen(allowed_N, sample)
    order_M = np.argsort(scores_N[chosen])
    scores_M = scores_N[chosen][order_M].astype(np.float64)  # ascending: sorted once for all that asks about ranks
    top_1pct, top_1 = _positive_shares(scores_M)
    correlation = _spearman(scores_M, lengths_N[chosen][order_M])
    return Diagnostics(
        positive_share_top_1pct=top_1pct,
        top1_concentration=top_1,
        length_correlation=correlation,
        null_z=_null_z(scores_M),
        searched=len(scores_N) if allowed_N is None else int(np.count_nonzero(allowed_N)),
        total=len(scores_N),
        score_spread=float(scores_M.std()) if len(scores_M) else None,
        effective_rows=_effective_rows(scores_M),
        estimated=sample is not None,
        warnings=_warnings(len(scores_M), top_1, correlation),
    )


def _chosen(allowed_N: np.ndarray | None, sample: np.ndarray | None) -> np.ndarray | slice:
    if sample is not None:
        return sample if allowed_N is None else sample[allowed_N[sample]]
    return slice(None) if allowed_N is None else np.flatnonzero(allowed_N)


def _positive_shares(scores_M: np.ndarray) -> tuple[float | None, float | None]:
    """scores_M: ascending, as in all of these."""
    positive_M = scores_M[np.searchsorted(scores_M, 0, side="right") :]
    total = positive_M.sum()
    if total == 0:
        return None, None
    top = -(-len(scores_M) // 100)
    return float(positive_M[-top:].sum() / total), float(positive_M[-1] / total)


def _effective_rows(scores_M: np.ndarray) -> float | None:
    """The participation ratio (Σ|s|)²/Σs²: K for K rows of equal weight, 1 when one row carries everything."""
    largest = np.abs(scores_M).max(initial=0.0)
    if largest == 0:
        return None
    weights_M = np.abs(scores_M) / largest  # squares of tiny scores would vanish
    return float(weights_M.sum() ** 2 / np.square(weights_M).sum())


def _spearman(scores_M: np.ndarray, lengths_M: np.ndarray) -> float | None:
    if len(scores_M) < 3:  # two rows always correlate perfectly
        return None
    middle = (len(scores_M) + 1) / 2
    away_M = _ranks_in_order(scores_M) - middle
    # Rows of one length share one rank: sums over them are enough.
    groups_M = lengths_M
    if lengths_M.dtype.kind not in "iu" or lengths_M.min() < 0 or lengths_M.max() >= len(lengths_M):
        groups_M = np.unique(lengths_M, return_inverse=True)[1]
    counts_G = np.bincount(groups_M)
    away_G = np.cumsum(counts_G) - (counts_G - 1) / 2 - middle
    spread = np.sqrt((away_M @ away_M) * (counts_G @ np.square(away_G)))
    return float(away_G @ np.bincount(groups_M, away_M) / spread) if spread > 0 else None


def _ranks_in_order(ascending_M: np.ndarray) -> np.ndarray:
    """float64 [M], from 1, of sorted values; tied ones share the mean of their ranks."""
    distinct = ascending_M[1:] != ascending_M[:-1]
    if distinct.all():
        return np.arange(1.0, len(ascending_M) + 1)
    first = np.flatnonzero(np.concatenate([[True], distinct]))
    counts = np.diff(first, append=len(ascending_M))
    return np.repeat(first + (counts + 1) / 2, counts)


def _null_z(scores_M: np.ndarray) -> float | None:
    if not len(scores_M):
        return None
    median = _middle(scores_M)
    halves = [(len(scores_M) - 1) // 2, len(scores_M) // 2]
    deviation = NORMAL_MAD * _middle(np.partition(np.abs(scores_M - median), halves))
    return float((scores_M[-1] - median) / deviation) if deviation > 0 else None


def _middle(ascending_M: np.ndarray) -> float:
    """The median of values whose middle ones are in their places."""
    return (ascending_M[(len(ascending_M) - 1) // 2] + ascending_M[len(ascending_M) // 2]) / 2


def _warnings(rows: int, top_1: float | None, correlation: float | None) -> tuple[str, ...]:
    found = []
    if top_1 is not None and top_1 >= DOMINANT_SHARE and rows >= DOMINANT_MIN_ROWS:
        found.append(
            f"One row carries {top_1:.0%} of all positive score: it may be an outlier with a large gradient. "
            'Compare with normalize: "cosine".'
        )
    if correlation is not None and abs(correlation) >= LENGTH_CORRELATION and rows >= LENGTH_MIN_ROWS:
        longer = "longer" if correlation > 0 else "shorter"
        found.append(
            f"Scores follow the rows' length (rank correlation {correlation:+.2f}): {longer} rows rank higher "
            "whatever they say. Compare with the `length` control."
        )
    return tuple(found)


def group_sums(
    scores_N: np.ndarray,
    keys: Sequence[str | None],
    allowed_N: np.ndarray | None = None,
    sample: np.ndarray | None = None,
) -> list[Group]:
    """Sum of raw scores for each tag value, highest first, over the rows that were searched.

    keys: each row's tag value; None = the row lacks the tag (group UNTAGGED). share = score / Σ |score|
    over the groups, with the score's sign. Raises InvalidOption above FLAT_LIMIT: a sample has no sums.
    """
    if sample is not None:
        raise InvalidOption(
            "Sums by tag need the score of every row, and this index is too large for that.",
            remedy="Leave group_by out, or build an index of fewer rows or a smaller projection_dim.",
            pointer="/group_by",
        )
    members: defaultdict[str, list[int]] = defaultdict(list)
    searched = range(len(scores_N)) if allowed_N is None else np.flatnonzero(allowed_N).tolist()
    for position in searched:
        key = keys[position]
        members[UNTAGGED if key is None else key].append(position)
    sums = {key: float(scores_N[rows].astype(np.float64).sum()) for key, rows in members.items()}
    whole = sum(abs(total) for total in sums.values())
    ordered = sorted(sums.items(), key=lambda item: (-item[1], item[0]))
    return [Group(key, total, total / whole if whole else 0.0, len(members[key])) for key, total in ordered]
