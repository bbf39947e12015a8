"""One ranked row as the page shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.checks.words import effect_short
from app.dashboard.asking.tokens import Kind, Mark, TokenView, cut, in_words, marked, parts_of

SHORT_PROMPT, SHORT_TEXT = 300, 400


@dataclass(frozen=True)
class EffectView:
    """What leaving the row out is predicted to do, in nats; words: with its interval."""

    value: float
    words: str


@dataclass(frozen=True)
class HitView:
    """One ranked row. bar: width in percent of the longest bar on the page. tie, cluster: words, empty when there is
    none. measured: by a check, in words. parts: of its score, what each piece of the output carries (empty: not
    known); parts_words: the largest.

    prompt, text: as marks, cut; whole: both uncut, empty when nothing was cut. marks: whether any token is marked.
    """

    rank: int
    side: str
    example_id: str
    position: int
    score: str
    bar: float
    percentile: str
    tags: tuple[str, ...]
    prompt: tuple[Mark, ...]
    text: tuple[Mark, ...]
    whole: tuple[Mark, ...]
    marks: bool
    tie: str = ""
    cluster: str = ""
    effect: EffectView | None = None
    measured: str = ""
    parts: tuple[float, ...] = ()
    parts_words: str = ""

    @property
    def parts_data(self) -> str:
        """For the script: numbers, in the order of the pieces."""
        return " ".join(f"{part:.5g}" for part in self.parts)


def hit_view(
    hit: dict[str, Any], side: str, longest: float, pieces: Sequence[TokenView] = (), kind: Kind = ""
) -> HitView:
    """`hit`: of an attribution as the API gives it. longest: the largest score, by its size, on the page."""
    score = hit["score"] or 0.0
    tags = dict(hit["tags"]) | ({"label": hit["label"]} if hit.get("label") else {})
    prompt, text = _marked_row(hit)
    parts = parts_of(hit, pieces, kind)
    short = cut(prompt, SHORT_PROMPT), cut(text, SHORT_TEXT)
    return HitView(
        rank=hit["rank"],
        side=side,
        example_id=hit["example_id"],
        position=hit["position"],
        score=f"{score:+.4g}",
        bar=round(100.0 * abs(score) / longest, 2) if longest else 0.0,
        percentile="" if hit["percentile"] is None else f"{hit['percentile']:.1f}",
        tags=tuple(f"{key}: {value}" for key, value in tags.items()),
        prompt=short[0],
        text=short[1],
        whole=() if short == (prompt, text) else (*prompt, *text),
        marks=any(mark.heat for mark in (*prompt, *text)),
        tie=_tie(hit),
        cluster=f"near-duplicates {hit['cluster']}" if hit.get("cluster") else "",
        effect=_effect(hit["predicted_effect"]),
        measured=_measured(hit.get("effect")),
        parts=parts,
        parts_words=in_words(pieces, parts),
    )


def _marked_row(hit: dict[str, Any]) -> tuple[tuple[Mark, ...], tuple[Mark, ...]]:
    """(prompt, the rest), from one pass over both: the tokens run through them."""
    prompt = hit["prompt"] or ""
    text = hit["completion"] if hit["completion"] is not None else hit["text"] or ""
    tokens, shares = hit.get("train_tokens") or (), hit.get("train_position_shares") or ()
    if not tokens or len(tokens) != len(shares):
        return (Mark(prompt),) if prompt else (), (Mark(text),) if text else ()
    return _split(marked(prompt + text, tokens, shares), len(prompt))


def _split(marks: Sequence[Mark], at: int) -> tuple[tuple[Mark, ...], tuple[Mark, ...]]:
    before: list[Mark] = []
    after: list[Mark] = []
    for mark in marks:
        head, tail = mark.text[: max(at, 0)], mark.text[max(at, 0) :]
        before += [Mark(head, mark.heat, mark.against)] if head else []
        after += [Mark(tail, mark.heat, mark.against)] if tail else []
        at -= len(mark.text)
    return tuple(before), tuple(after)


def _effect(effect: dict[str, Any] | None) -> EffectView | None:
    if effect is None:
        return None
    interval = f"{effect['level']:.0%}: {effect['low']:+.2g} to {effect['high']:+.2g}"
    return EffectView(effect["value"], f"{effect['value']:+.2g} nats ({interval})")


def _measured(effect: dict[str, Any] | None) -> str:
    if effect is None:
        return ""
    known = effect["low"] is not None and effect["high"] is not None
    interval = f" (95%: {effect['low']:+.2g} to {effect['high']:+.2g})" if known else ""
    return f"{effect_short(effect['kind'])}: {effect['measured']:+.2g} nats{interval}"


def _tie(hit: dict[str, Any]) -> str:
    """Answers stored by earlier versions say nothing of ties."""
    if not hit.get("tied"):
        return ""
    about = "about " if hit["rank_estimated"] else ""
    return f"tied with rank {about}{hit['rank_low']}–{hit['rank_high']}"
