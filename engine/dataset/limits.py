"""How much one training file may unpack to."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from engine.errors import DatasetTooLarge, StorageFull


@dataclass(frozen=True)
class DatasetLimits:
    """None: no limit. max_bytes: of the stored rows. max_row_bytes: of one row as the file has it, unpacked; a longer
    one is a damaged file (a missing line end, an unclosed quote) or an attack, not a training example.
    min_free_bytes: what writing leaves free on the disk."""

    max_rows: int | None = None
    max_bytes: int | None = None
    max_row_bytes: int = 16 * 2**20
    min_free_bytes: int = 0

    def check_rows(self, rows: int) -> None:
        """Raises DatasetTooLarge."""
        if self.max_rows is not None and rows > self.max_rows:
            raise DatasetTooLarge(f"The dataset has more than {self.max_rows} rows.", max_rows=self.max_rows)

    def check_written(self, written: int, directory: Path) -> None:
        """written: bytes so far, of a file in `directory`. Raises DatasetTooLarge, StorageFull."""
        if self.max_bytes is not None and written > self.max_bytes:
            raise DatasetTooLarge(f"The rows take more than {self.max_bytes} bytes.", max_bytes=self.max_bytes)
        if self.min_free_bytes and shutil.disk_usage(directory).free < self.min_free_bytes:
            raise StorageFull(
                f"Storing the dataset would leave less than {self.min_free_bytes} bytes free; nothing of it was kept.",
                remedy="Free space under WHENCE_HOME, then send the dataset again.",
                min_free_bytes=self.min_free_bytes,
            )


UNLIMITED = DatasetLimits()
