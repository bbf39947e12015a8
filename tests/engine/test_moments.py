"""Adam's state beside a checkpoint: read in the gradients' layout, and every way it can be missing or wrong named.

Shapes: I/O a module's input/output width.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.config import ModelConfig, Recipe
from engine.errors import FingerprintMismatch, MissingNeed
from engine.model import load_model
from engine.moments import read_moments, saved_name, saved_step
from engine.opened import OpenIndex
from tests.engine.adam_world import EPOCHS, TRAINING, AdamWorld, gpt2_world, lora_world

FILE = "optimizer.safetensors"


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> AdamWorld:
    return lora_world(tmp_path_factory.mktemp("moments-lora"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> AdamWorld:
    return gpt2_world(tmp_path_factory.mktemp("moments-gpt2"))


def copied(world: AdamWorld, root: Path, **changes: object) -> ModelConfig:
    """The LoRA run's checkpoints somewhere else, where a test may damage them."""
    shutil.copytree(world.root / "run", root / "run")
    epochs = tuple(str(root / f"run/epoch-{epoch + 1}") for epoch in range(EPOCHS))
    return replace(world.config, checkpoints=epochs, **changes)  # type: ignore[arg-type]


def test_every_epochs_state_is_read(lora: AdamWorld) -> None:
    for number, state in enumerate(lora.model.states):
        moments, saved = read_moments(lora.model, state, lora.tracked), lora.state_file(number)
        assert moments.step == int(saved["step"]) == 3 * (number + 1)
        assert (moments.betas, moments.epsilon) == (TRAINING.betas, TRAINING.epsilon)
        assert len(saved) == 1 + 2 * len(lora.tracked)
        for module in lora.tracked:
            name = saved_name(module)
            assert torch.equal(moments.first[module.name], saved[f"exp_avg.{name}.weight"])
            assert torch.equal(moments.second[module.name], saved[f"exp_avg_sq.{name}.weight"])
            assert moments.first[module.name].shape == (module.outputs, module.inputs)


def test_conv1d_is_turned_and_its_bias_is_the_last_column(gpt2: AdamWorld) -> None:
    moments, saved = read_moments(gpt2.model, gpt2.model.states[0], gpt2.tracked), gpt2.state_file(0)
    square = next(m for m in gpt2.tracked if m.name.endswith("attn.c_proj"))
    assert square.kind == "conv1d" and square.inputs - 1 == square.outputs
    for module in gpt2.tracked:
        found_OI = moments.second[module.name]
        for o in range(module.outputs):
            for i in range(module.inputs - 1):
                assert found_OI[o, i] == saved[f"exp_avg_sq.{module.path}.weight"][i, o]
            assert found_OI[o, -1] == saved[f"exp_avg_sq.{module.path}.bias"][o]


def test_an_adapter_that_is_a_bare_copy_of_a_checkpoint_has_its_state(lora: AdamWorld, tmp_path: Path) -> None:
    """The copy is the last mention of this content, so that the state's directory is the copy's."""
    shutil.copytree(lora.model.states[-1].path, tmp_path / "final", ignore=shutil.ignore_patterns(FILE))
    model = load_model(replace(lora.config, adapter=str(tmp_path / "final")))
    assert model.states[-1].path == tmp_path / "final"
    assert read_moments(model, model.states[-1], lora.tracked).step == 3 * EPOCHS
    assert saved_step(model, model.states[-1]) == 3 * EPOCHS


def test_a_missing_file_names_checkpoint_file_need_and_remedy(lora: AdamWorld, tmp_path: Path) -> None:
    model = load_model(copied(lora, tmp_path))
    (tmp_path / "run/epoch-2" / FILE).unlink()
    with pytest.raises(MissingNeed) as caught:
        read_moments(model, model.states[1], lora.tracked)
    for word in ("Adam", "epoch-2", FILE, str(tmp_path / "run/epoch-2")):
        assert word in caught.value.detail
    assert "whence train" in caught.value.remedy and caught.value.pointer == "/method"
    (tmp_path / "run/epoch-2/optimizer.pt").write_bytes(b"\x80")
    with pytest.raises(MissingNeed, match="pickle and is not read"):
        read_moments(model, model.states[1], lora.tracked)


