"""Rows of an index by their score against themselves, and their export."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from app.attributions.spreadsheet import safe_cell
from app.dashboard.browsing.rows import PAGE, RowFields, RowView, row_view
from app.dependencies import Services
from app.errors import InvalidRequest
from app.indexes.service import IndexesService, LiveIndex
from app.tables import IndexRow
from engine.dataset import example_to_row
from engine.types import SelfInfluence

if TYPE_CHECKING:
    from engine.dataset import Dataset

MOST_CHOSEN = 1_000  # rows that are exported by being ticked
MOST_EXPORTED = 100_000  # rows that are exported by their rank
COLUMNS = ("rank", "position", "id", "label", "self_influence")

Order = Literal["desc", "asc"]
Format = Literal["jsonl", "csv"]


@dataclass(frozen=True)
class ScoredRow:
    rank: int
    score: float
    row: RowView


@dataclass(frozen=True)
class SelfInfluencePage:
    """start: how many of the order come before. earlier, later: addresses, None at an end. dataset: its id."""

    index: IndexRow
    dataset: str
    total: int
    rows: tuple[ScoredRow, ...]
    start: int
    earlier: str | None
    later: str | None


def load_self_influence(
    services: Services, tenant: str, index_id: str, fields: RowFields, order: Order, start: int
) -> SelfInfluencePage:
    """Raises NotFound, IndexUnavailable, InvalidOption for a method without self-scores, InvalidRequest."""
    index, live = _live(services, tenant, index_id)
    wanted = fields.wanted() or None
    found = services.engine.self_influence(live.dataset_dir, live.index_dir, order, PAGE + 1, start, wanted)
    base = f"/ui/indexes/{index.id}/self-influence"
    order_given = "" if order == "desc" else order
    return SelfInfluencePage(
        index=index,
        dataset=index.dataset_id,
        total=len(live.rows),
        rows=tuple(
            ScoredRow(row.rank, row.score, row_view(row.position, live.rows[row.position])) for row in found[:PAGE]
        ),
        start=start,
        earlier=fields.address(base, order=order_given, start=max(0, start - PAGE) or None) if start else None,
        later=fields.address(base, order=order_given, start=start + PAGE) if len(found) > PAGE else None,
    )


def chosen_rows(
    services: Services, tenant: str, index_id: str, positions: Sequence[int], format: Format
) -> Iterator[bytes]:
    """The file of the rows that were ticked. Raises as above."""
    _, live = _live(services, tenant, index_id)
    if not positions:
        raise InvalidRequest("No row is ticked.", remedy="Go back, tick the rows to export, and export again.")
    if len(positions) > MOST_CHOSEN:
        remedy = "Export the first rows by their number instead."
        raise InvalidRequest(f"{len(positions)} rows are ticked; at most {MOST_CHOSEN} can be.", remedy=remedy)
    if beyond := [position for position in positions if not 0 <= position < len(live.rows)]:
        raise InvalidRequest(f"There is no row at position {beyond[0]}: they go from 0 to {len(live.rows) - 1}.")
    found = services.engine.self_influence_of(live.dataset_dir, live.index_dir, sorted(set(positions)))
    return _written(live.rows, sorted(found, key=lambda row: row.rank), format)


def first_rows(
    services: Services, tenant: str, index_id: str, fields: RowFields, order: Order, count: int, format: Format
) -> Iterator[bytes]:
    """The file of the first `count` rows of the order. Raises as above."""
    _, live = _live(services, tenant, index_id)
    wanted = fields.wanted() or None
    found = services.engine.self_influence(live.dataset_dir, live.index_dir, order, count, 0, wanted)
    return _written(live.rows, found, format)


def _live(services: Services, tenant: str, index_id: str) -> tuple[IndexRow, LiveIndex]:
    with services.database.read() as session:
        indexes = IndexesService(session, tenant, services.settings)
        return indexes.named(index_id), indexes.live(index_id)


def _written(rows: Dataset, found: Sequence[SelfInfluence], format: Format) -> Iterator[bytes]:
    """JSON lines of the rows as they were uploaded, or a table of ids and scores."""
    if format == "csv":
        yield _line(COLUMNS)
    for row in found:
        example = rows[row.position]
        if format == "csv":
            yield _line((row.rank, row.position, safe_cell(example.id), safe_cell(example.label), repr(row.score)))
        else:
            yield json.dumps(example_to_row(example), ensure_ascii=False).encode() + b"\n"


def _line(cells: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue().encode()
