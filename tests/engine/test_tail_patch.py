"""One more optimizer step on each row: equal to torch's AdamW on a plain PEFT model, alone or in a stack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from engine.causal.check_work import CheckWork
from engine.causal.checks import CheckConfig, CheckResult, RankedRow
from engine.causal.tail_patch import Patches, estimate_tail_patch, matched_rows, run_tail_patch
from engine.config import Lora
from engine.errors import Cancelled, MissingNeed, UnsupportedModel
from engine.types import Progress, Query
from tests import factories, oracles
from tests.engine.adam_world import QUERY, TRAINING, AdamWorld, lora_world

RANKED = tuple(RankedRow(f"ex-{i}", 10.0 - i) for i in (4, 1, 7, 2))
CONFIG = CheckConfig("tail_patch", rows=3, draws=2)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> AdamWorld:
    return lora_world(tmp_path_factory.mktemp("tail-patch"))


@pytest.fixture(scope="module")
def gpt2_world(tmp_path_factory: pytest.TempPathFactory) -> AdamWorld:
    """Float64 throughout: Transformers' Llama computes its norms in float32."""
    return lora_world(tmp_path_factory.mktemp("tail-patch-gpt2"), factories.gpt2(hidden=8, layers=1))


def _query(world: AdamWorld) -> Query:
    return Query(prompt=world.dataset[QUERY].prompt, completion=world.dataset[QUERY].completion)


def _run(world: AdamWorld, work: Path, checkpoint: Any = factories.ignore, **changes: Any) -> CheckResult:
    config = replace(CONFIG, **changes)
    return run_tail_patch(CheckWork(world.config, world.dataset, work, _query(world), RANKED, config, work), checkpoint)


def _plain_step(world: AdamWorld, row: int, rate: float) -> float:
    """The change of f after torch's own clipping and AdamW on the adapter's parameters, one by one."""
    model, training = world.model, TRAINING
    model.use(-1)
    saved = world.state_file(-1)
    before = oracles.log_prob(model, world.rows[QUERY]).item()
    parameters = {n: p for n, p in model.module.named_parameters() if "lora_" in n}
    kept = {name: p.detach().clone() for name, p in parameters.items()}
    for p in parameters.values():
        p.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=rate, betas=training.betas, eps=training.epsilon, weight_decay=training.weight_decay
    )
    for name, p in parameters.items():
        key = name.replace(".default", "")
        moments = {kind: saved[f"{kind}.{key}"].double().clone() for kind in ("exp_avg", "exp_avg_sq")}
        optimizer.state[p] = {"step": saved["step"].clone(), **moments}
    (-oracles.log_prob(model, world.rows[row]) / world.rows[row].target_count).backward()
    assert training.max_grad_norm is not None
    nn.utils.clip_grad_norm_(parameters.values(), training.max_grad_norm)
    optimizer.step()
    after = oracles.log_prob(model, world.rows[QUERY]).item()
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(kept[name]).requires_grad_(False)
            p.grad = None
    return after - before


def test_the_step_is_torchs_adamw_on_a_plain_peft_model(world: AdamWorld, tmp_path: Path) -> None:
    result = _run(world, tmp_path)
    assert [effect.id for effect in result.effects] == ["ex-4", "ex-1", "ex-7"]
    expected = [_plain_step(world, row, TRAINING.learning_rate) for row in (4, 1, 7)]
    np.testing.assert_allclose([effect.measured for effect in result.effects], expected, rtol=0, atol=1e-6)
    assert max(map(abs, expected)) > 1e-3
    top, random = result.sets
    assert (top.name, random.name, top.trainings, random.trainings) == ("top", "random", 3, 6)
    assert top.change == pytest.approx(np.mean(expected), abs=1e-6)
    assert top.after == pytest.approx(top.before + top.change)
    assert result.details["learning_rate"] == TRAINING.learning_rate
    assert result.effects[0].measured == max(effect.measured for effect in result.effects)  # the query's own row


