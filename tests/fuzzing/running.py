"""Makes inputs for a target, counts outcomes, keeps the smallest input of every defect."""

from __future__ import annotations

import json
import signal
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from app.errors import AppError, problem_of
from engine.errors import EngineError
from tests.fuzzing.targets import Target

CPU_SECONDS = 5.0  # of this process, for one input
LONGEST_DETAIL = 5000  # characters: what is quoted from an input is short
MOST_MIB = 160  # that this process's memory may grow by for one input of at most 200 kB


class TooSlow(BaseException):
    """Not an Exception: what is tested must not catch it."""


@dataclass
class Outcomes:
    """counts: "valid", or the code of a declared error → inputs. defects: where → (what, the smallest input seen)."""

    counts: Counter[str] = field(default_factory=Counter)
    peak_mib: int = 0  # the most that one input added to this process's memory
    defects: dict[str, tuple[str, Any]] = field(default_factory=dict)

    @property
    def inputs(self) -> int:
        return self.counts.total()

    def add_defect(self, error: BaseException, given: Any) -> None:
        self.counts["DEFECT"] += 1
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/hypothesis/" not in frame.filename]
        where = f"{type(error).__name__} at {'/'.join(Path(frames[-1].filename).parts[-3:])}:{frames[-1].lineno}"
        known = self.defects.get(where)
        if known is None or len(repr(given)) < len(repr(known[1])):
            self.defects[where] = ("".join(traceback.format_exception(error, limit=-6)), given)


def run(target: Target, inputs: int, start: int, work: Path, tick: Callable[[], object] = lambda: None) -> Outcomes:
    """The inputs that are always tried, then as many random ones as told. start: of the random numbers; the same gives
    the same inputs."""
    outcomes, rounds = Outcomes(), 0
    with target.opened(work) as check:
        for given in target.always:
            _try(check, given, outcomes)
        wanted = outcomes.inputs + inputs
        while outcomes.inputs < wanted:  # a round ends early where hypothesis has seen all there is
            before = outcomes.inputs
            _round(target, wanted - before, start + 1000 * rounds, check, outcomes, tick)
            rounds += 1
            if outcomes.inputs == before:
                break
    return outcomes


def _round(
    target: Target, inputs: int, start: int, check: Callable[[Any], str | None], outcomes: Outcomes, tick: Any
) -> None:
    @seed(start)
    @settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs)
    def one(given: Any) -> None:
        _try(check, given, outcomes)
        tick()

    one()


def _try(check: Callable[[Any], str | None], given: Any, outcomes: Outcomes) -> None:
    try:
        with limited(), bounded(outcomes):
            outcome = check(given) or "valid"
    except (EngineError, AppError) as error:
        _count_declared(outcomes, error, given)
    except (Exception, TooSlow) as error:
        outcomes.add_defect(error, given)
    else:
        outcomes.counts[outcome] += 1


def _count_declared(outcomes: Outcomes, error: EngineError | AppError, given: Any) -> None:
    """A declared error has a cause and a remedy, in few words, that can be sent."""
    try:
        problem = problem_of(error)
        json.dumps(problem, ensure_ascii=False, default=str).encode(errors="replace")
        assert problem["detail"] and problem["remedy"], f"no cause or no remedy: {problem}"
        assert len(problem["detail"]) <= LONGEST_DETAIL, f"a detail of {len(problem['detail'])} characters"
    except Exception as incomplete:
        outcomes.add_defect(incomplete, given)
    else:
        outcomes.counts[error.code] += 1


@contextmanager
def limited() -> Iterator[None]:
    """Raises TooSlow in the body after CPU_SECONDS of computing: waiting for a busy machine does not count."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise TooSlow(f"more than {CPU_SECONDS} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def bounded(outcomes: Outcomes) -> Iterator[None]:
    """Raises AssertionError when the body took more memory than MOST_MIB at its peak."""
    Path("/proc/self/clear_refs").write_text("5")  # the kernel's mark of the largest memory begins anew
    before = _memory_mib("VmRSS")
    try:
        yield
    finally:
        grown = _memory_mib("VmHWM") - before
        outcomes.peak_mib = max(outcomes.peak_mib, grown)
    assert grown <= MOST_MIB, f"{grown} MiB for one input"


def _memory_mib(name: str) -> int:
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) >> 10
