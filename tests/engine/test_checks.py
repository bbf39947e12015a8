"""Causal checks: what is refused, retrainings without the first rows, and that the served model stays as it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from scipy import stats

from engine.causal.audited import audited_seeds, audited_study
from engine.causal.check_intervals import interval_of_difference, interval_of_mean, interval_over_draws
from engine.causal.check_requirements import positions_of
from engine.causal.check_trainings import resident_bytes, without
from engine.causal.check_work import CheckWork
from engine.causal.checking import estimate_check, run_check, spelled_out
from engine.causal.checks import CheckConfig, CheckResult, RankedRow
from engine.causal.leave_out_check import lexically_nearest, random_sets
from engine.causal.retrainer import Retrainer, Study
from engine.errors import Cancelled, InvalidOption, MissingNeed
from engine.model import load_model
from engine.question import prepare
from engine.types import CheckpointFn, Generate, Progress, Query
from tests import factories
from tests.engine.planted_world import PLANTED, QUERY, TRAINING, PlantedWorld

LEAVE_OUT = CheckConfig("leave_out", rows=5, seeds=3, draws=2)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlantedWorld]:
    with patch.object(os, "cpu_count", lambda: 1):
        yield PlantedWorld.made(tmp_path_factory.mktemp("checks"))


def run(
    world: PlantedWorld,
    work: Path,
    config: CheckConfig = LEAVE_OUT,
    checkpoint: CheckpointFn = factories.ignore,
    query: Query = QUERY,
) -> CheckResult:
    return run_check(CheckWork(world.model, world.dataset, work, query, world.ranked, config, work), checkpoint)


@pytest.fixture(scope="module")
def left_out(world: PlantedWorld, tmp_path_factory: pytest.TempPathFactory) -> tuple[CheckResult, Path]:
    work = tmp_path_factory.mktemp("left-out")
    cost = estimate_check(CheckWork(world.model, world.dataset, work, QUERY, world.ranked, LEAVE_OUT, work))
    result = run(world, work)
    assert cost.retrainings == result.retrainings
    assert cost.seconds > 0
    return result, work


def test_without_the_planted_rows_the_output_falls_and_without_random_ones_it_does_not(
    left_out: tuple[CheckResult, Path],
) -> None:
    result, _ = left_out
    none, top, random, bm25 = result.sets
    assert [s.name for s in result.sets] == ["none", "top", "random", "bm25"]
    assert top.ids == PLANTED
    assert top.high is not None
    assert random.low is not None
    assert top.change < -3 < random.low
    assert top.high < -1
    assert result.details["difference"]["high"] < 0
    assert (none.rows, none.trainings, top.trainings, random.trainings) == (0, 3, 3, 6)
    assert top.after == pytest.approx(top.before + top.change)
    assert result.details["predicted"]["top"] == pytest.approx(-(10 + 9 + 8 + 7 + 6) / 14)
    assert bm25.change == top.change  # the planted rows are the only ones that share a word with the query
    assert any("the two sets are one" in warning for warning in result.warnings)


def test_its_figures_are_those_of_plain_retrainings(world: PlantedWorld, left_out: tuple[CheckResult, Path]) -> None:
    result, _ = left_out
    trainer = Retrainer(_study(world))
    top = positions_of(PLANTED, world.dataset.position_of, "")
    by_seed = []
    for seed in audited_seeds(TRAINING, 3)[:2]:
        full, gone = (trainer.train([without(rows, seed)])[0, 0] for rows in ([], top))
        by_seed.append(gone - full)
    measured = result.details["by_seed"]["top"]
    np.testing.assert_allclose(measured[:2], by_seed, rtol=0, atol=1e-4)
    interval = stats.t.interval(0.95, 2, np.mean(measured), stats.sem(measured))
    assert (result.sets[1].low, result.sets[1].high) == pytest.approx(interval)


def _study(world: PlantedWorld) -> Study:
    return audited_study(world.model, world.dataset, TRAINING, [QUERY], "cpu")


def test_what_is_finished_is_neither_done_nor_paid_again(
    world: PlantedWorld, left_out: tuple[CheckResult, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, work = left_out
    cost = estimate_check(CheckWork(world.model, world.dataset, work, QUERY, world.ranked, LEAVE_OUT, work))
    assert (cost.retrainings, cost.seconds) == (0, 0)
    monkeypatch.setattr(Retrainer, "train", _refuse)
    again = run(world, work)
    assert replace(again, seconds=0.0) == replace(result, seconds=0.0)


def _refuse(*_: object) -> None:
    raise AssertionError("trained again")


def test_a_cancelled_check_goes_on_to_the_same_result(
    world: PlantedWorld, left_out: tuple[CheckResult, Path], tmp_path: Path
) -> None:
    config = replace(LEAVE_OUT, draws=1)
    reports: list[Progress] = []

    def stop(progress: Progress) -> None:
        if progress.done > 0.4 * progress.total:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        run(world, tmp_path / "again", config, stop)
    kept = len(list((tmp_path / "again").rglob("runs/*.json")))
    resumed = run(world, tmp_path / "again", config, reports.append)
    steps = len(_study(world).steps_of(0))
    assert reports[0].done > kept * steps
    assert (reports[-1].done, reports[-1].total) == (9 * steps, 9 * steps)
    for found, whole in zip(resumed.sets[:2], left_out[0].sets[:2], strict=True):
        assert (found.change, found.low, found.high) == pytest.approx((whole.change, whole.low, whole.high), abs=1e-3)
    assert any("one random set alone" in warning for warning in resumed.warnings)


def test_the_served_model_is_never_touched(world: PlantedWorld, left_out: tuple[CheckResult, Path]) -> None:
    served = load_model(world.model)
    before = {name: parameter.clone() for name, parameter in served.module.named_parameters()}
    files = {file: file.stat().st_mtime_ns for file in (world.root / "run").rglob("*") if file.is_file()}
    run(world, left_out[1])
    run(world, left_out[1], CheckConfig("tail_patch", rows=2, draws=1))
    assert all(torch.equal(parameter, before[name]) for name, parameter in served.module.named_parameters())
    assert files == {file: file.stat().st_mtime_ns for file in (world.root / "run").rglob("*") if file.is_file()}


def test_what_cannot_be_checked_is_refused_before_any_work(world: PlantedWorld, tmp_path: Path) -> None:
    def refused(pointer: str, config: CheckConfig, ranked: tuple[RankedRow, ...] = world.ranked) -> None:
        with pytest.raises(InvalidOption) as raised:
            run_check(
                CheckWork(world.model, world.dataset, tmp_path, QUERY, ranked, config, tmp_path), factories.ignore
            )
        assert raised.value.pointer == pointer

    refused("/kind", CheckConfig("guess"))  # type: ignore[arg-type]
    refused("/rows", CheckConfig("flip", rows=0))
    refused("/rows", CheckConfig("flip", rows=9))
    refused("/seeds", replace(LEAVE_OUT, seeds=2))
    refused("/draws", CheckConfig("tail_patch", rows=2, draws=0))
    refused("/learning_rate", CheckConfig("tail_patch", rows=2, learning_rate=-1.0))
    refused("/ids/1", CheckConfig("unlearn", ids=("cat", "nobody")))
    refused("/ids/1", CheckConfig("unlearn", ids=("cat", "cat")))
    refused("/ids", CheckConfig("flip", rows=2, ids=("cat",)))
    refused("/ids", CheckConfig("unlearn", ids=tuple(example.id for example in world.dataset)))
    refused("/how", CheckConfig("unlearn", rows=2, how="magic"))  # type: ignore[arg-type]
    refused("/ranked/0", CheckConfig("replay", rows=1), (RankedRow("nobody", 1.0),))
    unknown = replace(world.model, recipe=None)
    with pytest.raises(MissingNeed, match="recipe is not known") as raised:
        run_check(
            CheckWork(unknown, world.dataset, tmp_path, QUERY, world.ranked, LEAVE_OUT, tmp_path), factories.ignore
        )
    assert "whence train" in (raised.value.remedy or "")
    assert not list(tmp_path.iterdir())


def test_what_is_generated_is_spelled_out_as_it_would_be_measured(world: PlantedWorld) -> None:
    model = load_model(world.model)
    for most in (8, 1):
        asked = Query(prompt="code", generate=Generate(most))
        wanted, found = prepare(model, None, asked), prepare(model, None, spelled_out(world.model, asked))
        assert found.completion == wanted.completion == (" z" if most > 1 else " ")
        targets = [sum(question.sequences[0].targets) for question in (wanted, found)]
        assert targets == [3, 3] if most > 1 else [1, 1]
    members = Query(members=(QUERY, Query(prompt="cat", generate=Generate(8))))
    assert [member.completion for member in spelled_out(world.model, members).members] == [" z", " a"]
    assert spelled_out(world.model, QUERY) is QUERY


def test_sets_are_drawn_from_the_other_rows_and_bm25_reads_the_query(world: PlantedWorld) -> None:
    sets = random_sets(10, [0, 1, 2], 4, seed=1)
    assert sets == random_sets(10, [0, 1, 2], 4, seed=1)
    assert all(len(set(rows) - {0, 1, 2}) == 3 for rows in sets)
    assert all(len(set(rows)) == 6 for rows in random_sets(8, range(6), 3, seed=1))
    positions, matching = lexically_nearest(world.dataset, "dog", 2)
    assert world.dataset[positions[0]].id == "dog"
    assert matching == 1


def test_intervals_are_students_and_count_draws() -> None:
    generator = np.random.default_rng(0)
    sample = generator.normal(size=5)
    expected = stats.t.interval(0.95, 4, sample.mean(), stats.sem(sample))
    assert interval_of_mean(sample) == pytest.approx(expected)
    assert interval_of_mean(sample[:1]) == (None, None)
    assert interval_over_draws(sample[:, None]) == pytest.approx(expected)
    assert interval_over_draws(sample[None]) == pytest.approx(expected)
    other = generator.normal(size=5)
    value, low, high = interval_of_difference(sample, other[:, None])
    paired = stats.ttest_rel(sample, other).confidence_interval(0.95)
    assert (value, low, high) == pytest.approx((sample.mean() - other.mean(), paired.low, paired.high))
    misses = 0
    for _ in range(400):
        seeds, draws = generator.normal(size=3), generator.normal(size=3)
        low, high = interval_over_draws(seeds[:, None] + draws + 0.3 * generator.normal(size=(3, 3)))
        assert low is not None
        assert high is not None
        misses += not low <= 0 <= high
    assert misses < 0.08 * 400


def test_memory_is_told_from_the_files_headers(world: PlantedWorld) -> None:
    module = load_model(replace(world.model, checkpoints=(), adapter=None)).module
    counted = sum(parameter.numel() for parameter in module.parameters())
    assert resident_bytes(world.root / "base", "float64") == 8 * counted


def test_a_repetition_reads_rows_by_the_models_own_chat_template(world: PlantedWorld, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    chats = factories.dataset(tmp_path, [{"id": "a", "messages": turns}])
    template = "{% for m in messages %}({{ m['role'] }}){{ m['content'] }}{% if m['role'] == 'assistant' %};{% endif %}"
    template += "{% endfor %}{% if add_generation_prompt %}(assistant){% endif %}"
    config = replace(world.model, chat_template=template, recipe=None)
    trainer = Retrainer(audited_study(config, chats, TRAINING, [], "cpu"))
    expected = load_model(config).encoder().encode(chats[0])
    assert trainer.rows == [expected]
    plain = Retrainer(audited_study(replace(config, chat_template=None), chats, TRAINING, [], "cpu"))
    assert plain.rows[0].ids != expected.ids
