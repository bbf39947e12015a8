"""Datasets of a tenant. Loading them is in loading.py, reading their rows in rows.py."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from app.amending import NamedPatch, amended
from app.datasets.loading import LOAD, READY, create_dataset, follow_load, limits_of, remove_files, run_load
from app.datasets.repository import DatasetsRepository
from app.datasets.rows import example_by_id, examples_page, opened
from app.datasets.schemas import DatasetOut
from app.dependencies import Services
from app.errors import InUse, NotReady
from app.etags import Preconditions
from app.jobs.service import JobsService
from app.pagination import PageRequest
from app.settings import Settings
from app.storage import undecided
from app.tables import DatasetRow

if TYPE_CHECKING:
    from engine.dataset import Dataset

__all__ = [
    "LOAD",
    "DatasetsService",
    "create_dataset",
    "delete_dataset",
    "example_by_id",
    "examples_page",
    "follow_load",
    "limits_of",
    "run_load",
]


class DatasetsService:
    """Datasets of one tenant, within one transaction."""

    def __init__(self, session: Session, tenant: str, settings: Settings) -> None:
        self.repository = DatasetsRepository(session, tenant)
        self.jobs = JobsService(session, tenant)
        self.settings = settings

    def get(self, dataset_id: str) -> DatasetRow:
        return self.repository.get(dataset_id)

    def some(self, dataset_ids: Collection[str]) -> dict[str, DatasetRow]:
        """Those of these that exist, by id."""
        return self.repository.some(dataset_ids)

    def ready(self, dataset_id: str) -> DatasetRow:
        """Raises NotFound, NotReady."""
        row = self.repository.get(dataset_id)
        if row.state != READY:
            raise NotReady(f"Dataset '{row.id}' is {row.state}.", state=row.state, job_id=row.job_id)
        return row

    def page(
        self, request: PageRequest, *, name: str | None = None, state: str | None = None
    ) -> tuple[list[DatasetRow], str | None]:
        return self.repository.matching(request, name=name, state=state)

    def amend(self, dataset_id: str, patch: NamedPatch, preconditions: Preconditions) -> DatasetOut:
        """Raises NotFound, PreconditionFailed."""
        row = self.repository.get(dataset_id)
        return amended(self.repository.session, row, patch, preconditions, DatasetOut.model_validate)

    def rows(self, row: DatasetRow) -> Dataset:
        return opened(self.directory(row))

    def directory(self, row: DatasetRow) -> Path:
        return self.settings.datasets_dir / str(row.sha256)

    def stored(self, *, name: str, sha256: str, rows: int, format: str | None, warnings: list[str]) -> DatasetRow:
        """The dataset with these rows, which lie on the disk already; a new one where this tenant has none."""
        if (found := self.repository.with_content(sha256)) is not None:
            return found
        row = DatasetRow(name=name, state=READY, sha256=sha256, rows=rows, format=format, warnings=warnings)
        return self.repository.add(row)

    def delete(self, dataset_id: str) -> DatasetRow:
        """Forgets the dataset; `delete_dataset` removes its files too. Raises InUse."""
        row = self.repository.get(dataset_id)
        job = self.jobs.active_for(row.id)
        if user := self.repository.user(row.id) or (job and job.id):
            raise InUse(f"Dataset '{row.id}' is used by '{user}'.", used_by=user)
        self.repository.delete(row)
        return row


def delete_dataset(services: Services, tenant: str, dataset_id: str) -> None:
    """Forgets a dataset, and removes its files unless others have the same rows. Raises NotFound, InUse."""
    with services.database.read() as session:
        sha256 = DatasetsRepository(session, tenant).get(dataset_id).sha256
    with undecided(services.settings.datasets_dir / sha256) if sha256 else nullcontext():
        with services.database.write() as session:
            row = DatasetsService(session, tenant, services.settings).delete(dataset_id)
        remove_files(services, row)
