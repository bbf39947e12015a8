"""A recipe from what a Hugging Face Trainer or TRL SFTTrainer run left on disk.

Nothing is guessed silently: `details` names the fields of Training that are not on record (`unknown`: they hold
Transformers' defaults), what is on record and Training cannot say (`unsupported`), and why rows' order could not be
told (`order`). The loss of a step is its token mean (Trainer._get_num_items_in_batch, since Transformers 4.46).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.causal.fitted_schedule import Schedule, fit_schedule
from engine.causal.trainer_files import (
    PICKLED_ARGUMENTS,
    REMEDY,
    AdapterConfig,
    TrainerArguments,
    TrainerFiles,
    TrainerState,
    read_trainer_files,
)
from engine.causal.trainer_rows import infer_rows, order_of_rows
from engine.config import Lora, Recipe, TemplateConfig, Training
from engine.errors import InvalidOption

_SAME_AS_ADAMW = {"adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused"}
_SCHEDULES: dict[str, Schedule] = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
}
# What changes the training and has no field in Training, with the values at which it changes nothing.
_PLAIN_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "bf16": (None, False),
    "fp16": (None, False),
    "label_smoothing_factor": (None, 0, 0.0),
    "neftune_noise_alpha": (None,),
    "loss_type": (None, "nll", "chunked_nll"),
    "completion_only_loss": (None, True),
    "truncation_mode": (None, "keep_start"),
    "lr_scheduler_kwargs": (None, {}, "{}"),
    "optim_args": (None, ""),
    "deepspeed": (None,),
    "fsdp": (None, "", [], False),
}
_PLAIN_ADAPTER: dict[str, tuple[Any, ...]] = {
    "lora_dropout": (None, 0, 0.0),
    "use_dora": (None, False),
    "use_rslora": (None, False),
    "use_qalora": (None, False),
    "bias": (None, "none"),
    "lora_bias": (None, False),
    "modules_to_save": (None, []),
    "init_lora_weights": (None, True),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "layers_to_transform": (None, []),
    "exclude_modules": (None, []),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "layer_replication": (None, []),
}


@dataclass
class _Notes:
    """What goes into Recipe.details."""

    unknown: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    unsupported: dict[str, Any] = field(default_factory=dict)


def read_run(directory: Path, rows: int | None = None, roots: Sequence[Path] | None = None) -> Recipe:
    """The recipe of the run in `directory`: an output directory, or one checkpoint of it.

    rows: of the training set; without them they are told from the state where it says enough. `steps` are those that
    the model in `directory` took. Where their order cannot be told: steps None, reduction token_sum, and details
    say why. roots: only files below these are opened.
    Raises InvalidOption when there is no trainer_state.json, or a file is broken.
    """
    files = read_trainer_files(directory, roots)
    if files is None:
        raise InvalidOption(f"{directory} holds no trainer_state.json.", pointer="/recipe", remedy=REMEDY)
    notes = _Notes()
    training = _training(files, notes)
    rows = rows if rows is not None else infer_rows(files)
    steps, order = order_of_rows(files, rows, _taken(files, directory, notes))
    reduction = "token_sum" if steps is None else "batch_token_mean"
    details = _details(files, notes) | {"order": order} | ({} if rows is None else {"rows": rows})
    return Recipe(reduction, _template(files.arguments, notes), _max_length(files.arguments), steps, training, details)


def _details(files: TrainerFiles, notes: _Notes) -> dict[str, Any]:
    found: dict[str, Any] = {"source": "Hugging Face Trainer", "unknown": sorted(notes.unknown)}
    found |= {"assumed": notes.assumed, "unsupported": notes.unsupported}
    found |= {"global_step": files.state.global_step, "max_steps": files.state.max_steps}
    if files.pickled:
        found["not_read"] = [f"{PICKLED_ARGUMENTS}: a pickle, which could run code"]
    if files.arguments is not None:
        found["optim"], found["lr_scheduler_type"] = files.arguments.optim, files.arguments.lr_scheduler_type
    return found


# --- the optimizer ---


def _training(files: TrainerFiles, notes: _Notes) -> Training | None:
    """None for an adapter that is no LoRA."""
    adapter = files.adapter
    if adapter is not None and adapter.peft_type != "lora":
        notes.unsupported["peft_type"] = adapter.peft_type
        return None
    arguments = files.arguments or TrainerArguments()
    _note_unknown(arguments, files.state, notes)
    rate, schedule, warmup = _schedule(files, notes)
    return Training(
        optimizer="adamw" if arguments.optim in _SAME_AS_ADAMW else arguments.optim,
        learning_rate=rate,
        schedule=schedule,
        warmup_share=warmup / files.state.max_steps,
        epochs=_epochs(files, notes),
        batch_size=files.state.train_batch_size or arguments.per_device_train_batch_size,
        accumulation=arguments.gradient_accumulation_steps,
        seed=arguments.seed,
        weight_decay=arguments.weight_decay,
        betas=(arguments.adam_beta1, arguments.adam_beta2),
        epsilon=arguments.adam_epsilon,
        max_grad_norm=arguments.max_grad_norm or None,
        lora=None if adapter is None else _lora(adapter, notes),
    )


def _note_unknown(arguments: TrainerArguments, state: TrainerState, notes: _Notes) -> None:
    needed = {
        "optimizer": ("optim",),
        "accumulation": ("gradient_accumulation_steps",),
        "seed": ("seed",),
        "weight_decay": ("weight_decay",),
        "betas": ("adam_beta1", "adam_beta2"),
        "epsilon": ("adam_epsilon",),
        "max_grad_norm": ("max_grad_norm",),
    }
    if state.train_batch_size is None:
        needed["batch_size"] = ("per_device_train_batch_size",)
    notes.unknown += [name for name, keys in needed.items() if not arguments.model_fields_set.issuperset(keys)]
    extra = arguments.model_extra or {}
    notes.unsupported |= {k: extra[k] for k, plain in _PLAIN_ARGUMENTS.items() if extra.get(k) not in plain}


def _schedule(files: TrainerFiles, notes: _Notes) -> tuple[float, Schedule, int]:
    """(peak, schedule, warm-up steps): as the arguments say, else as the logged rates tell."""
    arguments, steps = files.arguments, files.state.max_steps
    if arguments is not None and {"learning_rate", "lr_scheduler_type"} <= arguments.model_fields_set:
        if arguments.lr_scheduler_type not in _SCHEDULES:
            notes.unsupported["lr_scheduler_type"] = arguments.lr_scheduler_type
        schedule = _SCHEDULES.get(arguments.lr_scheduler_type, "linear")
        return arguments.learning_rate, schedule, _warmup_steps(arguments, steps, notes)
    fitted = fit_schedule(_logged_rates(files.state), steps)
    if fitted is None:
        notes.unknown += ["learning_rate", "schedule", "warmup_share"]
        return TrainerArguments().learning_rate, "linear", 0
    notes.unknown += fitted.unknown
    notes.assumed.append("The learning rate's peak, schedule and warm-up are fitted to the logged rates.")
    return fitted.learning_rate, fitted.schedule, fitted.warmup_steps


def _warmup_steps(arguments: TrainerArguments, steps: int, notes: _Notes) -> int:
    """TrainingArguments.get_warmup_steps of Transformers 4 (a count beside a ratio) and 5 (below 1: a ratio)."""
    if arguments.lr_scheduler_type == "constant":
        return 0  # get_constant_schedule knows no warm-up
    if not {"warmup_steps", "warmup_ratio"} & arguments.model_fields_set:
        notes.unknown.append("warmup_share")
    count, ratio = arguments.warmup_steps or 0, arguments.warmup_ratio or 0
    warmup = int(count) if count >= 1 else math.ceil(steps * (count or ratio))
    if warmup > steps:
        notes.unsupported["warmup_steps"] = warmup
    return min(warmup, steps)


def _logged_rates(state: TrainerState) -> list[tuple[int, float]]:
    found = [(log.get("step"), log.get("learning_rate")) for log in state.log_history]
    return [
        (step, float(rate))
        for step, rate in found
        if isinstance(step, int) and 1 <= step <= state.max_steps and isinstance(rate, (int, float)) and rate >= 0
    ]


def _epochs(files: TrainerFiles, notes: _Notes) -> int:
    """Whole epochs; a run that ends inside one says so in `unsupported`."""
    epochs = files.state.num_train_epochs
    if files.arguments is not None:
        limit, wanted = files.arguments.max_steps, files.arguments.num_train_epochs
        if limit > 0:
            notes.unsupported["max_steps"] = limit
        elif wanted != int(wanted):
            notes.unsupported["num_train_epochs"] = wanted
        epochs = epochs or wanted
    if not 1 <= epochs < 1 << 31:
        notes.unknown.append("epochs")
    return max(1, math.ceil(min(epochs, 1 << 31)))


def _lora(adapter: AdapterConfig, notes: _Notes) -> Lora:
    extra = adapter.model_extra or {}
    notes.unsupported |= {k: extra[k] for k, plain in _PLAIN_ADAPTER.items() if extra.get(k) not in plain}
    targets = adapter.target_modules
    if not targets:
        notes.unknown.append("lora.targets")
        return Lora(adapter.r, adapter.lora_alpha)
    return Lora(adapter.r, adapter.lora_alpha, targets if isinstance(targets, str) else tuple(sorted(targets)))


# --- the rows ---


def _template(arguments: TrainerArguments | None, notes: _Notes) -> TemplateConfig:
    if arguments is None or "assistant_only_loss" not in arguments.model_fields_set:
        return TemplateConfig()
    if arguments.assistant_only_loss:
        return TemplateConfig(assistant_turns="all")
    notes.assumed.append("Rows of messages carry loss on their last assistant turn (the run's carried it everywhere).")
    return TemplateConfig()


def _max_length(arguments: TrainerArguments | None) -> int | None:
    return None if arguments is None else arguments.max_length or arguments.max_seq_length


def _taken(files: TrainerFiles, directory: Path, notes: _Notes) -> int:
    """How many steps the model in `directory` took."""
    state = files.state
    if files.state_at == directory or state.global_step >= state.max_steps:
        return state.global_step
    notes.assumed.append(
        f"The run went on from its newest checkpoint (step {state.global_step}) to its last step, {state.max_steps}."
    )
    return state.max_steps
