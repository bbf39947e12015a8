"""The files that a Hugging Face Trainer or TRL SFTTrainer run leaves, as far as a recipe needs them.

Nothing is unpickled. Unknown keys are ignored: these files are other projects' and grow with them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from engine.errors import InvalidOption

STATE_FILE = "trainer_state.json"
ADAPTER_FILE = "adapter_config.json"
ARGUMENT_FILES = ("training_args.json", "training_arguments.json", "args.json")
PICKLED_ARGUMENTS = "training_args.bin"
MAX_FILE_BYTES = 64 << 20
REMEDY = "Give the output directory of a Transformers Trainer run, or one of its checkpoint-* directories."
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
T = TypeVar("T", bound=BaseModel)


def _plain_name(value: object) -> object:
    """OptimizerNames.ADAMW_TORCH, as str() of an enum member writes it → adamw_torch."""
    return value.rpartition(".")[2].lower() if isinstance(value, str) else value


Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]
EnumName = Annotated[str, BeforeValidator(_plain_name)]


class TrainerState(BaseModel):
    """trainer_state.json. epoch: of global_step; its fraction counts forward passes."""

    global_step: int = Field(ge=0)
    max_steps: Count
    num_train_epochs: Share = 0
    train_batch_size: Count | None = None
    epoch: float | None = None
    log_history: list[dict[str, Any]] = []


class TrainerArguments(BaseModel):
    """TrainingArguments.to_dict(), TRL's SFTConfig included. model_fields_set: what the file holds."""

    model_config = ConfigDict(extra="allow")

    optim: EnumName = "adamw_torch"
    learning_rate: Share = 5e-5
    lr_scheduler_type: EnumName = "linear"
    warmup_steps: Share | None = 0
    warmup_ratio: Share | None = None
    num_train_epochs: Share = 3
    max_steps: int = -1
    per_device_train_batch_size: Count = 8
    gradient_accumulation_steps: Count = 1
    seed: int = Field(default=42, ge=0, lt=1 << 63)
    data_seed: int | None = Field(default=None, ge=0, lt=1 << 63)
    weight_decay: Share = 0
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    adam_epsilon: Share = 1e-8
    max_grad_norm: float | None = Field(default=1.0, allow_inf_nan=False)
    dataloader_drop_last: bool = False
    train_sampling_strategy: str = "random"
    max_length: Count | None = None
    max_seq_length: Count | None = None
    assistant_only_loss: bool = False

    def other(self, name: str) -> Any:
        """A key that no field above names; None where it is absent."""
        return (self.model_extra or {}).get(name)


class AdapterConfig(BaseModel):
    """adapter_config.json of a LoRA."""

    model_config = ConfigDict(extra="allow")

    peft_type: EnumName = "lora"
    r: Count = 8
    lora_alpha: float = Field(default=8, gt=0, allow_inf_nan=False)
    target_modules: str | list[str] | None = None


@dataclass(frozen=True)
class TrainerFiles:
    """state_at: the directory that the state was found in. log: the longest of the run, which a checkpoint's is not.
    pickled: the arguments are there, but only as a pickle."""

    state: TrainerState
    state_at: Path
    log: list[dict[str, Any]]
    arguments: TrainerArguments | None
    adapter: AdapterConfig | None
    pickled: bool


def newest_checkpoint(directory: Path) -> Path | None:
    """checkpoint-<step> with the highest step."""
    try:
        found = [(int(match[1]), path) for path in directory.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))]
    except OSError:
        return None
    return max(found)[1] if found else None


def read_trainer_files(directory: Path, roots: Sequence[Path] | None = None) -> TrainerFiles | None:
    """None where no trainer_state.json lies in `directory` or its newest checkpoint.

    roots: only files below these are opened, symbolic links followed. Raises InvalidOption, naming the broken file.
    """
    newest = newest_checkpoint(directory)
    places = [directory] if newest is None else [directory, newest]
    state, state_at = _first(TrainerState, places, (STATE_FILE,), roots)
    if state is None or state_at is None:
        return None
    above = [directory.parent] if _CHECKPOINT.fullmatch(directory.name) else []
    around = [*places, *above]
    whole, _ = _first(TrainerState, above, (STATE_FILE,), roots)
    log = whole.log_history if whole is not None and whole.max_steps == state.max_steps else state.log_history
    arguments, _ = _first(TrainerArguments, around, ARGUMENT_FILES, roots)
    adapter, _ = _first(AdapterConfig, places, (ADAPTER_FILE,), roots)
    pickled = any(allowed(place / PICKLED_ARGUMENTS, roots) for place in around)
    return TrainerFiles(state, state_at, log, arguments, adapter, pickled and arguments is None)


def allowed(path: Path, roots: Sequence[Path] | None) -> bool:
    """The file is there and, symbolic links followed, below one of `roots` (None: anywhere)."""
    try:
        real = path.resolve(strict=True)
        return real.is_file() and (roots is None or any(real.is_relative_to(root.resolve()) for root in roots))
    except (OSError, RuntimeError, ValueError):  # absent, a loop of links, a NUL character
        return False


def _first(
    kind: type[T], places: Sequence[Path], names: Sequence[str], roots: Sequence[Path] | None
) -> tuple[T | None, Path | None]:
    for place in places:
        for name in names:
            if allowed(place / name, roots):
                return _read(kind, place / name), place
    return None, None


def _read(kind: type[T], path: Path) -> T:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"it is larger than {MAX_FILE_BYTES >> 20} MiB")
        value = json.loads(path.read_bytes())
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        cause = ": ".join(part for part in (".".join(map(str, first["loc"])), first["msg"]) if part)
    except (OSError, ValueError, RecursionError) as error:
        cause = str(error)
    raise InvalidOption(f"{path} cannot be read: {cause}.", pointer="/recipe", remedy=REMEDY) from None