def test_a_recipe_without_training_is_named(lora: AdamWorld) -> None:
    model = load_model(replace(lora.config, recipe=Recipe()))
    with pytest.raises(MissingNeed, match=r"needs the training recipe \(betas and epsilon\)"):
        read_moments(model, model.states[0], lora.tracked)


def _drop(state: dict[str, Tensor], key: str) -> None:
    del state[key]


def _cut(state: dict[str, Tensor], key: str) -> None:
    state[key] = state[key][:, :-1].contiguous()


def _turn(state: dict[str, Tensor], key: str) -> None:
    state[key] = state[key].T.contiguous()


def _negate(state: dict[str, Tensor], key: str) -> None:
    state[key] = -1 - state[key]


def _spoil(state: dict[str, Tensor], key: str) -> None:
    state[key][0, 0] = torch.nan


def _unstart(state: dict[str, Tensor], key: str) -> None:
    state["step"] = torch.tensor(0.0)


def _unstep(state: dict[str, Tensor], key: str) -> None:
    del state["step"]


@pytest.mark.parametrize(
    ("harm", "cause"),
    [
        (_drop, "exp_avg_sq.base_model"),
        (_cut, r"is \d+ × \d+, and the model's weight is \d+ × \d+"),
        (_turn, r"is \d+ × \d+, and the model's weight is \d+ × \d+"),
        (_negate, "negative"),
        (_spoil, "NaN"),
        (_unstart, "no step was taken"),
        (_unstep, "step"),
    ],
)
def test_a_wrong_file_is_named(
    lora: AdamWorld, tmp_path: Path, harm: Callable[[dict[str, Tensor], str], None], cause: str
) -> None:
    model = load_model(copied(lora, tmp_path))
    file = tmp_path / "run/epoch-1" / FILE
    state = load_file(file)
    harm(state, next(key for key in state if key.startswith("exp_avg_sq") and state[key].shape[0] != 2))
    save_file(state, file)
    with pytest.raises(MissingNeed, match=cause) as caught:
        read_moments(model, model.states[0], lora.tracked)
    assert str(file) in caught.value.detail and "epoch-1" in caught.value.detail


def test_a_damaged_file_is_named(lora: AdamWorld, tmp_path: Path) -> None:
    model = load_model(copied(lora, tmp_path))
    file = tmp_path / "run/epoch-1" / FILE
    for content in (b"", b"\xff" * 64, file.read_bytes()[:-9]):
        file.write_bytes(content)
        with pytest.raises(MissingNeed, match="cannot be used"):
            read_moments(model, model.states[0], lora.tracked)


@pytest.mark.parametrize("method", ["less", "trackstar"])
def test_an_index_refuses_another_adam_state(lora: AdamWorld, tmp_path: Path, method: str) -> None:
    """The model's fingerprint leaves optimizer files out: the index keeps their digest."""
    world = AdamWorld(tmp_path, copied(lora, tmp_path), lora.dataset)
    with world.index(method) as index:
        path = index.store.path
    file = tmp_path / "run/epoch-3" / FILE
    state = load_file(file)
    key = next(key for key in state if key.startswith("exp_avg_sq"))
    state[key] = 2 * state[key]
    save_file(state, file)
    with pytest.raises(FingerprintMismatch, match="Adam state of checkpoint epoch-3"):
        OpenIndex(world.model, world.dataset, path)


@pytest.mark.parametrize("method", ["less", "trackstar"])
def test_a_build_without_states_says_what_is_missing(lora: AdamWorld, tmp_path: Path, method: str) -> None:
    world = AdamWorld(tmp_path, copied(lora, tmp_path), lora.dataset)
    for epoch in range(1, EPOCHS + 1):
        (tmp_path / f"run/epoch-{epoch}" / FILE).unlink()
    with pytest.raises(MissingNeed, match=rf"epoch-1\) holds no {FILE}"):
        world.index(method)
