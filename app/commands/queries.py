"""The queries file of `whence score`."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from engine.errors import InvalidQuery
from engine.types import Message, Query, Span

FIELDS = frozenset({"id", "prompt", "messages", "completion", "contrast", "span"})
REMEDY = "Each line is an object: {id?, prompt | messages, completion, contrast?, span?: {start, end}}."


@dataclass(frozen=True)
class NamedQuery:
    id: str
    query: Query


def read_queries(path: Path) -> list[NamedQuery]:
    """One query a line; ids default to query-<position>. Raises InvalidQuery, naming the line."""
    queries = [_parse(line, number, f"query-{position}") for position, (number, line) in enumerate(_lines(path))]
    if not queries:
        raise InvalidQuery(f"{path} holds no query.", remedy=REMEDY)
    name, times = Counter(query.id for query in queries).most_common(1)[0]
    if times > 1:
        raise InvalidQuery(
            f"{path} has {times} queries with the id {name!r}.", remedy="Make the ids unique, or leave them out."
        )
    return queries


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidQuery(f"{path} cannot be read: {error}.", remedy="Give a JSONL file in UTF-8.") from error
    # Not splitlines(): JSON strings may hold U+2028 and its like.
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _parse(line: str, number: int, default_id: str) -> NamedQuery:
    try:
        row = json.loads(line)
    except ValueError as error:
        _refuse(number, f"not JSON: {error}")
    if not isinstance(row, dict):
        _refuse(number, "not an object")
    if unknown := sorted(set(row) - FIELDS):
        _refuse(number, f"unknown field {unknown[0]!r}")
    query = Query(
        prompt=_text(row, "prompt", number),
        messages=_messages(row.get("messages"), number),
        completion=_text(row, "completion", number),
        contrast=_text(row, "contrast", number),
        span=_span(row.get("span"), number),
    )
    _check(query, number)
    return NamedQuery(str(row.get("id", default_id)), query)


def _check(query: Query, number: int) -> None:
    if (query.prompt is None) == (query.messages is None):
        _refuse(number, "give exactly one of prompt and messages")
    last_is_answer = query.messages is not None and query.messages[-1].role == "assistant"
    if not query.completion and not (query.completion is None and last_is_answer):
        _refuse(number, "there is no completion to explain")


def _text(row: dict[str, Any], name: str, number: int) -> str | None:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        _refuse(number, f"{name} must be a string")
    return value


def _messages(value: Any, number: int) -> tuple[Message, ...] | None:
    if value is None:
        return None
    turns = value if isinstance(value, list) else []
    if not turns or not all(_is_turn(turn) for turn in turns):
        _refuse(number, "messages must be a list of {role, content}")
    return tuple(Message(turn["role"], turn["content"]) for turn in turns)


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)


def _span(value: Any, number: int) -> Span | None:
    if value is None:
        return None
    start, end = (value.get("start"), value.get("end")) if isinstance(value, dict) else (None, None)
    if type(start) is not int or type(end) is not int:
        _refuse(number, "span must be {start, end}, characters of the completion")
    return Span(start, end)


def _refuse(number: int, cause: str) -> NoReturn:
    raise InvalidQuery(f"Line {number} of the queries: {cause}.", remedy=REMEDY, line=number)
