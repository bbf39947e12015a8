"""A batch's files: counting lines as they come, and going on after a crash."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.batches import files as module
from app.batches.files import BatchFiles, Line, Tally
from app.errors import InvalidRequest

RESULTS = [
    {"status": 200, "line": 1, "custom_id": None, "body": {"id": "att_1", "index": "idx_1", "revision": "r"}},
    {"status": 422, "line": 3, "custom_id": "Ü\ud800", "problem": {"status": 422}},
    {"status": 200, "line": 4, "custom_id": "x", "body": {"id": "att_2", "index": "idx_1", "revision": "r"}},
]


@pytest.fixture
def files(tmp_path: Path) -> BatchFiles:
    return BatchFiles(tmp_path / "batches" / "bat_1")


def saved(files: BatchFiles, content: bytes, max_lines: int = 10**6) -> int:
    return files.save(io.BytesIO(content), max_lines)


PIECES = st.lists(st.sampled_from(["{}", " ", "\t", "\r", "\n", "ü", "\u2028", "x" * 40, "\x0b"]), max_size=30)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=PIECES, chunk=st.integers(1, 7))
@example(pieces=["ü", "\r", "\r", "\r", "\n", "{}"], chunk=1)
@example(pieces=["{}", "\r", "\r", "\r"], chunk=1)
def test_what_is_counted_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, pieces: list[str], chunk: int
) -> None:
    """Whatever the chunks are cut into, a letter of two bytes included, and however long the lines are."""
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
    content = "".join(pieces).encode()
    files = BatchFiles(tmp_path_factory.mktemp("batch") / "bat_1")
    expected = [number for number, raw in enumerate(content.split(b"\n"), 1) if raw.strip()]
    if not expected:
        with pytest.raises(InvalidRequest):
            saved(files, content)
        return
    assert saved(files, content) == len(expected)
    assert files.input.read_bytes() == content
    for longest in (1, 40, 10_000):
        assert [line.number for line in files.lines(longest)] == expected


def test_a_line_beyond_the_limit_is_not_read(files: BatchFiles) -> None:
    saved(files, b"12345\n123456\r\n1234567\n12\n" + b"9" * 100)
    assert list(files.lines(6)) == [
        Line(1, b"12345\n"),
        Line(2, b"123456\r\n"),
        Line(3, None),
        Line(4, b"12\n"),
        Line(5, None),
    ]


def test_where_the_encoding_breaks_is_said(files: BatchFiles) -> None:
    with pytest.raises(InvalidRequest) as refused:
        saved(files, b"{}\n{}\n\xff\n")
    assert refused.value.context["line"] == 3


def test_results_come_back_as_they_were_appended(files: BatchFiles) -> None:
    saved(files, b"{}\n")
    assert list(files.read()) == []
    assert files.resume() == Tally(0, 0)
    files.append(RESULTS[:1])
    files.append(RESULTS[1:])
    assert list(files.read()) == RESULTS
    assert files.resume() == Tally(2, 1)


def test_whatever_was_torn_off_is_cut_and_written_again(files: BatchFiles) -> None:
    """After every possible crash in the middle of an append."""
    saved(files, b"{}\n")
    files.append(RESULTS)
    whole = files.results.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole)):
        files.results.write_bytes(whole[:cut])
        kept = sum(end <= cut for end in ends)
        assert list(files.read()) == RESULTS[:kept]
        assert files.resume().done == kept
        files.append(RESULTS[kept:])
        assert files.results.read_bytes() == whole


def test_a_tail_of_zeros_is_no_result(files: BatchFiles) -> None:
    """As some file systems leave what was not synced before the power went."""
    saved(files, b"{}\n")
    files.append(RESULTS[:1])
    whole = files.results.read_bytes()
    files.results.write_bytes(whole + b"\x00" * 50 + b"\n" + whole)
    assert files.resume() == Tally(1, 0)
    assert files.results.read_bytes() == whole


def test_status_comes_first_in_every_result(files: BatchFiles) -> None:
    """What `resume` counts by."""
    saved(files, b"{}\n")
    files.append(RESULTS)
    for raw, result in zip(files.results.read_bytes().splitlines(), RESULTS, strict=True):
        parsed: dict[str, Any] = json.loads(raw)
        assert parsed == result
        assert raw.startswith(module.RESULT)
        assert raw.startswith(module.SUCCEEDED) == (result["status"] == 200)
