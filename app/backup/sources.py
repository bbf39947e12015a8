"""A backup as a directory or as a tar, read in one pass; verifying it writes nothing."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from app.backup.copying import Advance, copy_stream
from app.backup.layout import MANIFEST, MAX_MANIFEST_BYTES, DamagedBackup, Manifest, parse_manifest


class Source:
    """`manifest` is read at once. Raises DamagedBackup."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_tar = path.is_file()
        members = self._members()  # held: a generator that is let go closes its file
        name, file = next(members, ("", None))
        if name != MANIFEST or file is None:
            raise DamagedBackup(f"'{path}' is no backup: {MANIFEST} is missing.")
        self.manifest: Manifest = parse_manifest(file.read(MAX_MANIFEST_BYTES))

    def verify(self, advance: Advance) -> None:
        """Reads everything. Raises DamagedBackup naming the first file that is not what it was."""
        self._pass(None, advance)

    def extract(self, root: Path, advance: Advance) -> None:
        """Copies everything below `root`, checked again as it is copied."""
        self._pass(root, advance)

    def _pass(self, root: Path | None, advance: Advance) -> None:
        seen: set[str] = set()
        members = self._members()
        try:
            next(members)  # backup.json has been read
            for name, file in members:
                expected = self.manifest.files.get(name)
                if expected is None or name in seen:
                    raise DamagedBackup(f"The backup holds a file '{name[:100]}' that its manifest does not name.")
                seen.add(name)
                target = None if root is None else root / name
                if target is not None:
                    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                if copy_stream(file, target, advance) != expected:
                    raise DamagedBackup(f"{name} of the backup is damaged: its checksum or size differs.")
        except (tarfile.TarError, EOFError) as error:
            raise DamagedBackup(f"'{self.path}' cannot be read: {error}.") from error
        if missing := self.manifest.files.keys() - seen:
            raise DamagedBackup(f"{min(missing)} of the backup is missing.")

    def _members(self) -> Iterator[tuple[str, BinaryIO]]:
        return self._of_tar() if self.is_tar else self._of_directory()

    def _of_directory(self) -> Iterator[tuple[str, BinaryIO]]:
        """Only what the manifest names: what else lies there is not read."""
        for name in (MANIFEST, *(self.manifest.files if hasattr(self, "manifest") else ())):
            path = self.path / name
            if not path.is_file() or not path.resolve().is_relative_to(self.path.resolve()):
                return  # the caller says what is missing
            with path.open("rb") as file:
                yield name, file

    def _of_tar(self) -> Iterator[tuple[str, BinaryIO]]:
        try:
            with tarfile.open(self.path, "r:") as archive:
                for member in archive:
                    content = archive.extractfile(member) if member.isreg() and not member.issparse() else None
                    if content is None:
                        raise DamagedBackup(f"'{member.name[:100]}' of the backup is not a plain file.")
                    yield member.name, content  # type: ignore[misc]
        except (tarfile.TarError, EOFError) as error:
            raise DamagedBackup(f"'{self.path}' cannot be read: {error}.") from error
