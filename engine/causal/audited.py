"""The audited run as a study: what is repeated with other weights or seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.causal.recipe import removed_rows
from engine.causal.replicas import replica_seed
from engine.causal.retrainer import Study
from engine.causal.steps import check_trainable, make_steps
from engine.config import ModelConfig, Recipe, Training
from engine.dataset import Dataset
from engine.model import tokenizer_path
from engine.types import Query

_FIRST_NUMBER = 1000  # of the seeds: replicas of an index take 1, 2, …


def audited_study(
    model: ModelConfig,
    dataset: Dataset,
    training: Training,
    queries: Sequence[Query],
    device: str,
    *,
    greedy: Sequence[Query] = (),
) -> Study:
    """training: the recipe's. greedy: queries of which it is looked at whether their answer is still the greedy one.

    Raises InvalidOption, UnsupportedModel.
    """
    check_trainable(training)
    recipe = model.recipe or Recipe()
    own = recipe.steps is None or recipe.steps == make_steps(len(dataset), training)
    tokenizer = tokenizer_path(model)
    return Study(
        base=Path(model.base),
        examples=tuple(dataset),
        training=training,
        queries=tuple(queries),
        template=recipe.template,
        max_length=recipe.max_length,
        dtype=model.dtype,
        device=device,
        steps=None if own else recipe.steps,
        tokenizer=None if tokenizer == model.base else tokenizer,
        chat_template=model.chat_template,
        greedy=tuple(greedy),
        removed=removed_rows(recipe, len(dataset)),
    )


def audited_seeds(training: Training, count: int) -> tuple[int, ...]:
    """The audited run's own first: where time runs out, this run is what is known. No replica of an index has one of
    the others."""
    return (training.seed, *(replica_seed(training, _FIRST_NUMBER + number) for number in range(count - 1)))
