"""Rows and queries to the one text that is tokenised, and where in it prompt and completion lie.

The rules are those of TRL's SFTTrainer: prompt and completion are one text; EOS is written at its end unless it is
there; what a chat template renders stays as it is; targets begin where the prompt's own tokens end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.chat import ChatTemplate
from engine.config import TemplateConfig
from engine.errors import InvalidQuery
from engine.types import Example, Message, Span


@dataclass(frozen=True)
class TargetRange:
    """Targets are the tokens behind those of the text `before` (None: from the start) up to those of `until`."""

    before: str | None
    until: str | None = None


@dataclass(frozen=True)
class Rendered:
    """text: what is tokenised. prompt, completion: its two parts, for people to read.

    prompt_end: the prompt is text[:prompt_end]. completion_at: the characters of `text` that spell the completion
    from its character `completion_offset` on; an empty span when a chat template rewrote it.
    """

    text: str
    prompt: str
    completion: str
    prompt_end: int
    completion_at: Span
    targets: tuple[TargetRange, ...]
    completion_offset: int = 0
    chat: bool = False
    eos: bool = True


def render_example(chat: ChatTemplate, config: TemplateConfig, eos_token: str | None, example: Example) -> Rendered:
    if example.messages is not None:
        return render_messages(chat, example.messages, all_turns=config.assistant_turns == "all")
    if example.text is not None:
        return _render_text(example.text, eos_token if config.eos else None)
    return render_completion(example.prompt or "", example.completion or "", eos_token if config.eos else None)


def render_completion(prompt: str, completion: str, eos_token: str | None) -> Rendered:
    """eos_token None: nothing is written behind the completion."""
    return Rendered(
        text=prompt + _ended(completion, eos_token),
        prompt=prompt,
        completion=completion,
        prompt_end=len(prompt),
        completion_at=Span(len(prompt), len(prompt) + len(completion)),
        targets=(TargetRange(prompt),),
        eos=eos_token is not None,
    )


def render_open_answer(chat: ChatTemplate, messages: Sequence[Message], completion: str) -> Rendered:
    """An answer that was cut off: it stands behind the generation prompt, and no end of turn follows it."""
    prompt = chat.render(messages, add_generation_prompt=True)
    at = Span(len(prompt), len(prompt) + len(completion))
    return Rendered(prompt + completion, prompt, completion, len(prompt), at, (TargetRange(prompt),), chat=True)


def render_messages(chat: ChatTemplate, messages: Sequence[Message], *, all_turns: bool) -> Rendered:
    """The completion is the last assistant turn; targets are its tokens, or those of every assistant turn."""
    answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
    if not answers:
        raise InvalidQuery("The messages have no assistant turn, so there is nothing to explain.", pointer="/messages")
    text = chat.render(messages)
    prompt = _before(chat, messages, answers[-1], text)
    prompt_end = _common_prefix(prompt, text)
    at, offset = _locate(text, messages[answers[-1]].content, prompt_end)
    turns = answers if all_turns else answers[-1:]
    targets = tuple(TargetRange(_before(chat, messages, i, text), _until(chat, messages, i)) for i in turns)
    return Rendered(text, prompt, messages[answers[-1]].content, prompt_end, at, targets, offset, chat=True)


def _render_text(text: str, eos_token: str | None) -> Rendered:
    return Rendered(
        text=_ended(text, eos_token),
        prompt="",
        completion=text,
        prompt_end=0,
        completion_at=Span(0, len(text)),
        targets=(TargetRange(None),),
        eos=eos_token is not None,
    )


def _ended(text: str, eos_token: str | None) -> str:
    return text if eos_token is None or text.endswith(eos_token) else text + eos_token


def _before(chat: ChatTemplate, messages: Sequence[Message], turn: int, text: str) -> str:
    """The text an assistant turn answers to, down to its own header."""
    if turn == 0:  # an opening turn answers to nothing that could be rendered: only its header is not predicted
        return text[: max(0, text.find(messages[0].content.strip()))]
    return chat.render(messages[:turn], add_generation_prompt=True)


def _until(chat: ChatTemplate, messages: Sequence[Message], turn: int) -> str | None:
    return None if turn == len(messages) - 1 else chat.render(messages[: turn + 1])


def _common_prefix(one: str, other: str) -> int:
    """Its length. A template may render the earlier turns otherwise once an answer follows them."""
    different = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(different, min(len(one), len(other)))


def _locate(text: str, content: str, start: int) -> tuple[Span, int]:
    """Where a template wrote the content, which many strip of its outer white space first."""
    for written in (content, content.strip()):
        found = text.find(written, start)
        if written and found >= 0:
            return Span(found, found + len(written)), content.index(written)
    return Span(len(text), len(text)), 0
