"""kill -9 of an evaluation at ten random moments: it goes on at the last finished retraining, to the same scorecard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.evaluate.evidence import EVIDENCE_FILE
from tests.engine.evaluate.evaluated_world import timeless
from tests.engine.evaluate.killed_evaluation import (
    WIDTH,
    Left,
    Moment,
    attempts,
    check_none_is_left_behind,
    check_nothing_was_made_again,
    heard_variants,
    machine,
    make_world,
    open_world,
    runs_in,
)

SEED = 7
RUNS = "retrainings/runs/*.json"


def ten_moments(retrainings: int) -> list[Moment]:
    """Spread over the whole evaluation; with two cores it has training processes."""
    draw = np.random.default_rng(SEED)
    fifth = (retrainings - 2 * WIDTH) // 5
    finished = [1 + n * fifth + int(draw.integers(fifth)) for n in range(5)]
    delay = [float(share) for share in draw.uniform(size=10)]
    return [
        Moment("scores/*.npz", 0, 0.1 * delay[0]),
        Moment("scores/*.npz", int(draw.integers(1, 4)), 0.02 * delay[1]),
        Moment("indexes/*/manifest.json", 2, 0.01 * delay[2]),  # of the twin, after the control's
        Moment("retrainings/plan.json", 1, 1 + 2 * delay[3], whole=False, cores=2),  # while they start
        Moment(RUNS, finished[0], 0.3 * delay[4], more=True),
        Moment(RUNS, finished[1], 0.1 * delay[5], more=True, whole=False, cores=2),
        Moment(RUNS, finished[2], 0.3 * delay[6], more=True),
        Moment(RUNS, finished[3], 0.1 * delay[7], more=True, cores=2),
        Moment(RUNS, finished[4], 0.3 * delay[8], more=True),
        Moment(RUNS, retrainings, 0.4 * delay[9], phase="answer"),
    ]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_ten_times_it_resumes_at_the_last_finished_retraining(tmp_path: Path) -> None:
    world, work, straight, notes = (tmp_path / name for name in ("world", "work", "straight", "notes"))
    notes.mkdir()
    make_world(world)
    with machine(1), heard_variants() as variants:
        expected = open_world(world).evaluate(straight)
    with attempts(world, work, notes) as evaluation:
        left = [evaluation.killed_at(moment) for moment in ten_moments(expected.retrainings)]
        found = evaluation.to_the_end()
        check_none_is_left_behind(evaluation.groups)
    _moments_were_spread(left, expected.retrainings)
    assert timeless(found) == timeless(expected)
    _same_arrays(work / EVIDENCE_FILE, straight / EVIDENCE_FILE)
    check_nothing_was_made_again([kill.runs for kill in left], variants, runs_in(work))


def _moments_were_spread(left: list[Left], retrainings: int) -> None:
    """Otherwise the kills missed the evaluation, and the test has shown nothing."""
    finished = [len(kill.runs) for kill in left]
    assert finished == sorted(finished), finished
    assert finished.count(0) >= 3 and finished.count(retrainings) >= 1, finished
    assert len({count for count in finished if 0 < count < retrainings}) >= 3, finished
    assert any(kill.building or 0 < kill.scores < left[-1].scores for kill in left)
    assert any(kill.outlived for kill in left)


def _same_arrays(found: Path, expected: Path) -> None:
    with np.load(found, allow_pickle=False) as ours, np.load(expected, allow_pickle=False) as theirs:
        assert ours.files == theirs.files
        for name in ours.files:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
