"""Messages to text through the tokenizer's Jinja chat template, or the one the model was registered with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.errors import InvalidOption, InvalidQuery
from engine.template_rendering import RENDERER, TemplateRefused
from engine.types import Message

# Some templates print today's date. Rows encoded on two days would then differ, so the date stands still
# (the day those templates themselves fall back to).
_FIXED_DATE = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"


class ChatTemplate:
    """Renders conversations. Only rendering needs a template: a model without one serves prompts and texts."""

    def __init__(self, tokenizer: Any, template: str | None) -> None:
        self._tokenizer = tokenizer
        self.source = _source(tokenizer, template)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """Raises InvalidOption without a template, InvalidQuery when the template refuses the messages."""
        if self.source is None:
            raise InvalidOption(
                "The tokenizer has no chat template, so messages cannot be turned into text.",
                pointer="/chat_template",
                remedy="Register the model with a `chat_template` (Jinja), or use prompt and completion.",
            )
        try:
            return RENDERER.render(
                self.source,
                [{"role": message.role, "content": message.content} for message in messages],
                self._tokenizer.special_tokens_map,
                add_generation_prompt=add_generation_prompt,
            )
        except TemplateRefused as error:
            raise InvalidQuery(
                f"The chat template refuses these messages: {error}",
                pointer="/messages",
                remedy="Use the roles, and their order, that the model's chat template allows.",
            ) from None


def _source(tokenizer: Any, template: str | None) -> str | None:
    if template is None and not tokenizer.chat_template:
        return None
    try:
        source = tokenizer.get_chat_template(template)
    except ValueError as error:
        raise InvalidOption(str(error), pointer="/chat_template") from None
    return _FIXED_DATE + source if "strftime_now" in source else source
