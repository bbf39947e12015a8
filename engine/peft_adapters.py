"""Which PEFT adapters can be explained, judged from their configuration, and why the others cannot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.errors import UnsupportedModel
from engine.model_files import read_config

# What decides the modules an adapter has and how they act: checkpoints of one run agree in all of it.
_SHAPING = (
    "peft_type r lora_alpha rank_pattern alpha_pattern target_modules exclude_modules layers_to_transform "
    "layers_pattern target_parameters trainable_token_indices use_dora use_rslora lora_bias bias modules_to_save"
).split()
_REFUSED = {
    "alora_invocation_tokens": "acts on a part of each text only (activated LoRA)",
    "arrow_config": "routes every token between several adapters (Arrow)",
    "megatron_config": "was made for Megatron's parallel layers",
}


def check_adapter_configs(adapters: Sequence[Path]) -> None:
    """Raises UnsupportedModel, also when the checkpoints are not of one run."""
    configs = [read_config(path, "adapter_config.json") for path in adapters]
    for path, config in zip(adapters, configs, strict=True):
        _check(path, config)
        different = [key for key in _SHAPING if _comparable(config.get(key)) != _comparable(configs[-1].get(key))]
        if different:
            raise UnsupportedModel(f"Checkpoints differ in {different[0]}: {path} and {adapters[-1]}.")


def _check(path: Path, config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise UnsupportedModel(f"{path} is a {config.get('peft_type')} adapter; LoRA adapters are supported.")
    if config.get("bias", "none") != "none":
        raise UnsupportedModel(
            f"{path} also trained biases of the base (bias={config['bias']!r}): the base would no longer be the model "
            "without the adapter.",
            remedy="Train with bias='none', or merge the adapter and register the result as a dense model.",
        )
    for key, cause in _REFUSED.items():
        if config.get(key):
            raise UnsupportedModel(f"{path} {cause}.", remedy="Train a plain LoRA, rsLoRA or DoRA adapter.")


def _comparable(value: object) -> object:
    """Lists in any order; unset and empty are the same."""
    return sorted(value, key=str) if isinstance(value, list) else value or None
