"""What is sent when an index is exported: its files, its rows, and what is said of them."""

from __future__ import annotations

from app.datasets.service import DatasetsService
from app.dependencies import Services
from app.indexes.archive import INDEX, ROWS, Archive, Export, ExportedDataset, ExportedModel, Member
from app.indexes.service import IndexesService
from app.models.service import ModelsService
from app.tables import DatasetRow, IndexRow, ModelRow
from engine.dataset import ROWS_FILE
from engine.durable import checksum_of
from engine.errors import CorruptIndex
from engine.integrity import MANIFEST_FILE, recorded_index


def export_index(services: Services, tenant: str, index_id: str) -> Archive:
    """A ready index. Raises NotFound, IndexUnavailable, CorruptIndex.

    Its checksums are those that the build recorded, so a file that was damaged since then does not leave: see Archive.
    """
    settings = services.settings
    with services.database.read() as session:
        indexes = IndexesService(session, tenant, settings)
        live = indexes.live(index_id)
        row = indexes.get(live.id)
        dataset = DatasetsService(session, tenant, settings).get(row.dataset_id)
        model = ModelsService(session, tenant).get(row.model_id)
    recorded = recorded_index(live.index_dir)
    files = {INDEX + name: live.index_dir / name for name in recorded.files}
    checksums = {INDEX + name: checksum for name, checksum in recorded.files.items()}
    for name, path in ((INDEX + MANIFEST_FILE, live.index_dir / MANIFEST_FILE), (ROWS, live.dataset_dir / ROWS_FILE)):
        files[name], checksums[name] = path, checksum_of(path)
    try:
        members = {name: Member(bytes=files[name].stat().st_size, checksum=checksums[name]) for name in sorted(files)}
    except FileNotFoundError as error:
        name = str(error.filename).removeprefix(f"{live.index_dir}/")
        raise CorruptIndex(f"The index file {name} is damaged: it is missing.", file=name) from error
    return Archive(_export(row, model, dataset, members), files)


def _export(row: IndexRow, model: ModelRow, dataset: DatasetRow, members: dict[str, Member]) -> Export:
    return Export(
        name=row.name,
        method=row.method,
        revision=row.revision or "",
        config=row.config,
        sketched=bool(row.sketched),
        fingerprints=row.fingerprints or {},
        model=ExportedModel(name=model.name, version=model.version, fingerprint=model.fingerprint),
        dataset=ExportedDataset(
            name=dataset.name,
            sha256=dataset.sha256 or "",
            rows=dataset.rows or 0,
            format=dataset.format,
            warnings=dataset.warnings,
        ),
        members=members,
    )
