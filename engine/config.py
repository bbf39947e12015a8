"""What can be chosen: frozen dataclasses that validate themselves and hash to fingerprints."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

DType = Literal["float32", "bfloat16", "float64"]
Reduction = Literal["token_sum", "example_mean", "batch_token_mean"]


def fingerprint(*parts: object) -> str:
    """blake2b-128 (32 hex digits) of the canonical JSON of `parts` (dataclasses become dicts)."""
    payload = json.dumps([_plain(p) for p in parts], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(payload.encode(), digest_size=16).hexdigest()


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


@dataclass(frozen=True)
class TemplateConfig:
    """How rows become tokens. The defaults are what TRL's SFTTrainer does.

    bos: `auto` keeps what the tokenizer itself adds; `always` adds the BOS when it is missing
    (never twice); `never` strips it. eos: append EOS to `prompt`+`completion` and `text` rows.
    assistant_turns: which assistant turns of a `messages` row carry loss.
    """

    bos: Literal["auto", "always", "never"] = "auto"
    eos: bool = True
    assistant_turns: Literal["last", "all"] = "last"


@dataclass(frozen=True)
class Lora:
    """targets: PEFT's target_modules."""

    rank: int = 8
    alpha: float = 16
    targets: str | tuple[str, ...] = "all-linear"

    def __post_init__(self) -> None:
        if isinstance(self.alpha, float) and self.alpha.is_integer():
            object.__setattr__(self, "alpha", int(self.alpha))  # JSON makes 16.0 of 16: one value, one fingerprint


@dataclass(frozen=True)
class Training:
    """What the optimizer did; enough to do it again.

    The learning rate climbs from 0 over the first `warmup_share` of the steps, then falls as `schedule` says, by
    Transformers' formulas. A step takes batch_size × accumulation rows, in that many forward passes of batch_size;
    its loss is the whole step's token mean. seed: of the rows' order and of the adapter's first weights.
    max_grad_norm None: no clipping. lora None: every weight was trained.
    """

    optimizer: str = "adamw"
    learning_rate: float = 5e-3
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_share: float = 0.1
    epochs: int = 5
    batch_size: int = 8
    accumulation: int = 1
    seed: int = 0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    max_grad_norm: float | None = 1.0
    lora: Lora | None = field(default_factory=Lora)

    def __post_init__(self) -> None:
        for name in ("learning_rate", "warmup_share", "weight_decay", "epsilon", "max_grad_norm"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else float(value))  # 1 and 1.0: one fingerprint


@dataclass(frozen=True)
class Recipe:
    """What training did: as far as scores depend on it (DESIGN §2.2), and as far as retraining needs it.

    reduction `batch_token_mean` needs `steps`: the dataset positions of every optimizer step.
    training None: unknown. `details` keeps whatever else is on record.
    """

    reduction: Reduction = "token_sum"
    template: TemplateConfig = field(default_factory=TemplateConfig)
    max_length: int | None = None
    steps: tuple[tuple[int, ...], ...] | None = None
    training: Training | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelConfig:
    """Where a fine-tuned model lies. All paths are local directories.

    base: the base model (or, alone, a dense fine-tune). adapter: a PEFT adapter directory.
    checkpoints: dense model or adapter directories, oldest first. recipe None = unknown:
    token-sum gradients, with a warning.
    """

    base: str
    adapter: str | None = None
    checkpoints: tuple[str, ...] = ()
    tokenizer: str | None = None
    chat_template: str | None = None
    recipe: Recipe | None = None
    dtype: DType = "float32"
    quantization: Literal["8bit", "4bit"] | None = None

    @property
    def directories(self) -> tuple[str, ...]:
        """All that the model is loaded from."""
        named = (self.base, self.adapter, *self.checkpoints, self.tokenizer)
        return tuple(path for path in named if path is not None)


@dataclass(frozen=True)
class IndexOptions:
    """Options of an index build that every method shares; a method's own come beside them.

    projection_dim: sketch width per side; "auto" = none where the whole index fits in
    `exact_limit_mb`, else the widest power of two that does; 0 = never sketch.
    sketch: "none", "random" (projection_dim), or "learned": the leading principal directions of all checkpoints'
    vectors together, fitted to `sketch_rows` rows (None = 2,048, or learned_dim where that is more). "auto" is learned
    where `learned_dim` or `bytes_per_row` is given, else random.
    bytes_per_row: what a row's stored numbers may take. learned_dim: numbers of a learned sketch; None = as many as
    bytes_per_row (2,048 unless given) holds in `dtype`. int8: with one scale a row.
    modules: regular expressions; a module is tracked when one of them matches its name.
    curvature_rows: sample size for calibration and curvature (None = a sixteenth of the
    rows, 512 at least and 2,048 at most).
    token_budget: most tokens (pads included) in a batch; fewer where memory is short (engine/memory.py).
    shard_rows: None = chosen from memory.
    replicas: further runs of the model's recipe, with other seeds, that the index averages over.
    search: `ivf`: make lists for approximate search (engine/ivf.py), kept where they find enough; `auto`: so of more
    than a million rows; `flat`: every query reads every row.
    allow_partial: build although less than half of the trained parameters can be tracked (engine/coverage.py).
    """

    projection_dim: int | Literal["auto"] = "auto"
    dtype: Literal["int8", "float16", "float32"] = "float16"
    sketch: Literal["auto", "none", "random", "learned"] = "auto"
    bytes_per_row: int | None = None
    learned_dim: int | None = None
    sketch_rows: int | None = None
    exact_limit_mb: int = 1024
    modules: tuple[str, ...] | None = None
    max_length: int | None = None
    curvature_rows: int | None = None
    token_budget: int = 4096
    shard_rows: int | None = None
    seed: int = 0
    replicas: int = 0
    search: Literal["auto", "flat", "ivf"] = "auto"
    allow_partial: bool = False


@dataclass(frozen=True)
class IndexConfig:
    """model × dataset × method. `method_options` are validated against the method's schema."""

    method: str = "auto"
    checkpoints: Literal["all", "final"] | tuple[str, ...] = "all"
    options: IndexOptions = field(default_factory=IndexOptions)
    method_options: dict[str, Any] = field(default_factory=dict)
