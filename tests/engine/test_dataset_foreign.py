"""Rows that somebody else has written to an Arrow file: taken as an upload is, or refused; never believed."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from engine.dataset import open_dataset, store_dataset, write_as_jsonl
from engine.dataset.arrow import SCHEMA
from engine.errors import DatasetError

ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "Where?", "completion": " In Port Halvern. ☃ \u2028", "tags": {"task": "facts"}},
    {"id": "b", "text": "Two and two.", "label": "good"},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
]
RECORD: dict[str, Any] = {
    "id": "a", "prompt": None, "completion": None, "messages": None, "text": "x", "tags": [], "label": None
}  # fmt: skip


def stored(root: Path, rows: list[dict[str, Any]]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    lines = root / "rows.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root / "datasets" / store_dataset(lines, format=None, root=root / "datasets").sha256 / "rows.arrow"


def written(path: Path, records: list[dict[str, Any]], schema: pa.Schema = SCHEMA, **options: Any) -> Path:
    with pa.ipc.new_file(str(path), schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist(records, schema=schema))
    return path


def test_what_was_stored_comes_out_the_same(tmp_path: Path) -> None:
    many = [*ROWS, *({"text": f"row {number}"} for number in range(3000))]
    source = stored(tmp_path / "here", many)
    write_as_jsonl(source, tmp_path / "lines.jsonl")
    info = store_dataset(tmp_path / "lines.jsonl", format="jsonl", root=tmp_path / "there")
    assert info.sha256 == source.parent.name
    assert list(open_dataset(tmp_path / "there" / info.sha256)) == list(open_dataset(source.parent))
    assert (tmp_path / "there" / info.sha256 / "rows.arrow").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_compressed_buffers_are_refused_before_they_are_unpacked(tmp_path: Path, codec: str) -> None:
    bomb = written(tmp_path / "bomb.arrow", [RECORD | {"text": "x" * (64 << 20)}], compression=codec)
    assert bomb.stat().st_size < 1 << 20
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    with pytest.raises(DatasetError, match="plain batches"):
        write_as_jsonl(bomb, tmp_path / "lines.jsonl")
    assert pa.total_allocated_bytes() - before < 1 << 20
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    plain = written(tmp_path / "plain.arrow", [RECORD])
    write_as_jsonl(plain, tmp_path / "lines.jsonl")
    assert json.loads((tmp_path / "lines.jsonl").read_text()) == {"id": "a", "text": "x"}


def test_other_columns_and_other_files_are_refused(tmp_path: Path) -> None:
    other = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("text", pa.string())])
    written(tmp_path / "other.arrow", [{"id": "a", "text": "x"}], other)
    (tmp_path / "pickle.arrow").write_bytes(b"\x80\x04 a pickle")
    (tmp_path / "empty.arrow").write_bytes(b"")
    for name in ("other", "pickle", "empty"):
        with pytest.raises(DatasetError):
            write_as_jsonl(tmp_path / f"{name}.arrow", tmp_path / "lines.jsonl")


def test_any_changed_byte_gives_rows_or_a_named_error(tmp_path: Path) -> None:
    source = stored(tmp_path, ROWS)
    whole, damaged, refused = source.read_bytes(), tmp_path / "damaged.arrow", 0
    flipped = [
        whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :] for at in range(0, len(whole), 7) for bit in (1, 128)
    ]
    for content in (*flipped, *(whole[:size] for size in range(0, len(whole), 61)), b"ARROW1\0\0", bytes(100)):
        damaged.write_bytes(content)
        try:
            write_as_jsonl(damaged, tmp_path / "lines.jsonl")
        except DatasetError:
            refused += 1
    assert refused > 40
