"""LoRA in all its forms: what of an adapter is tracked, named or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from engine import probe
from engine.build import build_index
from engine.config import IndexConfig, ModelConfig, Recipe
from engine.errors import UnsupportedModel
from engine.model import load_model
from tests import factories
from tests.engine.model_zoo import EXPERTS, assert_covered, assert_exact, family, load

FORMS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "lora-bias": {"lora_bias": True},
    "patterns": {"rank_pattern": {"q_proj": 5, "down_proj": 1}, "alpha_pattern": {"v_proj": 40}},
    "some-layers": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]},
    "head": {"modules_to_save": ["lm_head"]},
}


def untracked(model: Any) -> dict[str, str]:
    return {part.module: part.reason for part in model.coverage(model.tracked(None)).untracked}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_exact_and_tracked_whole(form: str, tmp_path: Path) -> None:
    model = load(tmp_path, factories.llama(attention_bias=form == "dora"), FORMS[form])
    assert_exact(model)
    assert_covered(model)
    assert not untracked(model)


@pytest.mark.parametrize("dora", [False, True])
def test_adapters_on_conv1d(dora: bool, tmp_path: Path) -> None:
    model = load(tmp_path, factories.gpt2(), {"target_modules": ["c_attn", "c_proj"], "use_dora": dora})
    assert_exact(model)
    assert_covered(model)
    assert not untracked(model)


def test_rslora_scales_by_the_root_of_the_rank(tmp_path: Path) -> None:
    """Same A and B: lora_B's gradient is √r as large."""
    plain = load(tmp_path / "plain", factories.llama(), {"r": 4, "target_modules": ["q_proj"]})
    scaled = load(tmp_path / "scaled", factories.llama(), {"r": 4, "target_modules": ["q_proj"], "use_rslora": True})
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = [model.module.get_submodule(layer).scaling["default"] for model in (plain, scaled)]
    assert factors[1] == pytest.approx(2 * factors[0])


def test_a_trained_head_is_tracked_and_trained_embeddings_are_named(tmp_path: Path) -> None:
    model = load(tmp_path, factories.llama(), {"modules_to_save": ["lm_head", "embed_tokens"]})
    assert "lm_head.modules_to_save" in {module.name for module in model.tracked(None)}
    assert list(untracked(model)) == ["model.embed_tokens.modules_to_save"]
    assert_exact(model)
    assert_covered(model)


def test_trained_token_embeddings_and_lora_on_embeddings_are_named(tmp_path: Path) -> None:
    tokens = load(tmp_path / "tokens", factories.llama(), {"trainable_token_indices": [5, 6]})
    assert list(untracked(tokens)) == ["model.embed_tokens.token_adapter.trainable_tokens_delta"]
    assert_covered(tokens)
    both = load(tmp_path / "both", factories.llama(), {"target_modules": ["embed_tokens", "q_proj"]})
    assert set(untracked(both)) == {"model.embed_tokens.lora_embedding_A", "model.embed_tokens.lora_embedding_B"}
    assert_covered(both)
    assert_exact(both)


def test_lora_on_fused_experts_is_named(tmp_path: Path) -> None:
    """target_parameters: PEFT multiplies A and B into the weight; neither is ever called."""
    lora = {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj"], "lora_dropout": 0.0}
    model = load(tmp_path, family("Mixtral", **EXPERTS), lora)
    parts = untracked(model)
    assert parts and all("mlp.experts" in name and reason == probe.NOT_CALLED for name, reason in parts.items())
    assert_covered(model)
    assert_exact(model)
    lora["target_modules"] = []
    with pytest.raises(UnsupportedModel, match="never called"):
        load(tmp_path / "alone", family("Mixtral", **EXPERTS), lora)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"bias": "all"}, "biases"),
        ({"bias": "lora_only"}, "biases"),
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"alora_invocation_tokens": [5]}, "activated LoRA"),
    ],
)
def test_adapters_that_are_refused_say_why(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    load(tmp_path, factories.llama(), {})
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(UnsupportedModel, match=said) as caught:
        load_model(ModelConfig(str(tmp_path / "base"), str(tmp_path / "adapter"), recipe=Recipe()))
    assert caught.value.remedy


def test_checkpoints_of_other_ranks_per_module_are_not_one_run(tmp_path: Path) -> None:
    base = factories.llama()
    factories.save_base(tmp_path / "base", base)
    one = factories.save_adapter(tmp_path / "one", base, 1, rank_pattern={"q_proj": 3})
    two = factories.save_adapter(tmp_path / "two", base, 2, rank_pattern={"q_proj": 2})
    with pytest.raises(UnsupportedModel, match="differ in rank_pattern"):
        load_model(ModelConfig(str(tmp_path / "base"), checkpoints=(str(one), str(two))))


# --- several adapters in one directory ---


def save_several(root: Path, names: list[str]) -> Path:
    base = factories.llama()
    factories.save_base(root / "base", base)
    peft = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"]), adapter_name=names[0])
    for name in names[1:]:
        peft.add_adapter(name, LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    peft.save_pretrained(str(root / "all"))
    return root / "all"


def test_a_directory_of_several_adapters_asks_for_one(tmp_path: Path) -> None:
    several = save_several(tmp_path, ["sql", "chat"])
    with pytest.raises(UnsupportedModel, match=r"several adapters: chat, sql") as caught:
        load_model(ModelConfig(str(tmp_path / "base"), str(several)))
    assert "all/chat" in caught.value.remedy
    model = load_model(ModelConfig(str(tmp_path / "base"), str(several / "sql"), dtype="float64", recipe=Recipe()))
    assert_exact(model)
    assert_covered(model)
    assert not model.warnings


def test_adapters_beside_the_default_one_are_mentioned(tmp_path: Path) -> None:
    several = save_several(tmp_path, ["default", "chat"])
    shutil.copytree(several / "chat", several / "checkpoint-7")  # a run's own checkpoint is no second adapter
    model = load_model(ModelConfig(str(tmp_path / "base"), str(several), recipe=Recipe()))
    assert [warning for warning in model.warnings if "chat" in warning and "checkpoint-7" not in warning]
    assert len(model.tracked(None)) == 4


# --- an adapter before its first step ---


def test_an_untrained_adapter_is_said(tmp_path: Path) -> None:
    """B = 0: every gradient of A is zero."""
    base = factories.llama()
    factories.save_base(tmp_path / "base", base)
    data = factories.dataset(tmp_path / "data", factories.sentences(6))
    for zero in (True, False):
        adapter = factories.save_adapter(tmp_path / f"adapter-{zero}", base, 1, zero_b=zero)
        model = load_model(ModelConfig(str(tmp_path / "base"), str(adapter), recipe=Recipe()))
        info = build_index(model, data, IndexConfig("ekfac"), tmp_path / f"index-{zero}", factories.ignore)
        assert any("without any gradient" in warning for warning in info.warnings) == zero
