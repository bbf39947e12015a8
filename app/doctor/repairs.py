"""What can be done about a finding. Each looks again before it acts: beside PostgreSQL servers may be at work.

Nothing that only a user could make again is deleted: damaged training rows are moved to `<home>/damaged/`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.batches.files import BatchFiles
from app.batches.running import BATCH
from app.doctor.findings import NotRepaired, Store
from app.errors import PROBLEM_TYPE_PREFIX, FilesDamaged, problem
from app.indexes.building import BUILD
from app.jobs.contract import ACTIVE, CANCELLED, FAILED
from app.jobs.events import change_state
from app.storage import remove_directory, set_aside
from app.tables import AttributionRow, BatchRow, DatasetRow, IndexRow, JobRow, utc_now
from engine.integrity import MANIFEST_FILE

if TYPE_CHECKING:
    from app.doctor.stuck import Waiting

FILES_DAMAGED = FilesDamaged.code
COMMIT_SECONDS = 1.0  # longer than another server takes from looking for the rows to its commit
GONE = "It is as it should be by now."


def was_damaged(row: Any) -> bool:
    """True for a row that a repair has failed for the sake of its files."""
    return row.state == "failed" and (row.error or {}).get("type") == PROBLEM_TYPE_PREFIX + FILES_DAMAGED


def fail_datasets(store: Store, *, sha256: str, reason: str) -> str:
    """Every dataset with these rows is failed; what is left of the rows is kept aside."""
    detail = f"The stored rows are damaged. {reason}"
    remedy = "Upload the same rows again, or restore them from a backup; then `whence doctor --repair` makes it ready."
    with store.database.write() as session:
        rows = list(session.scalars(select(DatasetRow).where(DatasetRow.sha256 == sha256, DatasetRow.state == "ready")))
        for row in rows:
            row.state, row.error = "failed", problem(FILES_DAMAGED, "Files damaged", 500, detail, remedy)
    if not rows:
        return GONE
    kept = _keep_aside(store, store.settings.datasets_dir / sha256)
    marked = ", ".join(row.id for row in rows)
    return f"Marked as failed: {marked}." + (f" What is left of the rows lies in {kept}." if kept else "")


def _keep_aside(store: Store, path: Path) -> str | None:
    moved = set_aside(path)  # at once out of the way of an upload of the same rows
    if moved is None:
        return None
    kept = store.settings.home / "damaged" / f"{path.name}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{moved.name[-8:]}"
    kept.parent.mkdir(mode=0o700, exist_ok=True)
    shutil.move(moved, kept)
    return store.shown(kept)


def fail_index(store: Store, *, index_id: str, file: str, reason: str) -> str:
    """The index is failed and its build job can be resumed: it keeps the files that are whole. A manifest that cannot
    be believed vouches for no file, so all are removed then."""
    with store.database.write() as session:
        row = session.get(IndexRow, index_id)
        if row is None or (row.state != "ready" and not was_damaged(row)):
            return GONE
        job = _job_of(session, row, BUILD, {"index": index_id})
        detail = f"The file {file} is damaged. {reason}"
        remedy = f"Resume job {job.id}: it makes what is damaged again. Or delete the index."
        error = problem(FILES_DAMAGED, "Files damaged", 500, detail, remedy, (), {"file": file})
        if row.state == "ready":
            row.state, row.error = "failed", error
            change_state(session, job, FAILED, error=error)
        job_id = job.id
    if file == MANIFEST_FILE:
        remove_directory(store.settings.indexes_dir / index_id)
    return f"Marked as failed. Build it again: whence jobs resume {job_id}"


def drop_from_evaluation(store: Store, *, evaluation_id: str, file: str) -> str:
    """Nobody takes over what is damaged. Of an index of its own that has a damaged file, the whole is removed."""
    directory = store.settings.evaluations_dir / evaluation_id
    if not file:
        directory.mkdir(parents=True, exist_ok=True)
        return "Its directory is there again, and empty; the scorecard is in the database."
    parts = Path(file).parts
    if parts[0] == "indexes" and len(parts) > 2:
        remove_directory(directory / parts[0] / parts[1])
        return f"Removed {'/'.join(parts[:2])}; the scorecard is in the database."
    (directory / file).unlink(missing_ok=True)
    return f"Removed {file}; the scorecard is in the database."


def drop_from_check(store: Store, *, check_id: str, file: str) -> str:
    """Nobody takes over what is damaged."""
    directory = store.settings.checks_dir / check_id
    if not file:
        directory.mkdir(parents=True, exist_ok=True)
        return "Its directory is there again, and empty; the result is in the database."
    (directory / file).unlink(missing_ok=True)
    return f"Removed {file}; the result is in the database."


def fail_batch(store: Store, *, batch_id: str, file: str, reason: str) -> str:
    """The results are made again by its job; without the questions there is nothing to make them from."""
    files = BatchFiles(store.settings.batches_dir / batch_id)
    whole = file != files.input.name
    with store.database.write() as session:
        row = session.get(BatchRow, batch_id)
        if row is None or row.state != "ready":
            return GONE
        job = _job_of(session, row, BATCH, {"batch": batch_id})
        again = f"Resume job {job.id}." if whole else "Send the file again, and delete this batch."
        detail = f"The file {file} is damaged. {reason}"
        error = problem(FILES_DAMAGED, "Files damaged", 500, detail, again, (), {"file": file})
        change_state(session, job, FAILED, error=error)
        row.state, row.error = "failed", error
    if whole:
        files.results.unlink(missing_ok=True)
    return f"Marked as failed. {again}"


def mark_whole(store: Store, *, table: type[Any], row_id: str) -> str:
    with store.database.write() as session:
        row = session.get(table, row_id)
        if row is None or not was_damaged(row):
            return GONE
        row.state, row.error = "ready", None
    return "Ready again."


def remove_orphan(store: Store, *, path: Path, has_owner: Callable[[Store], bool]) -> str:
    """Out of sight first, then asked again: who stored the same rows in this moment gets them back."""
    doomed = set_aside(path)
    if doomed is None:
        return GONE
    if not store.database.is_sqlite:
        time.sleep(COMMIT_SECONDS)  # on SQLite nobody else is there
    if has_owner(store):
        doomed.rename(path)
        return GONE
    shutil.rmtree(doomed)
    return "Removed."


def remove_leftover(store: Store, *, path: Path) -> str:
    if store.is_young(path):
        raise NotRepaired("It has just changed: something is at work there.")
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return "Removed."


def settle(store: Store, *, waiting: Waiting, row_id: str) -> str:
    """The row follows its job at last. A job that is gone is made again, failed, so that it can be resumed."""
    with store.database.write() as session:
        row = session.get(waiting.table, row_id)
        job = session.get(JobRow, row.job_id) if row is not None and row.job_id else None
        if row is None or row.state not in waiting.states or (job is not None and job.state in ACTIVE):
            return GONE
        payload = _payload(store, waiting, row)
        if payload is None:
            return _give_up(row)
        job = _job_of(session, row, waiting.job_kind, payload)
        error = job.error or problem(
            "job-lost", "Its job was lost", 500, "The work ended without a trace.", f"Resume job {job.id}."
        )
        if job.state not in (FAILED, CANCELLED):
            change_state(session, job, FAILED, error=error)
        row.state, row.error = "failed", error
        return f"Marked as failed. Go on with it: whence jobs resume {job.id}"


def _give_up(row: Any) -> str:
    """What no job can take up: an answer that nobody keeps the computation of, an upload that is gone."""
    again = "Ask again." if isinstance(row, AttributionRow) else "Upload the file again, and delete this dataset."
    row.state = "failed"
    row.error = problem("job-lost", "Its job was lost", 500, "The work ended without a trace.", again)
    if isinstance(row, AttributionRow):
        row.finished_at = utc_now()
    return f"Marked as failed. {again}"


def _payload(store: Store, waiting: Waiting, row: Any) -> dict[str, Any] | None:
    """What the job is given. None: nothing can be resumed."""
    if isinstance(row, AttributionRow):
        return None
    if not isinstance(row, DatasetRow):
        return {waiting.noun: row.id}
    upload = next(iter(sorted((store.settings.uploads_dir / row.id).glob("rows*"))), None)
    return upload and {"dataset": row.id, "path": str(upload), "format": row.format}


def _job_of(session: Session, row: Any, kind: str, payload: dict[str, Any]) -> JobRow:
    job = session.get(JobRow, row.job_id) if row.job_id else None
    if job is None:
        job = JobRow(kind=kind, tenant=row.tenant, payload=payload, resource_id=row.id)
        session.add(job)
        session.flush()
        row.job_id = job.id
    return job
