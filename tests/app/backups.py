"""Backups made and restored as the commands do it."""

from __future__ import annotations

from pathlib import Path

from app.backup import making
from app.backup.making import Made
from app.backup.restoring import Restored, restore
from app.backup.sources import Source
from app.database import Database
from app.settings import Settings


def backed_up(settings: Settings, destination: Path) -> Made:
    database = Database(settings.database)
    try:
        return making.backup(settings, database, destination, lambda _: None)
    finally:
        database.close()


def restored(settings: Settings, source: Path, force: bool = False) -> Restored:
    return restore(settings, Source(source), force=force, advance=lambda _: None)
