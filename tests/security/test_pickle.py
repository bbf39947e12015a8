"""Files that run code when they are loaded: none is. Each payload here writes a file when it is."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.causal.recorded import find_recipe
from engine.config import ModelConfig, Recipe, Training
from engine.errors import MissingNeed, ModelError, NotAModel, UnsafeWeights, UnsupportedModel
from engine.evaluate import canaries
from engine.model import load_model
from engine.moments import read_moments
from tests import factories
from tests.security.hostile import Canary


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base` and `adapter`, as they should be."""
    root = tmp_path_factory.mktemp("whole")
    factories.save_base(root / "base", factories.llama())
    factories.save_adapter(root / "adapter", factories.llama(), 1)
    return root


@pytest.fixture
def base(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole / "base", tmp_path / "base")


@pytest.fixture
def adapter(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole / "adapter", tmp_path / "adapter")


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    return Canary(tmp_path / "canary")


def edited(path: Path, **values: Any) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))


def load(base: Path, adapter: Path | None = None) -> Any:
    return load_model(ModelConfig(str(base), adapter=str(adapter) if adapter else None, recipe=Recipe()))


def test_the_payloads_do_run_where_they_are_loaded(canary: Canary, tmp_path: Path) -> None:
    pickle.loads(canary.payload)  # noqa: S301
    assert canary.written
    canary.path.unlink()
    (tmp_path / "a.pt").write_bytes(canary.payload)
    with suppress(RuntimeError):  # it goes on to find that this is no file of torch's
        torch.load(tmp_path / "a.pt", weights_only=False)
    assert canary.written


def only_pickled(base: Path, canary: Canary) -> None:
    (base / "model.safetensors").unlink()
    (base / "pytorch_model.bin").write_bytes(canary.payload)


def named_by_the_index(base: Path, canary: Canary) -> None:
    (base / "model.safetensors").unlink()
    (base / "pytorch_model.bin").write_bytes(canary.payload)
    (base / "other.safetensors").write_bytes(b"")
    places = dict.fromkeys(dict(factories.llama().named_parameters()), "pytorch_model.bin")
    edited(base / "model.safetensors.index.json", metadata={}, weight_map=places)


def named_by_the_config(base: Path, canary: Canary) -> None:
    (base / "adapter_model.bin").write_bytes(canary.payload)
    edited(base / "config.json", transformers_weights="adapter_model.bin")


@pytest.mark.parametrize("change", [only_pickled, named_by_the_index, named_by_the_config])
def test_weights_of_the_base(base: Path, canary: Canary, change: Callable[[Path, Canary], None]) -> None:
    change(base, canary)
    with pytest.raises(UnsafeWeights, match=r"would have to be unpickled") as caught:
        load(base)
    assert "safetensors" in caught.value.remedy and not canary.written


@pytest.mark.parametrize("beside", [None, "other.safetensors", "optimizer.safetensors"])
def test_weights_of_the_adapter(base: Path, adapter: Path, canary: Canary, beside: str | None) -> None:
    """PEFT takes adapter_model.bin when adapter_model.safetensors is not there, whatever else is."""
    weights = adapter / "adapter_model.safetensors"
    weights.rename(adapter / beside) if beside else weights.unlink()
    (adapter / "adapter_model.bin").write_bytes(canary.payload)
    with pytest.raises(UnsafeWeights, match=r"adapter_model\.bin"):
        load(base, adapter)
    assert not canary.written


BESIDE = ["pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt"]


def test_pickles_beside_good_weights_are_not_opened(base: Path, adapter: Path, canary: Canary) -> None:
    for name in (*BESIDE, "adapter_model.bin"):
        for directory in (base, adapter, base.parent):
            (directory / name).write_bytes(canary.payload)
    edited(adapter / "trainer_state.json", global_step=4, max_steps=4, num_train_epochs=2, train_batch_size=2)
    config = ModelConfig(str(base), adapter=str(adapter), recipe=Recipe(training=Training()))
    found = find_recipe(ModelConfig(str(base), adapter=str(adapter)), [base.parent])
    assert found is not None and any("training_args.bin: a pickle" in note for note in found.notes)
    model = load_model(config)
    with pytest.raises(MissingNeed, match=r"optimizer\.pt is there, but it is a pickle and is not read"):
        read_moments(model, model.states[-1], model.tracked(None))
    assert not canary.written


def custom_model(base: Path) -> None:
    edited(base / "config.json", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})


def custom_model_type(base: Path) -> None:
    edited(base / "config.json", model_type="evil", architectures=["EvilForCausalLM"])
    custom_model(base)


def custom_tokenizer(base: Path) -> None:
    edited(base / "tokenizer_config.json", tokenizer_class="T", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]})
    (base / "tokenizer.json").unlink()


def kernel_from_the_hub(base: Path) -> None:
    edited(base / "config.json", attn_implementation="evil/kernel")


def kernel_of_a_part(base: Path) -> None:
    edited(base / "config.json", text_config={"_attn_implementation": {"decoder": "paged|evil/kernel@main:run"}})


CUSTOM: dict[Callable[[Path], None], str] = {
    custom_model: "run its own Python code",
    custom_model_type: "run its own Python code",
    custom_tokenizer: "holds no tokenizer that can be loaded",
    kernel_from_the_hub: "code from the Hugging Face Hub",
    kernel_of_a_part: "code from the Hugging Face Hub",
}


@pytest.mark.parametrize("change", CUSTOM)
def test_python_in_a_model_directory(base: Path, canary: Canary, change: Callable[[Path], None]) -> None:
    for name in ("evil.py", "custom_generate/generate.py", "modeling_evil.py", "__init__.py"):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text(canary.code + "class C: pass\nM = T = C\n")
    change(base)
    with pytest.raises((UnsupportedModel, NotAModel), match=CUSTOM[change]):
        load(base)
    assert not canary.written


@pytest.mark.parametrize("name", ["tokenizer.json", "generation_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("content", ["[" * 100_000, "{", "null", '{"a": ' + "9" * 5000 + "}", "\xff"])
def test_a_broken_file_has_a_name(base: Path, name: str, content: str) -> None:
    """A file that only the libraries read: whatever they raise becomes an error of ours, or nothing at all."""
    (base / name).write_bytes(content.encode("latin-1"))
    with suppress(ModelError):
        load(base)


def test_an_array_of_objects(tmp_path: Path, canary: Canary) -> None:
    """What an evaluation keeps of its scores."""

    class Opened:
        def __reduce__(self) -> Any:
            return open, (str(canary.path), "w")

    file = tmp_path / "scores.npz"
    np.savez(file, relevant_QN=np.array([Opened()], dtype=object), gain_Q=np.zeros(1), trouble=np.array(""))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        canaries._load(file)
    assert not canary.written
    with np.load(file, allow_pickle=True) as kept:
        _ = kept["relevant_QN"]
    assert canary.written, "the payload is one"
