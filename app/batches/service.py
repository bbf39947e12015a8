"""Batches of questions: taking them in, showing how far they are, giving their results, deleting them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

from sqlalchemy.orm import Session

from app.attributions.asking import check_top_k
from app.attributions.trusted import TrustedAnswers
from app.batches.files import BatchFiles
from app.batches.repository import BatchesRepository
from app.batches.running import BATCH, follow_batch, run_batch
from app.batches.schemas import BatchDefaults, BatchOut
from app.batches.uploads import BatchUpload
from app.dependencies import Services
from app.errors import FilesDamaged, InUse, NotReady
from app.indexes.service import IndexesService
from app.jobs.service import JobsService
from app.pagination import PageRequest
from app.settings import Settings
from app.storage import leave_free, remove_directory
from app.tables import BatchRow, new_id
from engine.methods.specs import validate_method

__all__ = ["BATCH", "BatchesService", "follow_batch", "run_batch"]

QUEUED, READY = "queued", "ready"
SENT_AT_ONCE = 32  # results whose trust is looked up in one transaction


class BatchesService:
    """Batches of one tenant, within one transaction."""

    def __init__(self, session: Session, tenant: str, settings: Settings) -> None:
        self.repository = BatchesRepository(session, tenant)
        self.indexes = IndexesService(session, tenant, settings)
        self.jobs = JobsService(session, tenant)
        self.settings = settings

    def get(self, batch_id: str) -> BatchRow:
        return self.repository.get(batch_id)

    def page(self, request: PageRequest) -> tuple[list[BatchRow], str | None]:
        return self.repository.page(request)

    def create(self, batch_id: str, source: str, lines: int, defaults: BatchDefaults) -> BatchRow:
        """The batch and the job that answers it. Raises NotFound, IndexUnavailable and others for the defaults."""
        settled = self._settled(defaults)
        row = BatchRow(
            id=batch_id,
            source=source,
            lines=lines,
            defaults=settled,
            model_id=settled.get("model"),
            index_id=settled.get("index"),
            state=QUEUED,
        )
        self.repository.add(row)
        row.job_id = self.jobs.enqueue(BATCH, {"batch": row.id}, resource_id=row.id).id
        return row

    def delete(self, batch_id: str) -> None:
        """Forgets the batch; its files follow the commit, its answers stay. Raises InUse while its job runs."""
        row = self.repository.get(batch_id)
        if job := self.jobs.active_for(row.id):
            raise InUse(f"Batch '{row.id}' is being answered by '{job.id}'.", used_by=job.id)
        self.repository.delete(row)

    def with_results(self, batch_id: str, *, partial: bool) -> BatchRow:
        """Raises NotReady for one that is not ready, unless a part will do."""
        row = self.repository.get(batch_id)
        if row.state != READY and not partial:
            remedy = "Wait for its job to succeed, or take what there is with ?partial=true."
            raise NotReady(f"Batch '{row.id}' is {row.state}.", remedy=remedy, state=row.state, job_id=row.job_id)
        return row

    def _settled(self, given: BatchDefaults) -> dict[str, Any]:
        """What every line would find out for itself is refused at once. An alias is looked up here: one batch asks
        one index, wherever the alias moves meanwhile."""
        settled = {"method": given.method, "top_k": given.top_k}
        if given.top_k is not None:
            check_top_k(given.top_k, self.settings.max_top_k)
        if given.model is not None or given.index is not None:
            live = self.indexes.answering(given.model, given.index)
            settled |= {"model": live.model_id, "index": live.id}
        if given.method is not None:
            validate_method(given.method, {})
            if index := settled.get("index"):
                self.indexes.must_serve(str(index), given.method)
        return {name: value for name, value in settled.items() if value is not None}


def create_batch(services: Services, tenant: str, upload: BatchUpload) -> BatchRow:
    """The file is on disk before the batch is; one that is refused leaves nothing."""
    settings, batch_id = services.settings, new_id("bat")
    files = BatchFiles(settings.batches_dir / batch_id)
    leave_free(settings.home, 0, settings.min_free_bytes)
    try:
        lines = files.save(upload.file, settings.max_batch_lines)
        with services.database.write() as session:
            service = BatchesService(session, tenant, settings)
            return service.create(batch_id, upload.filename, lines, upload.defaults)
    except BaseException:
        remove_directory(files.directory)
        raise


def delete_batch(services: Services, tenant: str, batch_id: str) -> None:
    with services.database.write() as session:
        BatchesService(session, tenant, services.settings).delete(batch_id)
    remove_directory(services.settings.batches_dir / batch_id)


def stream_results(services: Services, tenant: str, batch_id: str, *, partial: bool) -> Iterator[bytes]:
    """JSONL, some lines at a time. Raises NotFound, NotReady and FilesDamaged before the first; FilesDamaged also
    later, and the answer then ends in its middle: a part never passes for the whole."""
    with services.database.read() as session:
        row = BatchesService(session, tenant, services.settings).with_results(batch_id, partial=partial)
    results = BatchFiles(services.settings.batches_dir / row.id).read()
    if not partial:
        results = _as_many(results, row)
    first = list(islice(results, SENT_AT_ONCE))
    groups = chain([first], iter(lambda: list(islice(results, SENT_AT_ONCE)), [])) if first else ()
    return (_shown(services, tenant, group) for group in groups)


def _as_many(results: Iterator[dict[str, Any]], row: BatchRow) -> Iterator[dict[str, Any]]:
    """Raises FilesDamaged at the end of a file that was cut off."""
    found = 0
    for result in results:
        found += 1
        yield result
    if found != row.lines:
        raise FilesDamaged(f"The results of batch '{row.id}' are damaged: {found} for {row.lines} questions.")


def _shown(services: Services, tenant: str, results: Sequence[dict[str, Any]]) -> bytes:
    """With today's trust: what is stored is what the index said."""
    with services.database.read() as session:
        answers = TrustedAnswers(session, tenant)
        answers.checks.look_up([result["body"]["id"] for result in results if result.get("body")])
        return b"".join(_line(result, answers) for result in results)


def _line(result: dict[str, Any], answers: TrustedAnswers) -> bytes:
    shown = {name: result[name] for name in ("line", "custom_id", "status")}
    body = result.get("body")
    if body is None:
        return json.dumps(shown | {"problem": result["problem"]}).encode() + b"\n"
    return json.dumps(shown | {"body": answers.trusted(body)}, ensure_ascii=False).encode() + b"\n"


def shown_batch(row: BatchRow) -> BatchOut:
    """The row as the API gives it."""
    named: dict[str, Any] = {"model": row.model_id, "index": row.index_id}
    named |= {"method": row.defaults.get("method"), "top_k": row.defaults.get("top_k")}
    same = {name: getattr(row, name) for name in BatchOut.model_fields if name not in named}
    return BatchOut(**same, **named)
