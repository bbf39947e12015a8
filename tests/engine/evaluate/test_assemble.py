"""Evidence from scores and outcomes, against worlds whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from engine.evaluate.assemble import Bench, Measured, lds_evidence, leave_out_evidence, minus_twins, tuned
from engine.evaluate.scorecard import EvaluationConfig
from engine.evaluate.scored import Scored
from engine.evaluate.splits import split_queries

QUERIES, ROWS, SUBSETS = 12, 40, 18


def scored(name: str, scores_QN: np.ndarray) -> Scored:
    return Scored(name, "index", name, {}, scores_QN)


class World:
    """Outcomes are sums of true effects and a little noise of each seed's own."""

    def __init__(self, seeds: int = 2, tunes: bool = False, noise: float = 0.3) -> None:
        generator = np.random.default_rng(5)
        self.true_QN = generator.normal(size=(QUERIES, ROWS))
        self.other_QN = generator.normal(size=(QUERIES, ROWS))
        half, drop = (self.measured(generator, share, seeds, noise) for share in (0.5, 0.9))
        share = 1 / 3 if tunes else 0.0
        queries = split_queries([None] * QUERIES, share, 0)
        self.bench = Bench({"composition": half, "this_run": drop}, queries, share)

    def measured(self, generator: np.random.Generator, share: float, seeds: int, noise: float) -> Measured:
        kept_MN = generator.random((SUBSETS, ROWS)) < share
        outcome_QM = self.true_QN @ kept_MN.T
        spread = noise * outcome_QM.std()
        outcome_QMR = outcome_QM[:, :, None] + spread * generator.normal(size=(QUERIES, SUBSETS, seeds))
        return Measured(kept_MN, outcome_QMR)


def test_lds_of_the_test_part_equals_a_loop() -> None:
    world = World(tunes=True)
    own, control = scored("own", world.true_QN + world.other_QN), scored("control", world.other_QN)
    found = lds_evidence(own, [control], world.bench)["composition"]
    measured, queries = world.bench.measured["composition"], world.bench.queries.test
    subsets = world.bench.subsets("composition").test
    assert len(queries) == 8 and subsets == tuple(range(12))
    expected = [
        spearmanr(
            [own.scores_QN[q][measured.kept_MN[m]].sum() for m in subsets],
            [measured.outcome_QMR[q, m].mean() for m in subsets],
        ).statistic
        for q in queries
    ]
    assert found.per_query == pytest.approx(expected, abs=1e-12)
    assert found.value == pytest.approx(np.mean(expected), abs=1e-12)
    assert found.subsets == 12 and found.seeds == 2


def test_the_truth_beats_what_is_unrelated_and_not_itself() -> None:
    world = World()
    truth, other = scored("truth", world.true_QN), scored("other", world.other_QN)
    against = lds_evidence(truth, [truth, other], world.bench)["composition"].against
    assert list(against) == ["other"]
    assert (against["other"].low or 0) > 0.3
    twins = minus_twins(truth, [scored("again", world.true_QN), other], world.bench, "composition")
    assert twins["again"].difference == 0 and (twins["other"].low or 0) > 0.3


def test_the_ceiling_needs_seeds_and_falls_with_noise() -> None:
    def ceiling(**options: float) -> float | None:
        return World(**options).bench.test("composition").ceiling  # type: ignore[arg-type]

    calm, noisy = ceiling(noise=0.2), ceiling(noise=1.5)
    assert ceiling(seeds=1) is None
    assert calm is not None and noisy is not None and 1 > calm > noisy


def half_blind(world: World) -> Scored:
    return scored("half blind", world.true_QN + 0.5 * world.other_QN)


def test_tuning_sees_neither_the_test_queries_nor_the_test_subsets() -> None:
    """A method that is perfect on the tuning part alone is chosen, however bad it is elsewhere."""
    world = World(tunes=True)
    tuning = list(world.bench.queries.tuning)
    spoilt_QN = -world.true_QN
    spoilt_QN[tuning] = world.true_QN[tuning]
    own, spoilt = scored("blind", world.other_QN), scored("spoilt", spoilt_QN)
    found = tuned(own, [half_blind(world), spoilt], world.bench, "composition")
    assert found is not None and found.chosen == "spoilt"
    assert found.queries == 4 and found.subsets == 6
    outcome = world.bench.measured["composition"].outcome_QMR
    outcome[:, :12] = outcome[:, :12][:, ::-1]  # the test subsets' outcomes: nobody looked at them
    assert tuned(own, [half_blind(world), spoilt], world.bench, "composition") == found


def test_the_indexs_own_method_stays_unless_a_candidate_is_better_beyond_chance() -> None:
    world = World(tunes=True)
    rng = np.random.default_rng(6)
    good, other = scored("good", world.true_QN), scored("other", world.other_QN)
    nearly = scored("nearly", world.true_QN + 0.2 * rng.normal(size=world.true_QN.shape))
    for own, candidate in ((good, nearly), (nearly, good)):
        found = tuned(own, [candidate, other], world.bench, "composition")
        assert found is not None and found.chosen == own.name
        over = found.over_own[candidate.name]
        assert over.low is not None and over.high is not None and over.low <= 0 <= over.high
    lds = found.tuning_lds
    assert (lds["good"] or 0) != (lds["nearly"] or 0)  # one of the two was higher, and stayed a candidate
    found = tuned(other, [good], world.bench, "composition")
    assert found is not None and found.chosen == "good" and (found.over_own["good"].low or 0) > 0


def test_an_own_method_without_a_measure_gives_way() -> None:
    world = World(tunes=True)
    found = tuned(scored("flat", np.zeros_like(world.true_QN)), [half_blind(world)], world.bench, "composition")
    assert found is not None and found.chosen == "half blind" and found.tuning_lds["flat"] is None


def test_nothing_tunes_where_there_is_nothing_to_choose() -> None:
    world = World(tunes=False)
    own, candidate = scored("a", world.true_QN), scored("b", world.other_QN)
    assert tuned(own, [candidate], world.bench, "composition") is None
    assert tuned(own, [], World(tunes=True).bench, "composition") is None


def test_what_was_not_measured_is_none() -> None:
    world = World()
    empty = Measured(np.zeros((0, ROWS), bool), np.zeros((QUERIES, 0, 1)))
    bench = Bench({"composition": world.bench.measured["composition"], "this_run": empty}, world.bench.queries, 0)
    found = lds_evidence(scored("own", world.true_QN), [scored("c", world.other_QN)], bench)["this_run"]
    assert found.value is None and found.against == {} and found.subsets == 0
    assert minus_twins(scored("own", world.true_QN), [scored("c", world.other_QN)], bench, "this_run") == {}
    assert leave_out_evidence(np.zeros((0, 1)), np.zeros((0, 1, 2)), EvaluationConfig()) is None


def test_leave_out_is_the_difference_of_the_means() -> None:
    generator = np.random.default_rng(1)
    top_QR, random_QRK = generator.normal(2, 1, (6, 2)), generator.normal(0, 1, (6, 2, 5))
    found = leave_out_evidence(top_QR, random_QRK, EvaluationConfig(leave_out_rows=3))
    assert found is not None and found.rows == 3 and found.draws == 5
    assert found.difference == pytest.approx(top_QR.mean() - random_QRK.mean())
