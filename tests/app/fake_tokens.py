"""What the fake engine says of tokens: a word each; those a row shares with the output carry its score."""

from __future__ import annotations

from typing import Any

from engine.types import Token


def tokens_of(prompt: str, completion: str) -> tuple[Token, ...]:
    """One token a word."""
    tokens = [Token("<s>", 0, 0, "special", False)]
    for part, text in (("prompt", prompt), ("completion", completion)):
        start = 0
        for word in text.split():
            start = text.index(word, start)
            target = part == "completion"
            tokens.append(Token(word, start, start + len(word), part, target))  # type: ignore[arg-type]
            start += len(word)
    return tuple(tokens)


def _parts(row: str, score: float, tokens: tuple[Token, ...]) -> tuple[float, ...]:
    """The score, shared by the targets that the row has too; by all of them where it has none."""
    words = row.lower().split()
    shared = [token.target and token.text.lower() in words for token in tokens]
    carrying = shared if any(shared) else [token.target for token in tokens]
    return tuple(score / sum(carrying) if carries else 0.0 for carries in carrying)


def asked_parts(row: str, score: float, tokens: tuple[Token, ...]) -> dict[str, Any]:
    """All that `tokens: true` asks for."""
    own = row.split()
    asked = [token.text.lower() for token in tokens]
    parts = _parts(row, score, tokens)
    return {
        "position_shares": parts,
        "query_token_scores": parts,
        "train_tokens": ("<s>", *own),
        "train_position_shares": (0.0, *(score if word.lower() in asked else 0.0 for word in own)),
    }
