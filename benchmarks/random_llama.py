"""Random Llamas with a LoRA adapter, saved as real ones are, and rows of fixed length."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from transformers import LlamaForCausalLM

from engine.config import ModelConfig, Recipe, TemplateConfig
from engine.dataset import Dataset
from tests import factories

SHAPE: dict[str, Any] = {
    "vocab_size": 32_000,
    "intermediate_size": 2048,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "max_position_embeddings": 512,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
}
# In both, the embedding (which is the head as well) is a quarter of the parameters.
SMALL_SHAPE = SHAPE | {"vocab_size": 16_000, "intermediate_size": 1376, "num_attention_heads": 8}
SMALL_SHAPE |= {"num_key_value_heads": 8}
RANK = 8


def save_model(root: Path) -> ModelConfig:
    """12 layers, width 768: 110M parameters; LoRA r=8 on every Linear of the blocks, A and B random."""
    return _saved(root, factories.llama(hidden=768, layers=12, **SHAPE))


def save_small_model(root: Path) -> ModelConfig:
    """8 layers, width 512: 34M parameters; LoRA as above."""
    return _saved(root, factories.llama(hidden=512, layers=8, **SMALL_SHAPE))


def save_tiny_model(root: Path, *, lora: bool) -> ModelConfig:
    """4 layers, width 128; with LoRA as above, or every weight trained."""
    base = factories.llama(hidden=128, layers=4, vocab_size=8000, max_position_embeddings=512)
    factories.save_base(root / "base", base)
    recipe = Recipe(template=TemplateConfig(eos=False))
    if not lora:
        return ModelConfig(str(root / "base"), recipe=recipe)
    factories.save_adapter(root / "adapter", base, 1, r=RANK, lora_alpha=2 * RANK)
    return saved_model(root)


def _saved(root: Path, base: LlamaForCausalLM) -> ModelConfig:
    factories.save_base(root / "base", base)
    factories.save_adapter(root / "adapter", base, 1, r=RANK, lora_alpha=2 * RANK)
    return saved_model(root)


def saved_model(root: Path) -> ModelConfig:
    """What lies in `root` already."""
    recipe = Recipe(template=TemplateConfig(eos=False))
    return ModelConfig(str(root / "base"), adapter=str(root / "adapter"), recipe=recipe)


def text_rows(root: Path, count: int, tokens: int) -> Dataset:
    """`text` rows of exactly `tokens` tokens (one a character, BOS included): every token but the first is a target."""
    generator = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz "
    rows = [{"text": "".join(generator.choices(letters, k=tokens - 1))} for _ in range(count)]
    return factories.dataset(root, rows)
