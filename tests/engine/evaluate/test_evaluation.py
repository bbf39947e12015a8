"""evaluate() end to end on a tiny fine-tune: real retrainings, resumed and refused as promised."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.causal.retrain import Study, Variant, retrain
from engine.errors import Cancelled, InvalidOption, MissingNeed
from engine.evaluate.evaluation import _asked, estimate_evaluation
from engine.evaluate.evidence import EVIDENCE_FILE
from engine.evaluate.lds import predict, score_lds
from engine.evaluate.requirements import check_config
from engine.evaluate.scorecard import (
    CONTROLS,
    FIGURES_FILE,
    RANDOMISED,
    SHUFFLED,
    Candidate,
    Scorecard,
    from_json,
    to_json,
)
from engine.evaluate.scored import top_rows
from engine.types import Progress
from tests.engine.evaluate.evaluated_world import CONFIG, QUERIES, ROWS, TRAINING, EvaluatedWorld, timeless


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> EvaluatedWorld:
    return EvaluatedWorld.made(tmp_path_factory.mktemp("evaluated"))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def scorecard(world: EvaluatedWorld, work: Path) -> Scorecard:
    return world.evaluate(work)


def test_a_scorecard_holds_every_method_and_both_questions(scorecard: Scorecard) -> None:
    assert [method.name for method in scorecard.methods] == ["graddot", *CONTROLS, RANDOMISED, SHUFFLED]
    assert [method.role for method in scorecard.methods] == ["index", *["control"] * 4, *["sanity"] * 2]
    for method in scorecard.methods:
        assert set(method.verdicts) == {"composition", "this_run"}
        assert method.lds["composition"].subsets == 8 and method.lds["composition"].seeds == 2
        assert method.lds["this_run"].subsets == 6 and method.lds["this_run"].seeds == 1
        assert set(method.lds["composition"].against) == set(CONTROLS) - {method.name}
    assert scorecard.of("graddot").leave_out is not None and scorecard.of("bm25").leave_out is not None  # type: ignore[union-attr]
    assert scorecard.of("length").leave_out is None  # type: ignore[union-attr]
    assert scorecard.test_queries == tuple(range(QUERIES)) and scorecard.tuning_queries == ()
    assert scorecard.rows == ROWS and scorecard.metasmoothness is not None


def test_what_means_nothing_is_never_trusted(scorecard: Scorecard) -> None:
    for name in ("random", SHUFFLED, RANDOMISED):
        method = scorecard.of(name)
        assert method is not None
        assert method.verdicts["composition"].verdict in ("untrusted", "unmeasured"), method.verdicts


def test_the_file_beside_it_gives_the_same_figures(scorecard: Scorecard, work: Path) -> None:
    with np.load(work / EVIDENCE_FILE, allow_pickle=False) as kept:
        prediction = predict(kept["scores/graddot"], kept["half_kept_MN"])
        found = score_lds(prediction, kept["half_outcome_QMR"])
        assert kept["drop_outcome_QM"].shape == (QUERIES, 6)
    own = scorecard.of("graddot")
    assert own is not None and found.value == pytest.approx(own.lds["composition"].value)
    assert found.low == pytest.approx(own.lds["composition"].low)


def test_its_charts_show_what_it_says(scorecard: Scorecard, work: Path) -> None:
    figures, own = json.loads((work / FIGURES_FILE).read_text()), scorecard.methods[0]
    assert (figures["method"], own.leave_out is not None) == (own.name, True)
    for question, subsets in (("composition", 8), ("this_run", 6)):
        shown, per_query = figures[question], own.lds[question].per_query
        assert [one["query"] for one in shown] == list(scorecard.test_queries)
        assert [one["lds"] for one in shown] == pytest.approx(list(per_query), rel=1e-5)
        assert {len(one["predicted"]) for one in shown} == {len(one["measured"]) for one in shown} == {subsets}
    falls = [fall["top"][own.name] for fall in figures["leave_out"]]
    assert own.leave_out and sum(falls) / len(falls) == pytest.approx(own.leave_out.top, rel=1e-4)


def test_outcomes_are_those_of_retraining(
    world: EvaluatedWorld, work: Path, scorecard: Scorecard, tmp_path: Path
) -> None:
    """One subset trained again by itself, by the trainer alone."""
    with np.load(work / EVIDENCE_FILE, allow_pickle=False) as kept:
        removed, outcome_QM = np.flatnonzero(~kept["drop_kept_MN"][2]).tolist(), kept["drop_outcome_QM"]
    study = Study(Path(world.model.base), tuple(world.dataset), TRAINING, tuple(asked.query for asked in world.queries))
    alone = retrain(study, [Variant.without("alone", TRAINING.seed, removed)], tmp_path, processes=1)
    assert alone[0] == pytest.approx(outcome_QM[:, 2], abs=1e-4)
    assert scorecard.retrainings == 2 + 8 * 2 + 6 + 2 + 2 * 2 + 2 * 2 - 1


def test_it_survives_json(scorecard: Scorecard) -> None:
    assert from_json(json.loads(json.dumps(to_json(scorecard)))) == scorecard


def test_cancelled_anywhere_it_goes_on_and_ends_the_same(
    world: EvaluatedWorld, scorecard: Scorecard, tmp_path: Path
) -> None:
    calls, stops = 0, {1, 9, 20, 31, 60}

    def checkpoint(_progress: Progress) -> None:
        nonlocal calls
        calls += 1
        if calls in stops:
            raise Cancelled("somebody thought better of it")

    for _ in range(len(stops)):
        with pytest.raises(Cancelled):
            world.evaluate(tmp_path, checkpoint)
    assert timeless(world.evaluate(tmp_path, checkpoint)) == timeless(scorecard)


def test_a_second_time_nothing_is_trained_again(
    world: EvaluatedWorld, scorecard: Scorecard, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.causal.retrain._run", lambda _t, _s, stacks, *_: stacks and pytest.fail("trained"))
    assert timeless(world.evaluate(work)) == timeless(scorecard)
    cost = estimate_evaluation(world.model, world.dataset, world.index_dir, world.queries, CONFIG, work)
    assert cost.retrainings < scorecard.retrainings  # only stacks with rows that a method might still name


def test_candidates_are_chosen_on_the_tuning_part(world: EvaluatedWorld, work: Path) -> None:
    candidates = (Candidate("gradcos"), Candidate("ekfac", {"damping": 1.0}), Candidate("ekfac", {"damping": 0.01}))
    config = replace(CONFIG, candidates=candidates, tuning_share=0.5)
    found = world.evaluate(work, config=config)
    names = [method.name for method in found.methods if method.role in ("index", "candidate")]
    assert names == ["graddot", "gradcos", "ekfac", 'ekfac {"damping": 0.01}']
    assert found.tuned["composition"].chosen in names
    assert set(found.tuned["composition"].tuning_lds) == set(names)
    assert len(found.tuning_queries) == 4 and not set(found.tuning_queries) & set(found.test_queries)
    assert found.of("gradcos").lds["composition"].subsets == 4  # type: ignore[union-attr]


def test_too_few_groups_to_choose_on_are_told(world: EvaluatedWorld, work: Path) -> None:
    config = replace(CONFIG, candidates=(Candidate("gradcos"),), tuning_share=0.1)
    found = world.evaluate(work, config=config)
    assert found.tuned == {} and any("nothing was chosen" in warning for warning in found.warnings)
    assert found.of("graddot").lds["composition"].subsets == 8  # type: ignore[union-attr]


def test_without_a_recipe_it_says_so(world: EvaluatedWorld, tmp_path: Path) -> None:
    with pytest.raises(MissingNeed, match="recipe is not known"):
        replace(world, model=replace(world.model, recipe=None)).evaluate(tmp_path)


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"half_subsets": 2}, "/half_subsets"),
        ({"drop_share": 1.0}, "/drop_share"),
        ({"leave_out_rows": ROWS}, "/leave_out_rows"),
        ({"tuning_share": -0.1}, "/tuning_share"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(world: EvaluatedWorld, change: dict[str, float], pointer: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        check_config(replace(CONFIG, **change), ROWS, world.queries)  # type: ignore[arg-type]
    assert caught.value.pointer == pointer


def test_top_rows_break_ties_by_position() -> None:
    assert top_rows(np.array([1.0, 3.0, 3.0, 2.0]), 3) == [1, 2, 3]


@given(queries=st.integers(1, 200), count=st.integers(0, 250))
def test_queries_to_leave_rows_out_of_are_spread_evenly_and_nested(queries: int, count: int) -> None:
    asked = _asked(replace(CONFIG, leave_out_queries=count), queries)
    assert len(set(asked)) == len(asked) == min(count, queries)
    assert set(asked) <= set(_asked(replace(CONFIG, leave_out_queries=count + 1), queries)) <= set(range(queries))
    gaps = np.diff([-1, *asked, queries])
    assert count == 0 or gaps.max() <= 2 * max(1.0, queries / min(count, queries)) + 2
