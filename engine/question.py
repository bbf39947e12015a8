"""From a query to token sequences: generation where it was asked for, span, contrast.

Shapes: T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from engine.errors import ContextOverflow, InvalidQuery
from engine.model import LoadedModel
from engine.text import Encoded, TextEncoder
from engine.types import Generate, Message, Query, Token

_COLDEST = 1e-3  # below it sampling is greedy but for overflow: logits are divided by the temperature


@dataclass(frozen=True)
class Question:
    """A query ready for the model: one sequence, or two of opposite sign for a contrast."""

    prompt: str
    completion: str
    sequences: tuple[Encoded, ...]
    tokens: tuple[Token, ...]

    @property
    def signs(self) -> tuple[float, ...]:
        return (1.0, -1.0)[: len(self.sequences)]

    @property
    def kind(self) -> str:
        return "contrastive_log_prob" if len(self.sequences) == 2 else "log_prob"

    @property
    def targets(self) -> int:
        return sum(self.sequences[0].targets)

    @property
    def text(self) -> str:
        """What lexical methods read."""
        return f"{self.prompt}\n{self.completion}"


def prepare(model: LoadedModel, max_length: int | None, query: Query) -> Question:
    """Raises InvalidQuery, EmptyCompletion, ContextOverflow, NoLossToken; nothing is truncated."""
    encoder = model.encoder(max_length)
    query, ends = _with_completion(model, encoder, query)
    assert query.completion is not None
    first = encoder.encode_query(
        prompt=query.prompt, messages=query.messages, completion=query.completion, span=query.span, eos=ends
    )
    sequences = (first,)
    if query.contrast is not None:
        if query.contrast == query.completion:
            raise InvalidQuery("The contrast equals the completion: their difference is zero.", pointer="/contrast")
        other = encoder.encode_query(prompt=query.prompt, messages=query.messages, completion=query.contrast, eos=ends)
        sequences = (first, other)
    prompt = encoder.prompt_text(prompt=query.prompt, messages=query.messages)
    return Question(prompt, query.completion, sequences, encoder.tokens(first, prompt, query.completion))


def _with_completion(model: LoadedModel, encoder: TextEncoder, query: Query) -> tuple[Query, bool | None]:
    """The query with its completion spelled out, and whether EOS ends it (None = as in training rows)."""
    messages, completion = query.messages, query.completion
    if completion is None and query.generate is None and (turn := _last_answer(messages or ())) is not None:
        return replace(query, messages=(messages or ())[:turn], completion=(messages or ())[turn].content), None
    if completion is not None:
        return query, None
    if query.generate is None:
        raise InvalidQuery("Nothing to explain: give `completion`, or `generate` one.", pointer="/completion")
    prompt_ids = encoder.encode_prompt(prompt=query.prompt, messages=messages)
    text, ended = generate(model, prompt_ids, query.generate)
    return replace(query, completion=text), ended


def _last_answer(messages: Sequence[Message]) -> int | None:
    """The place of the last assistant turn; what follows it is not part of the question."""
    return next((i for i in reversed(range(len(messages))) if messages[i].role == "assistant"), None)


@torch.no_grad()
def generate(model: LoadedModel, prompt_ids: Sequence[int], options: Generate) -> tuple[str, bool]:
    """(text, whether the model ended it itself) from the tuned model; temperature 0 (or nearly) = greedy."""
    if len(prompt_ids) + options.max_new_tokens > model.context_length:
        raise ContextOverflow(
            f"The prompt takes {len(prompt_ids)} tokens and {options.max_new_tokens} more are asked for: "
            f"the model's context is {model.context_length}.",
            pointer="/generate/max_new_tokens",
        )
    model.use(-1)
    ids_1T = torch.tensor([list(prompt_ids)], device=model.device)
    sampling = (
        {"do_sample": True, "temperature": options.temperature}
        if options.temperature >= _COLDEST
        else {"do_sample": False}
    )
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(options.seed)
        output_1T = model.module.generate(  # type: ignore[operator]
            input_ids=ids_1T,
            attention_mask=torch.ones_like(ids_1T),
            max_new_tokens=options.max_new_tokens,
            pad_token_id=model.pad_id,
            **sampling,
        )
    new_ids = output_1T[0, len(prompt_ids) :].tolist()
    ended = bool(new_ids) and new_ids[-1] == model.tokenizer.eos_token_id
    # Decoded behind the prompt: on its own, a Llama-style tokenizer would drop the answer's leading space.
    before = model.tokenizer.decode(list(prompt_ids), skip_special_tokens=True)
    text = model.tokenizer.decode([*prompt_ids, *new_ids], skip_special_tokens=True)[len(before) :]
    if not text:
        raise InvalidQuery("The model generated nothing to explain.", remedy="Give a completion, or another prompt.")
    return text, ended
