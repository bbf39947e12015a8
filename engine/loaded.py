"""A resident model: switchable checkpoints, tracked modules, fingerprints.

Every checkpoint is a `state`: a set of tensors copied into one resident module, so that an ensemble
of C checkpoints costs one model in memory plus C sets of trained weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine import modules
from engine.before import module_before
from engine.config import ModelConfig, Recipe, fingerprint
from engine.modules import TrackedModule
from engine.passes import pass_tokens
from engine.probe import split_reached
from engine.quantized import needs_single_rows, parameter_count
from engine.text import TextEncoder
from engine.types import Coverage, Generate, Generated, ModelInfo
from engine.weights import directory_fingerprint

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True)
class State:
    """One checkpoint: its names, content hash, trained tensors (parameter name → tensor) and directory."""

    labels: tuple[str, ...]
    fingerprint: str
    tensors: dict[str, Tensor]
    path: Path

    @property
    def label(self) -> str:
        return self.labels[0]


class LoadedModel:
    """A resident model. `states` are its checkpoints, oldest first; the last one is the tuned model.

    before: the model before fine-tuning, over the same weights; None where that is not known.
    """

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
        self._current: State | None = None
        # (prompt's ids, how) → what it said: kept for the question that follows, while the weights stay the same.
        self.generated: dict[tuple[tuple[int, ...], Generate], Generated] = {}
        self.context_length = _context_length(module)
        self.recipe = config.recipe or Recipe()
        self.use(len(states) - 1)
        found = modules.find_tracked(module, lora=lora, patterns=None)
        reached, self._unreached, seen = split_reached(module, found, device)
        self.tracked_all = modules.with_input_groups(reached, seen.identities())
        base = None if base_state is None else base_state.tensors
        self.before = module_before(module, base) if lora or base is not None else None

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.config.dtype]

    @property
    def single_rows(self) -> bool:
        """Whether a row must be alone in its batch for its numbers to be its own."""
        return needs_single_rows(self.module)

    @property
    def pad_id(self) -> int:
        """Any valid id serves: pads sit behind every target and are masked out of every sum."""
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None and pad < self.module.get_input_embeddings().weight.shape[0] else 0  # type: ignore[operator]

    @cached_property
    def _parameters(self) -> dict[str, Tensor]:
        return dict(self.module.named_parameters())

    @cached_property
    def pass_tokens(self) -> float:
        return pass_tokens(parameter_count(self.module), self.device)

    @property
    def hidden_size(self) -> int:
        return _text_config(self.module).hidden_size

    @property
    def hidden_layers(self) -> int:
        return _text_config(self.module).num_hidden_layers

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
        return modules.coverage(self.module, tracked, lora=self.lora, unreached=self._unreached)

    def use(self, state: int | State) -> None:
        """Copy a checkpoint (its number, negative: from the end; or a state that fits) into the resident module."""
        self._load(self.states[state] if isinstance(state, int) else state)

    def exchange(self, states: list[State]) -> None:
        """Take other checkpoints in place of the model's own; the last of them is resident then."""
        self.states, self._current = states, None
        self.generated.clear()
        self.use(-1)

    def fingerprints(self) -> dict[str, str]:
        """What an index must share with the model it is asked on (DESIGN §2.3)."""
        encoder = self.encoder()
        states = [state.fingerprint for state in self.states]
        return {
            "model": fingerprint(directory_fingerprint(Path(self.config.base)), states, *self._precision()),
            "tokenizer": encoder.fingerprint_tokenizer,
            "template": fingerprint(encoder.fingerprint_template, self.recipe.reduction, self.recipe.steps),
        }

    def _precision(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.config.dtype, self.config.quantization)))

    def info(self) -> ModelInfo:
        tracked = self.tracked(None)
        coverage = self.coverage(tracked)
        return ModelInfo(
            fingerprint=fingerprint(self.fingerprints()),
            parameters=parameter_count(self.module),
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
        for name, tensor in state.tensors.items():
            self._parameters[name].copy_(tensor, non_blocking=True)
        self._current = state


def _text_config(module: nn.Module) -> Any:
    config: Any = module.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _context_length(module: nn.Module) -> int:
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        if isinstance(getattr(_text_config(module), name, None), int):
            return getattr(_text_config(module), name)
    return 2048