def test_in_float64_throughout_it_is_torchs_step_to_rounding(gpt2_world: AdamWorld, tmp_path: Path) -> None:
    result = _run(gpt2_world, tmp_path, learning_rate=0.003)
    expected = [_plain_step(gpt2_world, row, 0.003) for row in (4, 1, 7)]
    np.testing.assert_allclose([effect.measured for effect in result.effects], expected, rtol=0, atol=1e-8)
    assert result.details["learning_rate"] == 0.003
    assert max(map(abs, expected)) > 1e-4


def test_a_step_in_a_stack_equals_the_same_alone(world: AdamWorld) -> None:
    work = CheckWork(world.config, world.dataset, Path(), _query(world), RANKED, CONFIG, Path())
    patches = Patches.of(work)
    together_K = patches.changes(list(range(10)))
    alone_K = np.array([patches.changes([position])[0] for position in range(10)])
    np.testing.assert_allclose(together_K, alone_K, rtol=0, atol=1e-8)
    assert np.abs(together_K).min() > 0


def test_a_cancelled_check_goes_on_and_does_nothing_twice(
    world: AdamWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.causal.tail_patch.WIDTH", 2)
    whole = _run(world, tmp_path / "whole")
    stepped: list[int] = []
    plain = Patches.changes

    def counted(self: Patches, positions: list[int]) -> np.ndarray:
        stepped.extend(positions)
        return plain(self, positions)

    def stop(progress: Progress) -> None:
        if progress.done == 4:
            raise Cancelled("enough")

    monkeypatch.setattr(Patches, "changes", counted)
    with pytest.raises(Cancelled):
        _run(world, tmp_path / "again", stop)
    resumed = _run(world, tmp_path / "again")
    assert replace(resumed, seconds=0.0) == replace(whole, seconds=0.0)
    assert len(stepped) == len(set(stepped)) == 9
    cost = estimate_tail_patch(
        CheckWork(world.config, world.dataset, tmp_path, _query(world), RANKED, CONFIG, tmp_path / "again")
    )
    assert (cost.retrainings, cost.seconds) == (0, 0.0)
    assert cost.memory_bytes > 0


def test_random_rows_are_as_long_as_the_hits_and_none_of_them() -> None:
    targets = [1, 2, 3, 4, 5, 6, 7, 8] * 10
    found, again = matched_rows(targets, [0, 7], [0, 7, 8], 2, seed=0)
    assert not again
    assert [len(beside) for beside in found] == [2, 2]
    chosen = [position for beside in found for position in beside]
    assert len(set(chosen)) == 4
    assert not {0, 7, 8} & set(chosen)
    assert all(targets[p] == 1 for p in found[0])
    assert all(targets[p] == 8 for p in found[1])
    assert matched_rows(targets, [0, 7], [0, 7, 8], 2, seed=0)[0] == found
    few, again = matched_rows([1, 2, 3], [0, 1], [0, 1, 2], 2, seed=0)
    assert again
    assert not set(few[0]) & {0}


def test_what_the_step_needs_is_named(world: AdamWorld, tmp_path: Path) -> None:
    other = replace(TRAINING, lora=Lora(2, 9))
    recipe = replace(world.model.recipe, training=other)
    with pytest.raises(UnsupportedModel, match="not the recipe's LoRA"):
        _run_with(world, replace(world.config, recipe=recipe), tmp_path)
    bare = factories.save_adapter(tmp_path / "bare", factories.llama(hidden=8, layers=1), 1, r=2, lora_alpha=4)
    with pytest.raises(MissingNeed, match=r"optimizer\.safetensors"):
        _run_with(world, replace(world.config, checkpoints=(str(bare),)), tmp_path)


def _run_with(world: AdamWorld, config: Any, work: Path) -> CheckResult:
    return run_tail_patch(CheckWork(config, world.dataset, work, _query(world), RANKED, CONFIG, work), factories.ignore)
