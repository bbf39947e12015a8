"""Datasets: every format, every row shape, every way a file can be wrong."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.dataset import (
    DatasetLimits,
    detect_format,
    json_rows,
    open_dataset,
    parse_rows,
    store_dataset,
)
from engine.errors import (
    DatasetPathNotFound,
    DuplicateExampleId,
    EmptyCompletion,
    EmptyDataset,
    MalformedRow,
    UnsupportedFormat,
)
from engine.types import Example, Message

PAIR = {"id": "a", "prompt": "Who?", "completion": " Ann.", "tags": {"task": "qa", "n": 3, "ok": True}, "label": 1}
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Grüße 🙂"}]}
TEXT = {"text": "Once upon a time,\nthere was a line end."}
ROWS: list[dict[str, Any]] = [PAIR, CHAT, TEXT]
EXAMPLES = [
    Example("a", prompt="Who?", completion=" Ann.", tags={"task": "qa", "n": "3", "ok": "true"}, label="1"),
    Example("row-1", messages=(Message("user", "Hi"), Message("assistant", "Grüße 🙂"))),
    Example("row-2", text=TEXT["text"]),
]


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write(folder: Path, content: bytes, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def store(folder: Path, content: bytes, name: str = "rows.jsonl", **kwargs: Any):
    return store_dataset(write(folder, content, name), format=None, root=folder / "datasets", **kwargs)


def parse(folder: Path, content: bytes, name: str = "rows.jsonl") -> list[Example]:
    return list(parse_rows(write(folder, content, name)))


def test_every_row_shape_survives_the_way_through_the_disk(tmp_path: Path) -> None:
    info = store(tmp_path, jsonl(ROWS))
    dataset = open_dataset(tmp_path / "datasets" / info.sha256)
    assert (info.rows, info.format, info.warnings) == (3, "jsonl", ())
    assert list(dataset) == EXAMPLES
    assert [dataset[position] for position in range(3)] == EXAMPLES
    assert dataset.sha256 == info.sha256


def test_jsonl_json_and_parquet_of_the_same_rows_have_the_same_hash(tmp_path: Path) -> None:
    parquet = io.BytesIO()
    rows = [
        {name: row.get(name) for name in ("id", "prompt", "completion", "messages", "text", "tags")} for row in ROWS
    ]
    rows[0]["label"] = 1  # a column's type is one for all rows, so tags stay what they are
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    files = {
        "a.jsonl": jsonl(ROWS),
        "a.json": json.dumps(ROWS, indent=2).encode(),
        "b.json": jsonl(ROWS),
        "a.parquet": parquet.getvalue(),
    }
    infos = {name: store(tmp_path, content, name) for name, content in files.items()}
    assert len({info.sha256 for info in infos.values()}) == 1
    assert [info.format for info in infos.values()] == ["jsonl", "json", "jsonl", "parquet"]
    assert len(list((tmp_path / "datasets").iterdir())) == 1


def test_csv_reads_prompts_texts_labels_and_tag_columns(tmp_path: Path) -> None:
    sheet = io.StringIO()
    writer = csv.writer(sheet)
    writer.writerow(["id", "prompt", "completion", "text", "label", "tags.task"])
    writer.writerow(["a", 'Say, "hi"', "two\nlines", "", "good", "qa"])
    writer.writerow(["", "", "", "plain", "", ""])
    assert parse(tmp_path, b"\xef\xbb\xbf" + sheet.getvalue().encode(), "rows.csv") == [
        Example("a", prompt='Say, "hi"', completion="two\nlines", label="good", tags={"task": "qa"}),
        Example("row-1", text="plain"),
    ]


def test_parquet_map_and_flat_tag_columns_are_tags(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": pa.array([7, 8]),
            "text": pa.array(["one", "two"]),
            "tags": pa.array([[("task", "qa")], []], pa.map_(pa.string(), pa.string())),
            "tags.source": pa.array([None, "web"]),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    examples = list(parse_rows(tmp_path / "rows.parquet"))
    assert [(example.id, example.tags) for example in examples] == [("7", {"task": "qa"}), ("8", {"source": "web"})]


def test_parquet_columns_that_play_no_part_are_not_decoded(tmp_path: Path) -> None:
    moments = pa.array([1, 2], pa.timestamp("ns"))
    pq.write_table(pa.table({"text": ["one", "two"], "seen": moments}), tmp_path / "rows.parquet")
    info = store_dataset(tmp_path / "rows.parquet", format=None, root=tmp_path / "datasets")
    assert info.warnings == ("Field 'seen' is ignored in 2 rows; to filter by it, name it tags.seen.",)


def test_parquet_lists_are_no_tags(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["one"], "tags": [["ab", "cd"]]}), tmp_path / "rows.parquet")
    with pytest.raises(MalformedRow, match="row 0: tags must be an object"):
        list(parse_rows(tmp_path / "rows.parquet"))


def test_the_format_is_told_by_name_then_by_content(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "upload")
    assert detect_format(tmp_path / "upload") == "parquet"
    assert detect_format(write(tmp_path, b'\xef\xbb\xbf [{"text": "x"}]', "list")) == "json"
    assert detect_format(write(tmp_path, b'{"text": "x"}', "lines")) == "jsonl"
    with pytest.raises(UnsupportedFormat, match=r"notes\.txt"):
        detect_format(write(tmp_path, b"hello", "notes.txt"))


def test_an_unknown_format_name_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFormat, match=r"'xml'.*jsonl, json, csv, parquet"):
        list(parse_rows(write(tmp_path, b""), "xml"))


def test_a_byte_order_mark_and_blank_lines_are_tolerated(tmp_path: Path) -> None:
    examples = parse(tmp_path, b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "b"}')
    assert [(example.id, example.text) for example in examples] == [("row-0", "a"), ("row-1", "b")]


def test_duplicate_texts_are_kept_apart(tmp_path: Path) -> None:
    info = store(tmp_path, jsonl([TEXT, TEXT]))
    assert [example.id for example in open_dataset(tmp_path / "datasets" / info.sha256)] == ["row-0", "row-1"]


def test_the_hash_sees_ids_texts_tags_and_order_but_not_spelling(tmp_path: Path) -> None:
    same = store(tmp_path, b'{"tags": {"k": "v"}, "text":  "x\\u00e9", "id": 1}').sha256
    assert store(tmp_path, jsonl([{"id": "1", "text": "xé", "tags": {"k": "v"}}])).sha256 == same
    others = [
        [{"id": "2", "text": "xé", "tags": {"k": "v"}}],
        [{"id": "1", "text": "xe", "tags": {"k": "v"}}],
        [{"id": "1", "text": "xé", "tags": {"k": "w"}}],
        [{"id": "1", "prompt": "", "completion": "xé", "tags": {"k": "v"}}],
        [{"id": "1", "text": "xé", "tags": {"k": "v"}, "label": "l"}],
        [{"id": "a", "text": "x"}, {"id": "b", "text": "y"}],
        [{"id": "b", "text": "y"}, {"id": "a", "text": "x"}],
    ]
    assert len({store(tmp_path, jsonl(rows)).sha256 for rows in others} | {same}) == len(others) + 1


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ({"prompt": "p"}, "'completion' is missing"),
        ({"completion": "c"}, "'prompt' is missing"),
        ({}, "none of them"),
        ({"prompt": "p", "completion": "c", "text": "t"}, "text and prompt.completion"),
        (
            {"prompt": ["p"], "completion": "c"},
            "prompt must be a string, not a list; a conversation goes into 'messages'",
        ),
        ({"text": 3}, "text must be a string, not a number"),
        ({"text": "a\x00b"}, "NUL character"),
        ({"text": "\ud800"}, "surrogate"),
        ({"text": "t", "id": ""}, "id must have 1 to 512 characters"),
        ({"text": "t", "id": 1.5}, "id must be a string or an integer"),
        ({"text": "t", "tags": ["a"]}, "tags must be an object"),
        ({"text": "t", "tags": {"a": {"b": 1}}}, "tags.a must be a string, a number or a boolean, not an object"),
        ({"text": "t", "tags": {"": 1}}, "tag's name is empty"),
        ({"text": "t", "label": []}, "label must be"),
        ({"messages": []}, "at least one turn"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "no assistant turn"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "needs a turn before it"),
        ({"messages": [{"role": "user"}, {"role": "assistant", "content": "x"}]}, r"messages\[0\]\.content"),
        ({"messages": ["hi"]}, r"messages\[0\] must be an object"),
        ("just text", "must be an object with .* not a string"),
        (None, "not nothing"),
    ],
)
def test_a_malformed_row_is_refused_with_its_line_and_cause(tmp_path: Path, row: Any, cause: str) -> None:
    content = jsonl([TEXT]) + b"\n" + json.dumps(row).encode()
    with pytest.raises(MalformedRow, match=cause) as caught:
        parse(tmp_path, content)
    assert "row 1 (line 3)" in caught.value.detail
    assert caught.value.context == {"row": 1, "line": 3}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "completion": ""},
        {"text": ""},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": ""}]},
    ],
)
def test_an_empty_completion_names_its_row(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(EmptyCompletion, match=r"row 1 \(line 2\)"):
        parse(tmp_path, jsonl([TEXT, row]))


def test_an_empty_csv_completion_names_its_row(tmp_path: Path) -> None:
    with pytest.raises(EmptyCompletion, match=r"row 1 \(line 4\): completion is empty"):
        parse(tmp_path, b'prompt,completion\n"p\nq",c\np,\n', "rows.csv")


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', 2),
        ("a.jsonl", b'{"text": "a"}\n{"text": NaN}\n', 2),
        ("a.jsonl", b'{"text": "a"}\n' + b"[" * 100_000, 2),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', 2),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": "\x00"}\n', 3),
        ("a.jsonl", '{"text": "a"}\n'.encode("utf-16"), 1),
        ("a.json", b'[\n{"text": "a"},\n{"text": }\n]', 3),
        ("a.json", b'[\n{"text": "a"},\n\n  3]', 4),
        ("a.json", b'[\n{"text": "a"}\n{"text": "b"}]', 3),
        ("a.json", b'[{"text": "a"}]\n x', 2),
        ("a.json", b'[{"text": "a"},\n{"text": "b"', 2),
        ("a.json", b'[{"text": "a"},\n{"text": "\xff"}]', 2),
        ("a.json", b'[{"text": "a"},\n{"text": "\x00"}]', 2),
        ("a.json", b'"text"', 1),
        ("a.csv", b"text,label\na,b\nc\n", 3),
        ("a.csv", b'text\na\n"b\n', 3),
        ("a.csv", b"words\na\n", 1),
        ("a.csv", b"text,text\na,b\n", 1),
    ],
)
def test_a_malformed_file_names_the_line(tmp_path: Path, name: str, content: bytes, line: int) -> None:
    with pytest.raises(MalformedRow) as caught:
        parse(tmp_path, content, name)
    assert caught.value.context["line"] == line
    assert f"Line {line}: " in caught.value.detail


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": "' + b"x" * 200_000),
        ("a.json", b'[{"text": "a"},\n{"text": "' + b"x" * 200_000),
        ("a.csv", b'text\n"' + b"x" * 200_000),
    ],
)
def test_a_huge_line_is_refused_before_it_is_read_whole(tmp_path: Path, name: str, content: bytes) -> None:
    limits = DatasetLimits(max_row_bytes=2**16)
    with pytest.raises(MalformedRow, match="Line 2: the row is longer than 65536 bytes"):
        list(parse_rows(write(tmp_path, content, name), limits=limits))


def test_a_json_list_is_read_across_chunks_and_keeps_its_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "CHUNK_BYTES", 7)
    rows = [{"id": f"é{number}", "text": "ü" * number + "x"} for number in range(40)]
    assert [e.text for e in parse(tmp_path, json.dumps(rows, indent=1, ensure_ascii=False).encode(), "a.json")] == [
        row["text"] for row in rows
    ]
    rows[30] = {"id": "bad"}
    with pytest.raises(MalformedRow, match=rf"row 30 \(line {1 + 30 * 4 + 1}\)"):
        parse(tmp_path, json.dumps(rows, indent=1, ensure_ascii=False).encode(), "a.json")


def test_a_duplicate_id_names_both_rows_and_lines(tmp_path: Path) -> None:
    rows = [{"id": "x", "text": "a"}, {"text": "b"}, {"id": "x", "text": "c"}]
    with pytest.raises(DuplicateExampleId, match=r"'x' is used by row 0 \(line 1\) and by row 2 \(line 3\)") as caught:
        store(tmp_path, jsonl(rows))
    assert caught.value.context == {"id": "x", "rows": [0, 2], "lines": [1, 3]}


def test_a_given_id_that_looks_like_a_numbered_one_collides(tmp_path: Path) -> None:
    with pytest.raises(DuplicateExampleId, match="row-1"):
        parse(tmp_path, jsonl([{"id": "row-1", "text": "a"}, {"text": "b"}]))


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", b""), ("a.jsonl", b"\n \n"), ("a.json", b"[]"), ("a.json", b""), ("a.csv", b"text\n")],
)
def test_a_file_without_rows_is_refused_and_leaves_nothing(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(EmptyDataset):
        store(tmp_path, content, name)
    assert list((tmp_path / "datasets").iterdir()) == []


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFormat, match="not a readable Parquet file"):
        parse(tmp_path, b"PAR1 and nothing more", "a.parquet")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetPathNotFound, match=r"none\.jsonl"):
        list(parse_rows(tmp_path / "none.jsonl"))
    with pytest.raises(DatasetPathNotFound):
        open_dataset(tmp_path / "none")
