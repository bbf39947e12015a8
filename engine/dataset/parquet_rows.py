"""Parquet files: the columns of a JSON row; tags as struct, map or tags.<key> columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.dataset.reading import RawRow, RawRows
from engine.dataset.rows import ignored_fields
from engine.errors import MalformedRow, UnsupportedFormat

PARQUET_BATCH_ROWS = 1024


def read_parquet(source: Path) -> RawRows:
    try:
        file = pq.ParquetFile(source)
    except (pa.ArrowException, OSError) as error:
        raise UnsupportedFormat(f"This is not a readable Parquet file: {error}") from error
    return RawRows("parquet", _parquet_rows(file), file.metadata.num_rows, "rows")


def _parquet_rows(file: pq.ParquetFile) -> Iterator[RawRow]:
    """Columns that play no part are named in each row, for the warning, but never decoded."""
    done = 0
    names = file.schema_arrow.names
    ignored = dict.fromkeys(ignored_fields(dict.fromkeys(names)), True)
    batches = file.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=[name for name in names if name not in ignored])
    while True:
        try:
            batch = next(batches, None)
            values = batch.to_pylist() if batch is not None else None
        except (pa.ArrowException, OSError, ValueError) as error:
            raise MalformedRow(f"The Parquet file cannot be read after row {done}: {error}", row=done) from error
        if values is None:
            return
        for value in values:
            done += 1
            yield RawRow(_parquet_row(value) | ignored, None, done)


def _parquet_row(value: dict[str, Any]) -> dict[str, Any]:
    """Drop nulls (a Parquet column is there for every row); a map column comes as pairs."""
    row = {key: cell for key, cell in value.items() if cell is not None}
    tags = row.get("tags")
    if isinstance(tags, list) and all(isinstance(pair, tuple) for pair in tags):
        row["tags"] = dict(tags)
    return row
