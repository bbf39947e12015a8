"""load_model(): from local directories to a resident model. Every way they can be wrong has its own error."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.utils.save_and_load import load_peft_weights, set_peft_model_state_dict
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from engine import modules, quantized
from engine.config import ModelConfig
from engine.errors import AdapterBaseMismatch, InvalidOption, NotAModel, UnsupportedModel
from engine.loaded import DTYPES, LoadedModel, State
from engine.model_files import check_tokenizer_files
from engine.peft_adapters import check_adapter_configs
from engine.weights import check_directory, directory_fingerprint, is_adapter, nested_adapters

__all__ = ["LoadedModel", "load_model"]

# peft still asks transformers for an attribute by its old name: nothing the user could change.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
transformers_logging.disable_progress_bar()  # progress is reported through checkpoint(), not on stderr


# What the libraries raise over files that are not what they should be; RecursionError is a RuntimeError.
_UNLOADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, SafetensorError)


def load_model(config: ModelConfig, device: str | torch.device = "cpu") -> LoadedModel:
    """Load from local directories. Raises the ModelError that says what is wrong and what to do."""
    base, adapters, dense = _directories(config)
    device = _usable(device)
    quantized.check(config, base, [adapter.path for adapter in adapters], device)
    if adapters:
        module, states, notes = _load_lora(config, base, adapters, device)
        base_state = None
    else:
        module = _load_dense(base, config, device)
        base_state, states = _dense_states(module, base, dense, config, device)
        notes: tuple[str, ...] = ()
    modules.freeze(module)
    module.to(device)
    notes += nested_adapters(config)
    if config.recipe is None:
        notes += ("recipe unknown: gradients are token sums, as if every token had weight 1 in the training loss",)
    return LoadedModel(
        config,
        module,
        _load_tokenizer(config, base),
        [_on_device(state, device) for state in states],
        None if base_state is None else _on_device(base_state, device),
        lora=bool(adapters),
        device=device,
        warnings=notes,
    )


def _usable(device: str | torch.device) -> torch.device:
    """Raises InvalidOption for a device that torch does not know or this machine does not have."""
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:
        cause = str(error).splitlines()[0]
        remedy = "Give cpu, or a device that this machine and this build of torch have."
        raise InvalidOption(f"The device {str(device)!r} cannot be used: {cause}", remedy=remedy) from None
    return found


@dataclass(frozen=True)
class _Source:
    """A checkpoint's directory and every name it goes by."""

    path: Path
    labels: tuple[str, ...]


def _directories(config: ModelConfig) -> tuple[Path, list[_Source], list[_Source]]:
    """(base, adapter checkpoints, dense checkpoints); one of the two lists is empty."""
    base = Path(config.base)
    checkpoints = [Path(path) for path in config.checkpoints]
    if config.adapter is not None:
        checkpoints.append(Path(config.adapter))
    for path in (base, *checkpoints):
        check_directory(path)
    if is_adapter(base):
        raise NotAModel(f"{base} is an adapter, not a base model.", remedy="Give the base model's directory as `base`.")
    adapters = [path for path in checkpoints if is_adapter(path)]
    if adapters and len(adapters) < len(checkpoints):
        raise UnsupportedModel("Checkpoints mix adapters and dense models.", remedy="Give checkpoints of one kind.")
    sources = _distinct(checkpoints)
    return (base, sources, []) if adapters else (base, [], sources)


def _distinct(paths: list[Path]) -> list[_Source]:
    """Each content once, in the place of its last mention: the adapter is often a copy of a checkpoint, not always
    of the last one, and the last state is the tuned model.

    A label is the directory's name, with its place behind it where two directories share one.
    """
    unique = list(dict.fromkeys(paths))
    names = [path.name for path in unique]
    labels = {p: p.name if names.count(p.name) == 1 else f"{p.name}#{place}" for place, p in enumerate(unique)}
    found: dict[str, _Source] = {}
    for path in paths:
        content = directory_fingerprint(path)
        earlier = found.pop(content).labels if content in found else ()
        found[content] = _Source(path, tuple(dict.fromkeys((*earlier, labels[path]))))
    return list(found.values())


def _load_dense(path: Path, config: ModelConfig, device: torch.device) -> nn.Module:
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=DTYPES[config.dtype],
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **({"experts_implementation": "eager"} if config.dtype == "float64" else {}),  # grouped_mm has no float64
            **quantized.arguments(config, path, device),
        )
    except _UNLOADABLE as error:
        raise NotAModel(f"{path} cannot be loaded as a causal language model: {_first_line(error)}") from None
    module, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise NotAModel(f"{path} lacks weights: {missing[0]} and {len(missing) - 1} more.")
    quantized.settle(module)
    return module


