"""The smallest set whose removal changes the greedy answer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.causal.audited import audited_study
from engine.causal.check_trainings import without
from engine.causal.check_work import CheckWork
from engine.causal.checking import estimate_check, run_check
from engine.causal.checks import CheckConfig, CheckResult, RankedRow
from engine.causal.flip_search import next_sizes, predicted_size, sizes_at_most
from engine.causal.greedy import greedy_margins, greedy_texts
from engine.causal.retrainer import Retrainer
from engine.errors import Cancelled, InvalidQuery
from engine.model import load_model
from engine.question import generate, prepare
from engine.types import CheckpointFn, Generate, Progress, Query
from tests import factories
from tests.engine.planted_world import QUERY, TRAINING, PlantedWorld

CONFIG = CheckConfig("flip", rows=8, seeds=2)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlantedWorld]:
    with patch.object(os, "cpu_count", lambda: 1):
        yield PlantedWorld.made(tmp_path_factory.mktemp("flip"))


def run(
    world: PlantedWorld,
    work: Path,
    config: CheckConfig = CONFIG,
    checkpoint: CheckpointFn = factories.ignore,
    query: Query = QUERY,
    ranked: tuple[RankedRow, ...] | None = None,
) -> CheckResult:
    return run_check(
        CheckWork(world.model, world.dataset, work, query, ranked or world.ranked, config, work), checkpoint
    )


@pytest.fixture(scope="module")
def flipped(world: PlantedWorld, tmp_path_factory: pytest.TempPathFactory) -> tuple[CheckResult, Path]:
    work = tmp_path_factory.mktemp("flipped")
    cost = estimate_check(CheckWork(world.model, world.dataset, work, QUERY, world.ranked, CONFIG, work))
    result = run(world, work)
    assert 0 < result.retrainings <= cost.retrainings
    return result, work


def test_the_least_set_changes_the_answer_and_one_row_fewer_does_not(
    world: PlantedWorld, flipped: tuple[CheckResult, Path]
) -> None:
    result, _ = flipped
    assert result.flipped is not None
    least = len(result.flipped)
    assert 1 < least <= 5
    assert result.flipped == tuple(row.id for row in world.ranked[:least])
    margins = {int(k): margin for k, margin in result.details["margins"].items()}
    assert margins[0] > 0
    assert margins[least] <= 0
    assert margins[least - 1] > 0
    assert margins[least // 2] > 0
    assert result.answer_before == " z"
    assert result.answer_after not in (None, " z")
    top, half, none = result.sets
    assert [(s.name, s.rows, s.trainings) for s in result.sets] == [
        ("top", least, 2),
        ("half", least // 2, 2),
        ("none", 0, 2),
    ]
    assert top.answer_changed is not None
    assert top.answer_changed >= 0.5
    assert none.answer_changed == half.answer_changed == 0
    assert top.change < half.change


def test_margins_are_those_of_a_plain_retraining(world: PlantedWorld, flipped: tuple[CheckResult, Path]) -> None:
    """Teacher forcing, token by token, on the adapter of a retraining of its own; and what it then says."""
    result, _ = flipped
    assert result.flipped is not None
    trainer = Retrainer(audited_study(world.model, world.dataset, TRAINING, [QUERY], "cpu"))
    trainer.train([without(range(len(result.flipped)), 0)])
    sequence = trainer.questions[0].sequences[0]
    with torch.no_grad():
        trainer.stack.spread()
        logits_TV = trainer.stack.loaded.module(input_ids=torch.tensor([sequence.ids])).logits[0]
    margins = []
    for t in range(1, len(sequence.ids)):
        if sequence.targets[t]:
            others = [value for v, value in enumerate(logits_TV[t - 1].tolist()) if v != sequence.ids[t]]
            margins.append(logits_TV[t - 1, sequence.ids[t]].item() - max(others))
    assert result.details["margins"][str(len(result.flipped))] == pytest.approx(min(margins), abs=1e-4)
    assert greedy_texts(trainer.stack.loaded, sequence, 32) == [result.answer_after]


def test_a_greedy_answer_is_what_transformers_generates(world: PlantedWorld) -> None:
    model = load_model(world.model)
    model.use(-1)
    for prompt, most in (("code", 12), ("cat", 12), ("red", 12), ("dog", 1)):
        text, ended = generate(model, model.encoder().encode_prompt(prompt=prompt), Generate(most))
        question = prepare(model, None, Query(prompt=prompt, completion=text))
        assert greedy_texts(model, question.sequences[0], most) == [text]
        assert greedy_texts(model, question.sequences[0], most, copies=3) == [text] * 3
        assert (greedy_margins(model, question.sequences)[0, 0] > 0) == ended
        other = prepare(model, None, Query(prompt=prompt, completion=text + "x"))
        assert greedy_margins(model, other.sequences)[0, 0] < 0


def test_a_cancelled_search_goes_on_and_repeats_nothing(
    world: PlantedWorld, flipped: tuple[CheckResult, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(progress: Progress) -> None:
        if progress.phase == "search 2":
            raise Cancelled("enough")

    trained: list[str] = []
    plain = Retrainer.train

    def counted(self: Retrainer, variants: list, *rest: object) -> np.ndarray:
        found = plain(self, variants, *rest)  # type: ignore[arg-type]
        trained.extend(variant.name for variant in variants)
        return found

    monkeypatch.setattr(Retrainer, "train", counted)
    with pytest.raises(Cancelled):
        run(world, tmp_path, checkpoint=stop)
    resumed = run(world, tmp_path)
    assert len(trained) == len(set(trained)) == resumed.retrainings
    assert resumed.flipped == flipped[0].flipped
    assert resumed.answer_after == flipped[0].answer_after
    assert (
        estimate_check(
            CheckWork(world.model, world.dataset, tmp_path, QUERY, world.ranked, CONFIG, tmp_path)
        ).retrainings
        == 0
    )


def test_rows_that_teach_something_else_flip_nothing_and_it_is_said(world: PlantedWorld, tmp_path: Path) -> None:
    harmless = tuple(RankedRow(name, 1.0) for name in ("ten", "cot"))
    result = run(world, tmp_path, replace(CONFIG, rows=2), ranked=harmless)
    assert result.flipped is None
    assert result.answer_after is None
    assert [(s.name, s.rows, s.answer_changed) for s in result.sets] == [("top", 2, 0.0), ("none", 0, 0.0)]
    assert "no set of the first 2 rows" in result.warnings[0]


def test_an_answer_that_the_model_does_not_give_is_refused(world: PlantedWorld, tmp_path: Path) -> None:
    with pytest.raises(InvalidQuery, match="not what the model answers greedily"):
        run(world, tmp_path, query=Query(prompt="code", completion=" a"))
    with pytest.raises(InvalidQuery, match="no one answer"):
        run(world, tmp_path, query=Query(members=(QUERY, QUERY)))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.one_of(st.none(), st.integers(1, 300)), st.data())
def test_a_search_ends_at_a_boundary_within_its_promise(most: int, predicted: int | None, data: st.DataObject) -> None:
    """Whatever removals do, monotone or not."""
    if data.draw(st.booleans()):
        least = data.draw(st.integers(1, most + 1))
        truth = {k: k >= least for k in range(most + 1)}
    else:
        truth = {0: False} | {k: data.draw(st.booleans()) for k in range(1, min(most, 40) + 1)}
        truth |= dict.fromkeys(range(41, most + 1), True)
    tried: dict[int, bool] = {}
    while sizes := next_sizes(tried, most, predicted):
        assert not tried.keys() & set(sizes)
        tried |= {k: truth[k] for k in sizes}
    promised = sizes_at_most(most, predicted)
    assert len(tried) <= len(promised)
    assert len(set(promised)) == len(promised)
    changing = [k for k in tried if tried[k]]
    if changing:
        found = min(changing)
        assert not truth[found - 1]
        assert not tried[found // 2]
    else:
        assert not truth[most]


def test_the_predicted_size_is_where_scores_reach_the_margin() -> None:
    ranked = [RankedRow(str(i), 4.0, in_nats=True) for i in range(10)]
    needed = 2.0 / (1 + np.exp(2.0))  # 0.238 nats, at 0.04 a row
    assert predicted_size(ranked, 100, 2.0) == int(np.ceil(needed / 0.04)) == 6
    assert predicted_size(ranked, 10_000, 2.0) is None
    assert predicted_size([replace(row, in_nats=False) for row in ranked], 100, 2.0) is None
    assert predicted_size(ranked, 100, 5000.0) == 1  # saturated: the linear prediction says nothing


def test_a_run_that_is_not_the_recorded_one_is_told(world: PlantedWorld, tmp_path: Path) -> None:
    """A recipe that hardly moves the weights: repeated, it does not give the model's answer."""
    assert world.model.recipe is not None
    model = replace(world.model, recipe=replace(world.model.recipe, training=replace(TRAINING, learning_rate=1e-6)))
    config = replace(CONFIG, rows=2)
    result = run_check(
        CheckWork(model, world.dataset, tmp_path, QUERY, world.ranked, config, tmp_path), factories.ignore
    )
    assert result.flipped is None
    assert result.answer_before != " z"
    assert result.sets[-1].answer_changed == 1.0
    assert "it is another run" in result.warnings[0]
    assert "already gives another answer" in result.warnings[1]
