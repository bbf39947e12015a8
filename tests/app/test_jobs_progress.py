"""Throttle, ETA and the furthest point."""

from __future__ import annotations

from app.jobs.progress import Meter, advance
from engine.types import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def at(done: int, phase: str = "sketch", total: int = 1000) -> Progress:
    return Progress(done, total, "rows", phase)


def test_reports_are_written_at_most_four_times_a_second() -> None:
    clock = Clock()
    meter = Meter(clock)
    written = 0
    for step in range(1000):
        clock.now = step / 1000
        written += meter.due(at(step))
    assert written == 4


def test_a_new_phase_and_the_end_of_one_are_always_written() -> None:
    meter = Meter(Clock())
    assert [meter.due(p) for p in (at(0, "a"), at(1, "a"), at(0, "b"), at(1, "b"), at(1000, "b"))] == [
        True,
        False,
        True,
        False,
        True,
    ]


def test_an_event_is_logged_for_every_percent() -> None:
    meter = Meter(Clock())
    assert sum(meter.event_due(at(done)) for done in range(1001)) == 101


def test_eta_is_of_the_phase_at_its_own_pace() -> None:
    clock = Clock()
    meter = Meter(clock)
    meter.due(at(0, "slow"))
    clock.now = 100
    meter.due(at(500, "quick"))  # resumed half way: what was there before does not count as pace
    assert meter.snapshot(at(500, "quick"))["eta_s"] is None
    clock.now = 110
    assert meter.snapshot(at(600, "quick"))["eta_s"] == 40.0
    assert meter.snapshot(at(1000, "quick"))["eta_s"] == 0.0


def test_only_what_goes_beyond_every_earlier_attempt_is_progress() -> None:
    marker = advance(None, at(0, "curvature"))
    assert marker is not None
    for report in (at(5, "curvature"), at(0, "sketch"), at(7, "sketch")):
        marker = advance(marker, report) or marker
    assert advance(marker, at(5, "curvature")) is None
    assert advance(marker, at(7, "sketch")) is None
    assert advance(marker, at(8, "sketch")) is not None
