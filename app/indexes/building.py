"""The job that builds an index, and how the index's row follows it."""

from __future__ import annotations

import dataclasses

from sqlalchemy.orm import Session

from app.datasets.service import DatasetsService
from app.dependencies import Services
from app.errors import problem_of
from app.indexes.options import config_from
from app.indexes.repository import IndexesRepository
from app.jobs.contract import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED, Done, JobContext
from app.models.service import ModelsService, config_of
from app.paths import PathPolicy
from app.tables import IndexRow, JobRow, utc_now
from engine.errors import Cancelled
from engine.types import IndexInfo

BUILD = "index.build"


def run_build(services: Services, context: JobContext) -> Done:
    """Builds, or goes on building: finished shards of an earlier attempt are kept by the engine."""
    index_id = context.payload["index"]
    with services.database.read() as session:
        row = IndexesRepository(session, context.tenant).get(index_id)
        datasets = DatasetsService(session, context.tenant, services.settings)
        dataset_dir = datasets.directory(datasets.ready(row.dataset_id))
        paths = PathPolicy(services.settings.roots)
        model = config_of(ModelsService(session, context.tenant).get(row.model_id), paths)
    index_dir = services.settings.indexes_dir / index_id
    info = services.engine.build_index(model, dataset_dir, config_from(row.config), index_dir, context.checkpoint)
    return Done({"index": index_id, "rows": info.rows, "bytes": info.bytes, "revision": info.revision}, info)


def follow_build(services: Services, session: Session, job: JobRow, info: IndexInfo | None) -> None:
    """The index's row follows its job; a cancelled build is a failed index that can be resumed."""
    row = IndexesRepository(session, job.tenant).find(job.payload["index"])
    if row is None:
        return
    if job.state == SUCCEEDED and info is not None:
        mark_ready(row, info)
    elif job.state in (QUEUED, RUNNING):
        row.state, row.error = ("queued" if job.state == QUEUED else "building"), None
    elif job.state in (FAILED, CANCELLED):
        row.state, row.error = "failed", job.error or problem_of(Cancelled("The build was cancelled."))


def mark_ready(row: IndexRow, info: IndexInfo) -> None:
    """The row takes what the engine says of the finished index."""
    learned = dataclasses.asdict(info)
    for name in ("method", "rows", "dims", "bytes", "sketched", "checkpoints", "coverage", "fingerprints"):
        setattr(row, name, learned[name])
    for name in ("options", "timings_s", "revision"):
        setattr(row, name, learned[name])
    row.serves, row.warnings = list(info.serves), list(info.warnings)
    row.state, row.error, row.ready_at = "ready", None, utc_now()
