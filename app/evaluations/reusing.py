"""Evaluations of the same model, rows and questions share their retrainings: a larger one goes on from a smaller one.

Links, not copies: files of finished retrainings and scores are never changed, only replaced.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from app.storage import full_disk_is_named
from engine.durable import PARTIAL_SUFFIX

SHARED = ("retrainings/*.json", "retrainings/runs/*.json", "scores/*.npz")


def take_over(earlier: Sequence[Path], work: Path) -> None:
    """What lies in `earlier` and not in `work` comes to lie there too; the newest, named first, wins."""
    with full_disk_is_named():
        for directory in earlier:
            for pattern in SHARED:
                for file in directory.glob(pattern):
                    _link(file, work / file.relative_to(directory))


def _link(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, target)
    except (FileExistsError, FileNotFoundError):
        pass  # it is here already; or was deleted there a moment ago
    except OSError:
        _copy(file, target)  # a file system without links


def _copy(file: Path, target: Path) -> None:
    if not target.exists():
        whole = target.with_name(target.name + PARTIAL_SUFFIX)
        shutil.copyfile(file, whole)
        whole.replace(target)
