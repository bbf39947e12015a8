"""Stored datasets: whole or absent on disk, and read back by position, tag and text."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from engine.dataset import (
    example_text,
    example_to_row,
    open_dataset,
    storing,
)
from engine.errors import (
    Cancelled,
    StorageFull,
)
from engine.types import Progress
from tests.engine.test_dataset import CHAT, EXAMPLES, ROWS, TEXT, jsonl, store


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_full_disk_is_named_and_nothing_half_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os if call == "fsync" else Path, call, full)
    with pytest.raises(StorageFull, match="nothing of it was kept"):
        store(tmp_path, jsonl(ROWS))
    assert list((tmp_path / "datasets").iterdir()) == []


def test_cancelling_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "BATCH_ROWS", 2)
    reports: list[Progress] = []

    def checkpoint(progress: Progress) -> None:
        reports.append(progress)
        if len(reports) == 2:
            raise Cancelled("stop")

    content = jsonl([{"text": f"text {number}"} for number in range(10)])
    with pytest.raises(Cancelled):
        store(tmp_path, content, checkpoint=checkpoint)
    assert list((tmp_path / "datasets").iterdir()) == []
    assert [(p.unit, p.phase, p.total) for p in reports] == [("bytes", "load", len(content))] * 2
    assert 0 < reports[0].done < reports[1].done < len(content)


def test_storing_the_same_rows_again_changes_nothing(tmp_path: Path) -> None:
    first = store(tmp_path, jsonl(ROWS))
    rows = tmp_path / "datasets" / first.sha256 / "rows.arrow"
    before = rows.stat()
    assert store(tmp_path, jsonl(ROWS)) == first
    assert (rows.stat().st_ino, rows.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [path.name for path in (tmp_path / "datasets").iterdir()] == [first.sha256]


def test_ignored_fields_are_a_warning(tmp_path: Path) -> None:
    info = store(tmp_path, jsonl([{"text": "a", "source": "web"}, {"text": "b", "source": "web"}]))
    assert info.warnings == ("Field 'source' is ignored in 2 rows; to filter by it, name it tags.source.",)


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Seven rows in batches of three, so that positions cross batches."""
    monkeypatch.setattr(storing, "BATCH_ROWS", 3)
    rows: list[dict[str, Any]] = [
        {"id": f"r{number}", "text": f"Line {number}", "tags": {"odd": number % 2, "all": "x"}} for number in range(5)
    ]
    rows.append({"id": "chat", "messages": [*CHAT["messages"], {"role": "user", "content": "line of talk"}]})
    rows.append({"id": "pair", "prompt": "Which LINE?", "completion": "none (a.*b)", "tags": {"odd": "0"}})
    return open_dataset(tmp_path / "datasets" / store(tmp_path, jsonl(rows)).sha256)


def test_positions_hold_across_batches(many: Any) -> None:
    assert len(many) == 7
    ids = ["r0", "r1", "r2", "r3", "r4", "chat", "pair"]
    assert [many[position].id for position in range(7)] == ids
    assert [many.position_of(example_id) for example_id in ids] == list(range(7))
    assert many.position_of("r9") is None
    for position in (-1, 7):
        with pytest.raises(IndexError):
            many[position]


def test_tag_values_come_by_position(many: Any) -> None:
    assert many.tag_values("odd") == ["0", "1", "0", "1", "0", None, "0"]
    assert many.tag_values("none") == [None] * 7


def test_select_matches_tags_and_any_text_literally(many: Any) -> None:
    assert many.select() == list(range(7))
    assert many.select({"odd": "0"}) == [0, 2, 4, 6]
    assert many.select({"odd": "0", "all": "x"}) == [0, 2, 4]
    assert many.select({}, "line") == list(range(7))
    assert many.select({}, "GRÜSSE") == []
    assert many.select({}, "grüße") == [5]
    assert many.select({}, "a.*b") == [6]
    assert many.select({"odd": "0"}, "line 4") == [4]
    assert many.select({"odd": "0"}, start=1, limit=2) == [2, 4]
    assert many.select({"odd": "7"}) == []


def test_select_goes_backwards_too(many: Any) -> None:
    for end in range(9):
        for limit in (1, 2, 3, 10):
            assert many.select_before(end=end, limit=limit) == list(range(min(end, 7)))[-limit:]
            odd = [at for at in (0, 2, 4, 6) if at < end]
            assert many.select_before({"odd": "0"}, end=end, limit=limit) == odd[-limit:]
    assert many.select_before({}, "grüße", end=7, limit=5) == [5]
    assert many.select_before({"odd": "7"}, end=7, limit=5) == []


def test_rows_can_be_written_back_and_read_as_one_text() -> None:
    assert [example_to_row(example) for example in EXAMPLES[1:]] == [
        {"id": "row-1", **CHAT},
        {"id": "row-2", **TEXT},
    ]
    assert example_to_row(EXAMPLES[0])["tags"] == {"task": "qa", "n": "3", "ok": "true"}
    assert [example_text(example) for example in EXAMPLES] == [
        "Who? Ann.",
        "user: Hi\nassistant: Grüße 🙂",
        TEXT["text"],
    ]
