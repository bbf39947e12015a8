"""From the disk to the database: does a row own what lies there?

The directories are listed before the rows are read, so what a server makes and records meanwhile has its row; and
what changed within the last minutes is left alone: it may be about to get one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, select

from app.doctor import repairs
from app.doctor.findings import Finding, Store
from app.settings import Settings
from app.storage import LEFTOVER_PREFIXES, is_leftover
from app.tables import BatchRow, CheckRow, DatasetRow, EvaluationRow, IndexRow
from engine.durable import PARTIAL_SUFFIX
from engine.errors import EngineError
from engine.integrity import INDEX_FILE, unrecorded_files


@dataclass(frozen=True)
class Shelf:
    """One directory of the home, whose entries are named after rows of `table` that fulfil `owns`, by `column`.

    name: of what Whence itself puts there.
    """

    noun: str
    folder: str
    name: re.Pattern[str]
    table: Any
    column: Any
    owns: tuple[ColumnElement[bool], ...] = ()

    def path(self, settings: Settings) -> Path:
        return settings.home / self.folder

    def has_owner(self, store: Store, name: str) -> bool:
        with store.database.read() as session:
            return session.scalar(select(self.column).where(self.column == name, *self.owns).limit(1)) is not None


def _id(prefix: str) -> re.Pattern[str]:
    return re.compile(rf"{prefix}_[a-z2-7]{{20}}")


SHELVES = (
    Shelf("dataset", "datasets", re.compile("[0-9a-f]{64}"), DatasetRow, DatasetRow.sha256),
    Shelf("index", "indexes", _id("idx"), IndexRow, IndexRow.id),
    Shelf("evaluation", "evaluations", _id("evl"), EvaluationRow, EvaluationRow.id),
    Shelf("check", "checks", _id("chk"), CheckRow, CheckRow.id),
    Shelf("batch", "batches", _id("bat"), BatchRow, BatchRow.id),
    # an upload is needed until its rows are stored
    Shelf("upload", "uploads", _id("ds"), DatasetRow, DatasetRow.id, (DatasetRow.state != "ready",)),
)


def check_orphans(store: Store) -> Iterator[Finding]:
    for shelf in SHELVES:
        for path in _entries(shelf.path(store.settings)):
            if is_leftover(path) or shelf.has_owner(store, path.name) or store.is_young(path):
                continue
            shown = store.shown(path)
            if shelf.name.fullmatch(path.name):
                what = f"No {shelf.noun} of the database owns this directory."
                repair = partial(repairs.remove_orphan, path=path, has_owner=partial(shelf.has_owner, name=path.name))
                yield Finding(f"orphan-{shelf.noun}", shown, what, "--repair removes it.", repair)
            else:
                what = "Whence did not make it, and nothing in the database refers to it."
                yield Finding("unknown-file", shown, what, "Move it elsewhere.")


def check_leftovers(store: Store) -> Iterator[Finding]:
    """What interrupted deletions, loads and imports leave."""
    for folder in (*(shelf.path(store.settings) for shelf in SHELVES), store.settings.home):
        for path in _entries(folder):
            if is_leftover(path) and not store.is_young(path):
                what = f"Left behind by {LEFTOVER_PREFIXES[is_leftover(path)]} that was interrupted."
                repair = partial(repairs.remove_leftover, path=path)
                yield Finding("leftover", store.shown(path), what, "--repair removes it.", repair)


def check_partial_files(store: Store) -> Iterator[Finding]:
    """Files that were being written. What may still be resumed keeps them: its next attempt removes them itself."""
    for shelf in SHELVES:
        for path in _entries(shelf.path(store.settings)):
            if is_leftover(path) or not _is_done(store, shelf, path.name):
                continue
            for partial_file in sorted(path.rglob(f"*{PARTIAL_SUFFIX}")):
                if partial_file.is_file() and not store.is_young(partial_file):
                    repair = partial(repairs.remove_leftover, path=partial_file)
                    what = "Left behind by a write that was interrupted."
                    yield Finding("leftover", store.shown(partial_file), what, "--repair removes it.", repair)


def check_unrecorded_files(store: Store) -> Iterator[Finding]:
    """Files of ready indexes that no manifest knows."""
    with store.database.read() as session:
        ready = sorted(session.scalars(select(IndexRow.id).where(IndexRow.state == "ready")))
    for index_id in ready:
        directory = store.settings.indexes_dir / index_id
        for name in _unrecorded(directory):
            if store.is_young(directory / name):
                continue
            what = "The index's manifest does not know this file."
            ours = INDEX_FILE.fullmatch(name) is not None
            repair = partial(repairs.remove_leftover, path=directory / name) if ours else None
            remedy = "--repair removes it." if ours else "Move it elsewhere."
            yield Finding("unknown-file", store.shown(directory / name), what, remedy, repair)


def _unrecorded(directory: Path) -> list[str]:
    try:
        return unrecorded_files(directory)
    except EngineError:
        return []  # check_indexes has said what is wrong with the manifest


def _is_done(store: Store, shelf: Shelf, name: str) -> bool:
    """A row owns it, and no attempt is under way or to come."""
    with store.database.read() as session:
        states = set(session.scalars(select(shelf.table.state).where(shelf.column == name)))
    return states == {"ready"}


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
