"""A query's prompt and completion, checked, as the text a training row of the same content would be."""

from __future__ import annotations

from collections.abc import Sequence

from engine.chat import ChatTemplate
from engine.errors import EmptyCompletion, InvalidQuery
from engine.rendering import Rendered, render_completion, render_messages, render_open_answer
from engine.types import Message


def render_prompt(chat: ChatTemplate, prompt: str | None, messages: Sequence[Message] | None) -> str:
    """The prompt itself, or the conversation with the generation prompt behind it."""
    check_one_of(prompt, messages)
    if messages is None:
        return prompt or ""
    return chat.render(_before_answer(messages), add_generation_prompt=True)


def render_query(
    chat: ChatTemplate,
    prompt: str | None,
    messages: Sequence[Message] | None,
    completion: str | None,
    *,
    eos_token: str | None,
    open_ended: bool,
) -> Rendered:
    """eos_token: what ends a completion (None: nothing). open_ended: a chat answer that no end of turn follows."""
    check_one_of(prompt, messages)
    if messages is None:
        return render_completion(prompt or "", _checked(completion), eos_token)
    if completion is None:
        messages, completion = _split_answer(messages)
    else:
        messages = _before_answer(messages)
    if open_ended:
        return render_open_answer(chat, messages, _checked(completion))
    return render_messages(chat, [*messages, Message("assistant", _checked(completion))], all_turns=False)


def check_one_of(prompt: str | None, messages: Sequence[Message] | None) -> None:
    if (prompt is None) == (messages is None):
        raise InvalidQuery("Give exactly one of prompt and messages.", pointer="/prompt")
    _check_text(prompt or "", "/prompt")
    for number, message in enumerate(messages or ()):
        _check_text(message.role, f"/messages/{number}/role")
        _check_text(message.content, f"/messages/{number}/content")


def _checked(completion: str | None) -> str:
    if completion is None:
        raise InvalidQuery("There is no completion to explain.", pointer="/completion", remedy="Give a completion.")
    if not completion:
        raise EmptyCompletion("The completion is empty, so there is nothing to explain.", pointer="/completion")
    _check_text(completion, "/completion")
    return completion


def _check_text(text: str, pointer: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidQuery("The text contains half of a surrogate pair, which is not text.", pointer=pointer) from None


def _split_answer(messages: Sequence[Message]) -> tuple[Sequence[Message], str | None]:
    """Messages before the last assistant turn, and that turn (None: there is none)."""
    for i in range(len(messages) - 1, -1, -1):
        if messages[i].role == "assistant":
            return _not_empty(messages[:i]), messages[i].content
    return messages, None


def _before_answer(messages: Sequence[Message]) -> Sequence[Message]:
    """Without an assistant turn at the end: another answer takes its place."""
    return _not_empty(messages[:-1] if messages and messages[-1].role == "assistant" else messages)


def _not_empty(messages: Sequence[Message]) -> Sequence[Message]:
    if not messages:
        raise InvalidQuery("The messages hold no turn before the answer.", pointer="/messages")
    return messages
