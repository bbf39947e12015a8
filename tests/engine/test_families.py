"""Every family, dense and with LoRA: gradients equal autograd's, and coverage names all that is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engine import probe
from engine.config import ModelConfig, Recipe
from engine.model import load_model
from tests import factories
from tests.engine.model_zoo import EXPERTS, assert_covered, assert_exact, family, load

FAMILIES: dict[str, dict[str, Any]] = {
    "Qwen2": {},  # biases on q, k, v
    "Qwen3": {"head_dim": 4},
    "Mistral": {},
    "Gemma": {"head_dim": 4},  # tied, scaled embeddings
    "Gemma2": {"head_dim": 4},  # softmax in float32 whatever the model's dtype
    "Phi3": {},  # fused q/k/v
    "BitNet": {"hidden_act": "silu", "tie_word_embeddings": True},  # bitstories-3M's architecture
}


def build(name: str) -> nn.Module:
    if name == "gpt2":
        return factories.gpt2()
    if name == "llama-tied":
        return factories.llama(tie_word_embeddings=True)
    return factories.llama() if name == "llama" else family(name, **FAMILIES[name])


@pytest.mark.parametrize("name", ["gpt2", "llama", "llama-tied", *FAMILIES])
@pytest.mark.parametrize("lora", [None, {}], ids=["dense", "lora"])
def test_gradients_are_exact_and_coverage_adds_up(name: str, lora: dict[str, Any] | None, tmp_path: Path) -> None:
    model = load(tmp_path, build(name), lora)
    assert_exact(model, tolerance=2e-6 if name == "Gemma2" else 1e-10)
    assert_covered(model)
    assert (model.coverage(model.tracked(None)).share == 1) == (lora is not None)


def test_tied_embeddings_are_named_once(tmp_path: Path) -> None:
    model = load(tmp_path, factories.llama(tie_word_embeddings=True))
    names = [untracked.module for untracked in model.coverage(model.tracked(None)).untracked]
    assert names.count("model.embed_tokens") == 1 and "lm_head" not in names


def test_weights_that_two_modules_share_are_not_tracked_in_part(tmp_path: Path) -> None:
    """Each module's δaᵀ would be only one of the two terms of the parameter's gradient."""
    model = load(tmp_path, factories.llama(tie_word_embeddings=True))
    layers = model.module.model.layers
    layers[1].mlp.up_proj.weight = layers[0].mlp.up_proj.weight
    from engine import modules

    tracked = modules.find_tracked(model.module, lora=False, patterns=None)
    assert not any("up_proj" in module.name for module in tracked)
    reasons = {u.module: u.reason for u in modules.coverage(model.module, tracked, lora=False).untracked}
    assert "model.layers.1.mlp.up_proj" in reasons["model.layers.0.mlp.up_proj"]


def test_a_module_called_twice_in_a_pass_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    plain = LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: plain(self, plain(self, x)))
    model = load(tmp_path, factories.llama())
    assert {module.name.rsplit(".", 2)[1] for module in model.tracked(None)} == {"self_attn"}
    reasons = [u.reason for u in model.coverage(model.tracked(None)).untracked if ".mlp." in u.module]
    assert reasons == [probe.CALLED_TWICE] * 6


# --- mixtures of experts ---


@pytest.mark.parametrize("name", ["Mixtral", "Qwen3Moe", "Olmoe"])
def test_fused_experts_are_named_with_their_share(name: str, tmp_path: Path) -> None:
    extra = {"head_dim": 4} if name == "Qwen3Moe" else {}
    model = load(tmp_path, family(name, **EXPERTS, **extra))
    assert_exact(model)
    assert_covered(model)
    untracked = model.coverage(model.tracked(None)).untracked
    experts = [module for module in untracked if module.module.endswith("mlp.experts")]
    weights = [p for n, p in model.module.named_parameters() if ".experts." in n]
    assert len(experts) == 2 and all("fused experts" in module.reason for module in experts)
    assert sum(module.parameters for module in experts) == sum(weight.numel() for weight in weights) > 0


def test_shared_experts_see_all_positions_in_one_list_and_are_tracked(tmp_path: Path) -> None:
    model = load(tmp_path, family("Qwen2Moe", **EXPERTS))
    shared = [module.name for module in model.tracked(None) if "shared_expert" in module.name]
    assert len(shared) == 8  # gate, up, down and the shared expert's own gate, in two layers
    assert_exact(model)


def test_lora_on_attention_and_shared_experts(tmp_path: Path) -> None:
    targets = ["q_proj", "v_proj", "up_proj", "down_proj"]
    model = load(tmp_path, family("Qwen2Moe", **EXPERTS), {"target_modules": targets})
    assert len(model.tracked(None)) == 16
    assert_exact(model)
    assert_covered(model)


class Routed(nn.Module):
    """Experts of plain Linear modules: expert e sees only the tokens whose hash sends them there, in reverse."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(2))

    def forward(self, x_BTH: torch.Tensor) -> torch.Tensor:
        x_NH = x_BTH.flatten(0, 1)
        chosen_N = (x_NH[:, 0] > 0).long()
        out_NH = torch.zeros_like(x_NH)
        for number, expert in enumerate(self.experts):
            rows = (chosen_N == number).nonzero().flatten().flip(0)
            out_NH = out_NH.index_add(0, rows, expert(x_NH[rows]))
        return out_NH.view_as(x_BTH)


class Reversed(nn.Module):
    """All tokens, as many as a shared expert sees, but in reverse order."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width, bias=False)

    def forward(self, x_BTH: torch.Tensor) -> torch.Tensor:
        return self.inner(x_BTH.flatten(0, 1).flip(0)).flip(0).view_as(x_BTH)


@pytest.mark.parametrize("block", [Routed, Reversed])
def test_experts_that_mix_rows_are_never_skipped_in_silence(
    block: type[nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama import modeling_llama

    monkeypatch.setattr(modeling_llama, "LlamaMLP", lambda config: block(config.hidden_size))
    model = load(tmp_path, factories.llama())
    assert {module.name.rsplit(".", 2)[1] for module in model.tracked(None)} == {"self_attn"}
    reasons = {u.module: u.reason for u in model.coverage(model.tracked(None)).untracked if ".mlp." in u.module}
    assert len(reasons) == (4 if block is Routed else 2)
    assert set(reasons.values()) == {probe.NOT_BY_ROW}
    assert_covered(model)
    assert_exact(model)


# --- numbers ---


def test_bfloat16_files_are_read_as_the_numbers_they_hold(tmp_path: Path) -> None:
    base = factories.llama().to(torch.bfloat16)
    factories.save_base(tmp_path / "base", base)
    adapter = factories.save_adapter(tmp_path / "adapter", base, 1)
    model = load_model(ModelConfig(str(tmp_path / "base"), str(adapter), recipe=Recipe()))
    from safetensors.torch import load_file

    saved = load_file(adapter / "adapter_model.safetensors")
    for name, tensor in model.states[-1].tensors.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, saved[name.replace(".default", "")].float())
    own = dict(base.named_parameters())
    for name, parameter in model.module.named_parameters():
        if "base_layer" in name:
            plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
            assert parameter.dtype == torch.float32 and torch.equal(parameter, own[plain].float())
