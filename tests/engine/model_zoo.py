"""Tiny random models of many families, saved and loaded as users' are; and what must hold for every one of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from engine.capture import GradientCapture
from engine.config import ModelConfig, Recipe
from engine.curvature import get_metric
from engine.curvature.base import Setting, Statistics
from engine.features import GradientFeatures
from engine.model import LoadedModel, load_model
from engine.rows import Batcher
from engine.sketch import Projection
from engine.types import Example
from tests import factories, oracles

SIZES: dict[str, Any] = {
    "vocab_size": factories.VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EXPERTS: dict[str, Any] = {
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 20,
}
TEXTS = [("the cat", " sat on a mat"), ("a", " dog"), ("birds see", " the old sky and ran"), ("x", "y")]


def family(name: str, **overrides: Any) -> nn.Module:
    """`Qwen2` → a random Qwen2ForCausalLM."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config", None) or getattr(transformers, f"{name}TextConfig")
    model = getattr(transformers, f"{name}ForCausalLM")(config(**(SIZES | overrides)))
    with torch.no_grad():  # biases and norms start at 0 and 1: give them something to say
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def load(root: Path, base: nn.Module, lora: dict[str, Any] | None = None, **config: Any) -> LoadedModel:
    """Saved below `root` and loaded again, in float64 unless said otherwise; with an adapter where `lora` is given."""
    factories.save_base(root / "base", base)
    adapter = None if lora is None else str(factories.save_adapter(root / "adapter", base, 1, **lora))
    wanted = ModelConfig(str(root / "base"), adapter=adapter, dtype="float64", recipe=Recipe())
    return load_model(replace(wanted, **config))


def assert_exact(model: LoadedModel, *, tolerance: float = 1e-10) -> None:
    """Hooked gradients of a padded batch = autograd through every parameter, one sequence at a time."""
    tracked, encoder = model.tracked(None), model.encoder()
    encoded = [encoder.encode(Example(f"r{i}", prompt=p, completion=c)) for i, (p, c) in enumerate(TEXTS)]
    wide = torch.promote_types(model.dtype, torch.float32)
    setting = Setting(Statistics(0, 0), Projection(None, 0, 0), 0.0, wide, model.device)
    sketches = get_metric("identity").module_sketches(tracked, setting)
    features = GradientFeatures(model, model.states[-1], tracked, sketches, unit_norm=False)
    with GradientCapture(model, tracked) as capture:
        batches = list(
            Batcher(model, 4096, 1 if model.single_rows else None).batches(encoded, [1.0] * 4, list(range(4)))
        )
        found = {
            slot: row
            for b in batches
            for slot, row in zip(b.slots, features.compute(capture, b.padded).vectors_BD, strict=True)
        }
    for slot, one in enumerate(encoded):
        expected = oracles.flat(oracles.example_gradients(model, tracked, one), tracked)
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(found[slot], expected, rtol=tolerance, atol=tolerance)


def assert_covered(model: LoadedModel) -> None:
    """Tracked + untracked = trained, and every number of it is a parameter of the model."""
    tracked = model.tracked(None)
    coverage = model.coverage(tracked)
    trained = [p for name, p in model.module.named_parameters() if not model.lora or name in model.states[-1].tensors]
    assert coverage.trained_parameters == sum(parameter.numel() for parameter in trained)
    assert coverage.tracked_parameters == sum(module.parameters for module in tracked)
    untracked = sum(module.parameters for module in coverage.untracked)
    assert coverage.tracked_parameters + untracked == coverage.trained_parameters
    assert coverage.share == coverage.tracked_parameters / coverage.trained_parameters
    assert all(module.reason and module.parameters for module in coverage.untracked)
