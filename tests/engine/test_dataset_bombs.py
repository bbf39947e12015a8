"""Files that unpack to far more than they are: refused by name, before memory or disk is taken."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.dataset import DatasetLimits, parquet_rows, parse_rows, store_dataset
from engine.dataset.formats import open_rows
from engine.dataset.storing import COUNTED_NAMES
from engine.errors import DatasetTooLarge, MalformedRow, StorageFull, UnsupportedFormat

MIB = 2**20
LIMITS = DatasetLimits(max_rows=100_000, max_bytes=64 * MIB, max_row_bytes=MIB)


def parse(path: Path, limits: DatasetLimits = LIMITS) -> int:
    return sum(1 for _ in parse_rows(path, limits=limits))


def varint(value: int) -> bytes:
    """A Thrift compact i64."""
    value <<= 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def claiming(path: Path, rows: int, claimed: int) -> Path:
    """The file with another number of rows everywhere in its footer."""
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    body, footer = content[: -8 - length], content[-8 - length : -8]
    assert footer.count(varint(rows)) >= 2
    footer = footer.replace(varint(rows), varint(claimed))
    path.write_bytes(body + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    return path


def dictionary_bomb(path: Path, value_bytes: int, rows: int) -> Path:
    """One long text, stored once and named by every row."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * value_bytes]))
    pq.write_table(pa.table({"text": text}), path, compression="zstd")
    return path


MEASURE = """
import json, resource, sys
from pathlib import Path
from engine.dataset import DatasetLimits, store_dataset
from engine.errors import EngineError
source, root, limits = Path(sys.argv[1]), Path(sys.argv[2]), DatasetLimits(**json.loads(sys.argv[3]))
resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))
def peak():  # not ru_maxrss: that one begins with what the process that started us had
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
before = peak()
try:
    store_dataset(source, format=None, root=root, limits=limits)
    refused = None
except EngineError as error:
    refused = error.code
child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({"refused": refused, "grew": (peak() - before) >> 10, "child": child >> 10}))
"""


def measured(source: Path, root: Path, limits: DatasetLimits = LIMITS) -> dict[str, Any]:
    """Stored in a process of its own with 2 GiB of address space: the refusal, and MiB of memory at the peak."""
    arguments = [str(source), str(root), json.dumps(vars(limits))]
    done = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert not list(root.iterdir()), "something was left behind"
    return json.loads(done.stdout)


def test_a_dictionary_bomb_is_refused_in_little_memory(tmp_path: Path) -> None:
    """Some kilobytes that mean 400 GB."""
    bomb = dictionary_bomb(tmp_path / "bomb.parquet", 4 * MIB, 100_000)
    assert bomb.stat().st_size < 100_000
    found = measured(bomb, tmp_path / "datasets")
    assert found["refused"] == "malformed-row"
    assert found["grew"] < 60 and found["child"] < 1000, found


def test_rows_below_the_limit_cannot_fill_the_disk_either(tmp_path: Path) -> None:
    """Each row is small enough and so is their number: 50 GB together."""
    bomb = dictionary_bomb(tmp_path / "bomb.parquet", 500_000, 100_000)
    found = measured(bomb, tmp_path / "datasets", replace(LIMITS, max_bytes=8 * MIB))
    assert found["refused"] == "dataset-too-large"
    assert found["grew"] < 250 and found["child"] < 300, found


def test_a_page_that_unpacks_to_more_than_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_rows, "MEMORY_BYTES", 32 * MIB)
    pq.write_table(
        pa.table({"text": ["x" * (60 * MIB)]}), tmp_path / "a.parquet", compression="zstd", use_dictionary=False
    )
    assert (tmp_path / "a.parquet").stat().st_size < 200_000
    with pytest.raises(DatasetTooLarge, match=r"needs more than .* memory") as refused:
        parse(tmp_path / "a.parquet")
    assert "smaller row groups" in refused.value.remedy


def test_values_that_take_no_bytes_are_counted(tmp_path: Path) -> None:
    """A list of nulls is nothing but its length."""
    turns = pa.ListArray.from_arrays(pa.array([0, 10_000_000], pa.int32()), pa.nulls(10_000_000))
    pq.write_table(pa.table({"messages": turns}), tmp_path / "a.parquet")
    found = measured(tmp_path / "a.parquet", tmp_path / "datasets")
    assert found["refused"] == "malformed-row"
    assert found["grew"] < 60, found


