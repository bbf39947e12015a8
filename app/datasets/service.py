"""Datasets of a tenant. Loading them is in loading.py, reading their rows in rows.py."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.orm import Session

from app.datasets.loading import LOAD, READY, create_dataset, follow_load, remove_files, run_load
from app.datasets.repository import DatasetsRepository
from app.datasets.rows import example_by_id, examples_page, opened
from app.errors import InUse, NotReady
from app.jobs.service import JobsService
from app.pagination import PageRequest
from app.settings import Settings
from app.tables import DatasetRow
from engine.dataset import Dataset

__all__ = [
    "LOAD",
    "DatasetsService",
    "create_dataset",
    "example_by_id",
    "examples_page",
    "follow_load",
    "remove_files",
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

    def ready(self, dataset_id: str) -> DatasetRow:
        """Raises NotFound, NotReady."""
        row = self.repository.get(dataset_id)
        if row.state != READY:
            raise NotReady(f"Dataset '{row.id}' is {row.state}.", state=row.state, job_id=row.job_id)
        return row

    def page(self, request: PageRequest) -> tuple[list[DatasetRow], str | None]:
        return self.repository.page(request)

    def rows(self, row: DatasetRow) -> Dataset:
        return opened(self.directory(row))

    def directory(self, row: DatasetRow) -> Path:
        return self.settings.datasets_dir / str(row.sha256)

    def delete(self, dataset_id: str) -> DatasetRow:
        """Forgets the dataset; its files go with `remove_files`, after the commit. Raises InUse."""
        row = self.repository.get(dataset_id)
        job = self.jobs.active_for(row.id)
        if user := self.repository.user(row.id) or (job and job.id):
            raise InUse(f"Dataset '{row.id}' is used by '{user}'.", used_by=user)
        self.repository.delete(row)
        return row
