"""Leave-top-k-out: does removing a query's top k rows hurt it more than removing k random rows?

An effect is f(q) with every row minus f(q) after retraining without the k rows, at the same seed, in nats: positive
when the removed rows were proponents. The random sets are drawn once and serve all queries and seeds, so three
samples are behind the difference: queries, seeds, random draws. V = V_q + V_r − V_qr over queries and seeds (see
`jackknife`), plus the variance of the mean over draws. Seeds are few, so Student's degrees of freedom are those of
Satterthwaite (1946), each part weighing by its share of the variance; with two seeds min(Q, R) − 1 would be 1, and no
interval would ever exclude anything.

Shapes: Q queries, R seeds, K random draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.errors import InvalidOption
from engine.evaluate.jackknife import Spread, two_way_variance


@dataclass(frozen=True)
class LeaveOut:
    """top, random: mean effects in nats; difference: top − random.

    low, high, p_value (two-sided, of no difference): over queries, random draws and, from 2 seeds on, seeds; with one
    seed they hold for that seed. None below 2 queries or 2 draws. win_share: how often a query's top k, averaged over
    seeds, had the larger effect than a random draw (ties count half); 0.5 is chance.
    """

    top: float
    random: float
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    win_share: float
    queries: int
    seeds: int
    draws: int


def leave_out(top_QR: np.ndarray, random_QRK: np.ndarray) -> LeaveOut:
    """top_QR: effect on query q of removing its own top k, seed r; random_QRK: of removing random draw k.

    Raises InvalidOption when the shapes do not fit or an effect is not finite.
    """
    top_QR, random_QRK = _checked(top_QR, random_QRK)
    difference_QR = top_QR - random_QRK.mean(axis=2)
    difference = float(difference_QR.mean())
    low, high, p_value = None, None, None
    if len(top_QR) > 1 and random_QRK.shape[2] > 1:
        spread = _spread(difference_QR, random_QRK)
        low, high = spread.interval(difference)
        p_value = spread.p_value(difference)
    queries, seeds, draws = random_QRK.shape
    wins = np.sign(top_QR.mean(axis=1)[:, None] - random_QRK.mean(axis=1))
    return LeaveOut(
        top=float(top_QR.mean()),
        random=float(random_QRK.mean()),
        difference=difference,
        low=low,
        high=high,
        p_value=p_value,
        win_share=float((wins + 1).mean() / 2),
        queries=queries,
        seeds=seeds,
        draws=draws,
    )


def _spread(difference_QR: np.ndarray, random_QRK: np.ndarray) -> Spread:
    queries, seeds, draws = random_QRK.shape
    of_queries = difference_QR.mean(axis=1).var(ddof=1) / queries
    of_draws = random_QRK.mean(axis=(0, 1)).var(ddof=1) / draws
    of_seeds = difference_QR.mean(axis=0).var(ddof=1) / seeds if seeds > 1 else 0.0
    both = two_way_variance(difference_QR) if seeds > 1 else of_queries
    parts = [(of_queries, queries - 1), (of_draws, draws - 1), (of_seeds, max(seeds - 1, 1))]
    uncertainty = sum(part**2 / degrees for part, degrees in parts)
    degrees = sum(part for part, _ in parts) ** 2 / uncertainty if uncertainty > 0 else queries - 1
    return Spread(float(both + of_draws), float(degrees))


def _checked(top_QR: np.ndarray, random_QRK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    top_QR, random_QRK = np.asarray(top_QR, dtype=np.float64), np.asarray(random_QRK, dtype=np.float64)
    if top_QR.ndim != 2 or random_QRK.ndim != 3 or random_QRK.shape[:2] != top_QR.shape or not random_QRK.size:
        raise InvalidOption(
            f"Shapes do not fit: top {top_QR.shape}, random {random_QRK.shape}.",
            remedy="Give [queries, seeds] and [queries, seeds, draws], at least one of each.",
        )
    if not (np.isfinite(top_QR).all() and np.isfinite(random_QRK).all()):
        raise InvalidOption("An effect is NaN or infinite.", remedy="Look for the retraining that diverged.")
    return top_QR, random_QRK
