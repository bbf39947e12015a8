"""Rows of `datasets`."""

from __future__ import annotations

from sqlalchemy import select

from app.database import Repository
from app.pagination import PageRequest
from app.tables import DatasetRow, IndexRow


class DatasetsRepository(Repository[DatasetRow]):
    table, noun = DatasetRow, "dataset"

    def matching(
        self, request: PageRequest, *, name: str | None, state: str | None
    ) -> tuple[list[DatasetRow], str | None]:
        where = [] if name is None else [DatasetRow.name == name]
        where += [] if state is None else [DatasetRow.state == state]
        return self.page(request, *where)

    def user(self, dataset_id: str) -> str | None:
        """The id of an index of this dataset."""
        return self.session.scalar(select(IndexRow.id).where(IndexRow.dataset_id == dataset_id).limit(1))

    def with_content(self, sha256: str) -> DatasetRow | None:
        """The newest ready one with this content."""
        return self.first(DatasetRow.sha256 == sha256, DatasetRow.state == "ready")

    def is_kept(self, sha256: str) -> bool:
        """True when a row, of any tenant, has this content."""
        return self.session.scalar(select(DatasetRow.id).where(DatasetRow.sha256 == sha256).limit(1)) is not None
