"""Adapters trained side by side against a PEFT model trained alone, the plain way."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from engine.causal.loop import TrainingLoop, log_probs
from engine.causal.stack import AdapterStack
from engine.causal.steps import Steps, learning_rate, make_steps
from engine.config import DType, Lora, ModelConfig, Recipe, Training
from engine.encoded import Encoded
from engine.model import load_model
from engine.types import Example
from tests import factories

ROWS = [Example(row["id"], row["prompt"], row["completion"]) for row in factories.sentences(12, longest=4)]
TRAINING = Training(epochs=50, batch_size=3, learning_rate=0.02, max_grad_norm=0.5, weight_decay=0.01, lora=Lora(2, 4))
REMOVED = ((), (1, 5), (0, 2, 3, 7, 8, 11), tuple(range(12)))


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return factories.save_base(tmp_path_factory.mktemp("stack") / "base", getattr(factories, request.param)())


def _train_stack(
    base: Path, training: Training, seeds: list[int], removed: list[tuple[int, ...]], dtype: DType
) -> tuple[AdapterStack, list[Encoded]]:
    model = load_model(ModelConfig(str(base), recipe=Recipe(), dtype=dtype))
    rows = [model.encoder().encode(row) for row in ROWS]
    assert training.lora is not None
    stack = AdapterStack(model, training.lora, len(seeds))
    stack.start(seeds)
    weights_KN = np.ones((len(seeds), len(rows)))
    for k, gone in enumerate(removed):
        weights_KN[k, list(gone)] = 0.0
    steps = [make_steps(len(rows), replace(training, seed=seed)) for seed in seeds]
    loop = TrainingLoop(stack, rows, training, steps, weights_KN)
    for number in range(loop.total):
        loop.step(number)
    return stack, rows


def _train_plainly(base: Path, training: Training, start: dict, rows: list[Encoded], gone: set[int], steps: Steps):
    """One PEFT model, one row at a time, torch's own clipping and AdamW; a removed row's loss times zero."""
    model = load_model(ModelConfig(str(base), recipe=Recipe(), dtype="float64"))
    peft = get_peft_model(model.module, LoraConfig(r=2, lora_alpha=4, target_modules="all-linear"))
    parameters = {name.replace(".default", ""): p for name, p in peft.named_parameters() if p.requires_grad}
    for name, parameter in parameters.items():
        parameter.data = start[name].clone()
    optimizer = torch.optim.AdamW(
        parameters.values(), betas=training.betas, eps=training.epsilon, weight_decay=training.weight_decay
    )
    clipped = 0
    for number, step in enumerate(steps):
        optimizer.param_groups[0]["lr"] = learning_rate(number, len(steps), training)
        optimizer.zero_grad()
        tokens = sum(rows[position].target_count for position in step)
        for position in step:
            ids, targets = torch.tensor([rows[position].ids]), torch.tensor(rows[position].targets)
            log_p = peft(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            (-log_p[targets[1:]].sum() / tokens * (position not in gone)).backward()
        clipped += bool(nn.utils.clip_grad_norm_(parameters.values(), training.max_grad_norm) > training.max_grad_norm)
        optimizer.step()
    return {name: parameter.detach() for name, parameter in parameters.items()}, clipped


def test_a_retrain_in_a_stack_equals_a_plain_one_after_200_steps(base: Path) -> None:
    seeds, removed = [3, 3, 4, 5], list(REMOVED)
    stack, rows = _train_stack(base, TRAINING, seeds, removed, "float64")
    fresh = AdapterStack(load_model(ModelConfig(str(base), recipe=Recipe(), dtype="float64")), Lora(2, 4), 4)
    fresh.start(seeds)
    for k in (1, 2):
        steps = make_steps(len(rows), replace(TRAINING, seed=seeds[k]))
        assert len(steps) == 200
        plain, clipped = _train_plainly(base, TRAINING, fresh.named(fresh.theta_KP[k]), rows, set(removed[k]), steps)
        assert clipped > 10
        for name, tensor in stack.named(stack.theta_KP[k]).items():
            torch.testing.assert_close(tensor, plain[name], rtol=0, atol=_rounding(stack))


def _rounding(stack: AdapterStack) -> float:
    """Transformers' Llama computes its norms in float32 even in a float64 model; GPT-2 does not."""
    return 1e-6 if "Llama" in stack.loaded.module.config.architectures[0] else 1e-8


def test_a_retrain_in_a_stack_equals_the_same_alone(base: Path) -> None:
    """float64: 1e-8. float32: far closer than two seeds are to each other."""
    for dtype in ("float64", "float32"):
        together, rows = _train_stack(base, TRAINING, [3, 3, 4, 5], list(REMOVED), dtype)
        alone, _ = _train_stack(base, TRAINING, [4], [REMOVED[2]], dtype)
        difference = (together.theta_KP[2] - alone.theta_KP[0]).abs().max().item()
        if dtype == "float64":
            assert difference < 1e-8
            continue
        outcome_KS, alone_KS = log_probs(together, rows), log_probs(alone, rows)
        other_seed, _ = _train_stack(base, TRAINING, [6], [REMOVED[2]], dtype)
        between_seeds = np.abs(log_probs(other_seed, rows)[0] - outcome_KS[2]).mean()
        assert np.abs(alone_KS[0] - outcome_KS[2]).mean() < 0.1 * between_seeds


def test_without_any_row_only_the_start_decays(base: Path) -> None:
    """Weight zero for all: Adam takes its steps with zero gradients, so only the weight decay moves A; B stays 0."""
    stack, _ = _train_stack(base, TRAINING, [3, 3, 4, 5], list(REMOVED), "float64")
    start = AdapterStack(load_model(ModelConfig(str(base), recipe=Recipe(), dtype="float64")), Lora(2, 4), 4)
    start.start([3, 3, 4, 5])
    shrunk = math.prod(1 - learning_rate(n, 200, TRAINING) * TRAINING.weight_decay for n in range(200))
    torch.testing.assert_close(stack.theta_KP[3], start.theta_KP[3] * shrunk, rtol=1e-9, atol=1e-12)


def test_log_probs_are_the_sums_over_the_targets(base: Path) -> None:
    stack, rows = _train_stack(base, replace(TRAINING, epochs=1), [3, 4], [(), ()], "float64")
    together_KS = log_probs(stack, rows)
    stack.spread()
    for s, row in enumerate(rows):
        ids = torch.tensor([row.ids, row.ids])
        log_p_KT = stack.loaded.module(input_ids=ids).logits[:, :-1].log_softmax(-1)
        picked_KT = log_p_KT.gather(2, ids[:, 1:, None])[:, :, 0]
        expected_K = picked_KT[:, torch.tensor(row.targets[1:])].sum(1)
        torch.testing.assert_close(torch.from_numpy(together_KS[:, s]), expected_K.detach(), rtol=1e-9, atol=1e-10)
    assert np.abs(together_KS[0] - together_KS[1]).max() > 1e-6
