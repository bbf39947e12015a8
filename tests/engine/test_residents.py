"""Loaded models within a budget of memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.config import ModelConfig
from engine.residents import Residents, model_bytes
from tests import factories


@pytest.fixture
def configs(tmp_path: Path) -> list[ModelConfig]:
    """Three fine-tunes of one base: three models as far as loading goes."""
    base = factories.llama(hidden=8, layers=1)
    factories.save_base(tmp_path / "base", base)
    adapters = [factories.save_adapter(tmp_path / f"adapter-{n}", base, n, r=2) for n in range(3)]
    return [ModelConfig(str(tmp_path / "base"), adapter=str(adapter)) for adapter in adapters]


def test_a_models_bytes_are_those_of_its_tensors_each_once(configs: list[ModelConfig]) -> None:
    model = Residents("cpu").model(configs[0])
    weights = sum(p.numel() * 4 for p in {id(p): p for p in model.module.parameters()}.values())
    states = sum(t.numel() * 4 for state in model.states for t in state.tensors.values())
    buffers = sum(b.numel() * b.element_size() for b in model.module.buffers())
    assert weights <= model_bytes(model) <= weights + states + buffers


def test_the_one_used_longest_ago_goes_first(configs: list[ModelConfig]) -> None:
    one = model_bytes(Residents("cpu").model(configs[0]))
    residents = Residents("cpu", budget=int(2.5 * one))
    first, second = residents.model(configs[0]), residents.model(configs[1])
    assert residents.model(configs[0]) is first and residents.models == [second, first]
    third = residents.model(configs[2])
    assert residents.models == [first, third] and residents.taken <= residents.budget
    assert residents.model(configs[0]) is first
    assert residents.model(configs[1]) is not second


@pytest.mark.parametrize("budget", [1, None])
def test_the_one_at_hand_always_stays(configs: list[ModelConfig], budget: int | None) -> None:
    residents = Residents("cpu", budget)
    for config in configs:
        assert residents.model(config) in residents.models
    assert len(residents.models) == (1 if budget else 3)


def test_what_grows_when_loaded_makes_room_too(configs: list[ModelConfig]) -> None:
    """As float64 a model takes twice what lies on disk."""
    one = model_bytes(Residents("cpu").model(configs[0]))
    residents = Residents("cpu", budget=int(2.5 * one))
    residents.model(configs[0])
    wide = residents.model(replace(configs[1], dtype="float64"))
    assert wide.dtype == torch.float64 and residents.models == [wide]
