"""Are an index's files what they were when it was finished? Needs neither numpy nor torch.

manifest.json carries the checksum of every other file, and its own: `checksum` is the blake2b-256 of the manifest
written without that field. Manifests of earlier versions have none, and are believed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.durable import PARTIAL_SUFFIX, READ_BYTES
from engine.errors import CorruptIndex, IndexUnavailable

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"
SEAL = "checksum"
# engine.manifest.Manifest's fields and what its file adds to them: any other name in the file is damage.
MANIFEST_FIELDS = frozenset(
    "method fingerprints blocks rows checkpoints dtype plan options serves coverage warnings timings_s curvature "
    "shards state revision schema_version compression search dims checksum".split()
)
INDEX_FILE = re.compile(r"shards/\d{5,9}\.(faiss|norms\.safetensors)|curvature/[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")

Read = Callable[[int], object]  # told of every block: its bytes


@dataclass(frozen=True)
class Damage:
    """`file`: below the directory that was looked at."""

    file: str
    reason: str


@dataclass(frozen=True)
class RecordedIndex:
    """What a manifest says of itself and of its files. files: path below the index directory → blake2b-256."""

    state: str
    method: str
    rows: int
    fingerprints: dict[str, str]
    revision: str
    files: dict[str, str]


def sealed(values: dict[str, Any]) -> str:
    """The JSON of a manifest, with its own checksum as its last field."""
    return json.dumps(values | {SEAL: _seal_of(values)}, indent=1) + "\n"


def unsealed(values: dict[str, Any]) -> dict[str, Any]:
    """The values without their checksum. Raises ValueError when it is not theirs."""
    values = dict(values)
    if (found := values.pop(SEAL, None)) is not None and found != _seal_of(values):
        raise ValueError("its checksum differs from its contents")
    return values


def _seal_of(values: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(values, indent=1).encode(), digest_size=32).hexdigest()


def recorded_index(directory: Path) -> RecordedIndex:
    """Raises IndexUnavailable (no manifest, or of another version of Whence), CorruptIndex."""
    try:
        return parse_recorded((directory / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise IndexUnavailable(f"There is no index in {directory.name!r}: {MANIFEST_FILE} is missing.") from error
    except UnicodeDecodeError as error:
        raise _damaged(str(error)) from error


def parse_recorded(text: str) -> RecordedIndex:
    """Raises IndexUnavailable for another schema version, CorruptIndex for anything else unexpected."""
    try:
        values = dict(json.loads(text))
        if values.get("schema_version") == SCHEMA_VERSION:
            return _recorded(unsealed(values))
        version = values.get("schema_version")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(str(error)) from error
    raise IndexUnavailable(
        f"{MANIFEST_FILE} has schema version {repr(version)[:100]}; this version of Whence reads {SCHEMA_VERSION}.",
        remedy="Build the index again, or use the version of Whence that wrote it.",
    )


def _recorded(values: dict[str, Any]) -> RecordedIndex:
    if unknown := values.keys() - MANIFEST_FIELDS:
        raise ValueError(f"it has a field {min(unknown)!r} that no manifest has")
    files: dict[str, str] = {}
    for recorded in [*(shard["checksums"] for shard in values["shards"]), values["curvature"]]:
        files |= recorded
    for name, checksum in files.items():
        if not INDEX_FILE.fullmatch(name) or not re.fullmatch("[0-9a-f]{64}", checksum):
            raise ValueError(f"it records a file {name!r} that no index has")
    return RecordedIndex(
        state=str(values["state"]),
        method=str(values["method"]),
        rows=int(values["rows"]),
        fingerprints={str(name): str(value) for name, value in values["fingerprints"].items()},
        revision=str(values["revision"]),
        files=files,
    )


def _damaged(reason: str) -> CorruptIndex:
    remedy = "Delete the index and build it again."
    return CorruptIndex(f"{MANIFEST_FILE} cannot be read: {reason[:500]}.", remedy=remedy, file=MANIFEST_FILE)


def index_damage(directory: Path, revision: str | None = None, read: Read | None = None) -> list[Damage]:
    """Everything that is wrong with a finished index. `revision`: the one that it has to have.

    When the manifest itself cannot be believed, that is the only finding: nothing else is known.
    """
    try:
        recorded = recorded_index(directory)
    except CorruptIndex as error:
        return [Damage(MANIFEST_FILE, error.detail)]
    except IndexUnavailable as error:
        return [Damage(MANIFEST_FILE, error.detail)]
    if recorded.state != "ready":
        return [Damage(MANIFEST_FILE, f"It says that the index is {recorded.state}.")]
    if revision is not None and recorded.revision != revision:
        return [Damage(MANIFEST_FILE, f"Its revision is {recorded.revision}, but {revision} was built.")]
    checked = ((name, _file_damage(directory / name, checksum, read)) for name, checksum in recorded.files.items())
    return [Damage(name, reason) for name, reason in checked if reason]


def _file_damage(path: Path, checksum: str, read: Read | None) -> str | None:
    try:
        return None if _checksum_of(path, read) == checksum else "Its checksum differs from the recorded one."
    except FileNotFoundError:
        return "It is missing."
    except OSError as error:  # a bad block of the disk, or rights that were changed
        return f"It cannot be read: {error.strerror}."


def _checksum_of(path: Path, read: Read | None) -> str:
    digest = hashlib.blake2b(digest_size=32)
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
            if read:
                read(len(block))
    return digest.hexdigest()


def unrecorded_files(directory: Path) -> list[str]:
    """Files of a finished index that its manifest does not know, partial ones apart. Raises as `recorded_index`."""
    known = {MANIFEST_FILE, *recorded_index(directory).files}
    found = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir())
    return sorted(name for name in found if name not in known and not name.endswith(PARTIAL_SUFFIX))
