"""rows.arrow: damaged on the disk, or sent by somebody inside an archive."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.dataset import ROWS_FILE, dataset_damage, open_dataset, parse_rows, store_dataset, write_as_jsonl
from tests.fuzzing.mutation import damaged
from tests.fuzzing.row_values import ROWS
from tests.fuzzing.targets import Target
from tests.fuzzing.values import written


def _stored(count: int) -> tuple[str, bytes]:
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "rows.jsonl"
        rows = [{**row, "id": f"{row.get('id', 'r')}-{number}"} for number in range(count) for row in ROWS]
        source.write_bytes(b"".join(written(row) + b"\n" for row in rows))
        info = store_dataset(source, format=None, root=Path(directory))
        return info.sha256, (Path(directory) / info.sha256 / ROWS_FILE).read_bytes()


SHA256, WHOLE = _stored(1)
OTHER = _stored(8)[1]


@contextmanager
def looked_at(work: Path) -> Iterator[Callable[[bytes], str | None]]:
    """As `whence doctor` looks: damage is told, and what is whole can be read."""
    directory = work / SHA256
    directory.mkdir()

    def check(content: bytes) -> str | None:
        _replace(directory / ROWS_FILE, content)
        if reason := dataset_damage(directory, len(ROWS)):
            assert reason.endswith(".") and "\n" not in reason and len(reason) < 400, reason
            return "damage told"
        assert len(list(open_dataset(directory))) == len(ROWS)
        return None

    yield check


@contextmanager
def read(work: Path) -> Iterator[Callable[[bytes], None]]:
    """As the service reads rows that it has not verified: pages, filters, ids."""
    directory = work / SHA256
    directory.mkdir()

    def check(content: bytes) -> None:
        _replace(directory / ROWS_FILE, content)
        rows = open_dataset(directory)
        found = [rows[position] for position in range(min(len(rows), 50))]
        rows.select({"task": "facts"}, "mira", limit=5)
        rows.tag_values("task")
        rows.position_of("c")
        assert all(example.id for example in list(rows)[: len(found)])

    yield check


@contextmanager
def taken_in(work: Path) -> Iterator[Callable[[bytes], None]]:
    """As an archive's rows are taken in: written anew, then read like any upload."""

    def check(content: bytes) -> None:
        _replace(work / "sent.arrow", content)
        write_as_jsonl(work / "sent.arrow", work / "rows.jsonl")
        list(parse_rows(work / "rows.jsonl"))
        shutil.rmtree(work / "datasets", ignore_errors=True)

    yield check


def _replace(file: Path, content: bytes) -> None:
    """A new file: what is mapped into memory elsewhere must not change."""
    file.unlink(missing_ok=True)
    file.write_bytes(content)


inputs = damaged([WHOLE, WHOLE, OTHER])
TARGETS = [
    Target("rows.arrow: doctor", inputs, looked_at, always=[WHOLE]),
    Target("rows.arrow: reading", inputs, read, always=[WHOLE]),
    Target("rows.arrow: import", inputs, taken_in, always=[WHOLE]),
]
