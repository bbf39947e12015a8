"""A short form of `python -m tests.fuzzing`, and that it notices what it looks for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import strategies as st

from engine.errors import MalformedRow
from tests.fuzzing import running
from tests.fuzzing.mutation import CHANGES, MOST_BYTES, PIECES, mutate
from tests.fuzzing.running import Outcomes, run
from tests.fuzzing.targets import Target, targets

INPUTS, SLOW_INPUTS = 30, 1  # beside those that are always tried
EVERY = targets()


@pytest.mark.parametrize("target", EVERY, ids=lambda target: target.name)
def test_made_up_inputs_are_valid_or_refused_by_name(target: Target, tmp_path: Path) -> None:
    outcomes = run(target, SLOW_INPUTS if target.slow else INPUTS, 0, tmp_path)
    assert outcomes.defects == {}
    assert target.slow or len(outcomes.counts) > 1  # some are valid and some are not, or refused in several ways


def test_every_target_has_a_name_of_its_own() -> None:
    assert len({target.name for target in EVERY}) == len(EVERY) > 15


def outcomes_of(check: Callable[[int], Any], tmp_path: Path) -> Outcomes:
    @contextmanager
    def opened(_work: Path) -> Iterator[Callable[[int], Any]]:
        yield check

    return run(Target("test", st.integers(0, 10**6), opened), 20, 0, tmp_path)


def refuse(error: Exception) -> None:
    raise error


def compute_for_ever() -> None:
    while True:
        pass


HARMFUL: dict[str, tuple[Callable[[], Any], str]] = {
    "another exception": (lambda: {}["missing"], "KeyError"),
    "no cause": (lambda: refuse(MalformedRow("")), "no cause or no remedy"),
    "a long cause": (lambda: refuse(MalformedRow("x" * 10_000)), "10000 characters"),
    "a wrong result": (lambda: refuse(AssertionError("differs")), "differs"),
    "endless": (compute_for_ever, "TooSlow"),
    # Far above the limit: the count of a process's memory may be off by some MiB for each of the machine's cores.
    "much memory": (lambda: (bytearray(b"x") * (512 << 20)).count(b"y"), "MiB for one input"),
}


@pytest.mark.parametrize("harm", HARMFUL)
def test_a_defect_is_noticed(harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "CPU_SECONDS", 0.05 if harm == "endless" else 5.0)
    what, said = HARMFUL[harm]
    found = outcomes_of(lambda number: what() if number % 2 else None, tmp_path)
    assert found.counts["DEFECT"] + found.counts["valid"] == 20
    (shown,) = found.defects.values()
    assert said in shown[0] and shown[1] % 2


def test_the_same_seed_makes_the_same_inputs(tmp_path: Path) -> None:
    seen: list[list[int]] = [[], []]
    for numbers in seen:
        outcomes_of(numbers.append, tmp_path)
    assert seen[0] == seen[1] and len(set(seen[0])) > 10


def test_changes_reach_every_kind_of_damage() -> None:
    seeds = [json.dumps({"text": "é 12", "tags": {"a": 1}}).encode() * 3]
    made = [mutate(Random(seed), seeds) for seed in range(2000)]
    assert len(set(made)) > 1500 and max(map(len, made)) <= MOST_BYTES
    assert sum(any(piece in content for content in made) for piece in PIECES) > 0.9 * len(PIECES)
    assert all(change(Random(1), b"", [b""]) is not None for change in CHANGES)
