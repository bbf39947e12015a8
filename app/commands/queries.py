"""Files of queries: what `whence score` scores, what `whence ask --queries` explains as one set."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from engine.errors import InvalidQuery
from engine.types import Message, Query, Span

MEMBER_FIELDS = frozenset({"prompt", "messages", "completion", "contrast", "span"})
FIELDS = MEMBER_FIELDS | {"id", "measurement", "queries"}
REMEDY = (
    "Each line is an object: {id?, prompt | messages, completion, contrast?, span?: {start, end}, measurement?}, "
    "or {id?, queries: [...], measurement?} for a set."
)


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
            f"{path} has {times} queries with the id {name[:200]!r}.", remedy="Make the ids unique, or leave them out."
        )
    return queries


def read_objects(path: Path) -> list[dict[str, Any]]:
    """One JSON object a line, as the server is to check them; an `id` is left out. Raises InvalidQuery, naming the
    line."""
    found = [
        {key: value for key, value in _object(line, number).items() if key != "id"} for number, line in _lines(path)
    ]
    if not found:
        raise InvalidQuery(f"{path} holds no query.", remedy=REMEDY)
    return found


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidQuery(f"{path} cannot be read: {error}.", remedy="Give a JSONL file in UTF-8.") from error
    # Not splitlines(): JSON strings may hold U+2028 and its like.
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _parse(line: str, number: int, default_id: str) -> NamedQuery:
    row = _object(line, number)
    if unknown := sorted(set(row) - FIELDS):
        _refuse(number, f"unknown field {unknown[0][:200]!r}")
    measurement = row.get("measurement", "log_prob")
    if measurement not in ("log_prob", "log_odds"):
        _refuse(number, "measurement must be log_prob or log_odds")
    query = _query(row, number) if row.get("queries") is None else _set(row, number)
    return NamedQuery(str(row.get("id", default_id)), replace(query, measurement=measurement))


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        _refuse(number, f"not JSON: {error}")
    if not isinstance(row, dict):
        _refuse(number, "not an object")
    return row


def _set(row: dict[str, Any], number: int) -> Query:
    """Several queries in one line: what is explained is their mean."""
    members = row["queries"]
    if beside := sorted(set(row) & MEMBER_FIELDS):
        _refuse(number, f"give either queries or {beside[0]}")
    if not isinstance(members, list) or not members:
        _refuse(number, "queries must be a list of objects")
    for member in members:
        if not isinstance(member, dict):
            _refuse(number, "queries must be a list of objects")
        if unknown := sorted(set(member) - MEMBER_FIELDS):
            _refuse(number, f"unknown field {unknown[0][:200]!r} in queries")
    return Query(members=tuple(_query(member, number) for member in members))


def _query(row: dict[str, Any], number: int) -> Query:
    query = Query(
        prompt=_text(row, "prompt", number),
        messages=_messages(row.get("messages"), number),
        completion=_text(row, "completion", number),
        contrast=_text(row, "contrast", number),
        span=_span(row.get("span"), number),
    )
    _check(query, number)
    return query


def as_bodies(queries: Sequence[NamedQuery]) -> list[dict[str, Any]]:
    """The queries as the members of a set in a request. Raises InvalidQuery for one that is more than a member."""
    for named in queries:
        if named.query.members or named.query.measurement != "log_prob":
            raise InvalidQuery(
                f"Query {named.id!r} is a set or has a measurement of its own, so it cannot be part of a set.",
                remedy="Leave queries and measurement out of the file; --log-odds holds for all.",
            )
    return [_as_body(asdict(named.query)) for named in queries]


def _as_body(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: fields[name] for name in sorted(MEMBER_FIELDS) if fields[name] is not None}


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
