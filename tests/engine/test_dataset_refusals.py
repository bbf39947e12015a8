"""All that is wrong with a file is told at once, as far as it can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.dataset import refusals, store_dataset
from engine.errors import DatasetError


def refused(tmp_path: Path, *lines: str, name: str = "rows.jsonl") -> tuple[DatasetError, list[tuple[Any, Any]]]:
    """The error, and (line, row) of everything it tells of."""
    source = tmp_path / name
    source.write_text("\n".join(lines) + "\n")
    with pytest.raises(DatasetError) as caught:
        store_dataset(source, format=None, root=tmp_path / "datasets")
    assert list((tmp_path / "datasets").iterdir()) == []
    told = caught.value.context.get("refused", [])
    assert isinstance(told, list)
    return caught.value, [(row["line"], row["row"]) for row in told]


GOOD, EMPTY, BROKEN = '{"text": "a"}', '{"text": ""}', "{"


def test_the_rows_after_the_first_wrong_one_are_looked_at(tmp_path: Path) -> None:
    error, told = refused(tmp_path, GOOD, BROKEN, "", EMPTY, GOOD, "[]")
    assert error.context["line"] == 2
    assert told == [(2, None), (4, 2), (6, 4)]


def test_numbers_of_rows_count_the_wrong_ones_too(tmp_path: Path) -> None:
    twice = json.dumps({"id": "x", "text": "a"})
    _, told = refused(tmp_path, EMPTY, twice, BROKEN, twice)
    assert told == [(1, 0), (3, None), (4, 3)]


def test_one_wrong_row_is_told_as_ever(tmp_path: Path) -> None:
    error, told = refused(tmp_path, GOOD, EMPTY)
    assert told == [] and error.context == {"row": 1, "line": 2}


def test_the_looking_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, told = refused(tmp_path, *[EMPTY] * 50)
    assert told == [(n + 1, n) for n in range(refusals.MOST)]
    monkeypatch.setattr(refusals, "MORE_ROWS", 3)
    _, told = refused(tmp_path, EMPTY, GOOD, EMPTY, GOOD, EMPTY)
    assert told == [(1, 0), (3, 2)]


def test_a_file_that_cannot_be_read_on_tells_what_was_found(tmp_path: Path) -> None:
    _, told = refused(tmp_path, "[" + EMPTY + ",", EMPTY + ",", "{", name="rows.json")
    assert told == [(1, 0), (2, 1), (4, None)]
