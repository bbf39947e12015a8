"""Rows of `batches`."""

from __future__ import annotations

from app.database import Repository
from app.tables import BatchRow


class BatchesRepository(Repository[BatchRow]):
    table, noun = BatchRow, "batch"
