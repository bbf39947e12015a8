"""What an evaluation asks: the request's queries, or rows of the dataset turned into questions."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from app.attributions.asking import query_of_member
from app.errors import InvalidRequest
from app.evaluations.schemas import DEFAULT_ROWS, EvaluationCreate
from engine.errors import InvalidQuery
from engine.evaluate.scorecard import EvaluationQuery
from engine.types import Example, Query

if TYPE_CHECKING:
    from engine.dataset import Dataset

_STORED = TypeAdapter(tuple[EvaluationQuery, ...])
_LOOKED_AT = 20  # rows for every question wanted, before giving up


@dataclass(frozen=True)
class Questions:
    """source: where they come from, in words."""

    queries: tuple[EvaluationQuery, ...]
    source: str

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(asked) for asked in self.queries]


def questions_of(body: EvaluationCreate, rows: Dataset) -> Questions:
    """Raises InvalidRequest, InvalidQuery, EmptyCompletion."""
    if body.queries is None:
        return _drawn(body, rows)
    for name in ("rows", "group_by"):
        if getattr(body, name) is not None:
            raise InvalidRequest(f"Give either queries or {name}, not both.", pointer=f"/{name}")
    asked = [
        EvaluationQuery(query_of_member(given, f"/queries/{number}"), given.group, dict(given.relevant))
        for number, given in enumerate(body.queries)
    ]
    return Questions(_measured(asked, body), f"{len(asked)} queries given with the evaluation")


def stored_questions(stored: list[dict[str, Any]]) -> tuple[EvaluationQuery, ...]:
    """The queries as they were written to the evaluation's row."""
    return _STORED.validate_python(stored)


def asked_again(stored: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Stored questions as a request gives them: an evaluation of the same ones goes on from those retrainings."""
    names = ("prompt", "messages", "completion", "contrast", "span")
    return [
        {name: one["query"][name] for name in names if one["query"].get(name) is not None}
        | {name: one[name] for name in ("group", "relevant") if one.get(name)}
        for one in stored
    ]


def _measured(asked: list[EvaluationQuery], body: EvaluationCreate) -> tuple[EvaluationQuery, ...]:
    return tuple(replace(one, query=replace(one.query, measurement=body.measurement)) for one in asked)


def _drawn(body: EvaluationCreate, rows: Dataset) -> Questions:
    """A function of the dataset, the number and the seed: asked again, an evaluation shares its retrainings."""
    wanted = body.rows or DEFAULT_ROWS
    found: dict[Query, EvaluationQuery] = {}
    for position in _order(len(rows), wanted, f"{rows.sha256}:{body.seed}"):
        example = rows[position]
        query = _asked(example)
        if query is not None and query not in found:
            found[query] = EvaluationQuery(query, _group(example, query, body.group_by))
        if len(found) == wanted:
            break
    if len(found) < 2:
        raise InvalidQuery(
            "The dataset's rows make no two questions: they have no prompt and are too short to be cut in two.",
            remedy="Give `queries`: questions like those people will ask.",
            pointer="/rows",
        )
    return Questions(_measured(list(found.values()), body), f"{len(found)} rows of the dataset, asked as questions")


def _order(rows: int, wanted: int, seed: str) -> Iterator[int]:
    yield from random.Random(seed).sample(range(rows), min(rows, _LOOKED_AT * wanted))


def _asked(example: Example) -> Query | None:
    """The question that the row answers; of plain text, how its first half goes on."""
    if example.prompt is not None:
        return Query(prompt=example.prompt, completion=example.completion) if example.completion else None
    if example.messages is not None:
        last = example.messages[-1]
        answers = len(example.messages) > 1 and last.role == "assistant" and last.content
        return Query(messages=example.messages) if answers else None
    return _continued(example.text or "")


def _continued(text: str) -> Query | None:
    """Cut before the first space behind the middle, as completions begin with theirs."""
    cut = text.find(" ", len(text) // 2)
    if cut < 1 or not text[cut:].strip():
        return None
    return Query(prompt=text[:cut], completion=text[cut:])


def _group(example: Example, query: Query, group_by: str | None) -> str | None:
    """Questions that would give each other away: those of one tag, or of one prompt."""
    if group_by is not None:
        return example.tags.get(group_by.removeprefix("tags."))
    if query.prompt is not None:
        return query.prompt
    return "\n".join(turn.content for turn in (query.messages or ())[:-1])
