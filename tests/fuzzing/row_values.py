"""Rows: whatever a reader may hand over, JSON's values and Parquet's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from engine.dataset import example_text, example_to_row
from engine.dataset.arrow import to_batch, to_example
from engine.dataset.rows import Place, canonical_bytes, ignored_fields, parse_row
from tests.fuzzing.targets import Target
from tests.fuzzing.values import foreign, leaves, nearly, substituted, trees

ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "Where was Mira born?", "completion": " In Port Halvern.", "tags": {"task": "facts", "n": 1}},
    {"id": 7, "text": "Zwei und zwei, é 𝄞.", "label": "good", "tags.source": "book"},
    {"id": "c", "prompt": "", "completion": "x", "label": True, "tags": {}},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}], "extra": [1]},
]
NAMES = ["id", "prompt", "completion", "messages", "text", "tags", "label", "tags.a", "tags.", "role", "content"]

turns = st.lists(nearly([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "x"}]), max_size=4)
talks = st.builds(lambda found: {"messages": found}, turns)
rows = st.one_of(nearly(ROWS, NAMES), nearly(ROWS, NAMES), talks)
values = st.one_of(rows, nearly([{**ROWS[0], "id": None, "label": b"x"}], NAMES), trees(NAMES, leaves | foreign))


@contextmanager
def parsed(_work: Path) -> Iterator[Callable[[tuple[Any, Place]], None]]:
    def check(given: tuple[Any, Place]) -> None:
        value, place = given
        example = parse_row(value, place)
        row = example_to_row(example)
        assert parse_row(row, place) == example
        assert parse_row(json.loads(json.dumps(row)), place) == example
        assert to_example(to_batch([example]).to_pylist()[0]) == example
        assert not any("\x00" in text for text in strings_of(row))
        "".join(strings_of(row)).encode()
        assert canonical_bytes(example).isascii() and canonical_bytes(example).count(b"\n") == 1
        example_text(example).encode()
        ignored_fields(value)

    yield check


def strings_of(value: Any) -> list[str]:
    """Names and values, at any depth."""
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in strings_of(part)]
    if isinstance(value, list):
        return [text for part in value for text in strings_of(part)]
    return [value] if isinstance(value, str) else []


EACH = ["", "\x00", "\ud800", "x" * 600, 10**400, float("nan"), True, None, [], {}, [None], {"\x00": "a"}, b"bytes"]
places = st.builds(Place, st.integers(0, 10**9), st.none() | st.integers(1, 10**9))
TARGETS = [
    Target("rows", st.tuples(values, places), parsed, always=[(row, Place(0)) for row in substituted(ROWS, EACH)])
]
