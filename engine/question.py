"""From a query to token sequences: generation where it was asked for, span, contrast, sets.

Shapes: T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from engine.errors import ContextOverflow, InputError, InvalidQuery
from engine.model import LoadedModel
from engine.text import Encoded, TextEncoder
from engine.types import Generate, Generated, Member, Message, Query, Token

_REMEMBERED = 32  # what a model said last: a question about it that follows need not wait for it again
_COLDEST = 1e-3  # below it sampling is greedy but for overflow: logits are divided by the temperature


@dataclass(frozen=True)
class Question:
    """A query ready for the model: f = Σ_s weights[s] · (log-probability or log-odds of sequence s).

    A completion has weight 1/M in a set of M members (1 alone), its contrast the same with the opposite sign.
    members: prompt and completion of each; tokens: of the completions' sequences (`explained`), one after the other.
    """

    members: tuple[Member, ...]
    sequences: tuple[Encoded, ...]
    weights: tuple[float, ...]
    tokens: tuple[Token, ...]
    odds: bool = False

    @property
    def prompt(self) -> str:
        return self.members[0].prompt

    @property
    def completion(self) -> str:
        return self.members[0].completion

    @property
    def explained(self) -> tuple[int, ...]:
        """The sequences that are asked about: all but the contrasts."""
        return tuple(s for s, weight in enumerate(self.weights) if weight > 0)

    @property
    def contrastive(self) -> bool:
        return len(self.explained) < len(self.sequences)

    @property
    def kind(self) -> str:
        plain = "log_odds" if self.odds else "log_prob"
        contrast = "contrastive_" if self.contrastive else ""
        return f"{'mean_' if len(self.members) > 1 else ''}{contrast}{plain}"

    @property
    def targets(self) -> int:
        return sum(sum(self.sequences[s].targets) for s in self.explained)

    @property
    def text(self) -> str:
        """What lexical methods read."""
        return "\n".join(f"{member.prompt}\n{member.completion}" for member in self.members)


def prepare(model: LoadedModel, max_length: int | None, query: Query) -> Question:
    """Raises InvalidQuery, EmptyCompletion, ContextOverflow, NoLossToken; nothing is truncated."""
    odds = query.measurement == "log_odds"
    if not query.members:
        return replace(_prepare_one(model, max_length, query), odds=odds)
    if any((query.prompt, query.messages, query.completion, query.generate, query.contrast, query.span)):
        raise InvalidQuery("A set of queries takes nothing beside its members.", pointer="/queries")
    parts = [_member(model, max_length, number, member) for number, member in enumerate(query.members)]
    return Question(
        members=tuple(part.members[0] for part in parts),
        sequences=tuple(sequence for part in parts for sequence in part.sequences),
        weights=tuple(weight / len(parts) for part in parts for weight in part.weights),
        tokens=tuple(replace(token, member=number) for number, part in enumerate(parts) for token in part.tokens),
        odds=odds,
    )


def _member(model: LoadedModel, max_length: int | None, number: int, member: Query) -> Question:
    if member.members:
        raise InvalidQuery("A member of a set cannot be a set.", pointer=f"/queries/{number}")
    try:
        return _prepare_one(model, max_length, member)
    except InputError as error:
        error.pointer = f"/queries/{number}{error.pointer or ''}"
        raise


def _prepare_one(model: LoadedModel, max_length: int | None, query: Query) -> Question:
    encoder = model.encoder(max_length)
    query, ends = _with_completion(model, encoder, query)
    assert query.completion is not None
    first = encoder.encode_query(
        prompt=query.prompt, messages=query.messages, completion=query.completion, span=query.span, eos=ends
    )
    sequences, weights = (first,), (1.0,)
    if query.contrast is not None:
        if query.contrast == query.completion:
            raise InvalidQuery("The contrast equals the completion: their difference is zero.", pointer="/contrast")
        other = encoder.encode_query(prompt=query.prompt, messages=query.messages, completion=query.contrast, eos=ends)
        sequences, weights = (first, other), (1.0, -1.0)
    prompt = encoder.prompt_text(prompt=query.prompt, messages=query.messages)
    tokens = encoder.tokens(first, prompt, query.completion)
    return Question((Member(prompt, query.completion),), sequences, weights, tokens)


def _with_completion(model: LoadedModel, encoder: TextEncoder, query: Query) -> tuple[Query, bool | None]:
    """The query with its completion spelled out, and whether EOS ends it (None = as in training rows)."""
    messages, completion = query.messages, query.completion
    if completion is None and query.generate is None and (turn := _last_answer(messages or ())) is not None:
        return replace(query, messages=(messages or ())[:turn], completion=(messages or ())[turn].content), None
    if completion is not None:
        return query, None
    if query.generate is None:
        raise InvalidQuery("Nothing to explain: give `completion`, or `generate` one.", pointer="/completion")
    said = _generated(model, encoder, query, query.generate)
    return replace(query, completion=said.text), said.ended


def generate_only(model: LoadedModel, query: Query) -> Generated:
    """What `query.generate` gives, which is what a question with the same `generate` would be about.

    Raises InvalidQuery, ContextOverflow.
    """
    if query.generate is None:
        raise InvalidQuery("Say how much to generate.", pointer="/generate")
    return _generated(model, model.encoder(), query, query.generate)


def _generated(model: LoadedModel, encoder: TextEncoder, query: Query, options: Generate) -> Generated:
    prompt_ids = tuple(encoder.encode_prompt(prompt=query.prompt, messages=query.messages))
    key = (prompt_ids, options)
    if key not in model.generated:
        model.generated[key] = Generated(*generate(model, prompt_ids, options))
        while len(model.generated) > _REMEMBERED:
            model.generated.pop(next(iter(model.generated)))
    return model.generated[key]


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
