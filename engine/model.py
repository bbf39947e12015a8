"""Load a fine-tuned model: base + adapter, its checkpoints as switchable weights, tracked modules, fingerprints.

Every checkpoint is a `state`: a set of tensors copied into one resident module, so that an ensemble
of C checkpoints costs one model in memory plus C sets of trained weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.utils.save_and_load import load_peft_weights, set_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from engine import modules
from engine.config import ModelConfig, Recipe, fingerprint
from engine.errors import AdapterBaseMismatch, NotAModel, UnsupportedModel
from engine.modules import TrackedModule
from engine.text import TextEncoder
from engine.types import Coverage, ModelInfo
from engine.weights import check_directory, directory_fingerprint, is_adapter, read_config

# peft still asks transformers for an attribute by its old name: nothing the user could change.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
transformers_logging.disable_progress_bar()  # progress is reported through checkpoint(), not on stderr

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True)
class State:
    """One checkpoint: its label, content hash and trained tensors (parameter name → tensor)."""

    label: str
    fingerprint: str
    tensors: dict[str, Tensor]


class LoadedModel:
    """A resident model. `states` are its checkpoints, oldest first; the last one is the tuned model."""

    def __init__(
        self,
        config: ModelConfig,
        module: nn.Module,
        tokenizer: Any,
        states: list[State],
        base_state: State | None,
        *,
        lora: bool,
        device: torch.device,
        warnings: tuple[str, ...] = (),
    ) -> None:
        self.config = config
        self.module = module
        self.tokenizer = tokenizer
        self.states = states
        self.lora = lora
        self.device = device
        self.warnings = warnings
        self._base_state = base_state
        self._current: State | None = None
        self.context_length = _context_length(module)
        self.recipe = config.recipe or Recipe()
        self.use(len(states) - 1)
        self.tracked_all = modules.with_input_groups(
            modules.find_tracked(module, lora=lora, patterns=None), self._probe_inputs()
        )

    @property
    def dtype(self) -> torch.dtype:
        return _DTYPES[self.config.dtype]

    @property
    def pad_id(self) -> int:
        """Any valid id serves: pads sit behind every target and are masked out of every sum."""
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None and pad < self.module.get_input_embeddings().num_embeddings else 0  # type: ignore[operator]

    @property
    def hidden_size(self) -> int:
        return _text_config(self.module).hidden_size

    @property
    def hidden_layers(self) -> int:
        return _text_config(self.module).num_hidden_layers

    @property
    def has_base(self) -> bool:
        """Whether f can also be measured before fine-tuning."""
        return self.lora or self._base_state is not None

    def encoder(self, max_length: int | None = None) -> TextEncoder:
        limit = min(length for length in (max_length, self.recipe.max_length, self.context_length) if length)
        return TextEncoder(
            self.tokenizer,
            self.recipe.template,
            chat_template=self.config.chat_template,
            max_length=limit,
            context_length=self.context_length,
        )

    def tracked(self, patterns: tuple[str, ...] | None) -> tuple[TrackedModule, ...]:
        """The tracked modules, or those that match one of `patterns` (regular expressions)."""
        if patterns is None:
            return self.tracked_all
        names = {m.name for m in modules.find_tracked(self.module, lora=self.lora, patterns=patterns)}
        return tuple(m for m in self.tracked_all if m.name in names)

    def coverage(self, tracked: tuple[TrackedModule, ...]) -> Coverage:
        return modules.coverage(self.module, tracked, lora=self.lora)

    def use(self, index: int) -> None:
        """Copy checkpoint `index` (negative: from the end) into the resident module."""
        self._load(self.states[index])

    @contextmanager
    def base_weights(self) -> Iterator[None]:
        """The model as it was before fine-tuning; needs `has_base`."""
        if self._base_state is not None:
            self._load(self._base_state)
        with self.module.disable_adapter() if self.lora else nullcontext():  # type: ignore[operator]
            yield

    def fingerprints(self) -> dict[str, str]:
        """What an index must share with the model it is asked on (DESIGN §2.3)."""
        encoder = self.encoder()
        states = [state.fingerprint for state in self.states]
        return {
            "model": fingerprint(directory_fingerprint(Path(self.config.base)), states, self.config.dtype),
            "tokenizer": encoder.fingerprint_tokenizer,
            "template": fingerprint(encoder.fingerprint_template, self.recipe.reduction, self.recipe.steps),
        }

    def info(self) -> ModelInfo:
        tracked = self.tracked(None)
        coverage = self.coverage(tracked)
        return ModelInfo(
            fingerprint=fingerprint(self.fingerprints()),
            parameters=sum(p.numel() for p in self.module.parameters()),
            trained_parameters=coverage.trained_parameters,
            trained_modules=len(tracked),
            checkpoints=len(self.states),
            context_length=self.context_length,
            coverage=coverage,
            warnings=self.warnings,
        )

    @torch.no_grad()
    def _load(self, state: State) -> None:
        if state is self._current:
            return
        parameters = dict(self.module.named_parameters())
        for name, tensor in state.tensors.items():
            parameters[name].copy_(tensor, non_blocking=True)
        self._current = state

    @torch.no_grad()
    def _probe_inputs(self) -> dict[str, tuple[object, ...]]:
        """Which modules read the same tensor, seen in one forward of four tokens."""
        seen: dict[str, tuple[object, ...]] = {}
        alive: list[Tensor] = []  # a freed tensor's address could be given to the next one

        def remember(path: str) -> Any:
            def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                alive.append(inputs[0])
                seen[path] = modules.input_identity(inputs[0])

            return hook

        tracked = modules.find_tracked(self.module, lora=self.lora, patterns=None)
        handles = [
            self.module.get_submodule(module.path).register_forward_pre_hook(remember(module.path))
            for module in tracked
        ]
        try:
            self.module(input_ids=torch.zeros(1, 4, dtype=torch.long, device=self.device), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return seen


def load_model(config: ModelConfig, device: str | torch.device = "cpu") -> LoadedModel:
    """Load from local directories. Raises the ModelError that says what is wrong and what to do."""
    base, adapters, dense = _directories(config)
    device = torch.device(device)
    if adapters:
        module, states, notes = _load_lora(config, base, adapters)
        base_state = None
    else:
        module = _load_dense(base, config)
        base_state, states = _dense_states(module, base, dense, config)
        notes: tuple[str, ...] = ()
    modules.freeze(module)
    module.to(device)
    if config.recipe is None:
        notes += ("recipe unknown: gradients are token sums, as if every token had weight 1 in the training loss",)
    return LoadedModel(
        config,
        module,
        _load_tokenizer(config, base),
        [_on_device(state, device) for state in states],
        base_state,
        lora=bool(adapters),
        device=device,
        warnings=notes,
    )


def _directories(config: ModelConfig) -> tuple[Path, list[Path], list[Path]]:
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
    return base, _distinct(adapters), _distinct([path for path in checkpoints if not is_adapter(path)])


def _distinct(paths: list[Path]) -> list[Path]:
    """Without repeats by content: the last checkpoint is often the adapter itself."""
    return list({directory_fingerprint(path): path for path in paths}.values())


def _load_dense(path: Path, config: ModelConfig) -> nn.Module:
    if config.quantization is not None:
        raise UnsupportedModel("Quantised bases are not supported yet.", remedy="Leave `quantization` out.")
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=_DTYPES[config.dtype],
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise NotAModel(f"{path} cannot be loaded as a causal language model: {_first_line(error)}") from None
    module, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise NotAModel(f"{path} lacks weights: {missing[0]} and {len(missing) - 1} more.")
    return module


def _dense_states(
    module: nn.Module, base: Path, checkpoints: list[Path], config: ModelConfig
) -> tuple[State | None, list[State]]:
    """Without checkpoints the base is itself the fine-tuned model, and nothing is known of what came before."""
    loaded = State("base", directory_fingerprint(base), dict(module.named_parameters()))
    if not checkpoints:
        return None, [loaded]
    snapshot = State("base", loaded.fingerprint, {name: p.detach().clone() for name, p in loaded.tensors.items()})
    states = []
    for path in checkpoints:
        tensors = dict(_load_dense(path, config).named_parameters())
        if {n: p.shape for n, p in tensors.items()} != {n: p.shape for n, p in snapshot.tensors.items()}:
            raise UnsupportedModel(
                f"Checkpoint {path} is not a fine-tune of {base}: its parameters differ in name or shape."
            )
        states.append(State(path.name, directory_fingerprint(path), {n: p.detach() for n, p in tensors.items()}))
    return snapshot, _unique_labels(states)


def _load_lora(config: ModelConfig, base: Path, adapters: list[Path]) -> tuple[nn.Module, list[State], tuple[str, ...]]:
    _check_adapter_configs(adapters)
    module = _load_dense(base, config)
    try:
        peft = PeftModel.from_pretrained(module, str(adapters[-1]), is_trainable=False, autocast_adapter_dtype=False)
    except SafetensorError as error:
        raise NotAModel(f"{adapters[-1]} cannot be loaded: {_first_line(error)}") from None
    except (ValueError, RuntimeError, KeyError) as error:
        raise AdapterBaseMismatch(f"{adapters[-1]} does not fit {base}: {_first_line(error)}") from None
    states = [_adapter_state(peft, path, config) for path in adapters]
    return peft, _unique_labels(states), _base_name_warning(base, adapters[-1])


def _check_adapter_configs(adapters: list[Path]) -> None:
    kept = ("peft_type", "r", "lora_alpha", "target_modules", "use_dora", "use_rslora", "bias", "modules_to_save")
    configs = [read_config(path, "adapter_config.json") for path in adapters]
    for path, config in zip(adapters, configs, strict=True):
        if config.get("peft_type") != "LORA":
            raise UnsupportedModel(f"{path} is a {config.get('peft_type')} adapter; LoRA adapters are supported.")
        if config.get("bias", "none") != "none":
            raise UnsupportedModel(f"{path} also trained biases (bias={config['bias']!r}), which is not supported yet.")
        different = [key for key in kept if _comparable(config.get(key)) != _comparable(configs[-1].get(key))]
        if different:
            raise UnsupportedModel(f"Checkpoints differ in {different[0]}: {path} and {adapters[-1]}.")


def _comparable(value: object) -> object:
    return sorted(value) if isinstance(value, list) else value


def _adapter_state(peft: PeftModel, path: Path, config: ModelConfig) -> State:
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
    dtype = _DTYPES[config.dtype]
    tensors = {
        name: parameter.detach().to(dtype, copy=True)
        for name, parameter in peft.named_parameters()
        if modules.is_adapter_part(name)
    }
    for name, parameter in peft.named_parameters():
        if modules.is_adapter_part(name):
            parameter.data = parameter.data.to(dtype)
    return State(path.name, directory_fingerprint(path), tensors)


def _base_name_warning(base: Path, adapter: Path) -> tuple[str, ...]:
    recorded = PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path
    if recorded and Path(recorded).name != base.name:
        return (f"the adapter names another base ({Path(recorded).name}); its shapes fit {base.name}",)
    return ()


def _unique_labels(states: list[State]) -> list[State]:
    """Label by directory name; where two directories share one, by position too."""
    names = [state.label for state in states]
    return [
        State(name if names.count(name) == 1 else f"{name}#{i}", state.fingerprint, state.tensors)
        for i, (name, state) in enumerate(zip(names, states, strict=True))
    ]


def _on_device(state: State, device: torch.device) -> State:
    return State(state.label, state.fingerprint, {name: t.to(device) for name, t in state.tensors.items()})


def _load_tokenizer(config: ModelConfig, base: Path) -> Any:
    path = config.tokenizer or _tokenizer_beside(config) or str(base)
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise NotAModel(f"{path} holds no tokenizer that can be loaded: {_first_line(error)}") from None


def _tokenizer_beside(config: ModelConfig) -> str | None:
    """Fine-tuning often saves the tokenizer, with its chat template, beside the adapter."""
    for path in (config.adapter, *reversed(config.checkpoints)):
        if path is not None and (Path(path) / "tokenizer.json").is_file():
            return path
    return None


def _text_config(module: nn.Module) -> Any:
    config: Any = module.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _context_length(module: nn.Module) -> int:
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        if isinstance(getattr(_text_config(module), name, None), int):
            return getattr(_text_config(module), name)
    return 2048


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
