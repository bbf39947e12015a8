"""Taking in an exported index: everything is checked before anything is kept.

Files first, then rows: the archive is unpacked and checked in a directory of its own (`indexes/.importing-…`), renamed
into place, and only then known to the database, in one transaction. A crash between the two leaves files that no row
owns, which the next start, or `whence doctor`, removes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.datasets.service import DatasetsService, limits_of
from app.dependencies import Services
from app.errors import Conflict
from app.indexes.archive import INDEX, ROWS, ArchiveReader, Export, InvalidArchive
from app.indexes.building import mark_ready
from app.indexes.options import config_from
from app.indexes.repository import IndexesRepository
from app.indexes.schemas import IndexImport
from app.models.service import ModelsService
from app.storage import full_disk_is_named, leave_free, remove_directory, undecided
from app.tables import IndexRow, ModelRow, new_id
from engine.dataset import ROWS_FILE
from engine.durable import sync_directory
from engine.errors import (
    CorruptIndex,
    DatasetError,
    DatasetTooLarge,
    FingerprintMismatch,
    IndexUnavailable,
    UnknownMethod,
)
from engine.integrity import index_damage, recorded_index
from engine.types import IndexInfo

SCRATCH_PREFIX = ".importing-"
RACES = 10


def import_index(services: Services, tenant: str, body: IndexImport, file: BinaryIO) -> IndexRow:
    """The new index, ready. Raises NotFound (the model), FingerprintMismatch, InvalidArchive, PayloadTooLarge,
    InsufficientStorage, EngineUnavailable."""
    with services.database.read() as session:
        model = ModelsService(session, tenant).get(body.model)
    reader = ArchiveReader(file, services.settings.max_upload_bytes)
    _require_model(reader.export, model)
    # the rows twice for a moment: as they came, and as they are kept
    leave_free(services.settings.home, 2 * reader.export.bytes, services.settings.min_free_bytes)
    with full_disk_is_named(), _scratch(services.settings.indexes_dir) as scratch:
        reader.extract(scratch)
        info = _checked(services, reader.export, scratch)
        return _keep(services, tenant, body, reader.export, info, scratch)


def _require_model(export: Export, model: ModelRow) -> None:
    if model.fingerprint != export.model.fingerprint:
        raise FingerprintMismatch(
            f"The index was built for another model ('{export.model.name}') than '{model.id}'.",
            remedy="Register the very model it was built for (weights, tokenizer, template, recipe) and name that one.",
            pointer="/model",
            expected=export.model.fingerprint,
            found=model.fingerprint,
        )


@contextmanager
def _scratch(root: Path) -> Iterator[Path]:
    scratch = root / f"{SCRATCH_PREFIX}{uuid.uuid4().hex[:12]}"
    try:
        scratch.mkdir(parents=True)
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _checked(services: Services, export: Export, scratch: Path) -> IndexInfo:
    """What the index itself says, where that is what export.json says of it. Raises InvalidArchive."""
    index_dir = scratch / INDEX
    try:
        if damage := index_damage(index_dir, export.revision):
            raise _invalid(f"{damage[0].file}: {damage[0].reason}")
        recorded = recorded_index(index_dir)
        unknown = {name for name in export.members if name.startswith(INDEX)} - _named(recorded.files)
        if unknown:
            raise _invalid(f"{min(unknown)} is not in the index's manifest")
        info = services.engine.check_index(index_dir, sketched=export.sketched)
        config_from(export.config)
    except (CorruptIndex, IndexUnavailable, UnknownMethod) as error:
        raise _invalid(error.detail) from error
    except ValidationError as error:
        raise _invalid(f"its config cannot be read: {error.errors(include_url=False)[0]['msg']}") from error
    about = (info.method, info.revision, info.fingerprints, info.rows, info.fingerprints.get("dataset"))
    said = (export.method, export.revision, export.fingerprints, export.dataset.rows, export.dataset.sha256)
    if about != said:
        raise _invalid("export.json and the index's manifest contradict each other")
    _check_rows(services, export, scratch)
    return info


def _named(files: dict[str, str]) -> set[str]:
    return {INDEX + "manifest.json", *(INDEX + name for name in files)}


def _check_rows(services: Services, export: Export, scratch: Path) -> None:
    """The rows pass what an upload passes, and are written anew: below scratch/datasets, as below the home."""
    from engine.dataset import store_dataset, write_as_jsonl  # here: a server starts without pyarrow

    sent, lines = scratch / ROWS, scratch / "rows.jsonl"
    try:
        write_as_jsonl(sent, lines)
        sent.unlink()
        limits = limits_of(services.settings)
        info = store_dataset(lines, format="jsonl", root=scratch / "datasets", limits=limits)
        lines.unlink()
    except DatasetTooLarge:
        raise
    except DatasetError as error:
        raise _invalid(f"{ROWS}: {error.detail}") from error
    if (info.sha256, info.rows) != (export.dataset.sha256, export.dataset.rows):
        raise _invalid(f"{ROWS} does not hold the rows that the index was built of")


def _keep(
    services: Services, tenant: str, body: IndexImport, export: Export, info: IndexInfo, scratch: Path
) -> IndexRow:
    index_id = new_id("idx")
    index_dir = services.settings.indexes_dir / index_id
    rows_dir = services.settings.datasets_dir / export.dataset.sha256
    _sync(scratch)
    with undecided(index_dir), undecided(rows_dir):
        return _recorded(services, tenant, body, export, info, scratch, index_dir)


def _recorded(
    services: Services,
    tenant: str,
    body: IndexImport,
    export: Export,
    info: IndexInfo,
    scratch: Path,
    index_dir: Path,
) -> IndexRow:
    """The files first, then the rows that own them."""
    (scratch / INDEX).rename(index_dir)
    sync_directory(index_dir.parent)
    try:
        for _ in range(RACES):
            rows_dir = _place_rows(services, export, scratch)
            with contextlib.suppress(IntegrityError), services.database.write() as session:
                if (rows_dir / ROWS_FILE).is_file():
                    return _record(services, session, tenant, body, export, info, index_dir.name)
            # the last dataset with these very rows was deleted in this moment, or another server took the version
        raise Conflict("Others are changing the same datasets or names all the time.", remedy="Send the file again.")
    except BaseException:
        remove_directory(index_dir)
        raise


def _record(
    services: Services,
    session: Session,
    tenant: str,
    body: IndexImport,
    export: Export,
    info: IndexInfo,
    index_id: str,
) -> IndexRow:
    _require_model(export, ModelsService(session, tenant).get(body.model))
    dataset = DatasetsService(session, tenant, services.settings).stored(**export.dataset.model_dump())
    row = IndexRow(
        id=index_id,
        name=body.name or export.name,
        model_id=body.model,
        dataset_id=dataset.id,
        method=export.method,
        config=export.config,
        state="ready",
    )
    mark_ready(row, info)
    return IndexesRepository(session, tenant).add(row)


def _place_rows(services: Services, export: Export, scratch: Path) -> Path:
    """Where the rows lie, whoever brought them first."""
    source, place = scratch / "datasets" / export.dataset.sha256, services.settings.datasets_dir / export.dataset.sha256
    if not (place / ROWS_FILE).is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        copy = place.with_name(f".incoming-{uuid.uuid4().hex}")
        shutil.copytree(source, copy)  # a copy: should these rows be deleted in the next moment, they are still here
        _sync(copy)
        try:
            copy.rename(place)
        except OSError:
            shutil.rmtree(copy, ignore_errors=True)
            if not (place / ROWS_FILE).is_file():
                raise
        sync_directory(place.parent)
    return place


def _sync(directory: Path) -> None:
    """Bytes and names reach the disk before the database says that they are there."""
    for path in (directory, *directory.rglob("*")):
        if path.is_dir():
            sync_directory(path)
        else:
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def _invalid(reason: str) -> InvalidArchive:
    return InvalidArchive(f"The file is not an exported index: {reason}.", pointer="/file")
