"""Which files of this machine a request may name: those below the allowed roots, symlinks followed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.errors import InvalidRequest, PathOutsideRoots
from engine.errors import DatasetPathNotFound, EngineError, ModelPathNotFound

CHAT_TEMPLATES = "additional_chat_templates"  # the one folder in a model directory that is read too
SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):")


class UriSchemeNotAllowed(InvalidRequest):
    code, title = "uri-scheme-not-allowed", "URI scheme not allowed"
    remedy = "Give a local path below an allowed directory (WHENCE_MODEL_ROOTS)."


@dataclass(frozen=True)
class PathPolicy:
    """`roots` are absolute. A relative path is looked for below each root in turn."""

    roots: Sequence[Path]

    def directory(self, value: str, pointer: str) -> str:
        """The real path of a model directory. Raises UriSchemeNotAllowed, PathOutsideRoots, ModelPathNotFound."""
        path = self._resolve(value, pointer)
        if path is None or not path.is_dir():
            raise _missing(ModelPathNotFound, "directory", value, pointer)
        self._require_own_files(path, pointer)
        return str(path)

    def require_still(self, recorded: str) -> None:
        """Of the real path of a directory that was allowed once: a link may lie in its place by now, or in it.

        Raises PathOutsideRoots. Roots may have changed since: a directory that is where it was stays allowed.
        """
        path = Path(recorded)
        real = path.resolve()
        if real != path and not self._allowed(real):
            raise PathOutsideRoots(f"'{recorded}' has become a link that leaves the allowed directories.")
        self._require_own_files(real, None)

    def file(self, value: str, pointer: str) -> Path:
        """The real path of a dataset file. Raises UriSchemeNotAllowed, PathOutsideRoots, DatasetPathNotFound."""
        path = self._resolve(value, pointer)
        if path is None or not path.is_file():
            raise _missing(DatasetPathNotFound, "file", value, pointer)
        return path

    def _resolve(self, value: str, pointer: str) -> Path | None:
        """None: no such path. What lies outside the roots is refused whether it exists or not."""
        if scheme := SCHEME.match(value):
            raise UriSchemeNotAllowed(f"'{scheme[1]}:' URIs are not allowed on this server.", pointer=pointer)
        try:
            candidates = [path.resolve() for path in self._candidates(value)]
            existing = [path for path in candidates if self._allowed(path) and path.exists()]
        except (OSError, RuntimeError, ValueError):  # too long, a loop of links, a NUL character
            return None
        if not existing and not all(map(self._allowed, candidates)):
            raise PathOutsideRoots(f"'{value}' does not lie below an allowed directory.", pointer=pointer)
        return existing[0] if existing else None

    def _candidates(self, value: str) -> list[Path]:
        path = Path(value).expanduser()
        return [path] if path.is_absolute() else [root / path for root in self.roots]

    def _require_own_files(self, directory: Path, pointer: str | None) -> None:
        """The libraries that load a model follow links."""
        for place in (directory, directory / CHAT_TEMPLATES):
            for path in _links(place):
                target = path.resolve()
                if not (target.is_relative_to(directory) or self._allowed(target)):
                    detail = f"'{path}' is a link that leaves the allowed directories."
                    raise PathOutsideRoots(detail, pointer=pointer)

    def _allowed(self, path: Path) -> bool:
        return any(path.is_relative_to(root.resolve()) for root in self.roots)


def _links(directory: Path) -> list[Path]:
    """Files, and folders that are opened, which lie elsewhere; what cannot be listed cannot be loaded either."""
    try:
        found = [path for path in directory.iterdir() if path.is_symlink()]
        return [path for path in found if path.name == CHAT_TEMPLATES or not path.is_dir()]
    except (OSError, RuntimeError):
        return []


def _missing(kind: type[EngineError], noun: str, value: str, pointer: str) -> EngineError:
    return kind(f"There is no {noun} '{value}' below an allowed directory.", pointer=pointer)
