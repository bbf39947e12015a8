"""What a backup is made of.

backup.json                what it holds: the size and blake2b-256 of every other file; carries its own checksum
database/<table>.jsonl     the rows (dump.py)
datasets/ indexes/ evaluations/ checks/ batches/ uploads/    as they lie in WHENCE_HOME
secret                     what the digests of API keys are made with; absent where WHENCE_SECRET is set
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import InvalidRequest
from engine.integrity import sealed, unsealed

MANIFEST = "backup.json"
DATABASE, SECRET = "database", "secret"
FOLDERS = ("datasets", "indexes", "evaluations", "checks", "batches", "uploads")
VERSION = 1
MAX_MANIFEST_BYTES = 1 << 30


class DamagedBackup(InvalidRequest):
    code, title = "damaged-backup", "Not a whole backup"
    remedy = "Use another backup. Nothing was written."


class Copied(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int = Field(ge=0)
    checksum: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """home: where the files lay. tables: name → rows, in the order in which they have to be filled. models: paths that
    registered models are read from, which are no part of a backup."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    whence_backup: int = VERSION
    created_at: datetime
    whence_version: str
    revision: str
    home: str
    tables: dict[str, int]
    models: list[str]
    files: dict[str, Copied]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files.values())

    def to_json(self) -> bytes:
        return sealed(self.model_dump(mode="json")).encode()


def parse_manifest(text: bytes) -> Manifest:
    """Raises DamagedBackup."""
    try:
        values = json.loads(text)
        if not isinstance(values, dict) or "whence_backup" not in values:
            raise ValueError("it is no backup of Whence")
        if values["whence_backup"] != VERSION:
            raise ValueError(f"it is of version {values['whence_backup']!r}; this version of Whence reads {VERSION}")
        if "checksum" not in values:
            raise ValueError("its checksum is missing")
        manifest = Manifest.model_validate(unsealed(values))
    except ValidationError as error:
        raise _damaged(error.errors(include_url=False)[0]["msg"]) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(str(error)) from error
    for name in manifest.files:
        if not _belongs(name, manifest):
            raise _damaged(f"it names a file {name[:100]!r} that no backup has")
    return manifest


def _belongs(name: str, manifest: Manifest) -> bool:
    parts = PurePosixPath(name).parts
    if "/".join(parts) != name or ".." in parts or not re.fullmatch(r"[^\x00-\x1f\\]+", name):
        return False
    if parts[0] == DATABASE:
        return len(parts) == 2 and parts[1].removesuffix(".jsonl") in manifest.tables
    return name == SECRET or (parts[0] in FOLDERS and len(parts) > 1)


def _damaged(reason: str) -> DamagedBackup:
    return DamagedBackup(f"{MANIFEST} cannot be used: {reason[:500]}.")
