"""One raw row → one checked Example; and back to plain and canonical forms."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, NoReturn

from engine.errors import EmptyCompletion, MalformedRow
from engine.types import Example, Message

ROWS_FILE = "rows.arrow"  # in a dataset's directory
MAX_ID_CHARACTERS = 512
LONGEST_NAME = 200  # of what is quoted from a file
SHAPES = "prompt+completion, messages or text"
TAG_PREFIX = "tags."
KNOWN_FIELDS = frozenset({"id", "prompt", "completion", "messages", "text", "tags", "label"})


@dataclass(frozen=True)
class Place:
    """Where a row stands: position is 0-based, line 1-based (None where the format has no lines)."""

    position: int
    line: int | None = None

    def __str__(self) -> str:
        return f"row {self.position}" if self.line is None else f"row {self.position} (line {self.line})"

    def context(self) -> dict[str, Any]:
        return {"row": self.position} | ({} if self.line is None else {"line": self.line})


def parse_row(value: Any, place: Place) -> Example:
    """Check one raw row. Raises MalformedRow and EmptyCompletion, naming the row and its line."""
    if not isinstance(value, dict):
        _malformed(place, f"a row must be an object with {SHAPES}, not {_kind(value)}")
    row = {key: item for key, item in value.items() if item is not None}
    fields: dict[str, Any] = {"id": _id(row, place), "tags": _tags(row, place)}
    if "label" in row:
        fields["label"] = _scalar(row["label"], place, "label")
    return Example(**fields, **_shape(row, place))


def ignored_fields(value: dict[str, Any]) -> list[str]:
    """The fields of a raw row that play no part."""
    return [key for key in value if key not in KNOWN_FIELDS and not key.startswith(TAG_PREFIX)]


def example_to_row(example: Example) -> dict[str, Any]:
    """The row as a user would write it: only the fields that are there."""
    row: dict[str, Any] = {"id": example.id}
    for name in ("prompt", "completion", "text", "label"):
        if (value := getattr(example, name)) is not None:
            row[name] = value
    if example.messages is not None:
        row["messages"] = [{"role": m.role, "content": m.content} for m in example.messages]
    if example.tags:
        row["tags"] = dict(example.tags)
    return row


def canonical_bytes(example: Example) -> bytes:
    """What the content hash sees: every field, in one fixed spelling."""
    messages = None if example.messages is None else [[m.role, m.content] for m in example.messages]
    parts = [example.id, example.prompt, example.completion, messages, example.text]
    payload = [*parts, sorted(example.tags.items()), example.label]
    return json.dumps(payload, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


def example_text(example: Example) -> str:
    """The row as one readable text; a conversation with its roles."""
    if example.messages is not None:
        return "\n".join(f"{message.role}: {message.content}" for message in example.messages)
    if example.text is not None:
        return example.text
    return f"{example.prompt or ''}{example.completion or ''}"


def _shape(row: dict[str, Any], place: Place) -> dict[str, Any]:
    shapes = [name for name in ("messages", "text") if name in row]
    if "prompt" in row or "completion" in row:
        shapes.append("prompt+completion")
    if len(shapes) != 1:
        found = " and ".join(shapes) if shapes else "none of them"
        _malformed(place, f"give exactly one of {SHAPES}; there is {found}")
    if shapes == ["messages"]:
        return {"messages": _messages(row["messages"], place)}
    if shapes == ["text"]:
        return {"text": _target(row["text"], place, "text")}
    for name in ("prompt", "completion"):
        if name not in row:
            _malformed(place, f"'{name}' is missing: prompt and completion go together")
    prompt = _string(row["prompt"], place, "prompt")
    return {"prompt": prompt, "completion": _target(row["completion"], place, "completion")}


def _messages(value: Any, place: Place) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        _malformed(place, "messages must be a list of {role, content} with at least one turn")
    messages = tuple(_message(item, place, number) for number, item in enumerate(value))
    last = max((number for number, message in enumerate(messages) if message.role == "assistant"), default=None)
    if last is None:
        _malformed(place, "messages have no assistant turn, so there is nothing that was learned")
    if last == 0:
        _malformed(place, "the only assistant turn comes first; it needs a turn before it")
    if not messages[last].content:
        _empty(place, f"the assistant turn messages[{last}] is empty")
    return messages


def _message(value: Any, place: Place, number: int) -> Message:
    name = f"messages[{number}]"
    if not isinstance(value, dict):
        _malformed(place, f"{name} must be an object with role and content, not {_kind(value)}")
    role, content = (_string(value.get(key), place, f"{name}.{key}") for key in ("role", "content"))
    if not role:
        _malformed(place, f"{name}.role is empty")
    return Message(role, content)


def _target(value: Any, place: Place, name: str) -> str:
    text = _string(value, place, name)
    if not text:
        _empty(place, f"{name} is empty")
    return text


def _string(value: Any, place: Place, name: str) -> str:
    if not isinstance(value, str):
        hint = "; a conversation goes into 'messages'" if isinstance(value, list) and name in KNOWN_FIELDS else ""
        _malformed(place, f"{name} must be a string, not {_kind(value)}{hint}")
    if "\x00" in value:
        _malformed(place, f"{name} contains a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        _malformed(place, f"{name} contains half of a surrogate pair, which is not text")
    return value


def _id(row: dict[str, Any], place: Place) -> str:
    value = row.get("id")
    if value is None:
        return f"row-{place.position}"
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        _malformed(place, f"id must be a string or an integer, not {_kind(value)}")
    text = _string(str(value), place, "id")
    if not 0 < len(text) <= MAX_ID_CHARACTERS:
        _malformed(place, f"id must have 1 to {MAX_ID_CHARACTERS} characters; leave it out to have the row numbered")
    return text


def _tags(row: dict[str, Any], place: Place) -> dict[str, str]:
    tags = row.get("tags", {})
    if not isinstance(tags, dict):
        _malformed(place, f"tags must be an object of names and values, not {_kind(tags)}")
    flat = {key.removeprefix(TAG_PREFIX): value for key, value in row.items() if key.startswith(TAG_PREFIX)}
    named = {key: value for key, value in {**tags, **flat}.items() if value is not None}
    for key in named:
        if not _string(key, place, "a tag's name"):
            _malformed(place, "a tag's name is empty")
    return {key: _scalar(value, place, f"tags.{key[:LONGEST_NAME]}") for key, value in named.items()}


def _scalar(value: Any, place: Place, name: str) -> str:
    """Strings stay, numbers and booleans are written as JSON writes them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    if isinstance(value, str):
        return _string(value, place, name)
    _malformed(place, f"{name} must be a string, a number or a boolean, not {_kind(value)}")


def _kind(value: Any) -> str:
    names = {type(None): "nothing", bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    return {**names, list: "a list", dict: "an object"}.get(type(value), f"a {type(value).__name__}")


def _malformed(place: Place, cause: str) -> NoReturn:
    raise MalformedRow(f"In {place}: {cause}.", **place.context())


def _empty(place: Place, cause: str) -> NoReturn:
    raise EmptyCompletion(f"In {place}: {cause}, so it has nothing to predict.", **place.context())
