"""Schedules told from logged rates, held against the formula that made them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.causal.fitted_schedule import fit_schedule
from engine.causal.steps import learning_rate
from engine.config import Training

SCHEDULES = st.sampled_from(["linear", "cosine", "constant"])


@settings(max_examples=60, deadline=None)
@given(
    schedule=SCHEDULES, steps=st.integers(8, 300), share=st.floats(0, 0.5), peak=st.floats(1e-6, 1), late=st.booleans()
)
def test_a_fully_logged_schedule_is_found_again(
    schedule: Any, steps: int, share: float, peak: float, late: bool
) -> None:
    warmup = math.floor(share * steps)
    training = Training(schedule=schedule, learning_rate=peak, warmup_share=warmup / steps)
    points = [(step, learning_rate(step if late else step - 1, steps, training)) for step in range(1, steps)]
    fitted = fit_schedule(points, steps)
    assert fitted is not None
    # Where the next step's rate was logged the first step's is missing, and a warm-up of one step looks like none.
    assert fitted.learning_rate == pytest.approx(peak, rel=1e-5) or (late and "learning_rate" in fitted.unknown)
    if not late:
        assert (fitted.schedule, fitted.warmup_steps, fitted.unknown) == (schedule, warmup, ())


@settings(max_examples=60, deadline=None)
@given(schedule=SCHEDULES, steps=st.integers(5, 400), share=st.floats(0, 1), every=st.integers(1, 30))
def test_a_fit_never_claims_what_sparse_logs_leave_open(schedule: Any, steps: int, share: float, every: int) -> None:
    warmup = math.floor(share * (steps - 1))
    training = Training(schedule=schedule, learning_rate=0.3, warmup_share=warmup / steps)
    points = [(step, learning_rate(step - 1, steps, training)) for step in range(every, steps + 1, every)]
    fitted = fit_schedule(points, steps)
    if fitted is None:
        assert not any(rate > 0 for _, rate in points)
        return
    assert fitted.learning_rate == pytest.approx(0.3, rel=1e-5) or "learning_rate" in fitted.unknown
    assert fitted.schedule == schedule or "schedule" in fitted.unknown
    assert fitted.warmup_steps == warmup or "warmup_share" in fitted.unknown


def test_rates_of_no_known_schedule_are_not_fitted() -> None:
    points = [(step, 0.1 / step) for step in range(1, 30)]
    assert fit_schedule(points, 30) is None
    assert fit_schedule([], 30) is None


def test_a_run_of_absurd_length_is_not_searched() -> None:
    """Every step is a warm-up to try: a trainer_state.json that claims 10¹² of them must not hold up a server."""
    assert fit_schedule([(1, 1e-4), (2, 1e-4)], 10**12) is None
