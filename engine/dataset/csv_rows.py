"""CSV files: columns id, prompt, completion, text, label and tags.<key>."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.dataset.limits import DatasetLimits
from engine.dataset.reading import RawRow, RawRows, malformed, refuse_length, text_lines
from engine.dataset.rows import LONGEST_NAME

csv.field_size_limit(2**31 - 1)  # process-wide in Python; the default (128 KiB) refuses long texts


def read_csv(source: Path, limits: DatasetLimits) -> RawRows:
    return RawRows("csv", _csv_rows(source, limits.max_row_bytes), source.stat().st_size, "bytes")


def _csv_rows(source: Path, longest: int) -> Iterator[RawRow]:
    done, row_began = 0, 0

    def lines() -> Iterator[str]:
        """A quoted cell may have any number of lines: what is counted is the row."""
        nonlocal done
        for number, line, read in text_lines(source, longest):
            done = read
            if done - row_began > longest:
                refuse_length(number, longest)
            yield line

    reader = csv.reader(lines(), strict=True)
    header: list[str] | None = None
    while True:
        line, row_began = reader.line_num + 1, done
        try:
            cells = next(reader, None)
        except csv.Error as error:
            malformed(f"not valid CSV: {error}", line)
        if cells is None:
            return
        if not cells:
            continue
        if header is None:
            header = _csv_header(cells, line)
        else:
            yield RawRow(_csv_row(header, cells, line), line, done)


def _csv_header(cells: list[str], line: int) -> list[str]:
    header = [cell.strip() for cell in cells]
    if not {"prompt", "completion", "text"} & set(header):
        found = ", ".join(f"'{name[:LONGEST_NAME]}'" for name in header[:8])
        malformed(f"the header has no column named prompt, completion or text; it has {found}", line)
    repeated = sorted(name for name, count in Counter(header).items() if count > 1)
    if repeated:
        malformed(f"the header names '{repeated[0][:LONGEST_NAME]}' twice", line)
    return header


def _csv_row(header: list[str], cells: list[str], line: int) -> dict[str, Any]:
    """Empty cells count as absent, except those that the row's shape needs."""
    if len(cells) != len(header):
        malformed(f"there are {len(cells)} cells, but the header names {len(header)} columns", line)
    row = {name: cell for name, cell in zip(header, cells, strict=True) if cell}
    if "text" not in row:
        for name in ("prompt", "completion") if "completion" in header else ("text",):
            if name in header:
                row.setdefault(name, "")
    return row
