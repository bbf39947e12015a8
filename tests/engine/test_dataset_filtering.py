"""What a filter lets through: the quick look at a whole batch never changes it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from engine.dataset.arrow import to_batch
from engine.dataset.filtering import RowFilter
from engine.types import Example, Message

# Among them the Kelvin sign and the long s, which are a k and an s to a search that ignores case.
WORDS = ["kelvin", "\u212aelvin", "Straße", "ſun", "SUN", "harbour", "HARBOUR", "🙂", "a.b", "Grüße", "x" * 50, ""]


def example(number: int, draw: random.Random) -> Example:
    def text() -> str:
        return " ".join(draw.choices(WORDS, k=3))

    shape = number % 3
    fields: dict[str, Any] = {"text": text()}
    if shape == 1:
        fields = {"prompt": text(), "completion": text()}
    elif shape == 2:
        fields = {"messages": (Message("user", text()), Message("assistant", text()))}
    tags = {key: draw.choice(["a", "b"]) for key in ("one", "two") if draw.random() < 0.7}
    return Example(id=f"r{number}", tags=tags, label=draw.choice([None, "good", "bad"]), **fields)


def fold(text: str) -> str:
    return text.replace("\u212a", "k").replace("ſ", "s").lower()


def holds(row: Example, wanted: RowFilter) -> bool:
    texts = [row.prompt, row.completion, row.text, *(turn.content for turn in row.messages or ())]
    contains = wanted.query is None or any(text and fold(wanted.query) in fold(text) for text in texts)
    tagged = all(row.tags.get(key) == value for key, value in wanted.tags.items())
    return contains and tagged and wanted.label in (None, row.label)


QUERIES = [None, "k", "KELVIN", "sun", "s", "harbour", "🙂", "a.b", "a?b", "GRÜSSE", "grüße", "not there", "n h", "ss"]


@pytest.mark.parametrize("query", QUERIES)
def test_a_filter_finds_what_looking_at_each_row_finds(query: str | None) -> None:
    draw = random.Random(0)
    for size in (1, 2, 40):
        rows = [example(number, draw) for number in range(size)]
        batch = to_batch(rows)
        for tags in ({}, {"one": "a"}, {"one": "a", "two": "b"}, {"one": "z"}, {"none": "a"}):
            for label in (None, "good", "worst"):
                wanted = RowFilter(tags, query, label)
                assert wanted.rows(batch) == [at for at, row in enumerate(rows) if holds(row, wanted)], wanted


def test_a_batch_without_the_text_is_not_searched_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.dataset import matching

    batch = to_batch([Example(id="a", prompt="Harbour", completion="town")])

    def refuse(*_: object) -> None:
        raise AssertionError("searched row by row")

    monkeypatch.setattr(matching, "_contains", refuse)
    assert RowFilter(query="nowhere").rows(batch) == []
    with pytest.raises(AssertionError, match="row by row"):
        RowFilter(query="HARBOUR").rows(batch)


@pytest.mark.parametrize(("text", "query"), [("\u212aelvin", "kelvin"), ("\u017fun", "SUN"), ("GRÜẞE", "grüß")])
def test_letters_outside_ascii_are_found_by_their_forms_inside(text: str, query: str) -> None:
    batch = to_batch([Example(id="a", text=text), Example(id="b", text="nothing")])
    assert RowFilter(query=query).rows(batch) == [0]


def test_a_tag_belongs_to_its_own_row_and_name() -> None:
    rows = [
        Example(id="0", text="x", tags={}),
        Example(id="1", text="x", tags={"a": "1", "b": "2"}),
        Example(id="2", text="x", tags={"a": "2"}),
        Example(id="3", text="x", tags={"c": "0", "a": "1"}),
    ]
    assert RowFilter({"a": "1"}).rows(to_batch(rows)) == [1, 3]
    assert RowFilter({"b": "1"}).rows(to_batch(rows)) == []
    assert RowFilter({"a": "1", "c": "0"}).rows(to_batch(rows)) == [3]
