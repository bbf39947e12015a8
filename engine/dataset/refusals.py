"""The row that ends a reading, and those after it that would have: so that a file is mended once, not row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from engine.errors import DatasetError, DatasetTooLarge

MORE_ROWS = 10_000  # looked at after the first refusal
MOST = 20  # refusals told

Raw = TypeVar("Raw")
Row = TypeVar("Row")


def admitted(
    rows: Iterator[Raw], admit: Callable[[Raw], Row], skip: Callable[[DatasetError], object]
) -> Iterator[tuple[Raw, Row]]:
    """Each row with what `admit` makes of it. The first DatasetError is raised; where more rows are wrong, `refused`
    in its context tells of all, as `refusal` does. skip(error) is told of each, so that rows are counted on."""
    while True:
        try:
            raw = next(rows)
            row = admit(raw)
        except StopIteration:
            return
        except DatasetTooLarge:
            raise
        except DatasetError as error:
            if more := list(_more(rows, admit, skip, error)):
                error.context["refused"] = [refusal(error), *more]
            raise
        yield raw, row


def _more(
    rows: Iterator[Raw], admit: Callable[[Raw], object], skip: Callable[[DatasetError], object], first: DatasetError
) -> Iterator[dict[str, Any]]:
    skip(first)
    told = 1
    for _ in range(MORE_ROWS):
        if told == MOST:
            return
        try:
            admit(next(rows))
        except (StopIteration, DatasetTooLarge):
            return
        except DatasetError as error:
            skip(error)
            told += 1
            yield refusal(error)


def refusal(error: DatasetError) -> dict[str, Any]:
    """`line` and `row` are null where the format, or the error, has none."""
    lines, rows = error.context.get("lines"), error.context.get("rows")
    line = error.context.get("line", lines[-1] if isinstance(lines, list) else None)
    row = error.context.get("row", rows[-1] if isinstance(rows, list) else None)
    return {"line": line, "row": row, "detail": error.detail, "remedy": error.remedy}
