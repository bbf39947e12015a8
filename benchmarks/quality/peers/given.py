"""The task as a peer's script reads it. Imports nothing but what every peer's environment has.

Shapes: N rows, Q queries.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Tokens:
    """ids: the text's tokens. targets: True where a token is predicted and counted; never at the first."""

    ids: tuple[int, ...]
    targets: tuple[bool, ...]
    weight: float = 1.0

    @property
    def labels(self) -> list[int]:
        """As transformers has them: −100 where a token is not counted."""
        return [token if target else -100 for token, target in zip(self.ids, self.targets, strict=True)]


@dataclass(frozen=True)
class Given:
    """A task directory (task.py)."""

    path: Path

    @cached_property
    def _about(self) -> dict[str, Any]:
        return json.loads((self.path / "task.json").read_text())

    @property
    def checkpoints(self) -> list[str]:
        """Names, in the order of training; the last is the tuned model."""
        return self._about["checkpoints"]

    @property
    def pad_id(self) -> int:
        return self._about["pad_id"]

    @property
    def epochs(self) -> list[dict[str, float]]:
        """ "steps" and mean "learning_rate" of each checkpoint's epoch; empty where the recipe does not tell."""
        return self._about["epochs"]

    @property
    def adam(self) -> dict[str, Any]:
        """The optimizer's "betas" and "eps"."""
        return self._about["adam"]

    @property
    def base(self) -> Path:
        return self.path / "base"

    def adapter(self, checkpoint: str) -> Path:
        return self.path / "checkpoints" / checkpoint

    @cached_property
    def rows(self) -> list[Tokens]:
        return _read(self.path / "rows.jsonl")

    @cached_property
    def queries(self) -> list[Tokens]:
        return _read(self.path / "queries.jsonl")


def _read(path: Path) -> list[Tokens]:
    lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [Tokens(tuple(line["ids"]), tuple(line["targets"]), line.get("weight", 1.0)) for line in lines]


def load_tuned(given: Given, checkpoint: str, **options: Any) -> Any:
    """The base with one checkpoint's adapter: float32, no dropout, the adapter not merged. Only LoRA weights train.

    options: further arguments of AutoModelForCausalLM.from_pretrained.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(given.base, dtype=torch.float32, local_files_only=True, **options)
    model = PeftModel.from_pretrained(base, given.adapter(checkpoint), is_trainable=True)
    return model.float().eval()


def lora_modules(model: Any) -> list[str]:
    """Names of every lora_A and lora_B that holds a weight."""
    names = [name for name, _ in model.named_modules()]
    return [name for name in names if ".lora_A." in name or ".lora_B." in name]
