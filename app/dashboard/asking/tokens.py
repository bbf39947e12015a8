"""Which tokens matter: of the output, and of a training row's text.

Of a row's score, `query_token_scores` are the parts of each output token (what is explained there), `position_shares`
the parts of each position of the question (where in it the score arises), `train_position_shares` those of the row's
own positions (DESIGN §4). A part that is negative speaks against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

HEATS = 8  # shades beside none
_LEAST = 0.08  # of the largest part: what is smaller is not marked
_SLACK = 24  # characters between two of a row's tokens that no token accounts for

Kind = Literal["tokens", "positions", ""]
FIELDS: dict[Kind, str] = {"tokens": "query_token_scores", "positions": "position_shares"}


@dataclass(frozen=True)
class TokenView:
    """A piece of the output: a token, or what lies between two. target: its log-probability is what is explained.

    special: the tokenizer's own, of no character. start: its first character in the output. places: its tokens among
    those of the query. heat: 0 to HEATS. share: of the scores shown, 0 to 1.
    """

    text: str
    target: bool
    start: int = 0
    special: bool = False
    places: tuple[int, ...] = ()
    heat: int = 0
    share: float = 0.0

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    @property
    def label(self) -> str:
        """What a screen reader says, and what the marks are called."""
        text = self.text if self.text.strip() else "white space"
        return f"{text.strip()} (end mark)" if self.special else text.strip()


@dataclass(frozen=True)
class Mark:
    """A run of a training row's text. heat: 0 to HEATS; against: its part is negative."""

    text: str
    heat: int = 0
    against: bool = False


def output_tokens(query: dict[str, Any]) -> tuple[TokenView, ...]:
    """The completion cut at its tokens. Characters between two tokens (spaces, with some tokenizers) are kept, and
    what several tokens spell together is one piece; special tokens that are explained come last."""
    completion, end = query["completion"], 0
    pieces: list[TokenView] = []
    special: list[TokenView] = []
    for place, token in enumerate(query["tokens"]):
        if token.get("member"):
            continue
        if token["part"] == "special" and token["target"]:
            special.append(TokenView(token["text"], True, special=True, places=(place,)))
        elif token["part"] == "completion" and token["end"] > end:
            if token["start"] > end:
                pieces.append(TokenView(completion[end : token["start"]], False, end))
            start = max(end, token["start"])
            pieces.append(TokenView(completion[start : token["end"]], token["target"], start, places=(place,)))
            end = token["end"]
        elif token["part"] == "completion" and pieces:
            pieces[-1] = replace(pieces[-1], places=(*pieces[-1].places, place))
    rest = [TokenView(completion[end:], False, end)] if completion[end:] else []
    return (*pieces, *rest, *special)


def kind_of(hits: Sequence[dict[str, Any]], tokens: int) -> Kind:
    """Which parts the rows have, for every token of the query."""
    for kind, field in FIELDS.items():
        if hits and all(len(hit.get(field) or ()) == tokens for hit in hits):
            return kind
    return ""


def parts_of(hit: dict[str, Any], pieces: Sequence[TokenView], kind: Kind) -> tuple[float, ...]:
    """Of the row's score, each piece's part; empty where the answer has none."""
    if not kind:
        return ()
    values = hit[FIELDS[kind]]
    return tuple(sum(values[place] or 0.0 for place in piece.places) for piece in pieces)


def coloured(pieces: Sequence[TokenView], parts: Sequence[Sequence[float]]) -> tuple[TokenView, ...]:
    """Each piece with what it carries of all the rows' scores; parts: of each row. Parts count by their size: a row
    that speaks against a token does not take from what another gives to it."""
    carried = [sum(abs(row[number]) for row in parts) for number in range(len(pieces))]
    total, most = sum(carried), max(carried, default=0.0)
    return tuple(
        replace(piece, share=value / total, heat=round(HEATS * value / most)) if total else piece
        for piece, value in zip(pieces, carried, strict=True)
    )


def in_words(pieces: Sequence[TokenView], parts: Sequence[float]) -> str:
    """Where most of one row's score comes from. A part of the other sign than the score works against it."""
    total = sum(map(abs, parts)) if sum(parts) >= 0 else -sum(map(abs, parts))
    if not total:
        return ""
    order = sorted(range(len(parts)), key=lambda number: -abs(parts[number]))[:3]
    shares = [(pieces[number].label, parts[number] / total) for number in order]
    return ", ".join(f"“{label}” {share:.0%}" for label, share in shares if abs(share) >= 0.005)


def marked(text: str, tokens: Sequence[str], shares: Sequence[float | None]) -> tuple[Mark, ...]:
    """The row's true text with the tokens that matter marked. A token that the text does not spell (a special one,
    half a character) is passed over: nothing is added to the text, and nothing taken from it."""
    most = max((abs(share or 0.0) for share in shares), default=0.0)
    marks: list[Mark] = []
    end, missed = 0, 0
    for token, share in zip(tokens, shares, strict=True):
        word = token.strip()
        start = text.find(word, end, end + len(token) + _SLACK + missed) if word else -1
        if start < 0:
            missed += len(token)
            continue
        missed = 0
        size = abs(share or 0.0)
        if most and size >= _LEAST * most:
            _append(marks, Mark(text[end:start]))
            _append(marks, Mark(word, max(1, round(HEATS * size / most)), against=(share or 0.0) < 0))
        else:
            _append(marks, Mark(text[end : start + len(word)]))
        end = start + len(word)
    _append(marks, Mark(text[end:]))
    return tuple(marks)


def cut(marks: Sequence[Mark], limit: int) -> tuple[Mark, ...]:
    """Its first `limit` characters, and an ellipsis where there are more."""
    kept: list[Mark] = []
    for mark in marks:
        if limit <= 0:
            return (*kept, Mark("…"))
        kept.append(replace(mark, text=mark.text[:limit]))
        limit -= len(mark.text)
    return (*kept, Mark("…")) if limit < 0 else tuple(kept)


def _append(marks: list[Mark], mark: Mark) -> None:
    """Runs that look the same are one."""
    if not mark.text:
        return
    if marks and (marks[-1].heat, marks[-1].against) == (mark.heat, mark.against):
        marks[-1] = replace(marks[-1], text=marks[-1].text + mark.text)
    else:
        marks.append(mark)
