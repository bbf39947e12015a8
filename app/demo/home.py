"""The demonstration's home: made afresh on every run when the demonstration made it, otherwise only added to."""

from __future__ import annotations

import os
import shutil
from itertools import count
from pathlib import Path

from app.homelock import HomeLock

DEFAULT = Path(".demo")
MARKER = ".whence-demo"  # who holds it may be removed: nothing but an earlier demonstration lies there


def prepare_home(given: Path | None) -> Path:
    """given, else WHENCE_HOME, else .demo here. Raises HomeInUse while another server works in it."""
    home = (given or Path(os.environ.get("WHENCE_HOME") or DEFAULT)).expanduser().absolute()
    if home.is_dir():
        _refuse_if_in_use(home)
    if (home / MARKER).is_file():
        shutil.rmtree(home)
    if not home.exists() or not any(home.iterdir()):
        home.mkdir(parents=True, exist_ok=True)
        (home / MARKER).write_text("An earlier `whence demo` made this directory; the next one removes it.\n")
    return home


def new_run(home: Path) -> Path:
    """A directory for this run's models, below a root that requests may name."""
    models = home / "models"
    models.mkdir(parents=True, exist_ok=True)
    chosen = next(path for number in count(1) if not (path := models / f"demo-{number}").exists())
    chosen.mkdir()
    return chosen


def _refuse_if_in_use(home: Path) -> None:
    if not any(home.iterdir()):
        return
    lock = HomeLock(home)
    lock.acquire()
    lock.release()
