"""What a server that is alone on its home removes when it starts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.database import Database
from app.settings import Settings
from app.storage import leftovers, marked, remove_in_background, set_aside, unmark
from app.tables import BatchRow, CheckRow, DatasetRow, EvaluationRow, IndexRow


def sweep(settings: Settings, database: Database) -> threading.Thread | None:
    """Only for a process that holds the home's lock, and before it does anything else.

    Until then nothing is under way, so whatever bears the name of an interrupted deletion, upload or import belongs to
    nothing; nor does what was marked as undecided and has no row, an upload that no dataset waits for, or the file of a
    batch that was never made. These are listed now, which is quick; deleting them takes place beside the first
    requests, and touches only what was listed.
    """
    folders = (settings.datasets_dir, settings.indexes_dir, settings.evaluations_dir, settings.checks_dir)
    owners = (DatasetRow.sha256, IndexRow.id, EvaluationRow.id, CheckRow.id)
    with database.read() as session:
        for folder, column in zip(folders, owners, strict=True):
            _decide(folder, partial(_owns, session, column))
    doomed = leftovers(*folders, settings.uploads_dir, settings.batches_dir, settings.home)
    with database.read() as session:
        waiting = select(DatasetRow.id).where(DatasetRow.state != "ready")
        doomed += _unowned(settings.uploads_dir, "ds_", lambda: set(session.scalars(waiting)))
        doomed += _unowned(settings.batches_dir, "bat_", lambda: set(session.scalars(select(BatchRow.id))))
    return remove_in_background(doomed)


def _decide(folder: Path, owned: Callable[[str], bool]) -> None:
    """Moved out of the way now, deleted later: the same rows may be uploaded again with the first request."""
    for path in marked(folder):
        if not owned(path.name):
            set_aside(path)
        unmark(path)


def _owns(session: Session, column: InstrumentedAttribute[Any], name: str) -> bool:
    return session.scalar(select(column).where(column == name).limit(1)) is not None


def _unowned(folder: Path, prefix: str, owners: Callable[[], set[str]]) -> list[Path]:
    found = [path for path in folder.iterdir() if path.name.startswith(prefix)] if folder.is_dir() else []
    known = owners() if found else set()
    return [path for path in found if path.name not in known]
