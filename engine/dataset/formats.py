"""Training files as streams of raw rows. Nothing is held but the row being read."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path

from engine.dataset.csv_rows import read_csv
from engine.dataset.json_rows import read_json_list, read_jsonl
from engine.dataset.limits import UNLIMITED, DatasetLimits
from engine.dataset.parquet_rows import read_parquet
from engine.dataset.reading import RawRows
from engine.errors import DatasetPathNotFound, UnsupportedFormat

SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


def open_rows(source: Path, format: str | None, limits: DatasetLimits = UNLIMITED) -> RawRows:
    """Read `source` as `format`, or as what its name and first bytes say.

    Raises DatasetPathNotFound, UnsupportedFormat, DatasetTooLarge; while iterating also MalformedRow.
    """
    if not source.is_file():
        raise DatasetPathNotFound(f"There is no file at '{source}'.")
    chosen = format or detect_format(source)
    if chosen not in FORMATS:
        raise UnsupportedFormat(f"'{chosen}' is not a dataset format; known are {', '.join(FORMATS)}.")
    return FORMATS[chosen](source, limits)


def detect_format(source: Path) -> str:
    """The format by name; a `.json` file that holds one object a line is JSONL. Raises UnsupportedFormat."""
    with source.open("rb") as handle:
        head = handle.read(4096)
    first = head.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    by_name = SUFFIXES.get(source.suffix.lower())
    if by_name == "json" and first == b"{":
        return "jsonl"
    if by_name:
        return by_name
    if head.startswith(b"PAR1"):
        return "parquet"
    by_content = {b"{": "jsonl", b"[": "json"}.get(first)
    if by_content:
        return by_content
    raise UnsupportedFormat(f"Neither the name '{source.name}' nor the first bytes tell a known dataset format.")


FORMATS: dict[str, Callable[[Path, DatasetLimits], RawRows]] = {
    "jsonl": read_jsonl,
    "json": read_json_list,
    "csv": read_csv,
    "parquet": read_parquet,
}
