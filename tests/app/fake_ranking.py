"""How the engine without tensors ranks: by the words a row shares with the question, less the mean of all rows."""

from __future__ import annotations

from collections import Counter

from engine.dataset import Dataset, example_text
from engine.types import AskOptions, Group, Hit, Query, Removal, Token
from tests.app.fake_tokens import asked_parts


def kind_of(query: Query) -> str:
    contrast = "contrastive_" if query.contrast else ""
    return f"{'mean_' if query.members else ''}{contrast}{query.measurement}"


def removal_of(rows: Dataset, scores: list[float], ask: AskOptions) -> Removal | None:
    if ask.removal is None:
        return None
    tagged = rows.select(ask.removal.tags) if ask.removal.tags else []
    chosen = {*tagged, *(at for at, row in enumerate(rows) if row.id in ask.removal.ids)}
    total = sum(scores[at] for at in chosen)
    return Removal(len(chosen), total, -total / len(rows))


def question_of(query: Query) -> tuple[str, str]:
    """The prompt and completion that are explained."""
    messages = query.messages or ()
    prompt = query.prompt if query.prompt is not None else "\n".join(m.content for m in messages)
    if query.completion is not None:
        return prompt, query.completion
    if query.generate is not None:
        return prompt, " generated answer"
    return "\n".join(m.content for m in messages[:-1]), messages[-1].content


def scores_of(rows: Dataset, text: str) -> list[float]:
    asked = Counter(text.lower().split())
    shared = [sum((asked & Counter(example_text(row).lower().split())).values()) for row in rows]
    mean = sum(shared) / len(shared)
    return [count - mean for count in shared]


def searched_in(rows: Dataset, ask: AskOptions) -> list[int]:
    wanted = ask.filter
    if wanted is None:
        return list(range(len(rows)))
    return [
        at
        for at, row in enumerate(rows)
        if row.id not in wanted.exclude_ids and all(row.tags.get(k) == v for k, v in wanted.tags.items())
    ]


def hits_of(
    rows: Dataset, scores: list[float], order: list[int], ask: AskOptions, tokens: tuple[Token, ...]
) -> tuple[Hit, ...]:
    return tuple(
        Hit(
            rank=rank,
            position=at,
            example_id=rows[at].id,
            score=scores[at],
            normalized_score=scores[at] / 10 if ask.normalize == "cosine" else None,
            percentile=100.0 * sum(score <= scores[at] for score in scores) / len(scores),
            **asked_parts(example_text(rows[at]), scores[at], tokens) if ask.tokens else {},
            module_scores={"layer.0": scores[at]} if ask.modules else None,
        )
        for rank, at in enumerate(order, start=1)
    )


def groups_of(rows: Dataset, scores: list[float], searched: list[int], ask: AskOptions) -> tuple[Group, ...] | None:
    if ask.group_by is None:
        return None
    tag = ask.group_by.removeprefix("tags.")
    members: dict[str, list[float]] = {}
    for at in searched:
        members.setdefault(rows[at].tags.get(tag, ""), []).append(scores[at])
    total = sum(abs(score) for score in scores) or 1.0
    groups = [Group(key, sum(found), sum(abs(s) for s in found) / total, len(found)) for key, found in members.items()]
    return tuple(sorted(groups, key=lambda group: (-group.score, group.key)))
