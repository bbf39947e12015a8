"""What the pages about datasets show, loaded from the services."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.amending import NamedPatch
from app.dashboard.browsing.forms import refused_rows
from app.dashboard.browsing.rows import RowFields, RowsPage, RowView, row_view, rows_page, suggestions, whole_text
from app.dashboard.browsing.words import json_text
from app.dashboard.pages import Notice, notice_of
from app.dashboard.running.page_jobs import load_job_of
from app.dashboard.running.views_jobs import JobView
from app.dashboard.words import moment
from app.datasets.schemas import DatasetOut
from app.datasets.service import DatasetsService, example_by_id
from app.dependencies import Services
from app.errors import NotFound
from app.etags import Preconditions, etag_of
from app.indexes.service import READY, IndexesService, LiveIndex
from app.jobs.service import JobsService
from app.pagination import PageRequest
from app.tables import DatasetRow, IndexRow
from engine.errors import EngineError

if TYPE_CHECKING:
    from engine.dataset import Dataset

PAGE = 25
RELATED = 25


@dataclass(frozen=True)
class DatasetsPage:
    datasets: list[DatasetRow]
    next_cursor: str | None


@dataclass(frozen=True)
class DatasetPage:
    """rows: None while there are none to read. suggested: tags and labels to choose from. refused: the rows of the
    file that were wrong."""

    dataset: DatasetRow
    job: JobView | None
    problem: Notice | None
    refused: tuple[dict[str, Any], ...]
    indexes: list[IndexRow]
    metadata: str
    etag: str
    when: str
    rows: RowsPage | None
    suggested: Mapping[str, list[str]]


@dataclass(frozen=True)
class Standing:
    """Where a row stands among all rows of an index. said: why it has no place."""

    index: IndexRow
    rank: int | None
    score: float | None
    rows: int
    said: str


@dataclass(frozen=True)
class RowPage:
    """previous, following: positions; None at an end."""

    dataset: DatasetRow
    row: RowView
    whole: dict[str, Any]
    total: int
    previous: int | None
    following: int | None
    indexes: int


def load_datasets(services: Services, tenant: str, *, name: str | None, cursor: str | None) -> DatasetsPage:
    """Raises BadCursor."""
    with services.database.read() as session:
        service = DatasetsService(session, tenant, services.settings)
        return DatasetsPage(*service.page(PageRequest(cursor, PAGE), name=name))


def load_dataset(
    services: Services, tenant: str, dataset_id: str, fields: RowFields, *, start: int, before: int | None
) -> DatasetPage:
    """Raises NotFound; InvalidRequest for the filter."""
    with services.database.read() as session:
        indexes = IndexesService(session, tenant, services.settings)
        row = indexes.datasets.get(dataset_id)
        built, _ = indexes.page(PageRequest(None, RELATED), dataset=row.id)
        rows = indexes.datasets.rows(row) if row.state == READY else None
        etag = etag_of(DatasetOut.model_validate(row))
    base = f"/ui/datasets/{row.id}"
    shown = None if rows is None else rows_page(rows, fields, base, start=start, before=before)
    return DatasetPage(
        dataset=row,
        job=None if row.state == READY else load_job_of(services, tenant, row.job_id),
        problem=notice_of(row.error) if row.error else None,
        refused=refused_rows(row.error),
        indexes=built,
        metadata=json_text(row.user_metadata),
        etag=etag,
        when=moment(row.created_at),
        rows=shown,
        suggested=suggestions(rows) if rows else {"tags": [], "labels": []},
    )


def load_rows(
    services: Services, tenant: str, dataset_id: str, fields: RowFields, *, start: int, before: int | None
) -> RowsPage:
    """The rows alone. Raises NotFound, NotReady, InvalidRequest."""
    rows = _rows(services, tenant, dataset_id)
    return rows_page(rows, fields, f"/ui/datasets/{dataset_id}", start=start, before=before)


def find_row(services: Services, tenant: str, dataset_id: str, wanted: str) -> tuple[int, bool]:
    """The position that a number or an id means, and whether it was an id. Raises NotFound, NotReady."""
    rows = _rows(services, tenant, dataset_id)
    if wanted.isascii() and wanted.isdecimal() and int(wanted) < len(rows):
        return int(wanted), False
    try:
        return example_by_id(rows, wanted)[0], True
    except NotFound as error:
        detail = f"There is no row '{wanted[:60]}': positions go from 0 to {len(rows) - 1:,}, and no row has this id."
        raise NotFound(detail, remedy="Check the position or the id.", pointer="/go") from error


def load_row(services: Services, tenant: str, dataset_id: str, position: int) -> RowPage:
    """Raises NotFound, NotReady."""
    with services.database.read() as session:
        indexes = IndexesService(session, tenant, services.settings)
        row = indexes.datasets.ready(dataset_id)
        built, _ = indexes.page(PageRequest(None, RELATED), dataset=row.id, state=READY)
        rows = indexes.datasets.rows(row)
    if not 0 <= position < len(rows):
        raise NotFound(f"The dataset has no row at position {position}: they go from 0 to {len(rows) - 1:,}.")
    return RowPage(
        dataset=row,
        row=row_view(position, rows[position]),
        whole=whole_text(rows[position]),
        total=len(rows),
        previous=position - 1 if position > 0 else None,
        following=position + 1 if position + 1 < len(rows) else None,
        indexes=len(built),
    )


def load_standings(services: Services, tenant: str, dataset_id: str, position: int) -> list[Standing]:
    """The row's score against itself in every ready index of its dataset. Raises NotFound, NotReady."""
    with services.database.read() as session:
        indexes = IndexesService(session, tenant, services.settings)
        row = indexes.datasets.ready(dataset_id)
        built, _ = indexes.page(PageRequest(None, RELATED), dataset=row.id, state=READY)
        live = [(index, indexes.live(index.id)) for index in built]
    return [_standing(services, index, found, position) for index, found in live]


def _standing(services: Services, index: IndexRow, live: LiveIndex, position: int) -> Standing:
    try:
        (found,) = services.engine.self_influence_of(live.dataset_dir, live.index_dir, [position])
    except EngineError as error:
        return Standing(index, None, None, len(live.rows), error.detail)
    return Standing(index, found.rank, found.score, len(live.rows), "")


def change_dataset(services: Services, tenant: str, dataset_id: str, patch: NamedPatch, etag: str | None) -> None:
    """Raises NotFound, PreconditionFailed."""
    with services.database.write() as session:
        DatasetsService(session, tenant, services.settings).amend(dataset_id, patch, Preconditions(etag or None))


def steer_load(services: Services, tenant: str, dataset_id: str, *, resume: bool) -> None:
    """Cancels or resumes the job that loads it. Raises NotFound, Conflict."""
    with services.database.write() as session:
        jobs = JobsService(session, tenant)
        row = DatasetsService(session, tenant, services.settings).get(dataset_id)
        (jobs.resume if resume else jobs.cancel)(row.job_id or "", services.worker.follow)


def _rows(services: Services, tenant: str, dataset_id: str) -> Dataset:
    with services.database.read() as session:
        datasets = DatasetsService(session, tenant, services.settings)
        return datasets.rows(datasets.ready(dataset_id))
