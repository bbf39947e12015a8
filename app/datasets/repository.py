"""Rows of `datasets`."""

from __future__ import annotations

from sqlalchemy import select

from app.database import Repository
from app.tables import DatasetRow, IndexRow


class DatasetsRepository(Repository[DatasetRow]):
    table, noun = DatasetRow, "dataset"

    def user(self, dataset_id: str) -> str | None:
        """The id of an index of this dataset."""
        return self.session.scalar(select(IndexRow.id).where(IndexRow.dataset_id == dataset_id).limit(1))

    def is_kept(self, sha256: str) -> bool:
        """True when a row, of any tenant, has this content."""
        return self.session.scalar(select(DatasetRow.id).where(DatasetRow.sha256 == sha256).limit(1)) is not None
