"""Storing datasets: in the request when they are small, in a job when they are not; and removing their files."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from sqlalchemy.orm import Session

from app.datasets.repository import DatasetsRepository
from app.datasets.rows import opened
from app.datasets.schemas import DatasetImport
from app.datasets.uploads import Upload
from app.dependencies import Services
from app.errors import Conflict
from app.jobs.contract import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED, Done, JobContext
from app.jobs.service import JobsService
from app.paths import PathPolicy
from app.settings import Settings
from app.storage import full_disk_is_named, set_aside
from app.tables import DatasetRow, JobRow, new_id
from engine.dataset import store_dataset
from engine.types import DatasetInfo

LOAD = "dataset.load"
LOADING, READY = "loading", "ready"
KEPT_SUFFIX = 12  # characters of an upload's suffix that are kept: they tell the format


def create_dataset(services: Services, tenant: str, body: Upload | DatasetImport) -> DatasetRow:
    """Ready when it is small; else `loading`, with the job that loads it. Raises the DatasetErrors."""
    source = _source(services.settings, body)
    if source.path.stat().st_size > services.settings.max_inline_rows_bytes:
        return _enqueue(services, tenant, body, source)
    try:
        return _store(services, tenant, body, source)
    finally:
        source.forget()


def _store(services: Services, tenant: str, body: Upload | DatasetImport, source: _Source) -> DatasetRow:
    while True:
        info = store_dataset(source.path, format=body.format, root=services.settings.datasets_dir)
        with services.database.write() as session:
            if not (services.settings.datasets_dir / info.sha256).is_dir():
                continue  # the last other dataset with these very rows was deleted in this moment
            row = DatasetRow(id=source.dataset_id, name=body.name, state=READY, source=source.shown, **_learned(info))
            return DatasetsRepository(session, tenant).add(row)


@dataclass(frozen=True)
class _Source:
    """The file to read. `upload`: it is our own copy, in a directory named after the dataset."""

    dataset_id: str
    path: Path
    shown: str
    upload: bool

    def forget(self) -> None:
        if self.upload:
            shutil.rmtree(self.path.parent, ignore_errors=True)


def _source(settings: Settings, body: Upload | DatasetImport) -> _Source:
    dataset_id = new_id("ds")
    if isinstance(body, DatasetImport):
        path = PathPolicy(settings.roots).file(body.uri, "/uri")
        return _Source(dataset_id, path, str(path), upload=False)
    suffix = PurePath(body.filename).suffix[:KEPT_SUFFIX]
    source = _Source(dataset_id, settings.uploads_dir / dataset_id / f"rows{suffix}", body.filename, upload=True)
    try:
        _save(body, source.path)
    except BaseException:
        source.forget()
        raise
    return source


def _save(body: Upload, path: Path) -> None:
    with full_disk_is_named():
        path.parent.mkdir(parents=True)
        with path.open("wb") as copy:
            shutil.copyfileobj(body.file, copy, 2**20)


def _enqueue(services: Services, tenant: str, body: Upload | DatasetImport, source: _Source) -> DatasetRow:
    payload = {"dataset": source.dataset_id, "path": str(source.path), "format": body.format}
    with services.database.write() as session:
        row = DatasetRow(id=source.dataset_id, name=body.name, state=LOADING, source=source.shown)
        DatasetsRepository(session, tenant).add(row)
        row.job_id = JobsService(session, tenant).enqueue(LOAD, payload, resource_id=row.id).id
        return row


def run_load(services: Services, context: JobContext) -> Done:
    """The job: read, check and store the rows. The upload is kept until it succeeds, so a resume finds it."""
    path, format = Path(context.payload["path"]), context.payload["format"]
    root = services.settings.datasets_dir
    info = store_dataset(path, format=format, root=root, checkpoint=context.checkpoint)
    return Done({"dataset": context.payload["dataset"], "rows": info.rows, "sha256": info.sha256}, info)


def follow_load(services: Services, session: Session, job: JobRow, info: DatasetInfo | None) -> None:
    """The dataset's row follows its job."""
    row = DatasetsRepository(session, job.tenant).find(job.payload["dataset"])
    if row is None:
        return
    if job.state == SUCCEEDED and info is not None:
        if not (services.settings.datasets_dir / info.sha256).is_dir():
            raise Conflict("Another dataset with the same rows was deleted meanwhile.", remedy="Resume the job.")
        row.state, row.error = READY, None
        for name, value in _learned(info).items():
            setattr(row, name, value)
        shutil.rmtree(services.settings.uploads_dir / row.id, ignore_errors=True)
    elif job.state in (QUEUED, RUNNING):
        row.state, row.error = LOADING, None
    elif job.state in (FAILED, CANCELLED):
        row.state, row.error = "failed", job.error


def _learned(info: DatasetInfo) -> dict[str, Any]:
    return {"rows": info.rows, "sha256": info.sha256, "format": info.format, "warnings": list(info.warnings)}


def remove_files(services: Services, deleted: DatasetRow) -> None:
    """Removes what a deleted dataset leaves, unless another one, of any tenant, has the same rows.

    In a transaction of its own: one that stores the same rows comes either before it and is
    seen, or after it and finds them gone.
    """
    shutil.rmtree(services.settings.uploads_dir / deleted.id, ignore_errors=True)
    if deleted.sha256 is None:
        return
    with services.database.write() as session:
        kept = DatasetsRepository(session, deleted.tenant).is_kept(deleted.sha256)
        doomed = None if kept else set_aside(services.settings.datasets_dir / deleted.sha256)
    if doomed is not None:
        opened.cache_clear()
        shutil.rmtree(doomed, ignore_errors=True)
