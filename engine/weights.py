"""Model directories on disk: what they must hold, and what they hash to. Nothing is unpickled, ever."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from engine.config import ModelConfig
from engine.errors import ModelPathNotFound, UnsupportedModel
from engine.model_files import check_model_files, read_config

_LOADED = ("*.safetensors", "*.json", "*.jinja")
_EPOCH = re.compile(r"(epoch|checkpoint|step)[-_]?\d+$")  # a run's own checkpoints, not adapters side by side
_CHUNK = 1 << 22


def is_adapter(path: Path) -> bool:
    return (path / "adapter_config.json").is_file()


def nested_adapters(config: ModelConfig) -> tuple[str, ...]:
    """A note for every adapter directory that holds further adapters, saved together; only its own is loaded."""
    notes = []
    for path in dict.fromkeys(filter(None, (config.adapter, *config.checkpoints))):
        if others := [name for name in _adapters_in(Path(path)) if not _EPOCH.search(name)]:
            notes.append(f"{path} also holds the adapters {', '.join(others)}; only its own (default) is used")
    return tuple(notes)


def _adapters_in(path: Path) -> list[str]:
    """Subdirectories that are adapters, as PEFT saves all but the one named `default`."""
    return sorted(found.parent.name for found in path.glob("*/adapter_config.json"))


def check_directory(path: Path) -> None:
    """A usable model or adapter directory, judged from its files alone (fast; needs no torch).

    Raises ModelPathNotFound, NotAModel, UnsafeWeights (a pickle) or UnsupportedModel (code, files of others).
    """
    if not path.is_dir():
        raise ModelPathNotFound(f"{path} is not a directory.")
    if not (path / "config.json").exists() and not is_adapter(path) and (names := _adapters_in(path)):
        raise UnsupportedModel(
            f"{path} holds several adapters: {', '.join(names)}.",
            remedy=f"Name one as `adapter`, for example {path / names[0]}.",
            adapters=names,
        )
    config = read_config(path, "adapter_config.json" if is_adapter(path) else "config.json")
    check_model_files(path, config, adapter=is_adapter(path))


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of the weights, sorted by name; optimizer moments beside them do not count."""
    return sorted(file for file in path.glob("*.safetensors") if not file.name.startswith("optimizer"))


def files_stamp(directories: Iterable[Path]) -> tuple[tuple[str, int, int], ...]:
    """(file, bytes, time of change) of what is loaded from model directories; no content is read."""
    files = (file for path in directories for pattern in _LOADED for file in path.glob(pattern))
    return tuple((str(file), status.st_size, status.st_mtime_ns) for file in sorted(files) if (status := _stat(file)))


def _stat(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except FileNotFoundError:
        return None  # removed since it was listed


def directory_fingerprint(path: Path) -> str:
    """blake2b of the configuration and weights, so that a moved copy keeps its fingerprint."""
    config = read_config(path, "adapter_config.json" if is_adapter(path) else "config.json")
    # Where the base once lay, and which library wrote the file, do not change what the weights mean.
    for volatile in ("_name_or_path", "base_model_name_or_path", "transformers_version", "peft_version"):
        config.pop(volatile, None)
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=16)
    for file in weight_files(path):
        digest.update(_file_digest(file, file.stat().st_size, file.stat().st_mtime_ns))
    return digest.hexdigest()


@lru_cache(maxsize=1024)
def _file_digest(file: Path, size: int, modified_ns: int) -> bytes:
    # size and modified_ns are part of the key: a rewritten file is read again.
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.digest()