def test_a_footer_that_claims_billions_of_rows_is_refused_at_once(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"] * 12345}), tmp_path / "a.parquet")
    claiming(tmp_path / "a.parquet", 12345, 3_000_000_000)
    with pytest.raises(DatasetTooLarge, match="more than 100000 rows"):
        open_rows(tmp_path / "a.parquet", None, LIMITS)


def test_without_a_limit_such_a_footer_is_found_out_while_reading(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"] * 12345}), tmp_path / "a.parquet")
    claiming(tmp_path / "a.parquet", 12345, 3_000_000_000)
    with pytest.raises(MalformedRow, match="after row 12345: its footer says that there are 3000000000"):
        parse(tmp_path / "a.parquet", DatasetLimits())


def test_a_schema_nested_without_end_is_refused(tmp_path: Path) -> None:
    kind: pa.DataType = pa.string()
    for _ in range(300):
        kind = pa.struct([("a", kind)])
    table = pa.table({"text": ["a"], "tags": pa.nulls(1, kind)})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises((MalformedRow, UnsupportedFormat)):
        parse(tmp_path / "a.parquet")


def test_dictionaries_and_nested_ones_are_read_as_their_values(tmp_path: Path) -> None:
    """What is measured against the limit is the value, once: a large dictionary of short texts is fine."""
    texts = pa.array([f"{number} " + "x" * 1000 for number in range(3000)]).dictionary_encode()
    role = pa.array(["user", "assistant"] * 3000).dictionary_encode()
    content = pa.array([f"turn {number}" for number in range(6000)]).dictionary_encode()
    turn = pa.StructArray.from_arrays([role, content], ["role", "content"])
    messages = pa.ListArray.from_arrays(pa.array(range(0, 6001, 2), pa.int32()), turn)
    pq.write_table(pa.table({"text": texts}), tmp_path / "texts.parquet")
    pq.write_table(pa.table({"messages": messages}), tmp_path / "messages.parquet")
    limits = DatasetLimits(max_row_bytes=4096)
    read = [example.text for example in parse_rows(tmp_path / "texts.parquet", limits=limits)]
    assert read == texts.to_pylist()
    turns = [example.messages for example in parse_rows(tmp_path / "messages.parquet", limits=limits)]
    assert len(turns) == 3000 and turns[7] is not None and turns[7][1].content == "turn 15"


def test_a_decoder_that_crashes_refuses_the_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    (tmp_path / "crash.py").write_text("import os; os.kill(os.getpid(), 11)")
    monkeypatch.setattr(parquet_rows.parquet_decoder, "__file__", str(tmp_path / "crash.py"))
    with pytest.raises(UnsupportedFormat, match="ended by signal 11"):
        parse(tmp_path / "a.parquet")


def test_a_decoder_that_dies_between_rows_is_not_taken_for_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its output, cut off after whole messages, would read as a shorter file."""
    pq.write_table(pa.table({"text": ["a"] * 1000}), tmp_path / "a.parquet")
    script = Path(str(parquet_rows.parquet_decoder.__file__)).read_text()
    dying = script.replace("        writer.write_batch(part)\n", "        writer.write_batch(part)\n        break\n", 1)
    dying = dying.replace(
        "    if writer is not None:\n        writer.close()\n    out.flush()", "    out.flush(); 1 / 0"
    )
    assert dying.count("1 / 0") == 1
    (tmp_path / "dying.py").write_text(dying)
    monkeypatch.setattr(parquet_rows.parquet_decoder, "__file__", str(tmp_path / "dying.py"))
    with pytest.raises(UnsupportedFormat, match="after row 64 the decoder ended with status 1"):
        parse(tmp_path / "a.parquet")


def test_a_decoder_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    script = Path(str(parquet_rows.parquet_decoder.__file__)).read_text()
    (tmp_path / "slow.py").write_text(
        script.replace("        _decode(job,", "        while True: pass\n        _decode(")
    )
    monkeypatch.setattr(parquet_rows.parquet_decoder, "__file__", str(tmp_path / "slow.py"))
    monkeypatch.setattr(parquet_rows, "CPU_SECONDS", 1)
    began = time.monotonic()
    with pytest.raises(UnsupportedFormat, match="ended by signal"):
        parse(tmp_path / "a.parquet")
    assert time.monotonic() - began < 20


def test_the_decoder_knows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHENCE_SECRET", "s3cret")
    assert "s3cret" not in str(parquet_rows._environment())


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_a_reading_that_is_given_up_leaves_no_process(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [f"row {number}" for number in range(50_000)]}), tmp_path / "a.parquet")
    before = children()
    rows = parse_rows(tmp_path / "a.parquet")
    next(rows)
    assert children() - before
    del rows
    assert not children() - before
    unread = open_rows(tmp_path / "a.parquet", None)
    assert children() - before
    del unread
    assert not children() - before


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.csv", b'text,label\n"' + b"x\n" * 300_000 + b'","' + b"y\n" * 300_000 + b'"\n', None),
        ("a.csv", b'text,label\na,b\n"' + b"\n" * 1_100_000 + b'",c\n', None),
        ("a.jsonl", b'{"text": "' + b"x" * 1_100_000 + b'"}', 1),
        ("a.json", b'[{"text": "' + b"x" * 4_400_000 + b'"}]', 1),
    ],
)
def test_a_row_beyond_the_limit_is_refused_however_it_is_spread(
    tmp_path: Path, name: str, content: bytes, line: int | None
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MalformedRow, match="the row is longer than 1048576 bytes") as refused:
        parse(tmp_path / name)
    assert line is None or refused.value.context["line"] == line


def test_a_csv_row_just_below_the_limit_is_read_and_the_next_one_is_counted_anew(tmp_path: Path) -> None:
    row = b'"' + b"x\n" * 400_000 + b'",a\n'
    (tmp_path / "a.csv").write_bytes(b"text,label\n" + row * 3)
    assert parse(tmp_path / "a.csv") == 3


def test_a_header_of_very_many_columns_is_checked_in_linear_time(tmp_path: Path) -> None:
    header = ",".join(["text", *(f"c{number}" for number in range(100_000)), "c7"])
    (tmp_path / "a.csv").write_text(header + "\n")
    began = time.monotonic()
    with pytest.raises(MalformedRow, match="'c7' twice"):
        parse(tmp_path / "a.csv")
    assert time.monotonic() - began < 5


def test_more_rows_than_allowed_are_refused_at_the_first_one_beyond(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n' * 11 + b"not even JSON")
    with pytest.raises(DatasetTooLarge, match="more than 10 rows") as refused:
        parse(tmp_path / "a.jsonl", DatasetLimits(max_rows=10))
    assert refused.value.context == {"max_rows": 10}
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n' * 10)
    assert parse(tmp_path / "a.jsonl", DatasetLimits(max_rows=10)) == 10


def test_rows_stop_being_written_before_the_disk_is_full(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n' * 3000)
    with pytest.raises(StorageFull, match=r"less than .* bytes free"):
        store_dataset(
            tmp_path / "a.jsonl", format=None, root=tmp_path / "d", limits=DatasetLimits(min_free_bytes=1 << 60)
        )
    assert list((tmp_path / "d").iterdir()) == []


def test_fields_of_ever_new_names_take_bounded_memory_and_short_warnings(tmp_path: Path) -> None:
    rows = [{"text": "a", f"field {number} {'x' * 3000}": 1} for number in range(COUNTED_NAMES + 500)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    info = store_dataset(tmp_path / "a.jsonl", format=None, root=tmp_path / "d")
    assert len(info.warnings) == 20 and max(map(len, info.warnings)) < 500


def test_what_is_quoted_from_a_file_is_short(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "a", "tags": {"k" * 100_000: {}}}))
    (tmp_path / "a.csv").write_text("x" * 100_000 + "\n")
    for name in ("a.jsonl", "a.csv"):
        with pytest.raises(MalformedRow) as refused:
            parse(tmp_path / name)
        assert len(refused.value.detail) < 2500


def test_the_limits_of_the_decoder_are_not_ours(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    assert parse(tmp_path / "a.parquet") == 1
    assert resource.getrlimit(resource.RLIMIT_AS) == before
