"""How many rows a Trainer run had, and in which order it took them, from what it left on disk."""

from __future__ import annotations

import math
from typing import Any

from engine.causal.steps import Steps
from engine.causal.trainer_files import TrainerFiles
from engine.causal.trainer_order import Loading, trainer_steps

MAX_POSITIONS = 4_000_000  # of all steps: a recipe is kept in a database and sent in a request
_UNORDERED = {  # whether the arguments leave the dataset's rows in an order that can be told
    "packing": "rows were packed into longer sequences",
    "shuffle_dataset": "the dataset was shuffled before training (shuffle_dataset)",
    "group_by_length": "rows were grouped by length",
    "ignore_data_skip": "a resumed run would have begun its epoch anew (ignore_data_skip)",
}


def order_of_rows(files: TrainerFiles, rows: int | None, taken: int) -> tuple[Steps | None, str]:
    """(the steps, "reconstructed…") or (None, why not)."""
    arguments = files.arguments
    if arguments is None or not {"seed", "gradient_accumulation_steps"} <= arguments.model_fields_set:
        return None, "unknown: the run's seed and accumulation are not on record (training_args.json)"
    if rows is None:
        return None, "unknown: the number of training rows was not given"
    loading = Loading(
        rows=rows,
        batch_size=files.state.train_batch_size or arguments.per_device_train_batch_size,
        accumulation=arguments.gradient_accumulation_steps,
        seed=arguments.seed if arguments.data_seed is None else arguments.data_seed,
        shuffled=arguments.train_sampling_strategy == "random",
        drop_last=arguments.dataloader_drop_last,
    )
    if problem := _problem(files, loading, taken):
        return None, f"unknown: {problem}"
    steps = trainer_steps(loading, taken)
    if len({row for step in steps for row in step}) < rows:
        return None, f"known, but not every row was in one of the {taken} steps, so rows are weighed alike"
    return steps, "reconstructed from seed, rows, batch size and accumulation, as one process takes them"


def _problem(files: TrainerFiles, loading: Loading, taken: int) -> str | None:
    arguments = files.arguments
    assert arguments is not None
    extra = arguments.model_extra or {}
    loader = extra.get("accelerator_config")
    if arguments.train_sampling_strategy not in ("random", "sequential"):
        return f"rows were sampled by {arguments.train_sampling_strategy}"
    if flags := [reason for key, reason in _UNORDERED.items() if extra.get(key)]:
        return flags[0]
    if isinstance(loader, dict) and (loader.get("use_seedable_sampler") is False or loader.get("split_batches")):
        return "the accelerator_config changes how rows are sampled"
    expected = arguments.max_steps if arguments.max_steps > 0 else math.ceil(
        arguments.num_train_epochs * loading.steps
    )  # fmt: skip
    if not loading.batches or expected != files.state.max_steps:
        return (
            f"{loading.rows} rows make {expected} steps, the run's were {files.state.max_steps}: another number of "
            "rows, several processes, or an older Transformers"
        )
    if loading.rows * taken > MAX_POSITIONS * loading.steps:
        return f"the steps hold more than {MAX_POSITIONS:,} positions"
    return None


def infer_rows(files: TrainerFiles) -> int | None:
    """The size of the training set, where the files determine it.

    m batches of b rows an epoch leave (m−1)·b < rows ≤ m·b; the summary at a run's end (samples a second × seconds =
    rows × epochs, both rounded) may single one of them out.
    """
    arguments, size = files.arguments, files.state.train_batch_size
    if arguments is None or size is None or arguments.max_steps > 0 or arguments.dataloader_drop_last:
        return None
    batches = _batches(files)
    if batches is None:
        return None
    possible = range((batches - 1) * size + 1, batches * size + 1)
    if len(possible) == 1:
        return possible[0]
    summary = next((log for log in reversed(files.log) if "train_samples_per_second" in log), None)
    return None if summary is None else _rows_of_summary(summary, arguments.num_train_epochs, possible)


def _batches(files: TrainerFiles) -> int | None:
    """Forward passes of an epoch: its steps, or with accumulation what the logged fractions of an epoch count."""
    assert files.arguments is not None
    accumulation, epochs = files.arguments.gradient_accumulation_steps, files.arguments.num_train_epochs
    steps = files.state.max_steps / epochs if epochs else 0.5
    if steps != int(steps) or "gradient_accumulation_steps" not in files.arguments.model_fields_set:
        return None
    if accumulation == 1:
        return int(steps)
    found = {_batches_of_log(log, accumulation) for log in files.log} - {None}
    batches = found.pop() if len(found) == 1 else None
    return batches if batches is not None and math.ceil(batches / accumulation) == steps else None


def _batches_of_log(log: dict[str, Any], accumulation: int) -> int | None:
    """A log within the first epoch; older versions rounded the fraction to two digits, which tells too little."""
    step, epoch = log.get("step"), log.get("epoch")
    if not isinstance(step, int) or not isinstance(epoch, float) or not 0 < epoch < 1 or epoch == round(epoch, 4):
        return None
    batches = step * accumulation / epoch
    return round(batches) if abs(batches - round(batches)) < 1e-6 * batches else None


def _rows_of_summary(summary: dict[str, Any], epochs: float, possible: range) -> int | None:
    """Trainer's speed_metrics rounds seconds to 4 digits and samples a second to 3."""
    seconds, rate = summary.get("train_runtime"), summary.get("train_samples_per_second")
    if not isinstance(seconds, (int, float)) or not isinstance(rate, (int, float)) or not epochs:
        return None
    slack = 0.5e-3 * seconds + 0.5e-4 * rate + 1e-6
    low, high = ((seconds * rate + sign * slack) / epochs for sign in (-1, 1))
    found = range(max(possible.start, math.ceil(low)), min(possible.stop, math.floor(high) + 1))
    return found[0] if len(found) == 1 else None
