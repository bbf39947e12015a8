"""What an evaluation keeps: the plan and outcomes of its retrainings, score matrices."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from engine.causal.outcomes import PLAN_FILE, OutcomeStore
from engine.causal.variant import Variant
from engine.evaluate.integrity import evaluation_damage
from tests.fuzzing.mutation import PIECES, damaged
from tests.fuzzing.targets import Target
from tests.fuzzing.values import documents, nearly

STUDY = "study"
VARIANT = Variant.without("half/0", 3, (1, 2))
OUTCOME = np.array([0.25, -1.5])
PLAN = {"study": STUDY, "width": 4, "begun": [0, 1]}
RECORD = {"variant": {"name": "half/0"}, "outcome": [0.25, -1.5], "checksum": "0" * 32}


def _npz(**arrays: np.ndarray) -> bytes:
    sink = BytesIO()
    np.savez(sink, **arrays)  # type: ignore[arg-type]
    return sink.getvalue()


SCORES = _npz(scores=np.arange(12, dtype=np.float32).reshape(3, 4), self_scores=np.zeros(0))


@contextmanager
def plan(work: Path) -> Iterator[Callable[[bytes], None]]:
    def check(content: bytes) -> None:
        (work / PLAN_FILE).write_bytes(content)
        assert isinstance(OutcomeStore(work, STUDY).plan(), dict)

    yield check


@contextmanager
def outcome(work: Path) -> Iterator[Callable[[bytes], str | None]]:
    """A damaged one is a retraining to be done again, never another outcome."""
    kept = OutcomeStore(work / "retrainings", STUDY)
    kept.write(VARIANT, OUTCOME)
    file = work / "retrainings" / "runs" / f"{kept.key(VARIANT)}.json"
    whole = file.read_bytes()

    def check(content: bytes) -> str | None:
        file.write_bytes(content if content != b"whole" else whole)
        found, damage = kept.read(VARIANT), evaluation_damage(work)
        assert (found is None) == bool(damage), (found, damage)
        if found is None:
            return "to be done again"
        assert np.array_equal(found, OUTCOME)
        return None

    yield check


@contextmanager
def scores(work: Path) -> Iterator[Callable[[bytes], str | None]]:
    """Where doctor finds nothing, numpy reads the very numbers."""
    (work / "scores").mkdir()

    def check(content: bytes) -> str | None:
        (work / "scores" / "own.npz").write_bytes(content)
        if damage := evaluation_damage(work):
            assert all(bad.reason.endswith(".") for bad in damage)
            return "damage told"
        return None

    yield check


def _outcome_seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as directory:
        kept = OutcomeStore(Path(directory), STUDY)
        kept.write(VARIANT, OUTCOME)
        return [(Path(directory) / "runs" / f"{kept.key(VARIANT)}.json").read_bytes()]


TARGETS = [
    Target("plan.json", damaged([json.dumps(PLAN).encode()]) | documents(nearly([PLAN])), plan, always=PIECES),
    Target(
        "outcome of a retraining",
        st.one_of(damaged(_outcome_seeds()), documents(nearly([RECORD])), st.just(b"whole")),
        outcome,
        always=[b"whole", *PIECES],
    ),
    Target("scores.npz", damaged([SCORES]), scores, always=[SCORES, *PIECES]),
]
