"""The datasets that trust is checked on, and the check itself: it must say so when an interval does not hold."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from benchmarks.quality import world as quality
from benchmarks.trust import auto, held_out
from benchmarks.trust.worlds import FACTS_SEED, FAVOURING, MISLABELLED, WORLDS, World
from engine.demo import corpus
from engine.demo.facts import invented_facts, names_of
from engine.evaluate.scored import top_rows
from engine.types import Query

QUERIES, ROWS, REMOVALS, LEFT_OUT = 60, 80, 40, 4


EVERY = WORLDS | FAVOURING


@pytest.mark.parametrize("name", EVERY)
def test_a_world_is_the_same_every_time_and_asks_what_no_row_asks(name: str) -> None:
    world = EVERY[name]()
    again = EVERY[name]()
    assert world.rows == again.rows and world.questions == again.questions
    assert len({asked.query for asked in world.questions}) == len(world.questions)
    taught = {row.prompt for row in world.rows}
    assert not any(asked.query.prompt in taught for asked in world.questions)
    assert len({row.id for row in world.rows}) == len(world.rows)


def test_there_are_enough_questions_and_groups() -> None:
    for make in WORLDS.values():
        world = make()
        assert len(world.questions) >= 100
        assert len({asked.group for asked in world.questions}) >= 60


def test_relevant_rows_are_there() -> None:
    for name, make in WORLDS.items():
        world = make()
        for asked in world.questions:
            if asked.relevant:
                assert any(asked.relevant.items() <= row.tags.items() for row in world.rows), (name, asked)
        wrong = [row for row in world.rows if MISLABELLED.items() <= row.tags.items()]
        assert len(wrong) >= 8 and all(row.label != row.tags["true_label"] for row in wrong)


def test_the_worlds_share_no_name_with_those_that_were_looked_at() -> None:
    seen = names_of(invented_facts(corpus.SEED)) | names_of(invented_facts(quality.SEED))
    assert not seen & names_of(invented_facts(FACTS_SEED))


# --- the check ---


def planted(noise: float) -> dict[str, np.ndarray]:
    """Outcomes that are what the scores say, and noise."""
    generator = np.random.default_rng(5)
    scores_QN = generator.normal(size=(QUERIES, ROWS))
    kept_MN = np.stack([generator.permutation(ROWS) >= LEFT_OUT for _ in range(REMOVALS)])
    error_QM = noise * generator.normal(size=(QUERIES, REMOVALS))
    full_Q = np.full(QUERIES, -2.0)
    top_Q = np.array([scores_QN[q, top_rows(scores_QN[q], LEFT_OUT)].sum() for q in range(QUERIES)])
    fall_Q = top_Q / ROWS + noise * generator.normal(size=QUERIES)
    return {
        "scores/ekfac": scores_QN,
        "drop_kept_MN": kept_MN,
        "drop_outcome_QM": full_Q[:, None] - scores_QN @ (~kept_MN).T / ROWS + error_QM,
        "full_outcome_Q": full_Q,
        "asked_L": np.arange(QUERIES),
        "fall_LR/ekfac": fall_Q[:, None],
    }


def card_and_world() -> tuple[Any, World]:
    own = SimpleNamespace(role="index", name="ekfac")
    card = SimpleNamespace(methods=[own], config=SimpleNamespace(leave_out_rows=LEFT_OUT))
    first = WORLDS["tasks"]()
    asked = [
        replace(first.questions[0], query=Query(prompt=f"{q}", completion=" yes."), group=f"{q}")
        for q in range(QUERIES)
    ]
    return cast(Any, card), World("planted", first.rows, asked, first.training)


def test_planted_effects_lie_in_their_intervals() -> None:
    card, world = card_and_world()
    found = held_out.covered(world, card, planted(0.02)).shares
    assert 0.8 <= found["effects of hits inside"] <= 1
    assert 0.85 <= found["effects of random rows inside"] <= 0.97
    assert found["hits: correlation"] > 0.3  # noise of the effects' own size: 0.48


def test_effects_that_change_after_the_fit_do_not() -> None:
    """As if the held-out queries were of another world: the check must notice."""
    card, world = card_and_world()
    evidence = planted(0.02)
    fitted = held_out._Effects.fitted

    def too_narrow(self: Any, seen_Q: np.ndarray) -> Any:
        return replace(fitted(self, seen_Q), quantile=0.1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_out._Effects, "fitted", too_narrow)
        found = held_out.covered(world, card, evidence).shares
    assert found["effects of hits inside"] < 0.5 and found["effects of random rows inside"] < 0.5


def test_no_query_is_judged_by_a_fit_that_saw_its_group() -> None:
    groups = [f"{q // 3}" for q in range(30)]
    held = list(held_out._folds(groups))
    assert (np.sum(held, axis=0) == 1).all()
    for held_Q in held:
        inside = {group for group, out in zip(groups, held_Q, strict=True) if out}
        assert not inside & {group for group, out in zip(groups, held_Q, strict=True) if not out}


@pytest.mark.parametrize("recipe", ["smooth", "rough"])
def test_auto_takes_the_better_of_source_and_cosines(recipe: str) -> None:
    """On the retrainings in the repository, whichever is the index's own; the better one is not the same on both."""
    better, other = ("source", "gradcos, checkpoints")[:: 1 if recipe == "smooth" else -1]
    scores = auto.kept(recipe)[1]
    rows = auto.chosen(recipe, auto._bench(recipe), {name: scores[name] for name in (better, other)})
    assert [(row["chosen"], row["right"]) for row in rows] == [(better, True)] * 2
    scores = {better: scores[better][:, ::-1], other: scores[other]}
    rows = auto.chosen(recipe, auto._bench(recipe), scores)  # of rows in another order: nothing
    assert [row["chosen"] for row in rows] == [other] * 2
