"""backup(): a consistent copy beside a running server.

Files of ready rows never change; they appear before their row becomes ready and vanish after it is deleted. So a
backup is consistent when every ready row of its dump has its files in the copy, and these may be copied at any moment
at which they are there. Neither order is enough by itself: with the files first, what became ready meanwhile would
have a row and no files; with the dump first, what was deleted meanwhile. So the dump (one transaction, one moment)
comes first, then what its rows own is copied, and where something had vanished by then, both are done again: the dump
anew, and of the files only what is not there yet, for what was copied before is still what it was. A round in which
nothing vanished ends it. What rows of the last dump do not own is removed. What stays away although its row stays is
no deletion but a fault of the store: that is told, and the rest is backed up.

An upload that waits for its job is a file like that, too: it was acknowledged, and its row says so until the rows are
stored. The results of a batch only grow: a copy of them is good for the state that its row had in the dump before it,
so it is made anew when that state has changed. Unfinished builds, evaluations and checks are not copied: their
jobs begin again after a restore.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection, select

from app import __version__
from app.backup.copying import Advance, copy_file, files_of, sync_tree
from app.backup.dump import snapshot, tables, write_table
from app.backup.layout import DATABASE, MANIFEST, SECRET, Copied, Manifest
from app.database import Database
from app.errors import Conflict, NotReady
from app.schema import current_revision, head_revision
from app.secret import FILE as SECRET_FILE
from app.settings import Settings
from app.storage import full_disk_is_named
from app.tables import BatchRow, CheckRow, DatasetRow, EvaluationRow, IndexRow, JobRow, ModelRow, utc_now
from engine.dataset import ROWS_FILE
from engine.durable import alone_in, checksum_of, sync_directory
from engine.errors import EngineError
from engine.integrity import MANIFEST_FILE, recorded_index

ROUNDS = 20
ROUND_SECONDS = 0.2  # between two: a server is about to commit what it has just done to the files
MISSING_ROUNDS = 5  # so often in a row away: it is missing


class Vanished(Exception):
    """What a row of the dump owns was deleted before it was copied."""


@dataclass(frozen=True)
class Made:
    """warnings: what was damaged before it was copied."""

    path: Path
    manifest: Manifest
    warnings: list[str]


@dataclass(frozen=True)
class _Owned:
    """What a row needs of a directory: a file that has to be in it; the row's state, where the files go with it."""

    needed: str = ""
    state: str = ""


