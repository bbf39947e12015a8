"""Training files: JSONL, JSON, CSV and Parquet, as people send them."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from engine.dataset import DatasetLimits, dataset_damage, example_to_row, open_dataset, parse_rows, store_dataset
from tests.fuzzing.mutation import PIECES, damaged
from tests.fuzzing.row_values import ROWS, rows
from tests.fuzzing.targets import Target
from tests.fuzzing.values import documents, texts, trees, written

LIMITS = DatasetLimits(max_rows=500, max_bytes=1 << 20, max_row_bytes=1 << 16)
Input = tuple[str, str | None, bytes]  # the name's ending, the format that is said, the file

JSONL = b"".join(written(row, ascii=False) + b"\n" for row in ROWS)
FLAT: list[dict[str, Any]] = [
    {"id": "a", "prompt": "Where, then?", "completion": ' "There".\nOr here.', "tags.task": "x", "label": "good"},
    {"id": "b", "prompt": "Who?", "completion": " Mira", "tags.task": "", "label": ""},
]


def _csv(found: Sequence[dict[str, Any]], **style: Any) -> bytes:
    sink = io.StringIO()
    writer = csv.DictWriter(sink, list(found[0]), **style)
    writer.writeheader()
    writer.writerows(found)
    return sink.getvalue().encode()


def _parquet(**style: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(COLUMNS), sink, **style)
    return sink.getvalue().to_pybytes()


COLUMNS = {
    "id": pa.array(["a", "b", None]),
    "prompt": pa.array(["Where was Mira born?", "", "Who?"]),
    "completion": pa.array([" In Port Halvern.", " x", " Mira"]),
    "label": pa.array([1, 2, None]),
    "tags": pa.array([[("task", "facts")], [], None], pa.map_(pa.string(), pa.string())),
}
CSV = [_csv(FLAT), _csv(FLAT, quoting=csv.QUOTE_ALL), _csv([{"text": "one"}, {"text": "two, three"}]), b"text\n"]
CSV += [b"text\nTwo and two make four\n", b"prompt,completion\na,b\nc,d\n"]
ONE_ROW = [written(row) for row in ROWS]
LISTS = [written(list(ROWS)), json.dumps(ROWS, indent=1).encode(), b"[]", b'[{"text": "a"}]']
PARQUETS = [_parquet(), _parquet(compression="zstd"), _parquet(use_dictionary=False, data_page_version="2.0")]

cells = st.one_of(texts, st.sampled_from(('"', '""', "a,b", "a\nb", "\r", "'")))
tables = st.builds(
    lambda header, body: "\n".join(",".join(line) for line in (header, *body)).encode("utf-8", "surrogatepass"),
    st.lists(
        st.sampled_from(("id", "prompt", "completion", "text", "label", "tags.a", "other", " text ", "")), max_size=5
    ),
    st.lists(st.lists(cells, max_size=5), max_size=4),
)
lines = st.lists(documents(rows | trees()), max_size=4).map(b"\n".join)


def sent(ending: str, contents: st.SearchStrategy[bytes]) -> st.SearchStrategy[Input]:
    """Mostly by the name it should have."""
    name = st.sampled_from((ending,) * 9 + (".txt", "", ".json", ".csv"))
    said = st.sampled_from((None,) * 6 + ("jsonl", "json", "csv", "xml"))
    return st.tuples(name, said, contents)


@contextmanager
def stored(work: Path) -> Iterator[Callable[[Input], None]]:
    root = work / "datasets"
    root.mkdir()

    def check(given: Input) -> None:
        ending, format, content = given
        source = work / f"rows{ending}"
        source.write_bytes(content)
        try:
            info = store_dataset(source, format=format, root=root, limits=LIMITS)
            examples = list(open_dataset(root / info.sha256))
            assert len(examples) == info.rows > 0
            assert len({example.id for example in examples}) == info.rows
            assert dataset_damage(root / info.sha256, info.rows) is None
            again = work / "again.jsonl"
            again.write_bytes(b"".join(written(example_to_row(example)) + b"\n" for example in examples))
            assert list(parse_rows(again)) == examples
            shutil.rmtree(root / info.sha256)
        finally:
            source.unlink()
            left = [path.name for path in root.iterdir()]
            for name in left:
                shutil.rmtree(root / name)
            assert not left, f"something was left behind: {left}"

    yield check


def each(ending: str) -> list[Input]:
    """Every hostile piece alone, and inside a text."""
    inside = [b'{"text": "' + piece + b'"}' for piece in PIECES if len(piece) < 3000]
    return [(ending, None, content) for content in (*PIECES, *inside)]


TARGETS = [
    Target("datasets: JSONL", sent(".jsonl", damaged([JSONL, *ONE_ROW]) | lines), stored, always=each(".jsonl")),
    Target(
        "datasets: JSON",
        sent(".json", damaged([*LISTS, *ONE_ROW, JSONL]) | documents(st.lists(rows, max_size=3) | trees())),
        stored,
        always=each(".json"),
    ),
    Target("datasets: CSV", sent(".csv", damaged(CSV) | tables), stored, always=each(".csv")),
    Target("datasets: Parquet", st.tuples(st.just(".parquet"), st.none(), damaged(PARQUETS)), stored, slow=True),
]
