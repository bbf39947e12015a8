"""An adapter without the chosen rows' effect: by retraining, and by one influence step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine.answer import score_query
from engine.build import build_index
from engine.causal.audited import audited_study
from engine.causal.check_trainings import without
from engine.causal.check_work import CheckWork
from engine.causal.checking import estimate_check, run_check
from engine.causal.checks import CheckConfig, CheckResult
from engine.causal.influence_step import influence_step
from engine.causal.recipe import load_recipe
from engine.causal.retrainer import Retrainer
from engine.config import IndexConfig, IndexOptions
from engine.errors import Cancelled, InvalidOption, MissingNeed
from engine.model import load_model
from engine.moments import read_moments
from engine.question import prepare
from engine.types import CheckpointFn, Progress, Query
from tests import factories, oracles
from tests.engine.planted_world import PLANTED, QUERY, TRAINING, PlantedWorld
from tests.engine.tuned_world import TunedWorld

CONFIG = CheckConfig("unlearn", rows=5)
GONE = [0, 1, 2, 3, 4]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlantedWorld]:
    with patch.object(os, "cpu_count", lambda: 1):
        yield PlantedWorld.made(tmp_path_factory.mktemp("unlearn"))


def run(
    world: PlantedWorld, work: Path, config: CheckConfig = CONFIG, checkpoint: CheckpointFn = factories.ignore
) -> CheckResult:
    return run_check(
        CheckWork(world.model, world.dataset, work / "index", QUERY, world.ranked, config, work), checkpoint
    )


@pytest.fixture(scope="module")
def unlearned(world: PlantedWorld, tmp_path_factory: pytest.TempPathFactory) -> CheckResult:
    work = tmp_path_factory.mktemp("unlearned")
    cost = estimate_check(CheckWork(world.model, world.dataset, work, QUERY, world.ranked, CONFIG, work))
    result = run(world, work)
    assert cost.retrainings == result.retrainings == 1
    assert cost.seconds > 0
    again = estimate_check(CheckWork(world.model, world.dataset, work, QUERY, world.ranked, CONFIG, work))
    assert (again.retrainings, again.seconds) == (0, 0)
    assert replace(run(world, work), seconds=0.0) == replace(result, seconds=0.0)
    return result


def test_a_retraining_without_the_planted_rows_no_longer_gives_their_answer(unlearned: CheckResult) -> None:
    (top,) = unlearned.sets
    assert top.ids == PLANTED
    assert unlearned.answer_before == " z"
    assert unlearned.answer_after != " z"
    assert top.answer_changed == 1.0
    assert top.change < -3
    assert unlearned.details["predicted"]["top"] == pytest.approx(-(10 + 9 + 8 + 7 + 6) / 14)


def test_the_adapter_is_that_of_weight_zero_and_is_measured_as_it_is_saved(
    world: PlantedWorld, unlearned: CheckResult
) -> None:
    assert unlearned.adapter is not None
    trainer = Retrainer(audited_study(world.model, world.dataset, TRAINING, [QUERY], "cpu"))
    value = trainer.train([without(GONE, 0)])[0, 0]
    assert unlearned.sets[0].after == pytest.approx(value, abs=1e-5)
    saved = trainer.stack.named(trainer.stack.theta_KP[0])
    for name, tensor in load_file(unlearned.adapter / "adapter_model.safetensors").items():
        torch.testing.assert_close(tensor, saved[name], rtol=0, atol=1e-6)
    model = load_model(replace(world.model, adapter=str(unlearned.adapter), checkpoints=()))
    model.use(-1)
    order = np.random.default_rng((0, 14)).permutation(14)
    chosen = [int(p) for p in order if p not in GONE][::2]
    assert unlearned.details["held_out_rows"] == len(chosen) == 5
    stay = [model.encoder().encode(world.dataset[p]) for p in chosen]
    loss = -sum(oracles.log_prob(model, row).item() for row in stay) / sum(row.target_count for row in stay)
    assert unlearned.held_out is not None
    assert unlearned.held_out["after"] == pytest.approx(loss, abs=1e-6)
    assert unlearned.held_out["before"] < 1.5 * loss + 0.5
    assert read_moments(model, model.states[-1], model.tracked(None)).step == len(world.model.recipe.steps)  # type: ignore[union-attr]


def test_a_repetition_of_the_new_version_leaves_the_rows_out_too(world: PlantedWorld, unlearned: CheckResult) -> None:
    assert unlearned.adapter is not None
    recipe = load_recipe(unlearned.adapter / "recipe.json")
    assert recipe.details["removed"] == GONE
    version = replace(world.model, adapter=str(unlearned.adapter), checkpoints=(), recipe=recipe)
    trainer = Retrainer(audited_study(version, world.dataset, TRAINING, [QUERY], "cpu"))
    assert trainer.train([without([], 0)])[0, 0] == pytest.approx(unlearned.sets[0].after, abs=1e-5)
    with pytest.raises(InvalidOption, match="no positions"):
        audited_study(
            replace(version, recipe=replace(recipe, details={"removed": [14]})), world.dataset, TRAINING, [], "cpu"
        )


def test_a_cancelled_retraining_goes_on_at_its_last_epoch(
    world: PlantedWorld, unlearned: CheckResult, tmp_path: Path
) -> None:
    steps = len(world.model.recipe.steps) // TRAINING.epochs  # type: ignore[union-attr, arg-type]
    seen: list[int] = []

    def stop(progress: Progress) -> None:
        if progress.done > 5 * steps:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        run(world, tmp_path, checkpoint=stop)
    result = run(world, tmp_path, checkpoint=lambda p: seen.append(p.done) if p.phase == "retrain" else None)
    assert seen[0] == 5 * steps + 1
    assert result.adapter is not None
    assert unlearned.adapter is not None
    for name in ("adapter_model.safetensors", "optimizer.safetensors"):
        assert (result.adapter / name).read_bytes() == (unlearned.adapter / name).read_bytes()
    with pytest.raises(InvalidOption, match="another unlearning"):
        run(world, tmp_path, replace(CONFIG, ids=("cat",)))


# --- one influence step ---


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> TunedWorld:
    return TunedWorld(tmp_path_factory.mktemp("influence"))


def _step(tuned: TunedWorld, method: str, query: Query, **own: Any) -> tuple[float, float, dict[str, torch.Tensor]]:
    """(⟨∇f, θ' − θ⟩ by autograd, −Σ score/N of rows 1, 4 and 6 by the index, the new weights)."""
    index = tuned.index(method, "final", IndexOptions(dtype="float32", allow_partial=True), **own)
    scores_N = score_query(index, query).astype(np.float64)
    model = load_model(tuned.model.config)
    found = influence_step(model, tuned.dataset, index.store.path, [1, 4, 6], factories.ignore)
    model.use(-1)
    parameters = {n: p for n, p in model.module.named_parameters() if n in found.tensors}
    model.module.requires_grad_(True)
    f = oracles.log_prob(model, prepare(model, None, query).sequences[0])
    gradients = torch.autograd.grad(f, list(parameters.values()))
    linear = sum(
        float((gradient * (found.tensors[name] - parameters[name].detach())).sum())
        for name, gradient in zip(parameters, gradients, strict=True)
    )
    assert found.norm > 0
    return linear, -float(scores_N[[1, 4, 6]].sum()) / len(tuned.dataset), found.tensors


INVERSE = {"exponent": 1.0, "ensemble_power": 0.0}


@pytest.mark.parametrize("method", ["ekfac", "kfac", "datainf", "fisher"])
def test_the_steps_linear_effect_is_what_the_index_predicts(tuned: TunedWorld, method: str) -> None:
    linear, predicted, _ = _step(tuned, method, tuned.query(2), **(INVERSE if "kfac" in method else {}))
    assert abs(predicted) > 1e-6
    assert linear == pytest.approx(predicted, rel=2e-3)


def test_a_sketched_index_of_another_exponent_takes_the_same_step(tuned: TunedWorld) -> None:
    _, _, expected = _step(tuned, "ekfac", tuned.query(2), **INVERSE)
    index = tuned.index("ekfac", "final", IndexOptions(dtype="float16", allow_partial=True, projection_dim=2))
    found = influence_step(load_model(tuned.model.config), tuned.dataset, index.store.path, [1, 4, 6], factories.ignore)
    for name, tensor in found.tensors.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-7)