@dataclass
class _Copy:
    """A backup on its way. copied: directory below the home → its files, by path below the backup. stamps: what each
    directory's copy was good for."""

    settings: Settings
    database: Database
    root: Path
    advance: Advance
    copied: dict[str, dict[str, Copied]] = field(default_factory=dict)
    stamps: dict[str, _Owned] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def take(self) -> Manifest:
        away: Counter[str] = Counter()
        for _ in range(ROUNDS):
            dumped, owned, models = self._dump()
            vanished = self._copy_all(owned)
            if not vanished:
                break
            away = Counter({name: away[name] + 1 for name in vanished})
            for name in vanished:
                if away[name] == MISSING_ROUNDS:
                    self.warnings.append(f"{name} is missing: `whence doctor` says more.")
                    self.stamps[name] = owned[name]
            time.sleep(ROUND_SECONDS)
        else:
            remedy = "Make the backup while less is being deleted."
            raise Conflict(f"In each of {ROUNDS} rounds something was deleted before it was copied.", remedy=remedy)
        for name in self.copied.keys() - owned.keys():
            self._drop(name)
        secret = self._secret()
        files = {DATABASE + "/" + name + ".jsonl": self._of_dump(name) for name in dumped} | secret
        for found in self.copied.values():
            files |= found
        return Manifest(
            created_at=utc_now(),
            whence_version=__version__,
            revision=head_revision(),
            home=str(self.settings.home),
            tables=dumped,
            models=models,
            files=dict(sorted(files.items())),
        )

    def _dump(self) -> tuple[dict[str, int], dict[str, _Owned], list[str]]:
        """Rows of each table; what the copy has to hold; paths of models."""
        shutil.rmtree(self.root / DATABASE, ignore_errors=True)
        (self.root / DATABASE).mkdir(mode=0o700)
        counts: dict[str, int] = {}
        with snapshot(self.database) as connection:
            for table in tables():
                with (self.root / DATABASE / f"{table.name}.jsonl").open("wb") as sink:
                    counts[table.name] = write_table(connection, table, sink)
                    sink.flush()
                    os.fsync(sink.fileno())
            return counts, dict(self._owned(connection)), _model_paths(connection, self.settings)

    def _owned(self, connection: Connection) -> Iterator[tuple[str, _Owned]]:
        for sha256 in connection.scalars(select(DatasetRow.sha256).where(DatasetRow.state == "ready").distinct()):
            yield f"datasets/{sha256}", _Owned(ROWS_FILE)
        for index_id in connection.scalars(select(IndexRow.id).where(IndexRow.state == "ready")):
            yield f"indexes/{index_id}", _Owned(MANIFEST_FILE)
        for evaluation_id in connection.scalars(select(EvaluationRow.id).where(EvaluationRow.state == "ready")):
            yield f"evaluations/{evaluation_id}", _Owned()
        for check_id in connection.scalars(select(CheckRow.id).where(CheckRow.state == "ready")):
            yield f"checks/{check_id}", _Owned()
        for batch_id, state in connection.execute(select(BatchRow.id, BatchRow.state)):
            yield f"batches/{batch_id}", _Owned("input.jsonl", state)
        waiting = select(DatasetRow.id, DatasetRow.state, JobRow.payload).join(JobRow, JobRow.id == DatasetRow.job_id)
        for dataset_id, state, payload in connection.execute(waiting.where(DatasetRow.state != "ready")):
            upload, path = self.settings.uploads_dir / dataset_id, Path(payload.get("path", ""))
            # a failed one can be resumed while its upload is there
            if path.parent == upload and (state == "loading" or path.exists()):
                yield f"uploads/{dataset_id}", _Owned(path.name)

    def _copy_all(self, owned: dict[str, _Owned]) -> list[str]:
        """What had vanished."""
        vanished: list[str] = []
        for name, wanted in owned.items():
            if self.stamps.get(name) == wanted:
                continue
            self._drop(name)
            try:
                self.copied[name] = self._copy_directory(name, wanted.needed)
                self.stamps[name] = wanted
            except Vanished:
                self._drop(name)
                vanished.append(name)
        return vanished

    def _copy_directory(self, name: str, needed: str) -> dict[str, Copied]:
        source = self.settings.home / name
        (self.root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            found = {
                f"{name}/{path.relative_to(source).as_posix()}": copy_file(
                    path, self.root / name / path.relative_to(source), self.advance
                )
                for path in files_of(source)
            }
        except FileNotFoundError as error:
            raise Vanished(name) from error
        if needed and f"{name}/{needed}" not in found:
            raise Vanished(name)
        if name.startswith("indexes/"):
            self._compare(name, found)
        return found

    def _compare(self, name: str, found: dict[str, Copied]) -> None:
        """What is damaged here is damaged there. It is copied all the same: the rest of it may be wanted back."""
        try:
            recorded = recorded_index(self.root / name)
        except EngineError as error:
            self.warnings.append(f"{name}: {error.detail}")
            return
        for file, checksum in recorded.files.items():
            copied = found.get(f"{name}/{file}")
            if copied is None or copied.checksum != checksum:
                self.warnings.append(f"{name}/{file} is damaged or missing.")

    def _drop(self, name: str) -> None:
        self.copied.pop(name, None)
        self.stamps.pop(name, None)
        shutil.rmtree(self.root / name, ignore_errors=True)

    def _secret(self) -> dict[str, Copied]:
        try:
            return {SECRET: copy_file(self.settings.home / SECRET_FILE, self.root / SECRET, self.advance)}
        except FileNotFoundError:
            return {}  # WHENCE_SECRET is set, or no key was ever made

    def _of_dump(self, table: str) -> Copied:
        path = self.root / DATABASE / f"{table}.jsonl"
        return Copied(bytes=path.stat().st_size, checksum=checksum_of(path))


def _model_paths(connection: Connection, settings: Settings) -> list[str]:
    """What the backup does not hold: an adapter that a check made lies among the check's files."""
    rows = connection.execute(select(ModelRow.base, ModelRow.adapter, ModelRow.checkpoints, ModelRow.tokenizer))
    found = {
        path for base, adapter, checkpoints, tokenizer in rows for path in (base, adapter, tokenizer, *checkpoints)
    }
    return sorted(path for path in found if path and not Path(path).is_relative_to(settings.checks_dir.resolve()))


def backup(settings: Settings, database: Database, destination: Path, advance: Advance) -> Made:
    """Write the backup to `destination`: a new directory, or one file where its name ends in .tar.

    `advance` is told of bytes copied. Raises Conflict (it is there already; too much is being deleted), NotReady (the
    database is not migrated), InsufficientStorage, OSError. Nothing lies at `destination` before the backup is whole.
    """
    if destination.exists():
        remedy = "Name a new one; to replace it, remove it first."
        raise Conflict(f"'{destination}' is there already.", remedy=remedy)
    if current_revision(database) != head_revision():
        raise NotReady("The database is not at this version's tables.", remedy="Run `whence migrate` first.")
    full = f"The disk of {destination} filled up; nothing of the backup was kept."
    with full_disk_is_named(full, "Free space there, or name a DEST on another disk."), _work(destination) as root:
        work = _Copy(settings, database, root, advance)
        manifest = work.take()
        (root / MANIFEST).write_bytes(manifest.to_json())
        if destination.suffix == ".tar":
            _pack(root, manifest, destination)
        else:
            sync_tree(root)
            root.rename(destination)
        sync_directory(destination.absolute().parent)
    return Made(destination, manifest, work.warnings)


@contextmanager
def _work(destination: Path) -> Iterator[Path]:
    """The directory `<destination>.partial`, ours alone, empty, and gone afterwards."""
    root = destination.with_name(f"{destination.name}.partial")
    root.parent.mkdir(parents=True, exist_ok=True)
    root.mkdir(mode=0o700, exist_ok=True)
    with alone_in(root):
        for leftover in root.iterdir():  # of a backup that was killed
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        try:
            yield root
        finally:
            shutil.rmtree(root, ignore_errors=True)


def _pack(root: Path, manifest: Manifest, destination: Path) -> None:
    """backup.json comes first. Each file goes as soon as it is packed: the space is needed once, not twice."""
    packed = root / "packed"
    with packed.open("xb") as file:
        os.chmod(packed, 0o600)
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name in (MANIFEST, *manifest.files):
                member = tarfile.TarInfo(name)
                member.size, member.mode = (root / name).stat().st_size, 0o600
                member.mtime = int(manifest.created_at.timestamp())
                with (root / name).open("rb") as content:
                    archive.addfile(member, content)
                (root / name).unlink()
        file.flush()
        os.fsync(file.fileno())
    packed.rename(destination)
