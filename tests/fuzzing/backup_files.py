"""backup.json, and the rows of a backup on their way into a database."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import strategies as st
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from app.backup.dump import load_table, write_table
from app.backup.layout import parse_manifest
from app.tables import Base, DatasetRow
from engine.integrity import sealed
from tests.fuzzing.mutation import PIECES, damaged
from tests.fuzzing.targets import Target
from tests.fuzzing.values import documents, nearly, trees, written

MANIFEST = {
    "whence_backup": 1,
    "created_at": "2026-11-21T10:00:00Z",
    "whence_version": "0.1.0",
    "revision": "0001",
    "home": "/var/lib/whence",
    "tables": {"models": 1, "datasets": 2},
    "models": ["/models/base"],
    "files": {
        "database/models.jsonl": {"bytes": 7, "checksum": "0" * 64},
        "secret": {"bytes": 64, "checksum": "1" * 64},
    },
}
objects = nearly([MANIFEST])
resealed = objects.map(
    lambda values: sealed(values).encode("utf-8", "surrogatepass") if isinstance(values, dict) else b""
)
manifests = st.one_of(damaged([sealed(MANIFEST).encode()]), resealed, documents(objects))


@contextmanager
def layout(_work: Path) -> Iterator[Callable[[bytes], None]]:
    def check(content: bytes) -> None:
        manifest = parse_manifest(content)
        assert parse_manifest(manifest.to_json()) == manifest
        assert not any(".." in name.split("/") or name.startswith("/") for name in manifest.files)
        assert manifest.bytes >= 0

    yield check


HEAD = {
    "table": "datasets",
    "columns": {"id": "plain", "tenant": "plain", "name": "plain", "state": "plain", "created_at": "time"},
}
ROWS = [["ds_a", "default", "train", "ready", "2026-11-21T10:00:00+00:00"], ["ds_b", "default", None, "ready", None]]
lines = st.builds(
    lambda head, body: b"".join(written(line) + b"\n" for line in (head, *body)),
    nearly([HEAD], ["table", "columns"]),
    st.lists(st.sampled_from(ROWS) | st.lists(trees(), max_size=6), max_size=3),
)


@contextmanager
def dump(work: Path) -> Iterator[Callable[[bytes], None]]:
    """Loaded in a transaction that is given up."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)

    def check(content: bytes) -> None:
        (work / "datasets.jsonl").write_bytes(content)
        with engine.connect() as connection:
            loaded = load_table(connection, work / "datasets.jsonl", lambda _table, _row: None)
            assert 0 <= loaded <= content.count(b"\n") + 1
            connection.rollback()

    yield check
    engine.dispose()


def _dumped() -> bytes:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    sink = io.BytesIO()
    with engine.begin() as connection:
        row = {"id": "ds_a", "tenant": "default", "name": "train", "state": "ready", "source": "rows.jsonl"}
        connection.execute(DatasetRow.__table__.insert(), [row])  # type: ignore[attr-defined]
        write_table(connection, DatasetRow.__table__, sink)  # type: ignore[arg-type]
    return sink.getvalue()


WHOLE = b"".join(json.dumps(line).encode() + b"\n" for line in (HEAD, ROWS[0]))
TARGETS = [
    Target("backup.json", manifests, layout, always=[sealed(MANIFEST).encode(), *PIECES]),
    Target("rows of a backup", st.one_of(damaged([_dumped(), WHOLE]), lines), dump, always=[WHOLE, *PIECES]),
]