def test_an_influence_check_takes_as_much_of_the_step_as_the_other_rows_bear(
    world: PlantedWorld, tmp_path: Path
) -> None:
    model, index = load_model(world.model), tmp_path / "index"
    build_index(model, world.dataset, IndexConfig("ekfac", "final"), index, factories.ignore)
    config = replace(CONFIG, how="influence")
    arguments = (world.model, world.dataset, index, QUERY, world.ranked, config, tmp_path / "work")
    cost = estimate_check(CheckWork(*arguments))
    assert cost.retrainings == 0
    assert cost.seconds > 0
    result = run_check(CheckWork(*arguments), factories.ignore)
    assert result.adapter is not None
    assert result.retrainings == 0
    scale = result.details["scale"]
    assert 0 < scale < 0.5
    whole = influence_step(model, world.dataset, index, GONE, factories.ignore)
    saved = load_model(replace(world.model, adapter=str(result.adapter), checkpoints=()))
    for name, before in model.states[-1].tensors.items():
        moved = before + scale * (whole.tensors[name] - before)
        torch.testing.assert_close(saved.states[-1].tensors[name], moved, rtol=0, atol=1e-9)
    saved.use(-1)
    value = oracles.log_prob(saved, prepare(saved, None, QUERY).sequences[0]).item()
    assert result.sets[0].after == pytest.approx(value, abs=1e-6)
    assert result.sets[0].change < -3
    assert result.answer_after != result.answer_before == " z"
    assert result.held_out is not None
    assert result.held_out["after"] < 1.05 * result.held_out["before"]
    assert result.details["approximation"] is True
    assert "approximation" in result.warnings[0]
    assert f"{scale:g} of it" in result.warnings[1]
    recipe = load_recipe(result.adapter / "recipe.json")
    assert recipe.details["unlearned"] == sorted(PLANTED)
    assert recipe.training is None
    assert replace(run_check(CheckWork(*arguments), factories.ignore), seconds=0.0) == replace(result, seconds=0.0)
    assert estimate_check(CheckWork(*arguments)).seconds == 0


def test_an_index_without_such_a_step_is_refused(tuned: TunedWorld, tmp_path: Path) -> None:
    config = CheckConfig("unlearn", ids=("ex-1",), how="influence")

    def refused(match: str, method: str, checkpoints: Any, **options: Any) -> None:
        index = tuned.index(method, checkpoints, IndexOptions(dtype="float32", allow_partial=True, **options))
        query, work = tuned.query(2), tmp_path / f"{method} {checkpoints}"
        with pytest.raises(MissingNeed, match=match):
            run_check(
                CheckWork(tuned.model.config, tuned.dataset, index.store.path, query, [], config, work),
                factories.ignore,
            )

    refused("in no unit", "graddot", "final")
    refused("in no unit", "bm25", "final")
    refused("sketched", "fisher", "final", projection_dim=2)
    refused("not among the index's checkpoints", "ekfac", ("epoch-1",))
