"""A resident base that trains one stack of variants after the other, and measures the queries after each.

Shapes: K variants of a stack, Q queries, S sequences of all queries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from engine.causal.greedy import greedy_margins, greedy_texts
from engine.causal.loop import TrainingLoop
from engine.causal.measuring import measure_questions
from engine.causal.stack import AdapterStack
from engine.causal.steps import Steps, check_steps, check_trainable, make_steps
from engine.causal.variant import Variant
from engine.config import DType, ModelConfig, Recipe, TemplateConfig, Training, fingerprint
from engine.encoded import Encoded
from engine.errors import EmptyDataset, InvalidQuery
from engine.model import LoadedModel, load_model
from engine.question import Question, prepare
from engine.types import Example, Query
from engine.weights import directory_fingerprint

WIDTHS = (1, 2, 4, 8, 16, 32)
_STEPS_TIMED, _TIMES = 5, 2  # the better of two: somebody else may have had the processor
_LEAST_ANSWER = 32
_WORTH = 0.97  # a wider stack must save at least 3 %


@dataclass(frozen=True)
class Study:
    """What all variants share. The seed in `training` is the audited run's; each variant brings its own.

    steps: the audited run's recorded order, where it is not the one that `make_steps` gives; variants of its seed keep
    to it. removed: rows that the audited run itself left out (engine/causal/unlearn.py); no variant has them.
    tokenizer, chat_template: where they are not the base's.
    greedy: queries of which the answer's greedy margin is measured, and what is answered instead is kept.
    """

    base: Path
    examples: tuple[Example, ...]
    training: Training
    queries: tuple[Query, ...]
    template: TemplateConfig = field(default_factory=TemplateConfig)
    max_length: int | None = None
    dtype: DType = "float32"
    device: str = "cpu"
    steps: Steps | None = None
    tokenizer: str | None = None
    chat_template: str | None = None
    greedy: tuple[Query, ...] = ()
    removed: tuple[int, ...] = ()

    def steps_of(self, seed: int) -> Steps:
        if self.steps is not None and seed == self.training.seed:
            return self.steps
        return make_steps(len(self.examples), replace(self.training, seed=seed))


class Retrainer:
    """A resident base with the rows and queries as tokens; trains one stack of variants after the other."""

    def __init__(self, study: Study) -> None:
        if not study.examples:
            raise EmptyDataset("There is no row to train on.")
        check_trainable(study.training)
        if study.steps is not None:
            check_steps(study.steps, make_steps(len(study.examples), study.training))
        assert study.training.lora is not None
        recipe = Recipe("batch_token_mean", study.template, study.max_length)
        config = ModelConfig(
            str(study.base),
            tokenizer=study.tokenizer,
            chat_template=study.chat_template,
            recipe=recipe,
            dtype=study.dtype,
        )
        model = load_model(config, study.device)
        encoder = model.encoder()
        self.study = study
        self.rows: list[Encoded] = [encoder.encode(example) for example in study.examples]
        self.questions = [_question(model, query) for query in study.queries]
        self.greedy = [_answer(model, query) for query in study.greedy]
        self.stack = AdapterStack(model, study.training.lora, 1)

    @property
    def fingerprint(self) -> str:
        tokens = [(row.ids, row.targets) for row in self.rows]
        asked = [[(s.ids, s.targets) for s in question.sequences] for question in self.questions]
        training = replace(self.study.training, seed=0)
        order = () if self.study.steps is None else (self.study.training.seed, self.study.steps)
        base = directory_fingerprint(self.study.base)
        # plain questions keep the fingerprint they had before there were others: retrainings are kept under it
        plain = not any(question.odds or len(question.members) > 1 for question in self.questions)
        measured = () if plain else [(question.weights, question.odds) for question in self.questions]
        greedy = [("greedy", s.ids, s.targets) for s in self.greedy]
        removed = [("removed", *self.study.removed)] if self.study.removed else []
        own = (*order, *measured, *greedy, *removed)
        return fingerprint("study", base, tokens, asked, training, self.study.dtype, *own)

    @property
    def steps(self) -> int:
        return len(self.study.steps_of(self.study.training.seed))

    def train(self, variants: Sequence[Variant], tick: Callable[[int], object] = lambda _steps: None) -> np.ndarray:
        """float64 [K, Q + margins]. tick: called after every step with the adapter steps it did."""
        loop = self.loop_of(variants)
        for number in range(loop.total):
            loop.step(number)
            tick(len(variants))
        return self.measure()

    def fastest_width(self, variants: Sequence[Variant], processes: int) -> tuple[int, float]:
        """(K, seconds of one step of one adapter), by the time of a few steps; wider only where it saves.

        The widest tried is one stack a process.
        """
        best, best_seconds = 1, float("inf")
        for width in WIDTHS:
            if width > -(-len(variants) // processes):
                break
            seconds = min(self.step_seconds(variants[:width]) for _ in range(_TIMES))
            if seconds < best_seconds * _WORTH:
                best, best_seconds = width, seconds
        return best, best_seconds

    def step_seconds(self, variants: Sequence[Variant]) -> float:
        """Of one adapter step, after a first that allocates."""
        loop = self.loop_of(variants)
        count = min(_STEPS_TIMED, loop.total)
        loop.step(0)
        started = time.perf_counter()
        for number in range(count):
            loop.step(number).tolist()  # reading the loss waits for the device
        return (time.perf_counter() - started) / (count * len(variants))

    def loop_of(self, variants: Sequence[Variant]) -> TrainingLoop:
        self.stack.resize(len(variants))
        self.stack.start([variant.seed for variant in variants])
        steps = {variant.seed: self.study.steps_of(variant.seed) for variant in variants}
        weights_KN = np.stack([variant.weights_N(len(self.rows)) for variant in variants])
        weights_KN[:, list(self.study.removed)] = 0.0
        return TrainingLoop(self.stack, self.rows, self.study.training, [steps[v.seed] for v in variants], weights_KN)

    def measure(self) -> np.ndarray:
        """float64 [K, Q + margins]: f of every query, then the margin of every answer that is looked at."""
        model, count = self._spread(), self.stack.count
        value_KQ = measure_questions(model, self.questions, count)
        return np.hstack([value_KQ, greedy_margins(model, self.greedy, count)]) if self.greedy else value_KQ

    def answers(self) -> list[tuple[str, ...]]:
        """Of every adapter, its greedy answers to the queries in `greedy`."""
        model, count = self._spread(), self.stack.count
        texts = [greedy_texts(model, sequence, longest_answer(sequence), count) for sequence in self.greedy]
        return list(zip(*texts, strict=True)) if texts else [()] * count

    @torch.no_grad()
    def _spread(self) -> LoadedModel:
        self.stack.spread()
        return self.stack.loaded


def _question(model: LoadedModel, query: Query) -> Question:
    if query.generate is not None:
        raise InvalidQuery("A retraining needs the output spelled out.", remedy="Give the completion.")
    return prepare(model, None, query)


def _answer(model: LoadedModel, query: Query) -> Encoded:
    """The sequence whose targets are the answer. Raises InvalidQuery for a set: it has several."""
    question = _question(model, query)
    if len(question.explained) != 1:
        raise InvalidQuery("A set of queries has no one answer.", remedy="Ask about one of its members.")
    return question.sequences[question.explained[0]]


def longest_answer(sequence: Encoded) -> int:
    """Tokens after which a greedy answer is cut off: another one may well be longer than the sequence's own."""
    return max(_LEAST_ANSWER, 2 * sequence.target_count)
