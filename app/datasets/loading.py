"""Storing datasets: in the request when they are small, in a job when they are not; and removing their files."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from sqlalchemy import event
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
from app.storage import full_disk_is_named, leave_free, set_aside, undecided
from app.tables import DatasetRow, JobRow, new_id
from engine.dataset import DatasetLimits
from engine.types import DatasetInfo

LOAD = "dataset.load"
LOADING, READY = "loading", "ready"
KEPT_SUFFIX = 12  # characters of an upload's suffix that are kept: they tell the format


def create_dataset(services: Services, tenant: str, body: Upload | DatasetImport) -> DatasetRow:
    """Ready when it is small; else `loading`, with the job that loads it. Raises the DatasetErrors."""
    source = _source(services.settings, body)
    kept = False
    try:
        if source.path.stat().st_size > services.settings.max_inline_rows_bytes:
            row, kept = _enqueue(services, tenant, body, source), True
            return row
        return _store(services, tenant, body, source)
    finally:
        if not kept:
            source.forget()


def limits_of(settings: Settings) -> DatasetLimits:
    return DatasetLimits(
        max_rows=settings.max_dataset_rows,
        max_bytes=settings.max_dataset_bytes,
        max_row_bytes=settings.max_row_bytes,
        min_free_bytes=settings.min_free_bytes,
    )


def _store(services: Services, tenant: str, body: Upload | DatasetImport, source: _Source) -> DatasetRow:
    from engine.dataset import store_dataset  # here: a server starts without pyarrow

    root, limits = services.settings.datasets_dir, limits_of(services.settings)
    while True:
        with ExitStack() as undecided_meanwhile:

            def announce(place: Path, stack: ExitStack = undecided_meanwhile) -> None:
                stack.enter_context(undecided(place))

            info = store_dataset(source.path, format=body.format, root=root, limits=limits, announce=announce)
            if row := _recorded(services, tenant, body, source, info):
                return row


def _recorded(
    services: Services, tenant: str, body: Upload | DatasetImport, source: _Source, info: DatasetInfo
) -> DatasetRow | None:
    """None: the last other dataset with these very rows was deleted in this moment, and the files went with it."""
    with services.database.write() as session:
        if not (services.settings.datasets_dir / info.sha256).is_dir():
            return None
        row = _row(body, source, READY)
        for name, value in _learned(info).items():
            setattr(row, name, value)
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
        leave_free(settings.home, path.stat().st_size, settings.min_free_bytes)  # the rows, about as large
        return _Source(dataset_id, path, str(path), upload=False)
    leave_free(settings.home, 2 * _size(body), settings.min_free_bytes)  # the copy and the rows
    suffix = PurePath(body.filename).suffix[:KEPT_SUFFIX]
    source = _Source(dataset_id, settings.uploads_dir / dataset_id / f"rows{suffix}", body.filename, upload=True)
    try:
        _save(body, source.path)
    except BaseException:
        source.forget()
        raise
    return source


def _size(body: Upload) -> int:
    size = body.file.seek(0, os.SEEK_END)
    body.file.seek(0)
    return size


def _save(body: Upload, path: Path) -> None:
    with full_disk_is_named():
        path.parent.mkdir(parents=True)
        with path.open("wb") as copy:
            shutil.copyfileobj(body.file, copy, 2**20)
            copy.flush()
            os.fsync(copy.fileno())  # a 202 promises that it will be read


def _enqueue(services: Services, tenant: str, body: Upload | DatasetImport, source: _Source) -> DatasetRow:
    payload = {"dataset": source.dataset_id, "path": str(source.path), "format": body.format}
    with services.database.write() as session:
        row = DatasetsRepository(session, tenant).add(_row(body, source, LOADING))
        row.job_id = JobsService(session, tenant).enqueue(LOAD, payload, resource_id=row.id).id
        return row


def _row(body: Upload | DatasetImport, source: _Source, state: str) -> DatasetRow:
    return DatasetRow(
        id=source.dataset_id, name=body.name, state=state, source=source.shown, user_metadata=body.metadata
    )


def run_load(services: Services, context: JobContext) -> Done:
    """The job: read, check and store the rows. The upload is kept until it succeeds, so a resume finds it."""
    from engine.dataset import store_dataset  # here: a server starts without pyarrow

    path, format = _still_allowed(services.settings, context.payload["path"]), context.payload["format"]
    root, limits = services.settings.datasets_dir, limits_of(services.settings)
    info = store_dataset(path, format=format, root=root, checkpoint=context.checkpoint, limits=limits)
    return Done({"dataset": context.payload["dataset"], "rows": info.rows, "sha256": info.sha256}, info)


def _still_allowed(settings: Settings, recorded: str) -> Path:
    """A link may have been put in its place since it was asked for. Raises PathOutsideRoots, DatasetPathNotFound."""
    path = Path(recorded)
    return path if path.is_relative_to(settings.uploads_dir) else PathPolicy(settings.roots).file(recorded, "/uri")


def _forget_upload_after_commit(session: Session, upload: Path) -> None:
    """Not before it: a server that is killed between the two reads the upload again. What it leaves after it is
    removed at the next start."""
    event.listen(session, "after_commit", lambda _: shutil.rmtree(upload, ignore_errors=True), once=True)


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
        _forget_upload_after_commit(session, services.settings.uploads_dir / row.id)
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
