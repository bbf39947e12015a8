"""Quantised bases by bitsandbytes (the extra `quant`): 8-bit (LLM.int8) or 4-bit (NF4, as QLoRA trains on).

The base is frozen, so only what passes through it matters: gradients are exact for the quantised model, which is the
model the adapter was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from engine.config import ModelConfig
from engine.errors import EngineUnavailable, UnsupportedModel
from engine.model_files import read_config


def check(config: ModelConfig, base: Path, adapters: Sequence[Path], device: torch.device) -> None:
    """Raises UnsupportedModel (nothing was trained on it, another scheme, float64), EngineUnavailable."""
    scheme = scheme_of(config, base)
    if scheme is None:
        return
    if scheme not in ("4bit", "8bit"):
        remedy = "Give the base in full precision, or quantised by bitsandbytes."
        raise UnsupportedModel(f"{base} is quantised by {scheme}, which cannot be differentiated here.", remedy=remedy)
    if not adapters:
        raise UnsupportedModel(
            f"{base} would be quantised ({scheme}) and has no adapter: quantised weights are not trained, so there is "
            "nothing to explain.",
            remedy="Give the adapter that was trained on it, or leave `quantization` out.",
        )
    if config.dtype == "float64":
        raise UnsupportedModel("bitsandbytes computes in float32 at most.", remedy="Use dtype float32 or bfloat16.")
    dora = any(read_config(path, "adapter_config.json").get("use_dora") for path in adapters)
    if scheme == "8bit" and dora and device.type == "cpu":
        raise UnsupportedModel(
            "DoRA on an 8-bit base loses the base's scales after one pass on a CPU (peft's dequantize_module_weight).",
            remedy="Use quantization 4bit, or a CUDA device.",
        )
    if find_spec("bitsandbytes") is None:
        remedy = "Install it: pip install 'whence[quant]' -c constraints.txt."
        raise EngineUnavailable("Quantised bases need bitsandbytes, which is not installed.", remedy=remedy)


def scheme_of(config: ModelConfig, base: Path) -> str | None:
    """As asked for, or as the base's own files say: "4bit", "8bit", another library's name, None."""
    saved = read_config(base, "config.json").get("quantization_config")
    if not isinstance(saved, dict):
        return config.quantization
    if saved.get("quant_method", "bitsandbytes") != "bitsandbytes":
        return str(saved["quant_method"])
    own = "4bit" if saved.get("load_in_4bit") else "8bit"
    if config.quantization not in (None, own):
        raise UnsupportedModel(f"{base} is saved in {own}, not in {config.quantization}.")
    return own


def arguments(config: ModelConfig, path: Path, device: torch.device) -> dict[str, Any]:
    """For from_pretrained: weights are quantised as they are read, on the device where they stay."""
    if scheme_of(config, path) is None:
        return {}
    placed: dict[str, Any] = {"device_map": {"": str(device)}}
    if config.quantization is None or "quantization_config" in read_config(path, "config.json"):
        return placed
    dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    chosen: dict[str, Any] = {"load_in_8bit": True}
    if config.quantization == "4bit":
        chosen = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    return placed | {"quantization_config": BitsAndBytesConfig(**chosen)}


def settle(module: nn.Module) -> None:
    """bitsandbytes repacks 4-bit weights, in bfloat16, at the first pass that needs no gradient on some CPUs: what is
    computed would depend on what was computed before.
    """
    for layer in module.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def needs_single_rows(module: nn.Module) -> bool:
    """LLM.int8 finds outlier columns in a whole batch: a row's numbers are its own only in a batch of its own."""
    return any(type(layer).__name__ == "Linear8bitLt" for layer in module.modules())


def parameter_count(module: nn.Module) -> int:
    """Weights as they were before packing; two 4-bit ones share a byte."""
    return sum(_numbers(parameter) for parameter in module.parameters())


def _numbers(parameter: nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else torch.Size(state.shape).numel()