def _dense_states(
    module: nn.Module, base: Path, checkpoints: list[_Source], config: ModelConfig, device: torch.device
) -> tuple[State | None, list[State]]:
    """Without checkpoints the base is itself the fine-tuned model, and nothing is known of what came before."""
    loaded = State(("base",), directory_fingerprint(base), dict(module.named_parameters()), base)
    if not checkpoints:
        return None, [loaded]
    before = {name: parameter.detach().clone() for name, parameter in loaded.tensors.items()}
    snapshot = State(("base",), loaded.fingerprint, before, base)
    states = []
    for source in checkpoints:
        tensors = dict(_load_dense(source.path, config, device).named_parameters())
        if {n: p.shape for n, p in tensors.items()} != {n: p.shape for n, p in snapshot.tensors.items()}:
            raise UnsupportedModel(
                f"Checkpoint {source.path} is not a fine-tune of {base}: its parameters differ in name or shape."
            )
        detached = {name: parameter.detach() for name, parameter in tensors.items()}
        states.append(State(source.labels, directory_fingerprint(source.path), detached, source.path))
    return snapshot, states


def _load_lora(
    config: ModelConfig, base: Path, adapters: list[_Source], device: torch.device
) -> tuple[nn.Module, list[State], tuple[str, ...]]:
    last = adapters[-1].path
    check_adapter_configs([adapter.path for adapter in adapters])
    module = _load_dense(base, config, device)
    try:
        peft = PeftModel.from_pretrained(module, str(last), is_trainable=False, autocast_adapter_dtype=False)
    except SafetensorError as error:
        raise NotAModel(f"{last} cannot be loaded: {_first_line(error)}") from None
    except (ValueError, RuntimeError, KeyError) as error:
        raise AdapterBaseMismatch(f"{last} does not fit {base}: {_first_line(error)}") from None
    return peft, [_adapter_state(peft, adapter, config) for adapter in adapters], _base_name_warning(base, last)


def _adapter_state(peft: PeftModel, source: _Source, config: ModelConfig) -> State:
    path = source.path
    try:
        result = set_peft_model_state_dict(peft, load_peft_weights(str(path), device="cpu"))
    except SafetensorError as error:
        raise NotAModel(f"{path} cannot be loaded: {_first_line(error)}") from None
    except (RuntimeError, ValueError, KeyError) as error:
        raise AdapterBaseMismatch(f"{path} does not fit {config.base}: {_first_line(error)}") from None
    missing = [key for key in result.missing_keys if modules.is_adapter_part(key)]
    if missing or result.unexpected_keys:
        names = [*missing, *result.unexpected_keys]
        raise AdapterBaseMismatch(
            f"{path} does not fit {config.base}: {names[0]} has no counterpart ({len(names)} in all)."
        )
    dtype = DTYPES[config.dtype]
    tensors = {
        name: parameter.detach().to(dtype, copy=True)
        for name, parameter in peft.named_parameters()
        if modules.is_adapter_part(name)
    }
    for name, parameter in peft.named_parameters():
        if modules.is_adapter_part(name):
            parameter.data = parameter.data.to(dtype)
    return State(source.labels, directory_fingerprint(path), tensors, path)


def _base_name_warning(base: Path, adapter: Path) -> tuple[str, ...]:
    recorded = PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path
    if recorded and Path(recorded).name != base.name:
        return (f"the adapter names another base ({Path(recorded).name}); its shapes fit {base.name}",)
    return ()


def _on_device(state: State, device: torch.device) -> State:
    return replace(state, tensors={name: tensor.to(device) for name, tensor in state.tensors.items()})


def _load_tokenizer(config: ModelConfig, base: Path) -> Any:
    path = tokenizer_path(config)
    check_tokenizer_files(Path(path))
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except _UNLOADABLE as error:
        raise NotAModel(f"{path} holds no tokenizer that can be loaded: {_first_line(error)}") from None


def tokenizer_path(config: ModelConfig) -> str:
    """The directory that the model's tokenizer is read from."""
    return config.tokenizer or _tokenizer_beside(config) or config.base


def _tokenizer_beside(config: ModelConfig) -> str | None:
    """Fine-tuning often saves the tokenizer, with its chat template, beside the adapter."""
    for path in (config.adapter, *reversed(config.checkpoints)):
        if path is not None and (Path(path) / "tokenizer.json").is_file():
            return path
    return None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
