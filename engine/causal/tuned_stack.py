"""The tuned adapter, with its optimizer's moments, as a stack of K copies that can be trained on.

Shapes: K adapters, P numbers of an adapter, Q queries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from engine.causal.measuring import measure_questions
from engine.causal.stack import AdapterStack
from engine.causal.steps import check_trainable
from engine.config import ModelConfig, Training, fingerprint
from engine.encoded import Encoded
from engine.errors import UnsupportedModel
from engine.loaded import LoadedModel
from engine.model import load_model, tokenizer_path
from engine.moments import read_moments, saved_name
from engine.question import Question, prepare
from engine.types import CheckpointFn, Example, Progress, Query

_TOLERANCE = 1e-2  # nats, and of f: between two ways of running the same weights in float32
_REMEDY = "Give the recipe the LoRA rank, alpha and targets that the adapter was trained with."


@dataclass(frozen=True)
class TunedStack:
    """rows, question: as tokens. theta_P and Adam's means first_P, second_P after `step` steps: on the device.

    value: f(query) of the tuned model. key: fingerprint of the weights and the query.
    """

    stack: AdapterStack
    rows: tuple[Encoded, ...]
    question: Question
    training: Training
    theta_P: Tensor
    first_P: Tensor
    second_P: Tensor
    step: int
    value: float
    key: str

    @torch.no_grad()
    def copies(self, count: int) -> None:
        """Make the stack `count` adapters, each of them the tuned one."""
        self.stack.resize(count)
        self.stack.theta_KP.copy_(self.theta_P.expand(count, -1))

    def optimizer_state(self, count: int) -> dict[str, Tensor]:
        """As torch.optim.AdamW keeps it, of every copy."""
        return {
            "step": torch.tensor(float(self.step)),
            "exp_avg": self.first_P.expand(count, -1).clone(),
            "exp_avg_sq": self.second_P.expand(count, -1).clone(),
        }

    def values(self) -> np.ndarray:
        """float64 [K]: f(query) under every adapter of the stack."""
        with torch.no_grad():
            self.stack.spread()
        return measure_questions(self.stack.loaded, [self.question], self.stack.count)[:, 0]

    @property
    def vocabulary(self) -> int:
        return self.stack.loaded.module.get_input_embeddings().weight.shape[0]  # type: ignore[operator]

    @property
    def model_bytes(self) -> int:
        return sum(p.numel() * p.element_size() for p in self.stack.loaded.module.parameters())


def tuned_stack(
    model: ModelConfig,
    examples: Sequence[Example],
    query: Query,
    training: Training,
    device: str,
    on_progress: CheckpointFn | None = None,
) -> TunedStack:
    """on_progress: hears of rows read as tokens, and may raise Cancelled.

    Raises MissingNeed (no recorded moments), UnsupportedModel (not the recipe's LoRA), and what loading raises."""
    check_trainable(training)
    if model.adapter is None and not model.checkpoints:
        raise UnsupportedModel("The check steps from a LoRA adapter, and this model has none.")
    tuned = load_model(replace(model, quantization=None), device)
    base = load_model(
        ModelConfig(model.base, tokenizer=tokenizer_path(model), recipe=model.recipe, dtype=model.dtype), device
    )
    assert training.lora is not None
    stack = AdapterStack(base, training.lora, 1)
    weights, first, second, step = _saved(tuned)
    question = prepare(tuned, None, query)
    found = TunedStack(
        stack=stack,
        rows=tuple(_encoded(tuned, examples, on_progress or (lambda _progress: None))),
        question=question,
        training=training,
        theta_P=_flat(stack, weights),
        first_P=_flat(stack, first),
        second_P=_flat(stack, second),
        step=step,
        value=0.0,
        key=fingerprint(tuned.fingerprints(), [(s.ids, s.targets) for s in question.sequences], question.weights),
    )
    found.copies(1)
    value = float(found.values()[0])
    _check_same(tuned, question, value)
    return replace(found, value=value)


def _encoded(tuned: LoadedModel, examples: Sequence[Example], on_progress: CheckpointFn) -> Iterator[Encoded]:
    encoder = tuned.encoder()
    for done, example in enumerate(examples):
        if done % 256 == 0:
            on_progress(Progress(done, len(examples), "rows", "tokenize"))
        yield encoder.encode(example)


def _saved(tuned: LoadedModel) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], int]:
    """(weights, exp_avg, exp_avg_sq, step) of the last state, under the names PEFT saves weights by."""
    state, tracked = tuned.states[-1], tuned.tracked(None)
    moments = read_moments(tuned, state, tracked)
    weights = {name.replace(".default.", "."): tensor for name, tensor in state.tensors.items()}
    first = {f"{saved_name(m)}.weight": moments.first[m.name] for m in tracked}
    second = {f"{saved_name(m)}.weight": moments.second[m.name] for m in tracked}
    return weights, first, second, moments.step


def _flat(stack: AdapterStack, named: dict[str, Tensor]) -> Tensor:
    """[P], in the stack's dtype. Raises UnsupportedModel where the adapter is not one of the recipe."""
    like = stack.named(stack.theta_KP[0])
    strange = sorted(like.keys() ^ named.keys()) or [n for n in like if like[n].shape != named[n].shape]
    if strange:
        raise UnsupportedModel(
            f"The adapter is not the recipe's LoRA: {strange[0]} differs ({len(strange)} in all).", remedy=_REMEDY
        )
    return stack.flat(named).to(stack.theta_KP)


def _check_same(tuned: LoadedModel, question: Question, value: float) -> None:
    """Names and shapes may fit where the recipe's alpha does not."""
    own = float(measure_questions(tuned, [question])[0, 0])
    if tuned.config.dtype != "bfloat16" and not abs(own - value) <= _TOLERANCE * (1 + abs(own)):
        raise UnsupportedModel(
            f"The adapter is not the recipe's LoRA: f of the query is {own:.4f}, and {value:.4f} by the recipe.",
            remedy=_REMEDY,
        )
