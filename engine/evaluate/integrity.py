"""Are the files of a finished evaluation whole? Needs neither numpy nor torch.

Every kind of file has a way of its own to tell: a retraining's outcome its checksum, an .npz (a zip) the CRC of each
array, an index its manifest, the rows of a canary run their name.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from engine.dataset.rows import ROWS_FILE
from engine.dataset.verifying import dataset_damage
from engine.durable import READ_BYTES
from engine.errors import EngineError
from engine.evaluate.scorecard import FIGURES_FILE
from engine.integrity import MANIFEST_FILE, Damage, Read, index_damage, recorded_index

HASH_NAME = 64  # a dataset's directory is named by so many hexadecimal digits


def evaluation_damage(directory: Path, read: Read | None = None) -> list[Damage]:
    """Everything that is wrong with the files of a finished evaluation."""
    found: list[Damage] = []
    for path in sorted(directory.rglob("*")):
        inside = path.relative_to(directory).as_posix()
        if path.name == MANIFEST_FILE:
            found += [Damage(f"{Path(inside).parent}/{bad.file}", bad.reason) for bad in _twin(path.parent, read)]
        elif reason := _damage(path):
            found.append(Damage(inside, reason))
    return found


def _twin(directory: Path, read: Read | None) -> Iterator[Damage]:
    """An index of its own. One that is unfinished was not needed in the end."""
    try:
        if recorded_index(directory).state != "ready":
            return
    except EngineError:
        pass  # index_damage says what it is
    yield from index_damage(directory, read=read)


def _damage(path: Path) -> str | None:
    try:
        if path.suffix == ".npz":
            return _zip_damage(path)
        if path.suffix == ".json" and path.parent.name == "runs":
            return _outcome_damage(path)
        if path.name == "plan.json":
            return None if isinstance(_json(path), dict) else "It is no plan of retrainings."
        if path.name == FIGURES_FILE:
            return None if isinstance(_json(path), dict) else "It holds no figures."
        if path.name == ROWS_FILE and len(path.parent.name) == HASH_NAME:
            return dataset_damage(path.parent)
    except OSError as error:
        return f"It cannot be read: {error.strerror or error}."
    return None


def is_whole_zip(path: Path) -> bool:
    """False for one that is missing, too: what it held is then made again."""
    return path.is_file() and _zip_damage(path) is None


def _zip_damage(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    while member.read(READ_BYTES):
                        pass
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, RuntimeError) as error:
        return f"It cannot be read: {error}."
    return None


def _outcome_damage(path: Path) -> str | None:
    record = _json(path)
    if not isinstance(record, dict) or "checksum" not in record:
        return "It is no outcome of a retraining."
    checksum = record.pop("checksum")
    text = json.dumps(record, sort_keys=True).encode()
    whole = checksum == hashlib.blake2b(text, digest_size=16).hexdigest()
    return None if whole else "Its checksum differs from its contents."


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
