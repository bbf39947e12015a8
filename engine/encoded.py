"""What a text became: token ids, which of them are targets, and where each came from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from engine.errors import InvalidQuery
from engine.rendering import Rendered
from engine.types import Span

Part = Literal["prompt", "completion", "special"]


class TokenRow(Protocol):
    """What a batch is made from: token ids, and which of them are targets; both of one length, of ints and bools."""

    @property
    def ids(self) -> Any: ...
    @property
    def targets(self) -> Any: ...
    @property
    def target_count(self) -> int: ...


@dataclass(frozen=True)
class Encoded:
    """One row or query. Token t is predicted and counted when targets[t]; targets[0] is always False.

    parts, spans: which text a token comes from, and its characters [start, end) there; the pieces of one
    character share its span; specials (BOS, EOS, the chat template's own text behind an answer) have start == end.
    truncated: cut on the right. boundary_mismatch: the prompt's tokens are not how the whole text's tokens begin.
    """

    ids: tuple[int, ...]
    targets: tuple[bool, ...]
    parts: tuple[Part, ...]
    spans: tuple[tuple[int, int], ...]
    truncated: bool = False
    boundary_mismatch: bool = False

    @property
    def target_count(self) -> int:
        return sum(self.targets)


def place(span: tuple[int, int], *, added: bool, target: bool, rendered: Rendered) -> tuple[Part, tuple[int, int]]:
    """Part and span of a token at characters `span` of the rendered text.

    A token over the border belongs to the completion when it is predicted, else to the prompt.
    """
    (start, end), at = span, rendered.completion_at
    if added:
        return "special", (0, 0)
    if start < rendered.prompt_end and not (target and end > rendered.prompt_end):
        return "prompt", (start, min(end, rendered.prompt_end))
    if start < at.end and end > at.start:
        shift = rendered.completion_offset - at.start
        return "completion", (max(start, at.start) + shift, min(end, at.end) + shift)
    nearest = len(rendered.completion) if start >= at.end else 0
    return "special", (nearest, nearest)


def cut(encoded: Encoded, length: int) -> Encoded:
    """The first `length` tokens."""
    return replace(
        encoded,
        ids=encoded.ids[:length],
        targets=encoded.targets[:length],
        parts=encoded.parts[:length],
        spans=encoded.spans[:length],
        truncated=True,
    )


def only_span(encoded: Encoded, span: Span, completion_length: int) -> Encoded:
    """Targets are those that overlap `span` of the completion. Raises InvalidQuery when there are none."""
    if not 0 <= span.start < span.end <= completion_length:
        raise InvalidQuery(
            f"The span [{span.start}, {span.end}) is not within the completion's {completion_length} characters.",
            pointer="/span",
            remedy="Give 0 ≤ start < end ≤ the completion's length, in characters.",
        )
    targets = tuple(
        target and part == "completion" and start < span.end and end > span.start
        for target, part, (start, end) in zip(encoded.targets, encoded.parts, encoded.spans, strict=True)
    )
    if not any(targets):
        raise InvalidQuery(
            f"The span [{span.start}, {span.end}) covers no predicted token of the completion.",
            pointer="/span",
            remedy="Widen the span; a completion's first character may belong to the prompt's last token.",
        )
    return replace(encoded, targets=targets)
