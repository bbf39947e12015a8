"""Rows and queries to token ids and targets: the tokens that TRL's SFTTrainer would make of the same row.

TRL masks by length: whatever lies beyond the prompt's own token count is completion. Where joint tokenisation
merges the two at their border, that loses (or shifts) a target, in training as here; `boundary_mismatch` tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from engine.chat import ChatTemplate
from engine.config import TemplateConfig, fingerprint
from engine.encoded import Encoded, cut, only_span, place
from engine.errors import ContextOverflow, InvalidOption, InvalidQuery, MalformedRow, NoLossToken
from engine.query_text import render_prompt, render_query
from engine.rendering import Rendered, render_example
from engine.tokenizing import TextTokenizer, Tokenised
from engine.types import Example, Message, Span, Token

__all__ = ["Encoded", "TextEncoder"]

_RULES = 1  # raised whenever this file makes other tokens of the same row, so that old indexes are not asked


class TextEncoder:
    """One tokenizer, one template. max_length: most tokens of a row; context_length: of a query (None: the same)."""

    def __init__(
        self,
        tokenizer: Any,
        template: TemplateConfig,
        *,
        chat_template: str | None,
        max_length: int,
        context_length: int | None = None,
    ) -> None:
        if max_length < 2:
            raise InvalidOption(
                f"max_length is {max_length}; a target and the token before it take 2.",
                pointer="/options/max_length",
                remedy="Set max_length to 2 or more, or leave it out.",
            )
        self.template = template
        self.max_length = max_length
        self.context_length = context_length or max_length
        self._tokenizer = TextTokenizer(tokenizer, template.bos)
        self._chat = ChatTemplate(tokenizer, chat_template)
        self._spans: dict[tuple[int, int], tuple[int, int]] = {}  # rows share most of their spans: keep one of each

    @property
    def fingerprint_tokenizer(self) -> str:
        return self._tokenizer.fingerprint

    @cached_property
    def fingerprint_template(self) -> str:
        """Of the switches and the chat template; max_length belongs to the index."""
        return fingerprint("template", _RULES, self.template, self._chat.source)

    def encode(self, example: Example) -> Encoded:
        """A training row. Raises NoLossToken, and MalformedRow when the chat template refuses it; both name the row."""
        encoded = self._encode(self.render(example))
        if len(encoded.ids) > self.max_length:
            encoded = cut(encoded, self.max_length)
        if not any(encoded.targets):
            where = f" within its first {self.max_length} tokens" if encoded.truncated else ""
            raise NoLossToken(f"Row {example.id!r} has no token to predict{where}.", example_id=example.id)
        return encoded

    def render(self, example: Example) -> Rendered:
        """The row as text; `.prompt` and `.completion` are for display."""
        try:
            return render_example(self._chat, self.template, self._tokenizer.eos_token, example)
        except InvalidQuery as error:
            cause = f"Row {example.id!r}: {error.detail}"
            raise MalformedRow(cause, remedy=error.remedy, example_id=example.id) from None

    def encode_query(
        self,
        *,
        prompt: str | None = None,
        messages: Sequence[Message] | None = None,
        completion: str | None = None,
        span: Span | None = None,
        eos: bool | None = None,
    ) -> Encoded:
        """Targets are the completion's tokens, or those that overlap `span`. Nothing is truncated.

        With messages, a completion takes the place of an assistant turn at their end; without one, the last
        assistant turn is the completion. eos None: as in training rows; False: the answer was cut off.
        Raises InvalidQuery, EmptyCompletion, ContextOverflow and NoLossToken.
        """
        rendered = self.render_query(prompt=prompt, messages=messages, completion=completion, eos=eos)
        encoded = self._encode(rendered)
        self._check_length(encoded.ids, rendered)
        if span is not None:
            return only_span(encoded, span, len(rendered.completion))
        if not any(encoded.targets):
            raise NoLossToken(
                "No token of the completion is predicted: its characters merge with the prompt into one token, "
                "or nothing comes before its first token.",
                remedy="Move the white space from the prompt's end to the completion's start, or give a prompt.",
                pointer="/completion",
            )
        return encoded

    def render_query(
        self,
        *,
        prompt: str | None = None,
        messages: Sequence[Message] | None = None,
        completion: str | None = None,
        eos: bool | None = None,
    ) -> Rendered:
        """The query as text; `.prompt` and `.completion` are what `tokens()` shows."""
        ends = self.template.eos if eos is None else eos
        eos_token = self._tokenizer.eos_token if ends else None
        return render_query(self._chat, prompt, messages, completion, eos_token=eos_token, open_ended=eos is False)

    def prompt_text(self, *, prompt: str | None = None, messages: Sequence[Message] | None = None) -> str:
        """The query's prompt as text; a conversation as its template renders it, with the generation prompt."""
        return render_prompt(self._chat, prompt, messages)

    def encode_prompt(self, *, prompt: str | None = None, messages: Sequence[Message] | None = None) -> list[int]:
        """What generation starts from. Raises ContextOverflow when no token could follow."""
        text = self.prompt_text(prompt=prompt, messages=messages)
        ids = self._tokenizer(text, chat=messages is not None, keep_eos=False).ids
        pointer = "/prompt" if messages is None else "/messages"
        if not ids:
            raise InvalidQuery("The prompt has no token to generate from.", pointer=pointer, remedy="Give a prompt.")
        if len(ids) >= self.context_length:
            cause = f"The prompt takes {len(ids)} tokens; the model's context is {self.context_length}."
            raise ContextOverflow(cause, pointer=pointer)
        return list(ids)

    def tokens(self, encoded: Encoded, prompt_text: str, completion_text: str) -> tuple[Token, ...]:
        """For display. Specials show as the tokenizer spells them."""
        texts: dict[str, str] = {"prompt": prompt_text, "completion": completion_text}
        spelled = self.token_texts(encoded)
        return tuple(
            Token(texts[part][start:end] if part in texts else spelled[t], start, end, part, encoded.targets[t])
            for t, (part, (start, end)) in enumerate(zip(encoded.parts, encoded.spans, strict=True))
        )

    def token_texts(self, encoded: Encoded) -> list[str]:
        """Every token as the tokenizer decodes it alone."""
        return self._tokenizer.decode_each(encoded.ids)

    def _encode(self, rendered: Rendered) -> Encoded:
        tokens = self._tokenizer(rendered.text, chat=rendered.chat, keep_eos=rendered.eos)
        targets, mismatch = self._targets(tokens, rendered)
        placed = [
            place(span, added=added, target=target, rendered=rendered)
            for span, added, target in zip(tokens.spans, tokens.added, targets, strict=True)
        ]
        return Encoded(
            ids=tokens.ids,
            targets=tuple(targets),
            parts=tuple(part for part, _ in placed),
            spans=tuple(self._spans.setdefault(span, span) for _, span in placed),
            boundary_mismatch=mismatch,
        )

    def _targets(self, tokens: Tokenised, rendered: Rendered) -> tuple[list[bool], bool]:
        """(token t is a target, whether some prompt's tokens are not how the text's tokens begin)"""
        targets, mismatch = [False] * len(tokens.ids), False
        for turn in rendered.targets:
            edges = [0, len(tokens.ids)]
            for side, text in enumerate((turn.before, turn.until)):
                if text is None:
                    continue
                head = self._tokenizer(text, chat=rendered.chat, keep_eos=rendered.eos).ids
                edges[side] = min(len(head), len(tokens.ids))
                mismatch |= tokens.ids[: len(head)] != head
            for t in range(max(1, edges[0]), edges[1]):
                targets[t] = True
        return targets, mismatch

    def _check_length(self, ids: tuple[int, ...], rendered: Rendered) -> None:
        if len(ids) <= self.context_length:
            return
        prompt = len(self._tokenizer(rendered.prompt, chat=rendered.chat, keep_eos=False).ids)
        asked = "/messages" if rendered.chat else "/prompt"
        raise ContextOverflow(
            f"The query takes {len(ids)} tokens (prompt {prompt}, completion {len(ids) - prompt}); "
            f"the model's context is {self.context_length}.",
            pointer=asked if prompt >= self.context_length else "/completion",
        )
