"""From the database to the disk: are the files of every ready row there, and whole?

What a running server deletes while it is looked at is no finding: a row is read again before it is accused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import select

from app.batches.files import INPUT, BatchFiles
from app.doctor import repairs
from app.doctor.findings import Finding, Store
from app.errors import FilesDamaged
from app.tables import BatchRow, CheckRow, DatasetRow, EvaluationRow, IndexRow, ModelRow
from engine.evaluate.integrity import evaluation_damage
from engine.integrity import Damage, index_damage

READY = "ready"
ADAPTER_FILE = "adapter_model.safetensors"
Row = TypeVar("Row", DatasetRow, IndexRow, EvaluationRow, CheckRow, BatchRow)


def check_datasets(store: Store) -> Iterator[Finding]:
    """Each directory once, however many datasets of whatever tenants have these rows."""
    from engine.dataset import dataset_damage  # here: a server starts without pyarrow

    shared: dict[str, list[DatasetRow]] = defaultdict(list)
    for row in _rows(store, DatasetRow):
        if row.sha256 is not None and (row.state == READY or repairs.was_damaged(row)):
            shared[row.sha256].append(row)
    with store.progress("datasets", sum(rows[0].rows or 0 for rows in shared.values()), "rows") as advance:
        for sha256, rows in shared.items():
            reason = dataset_damage(store.settings.datasets_dir / sha256, rows[0].rows, advance)
            yield from _of_dataset(store, sha256, rows, reason)


def _of_dataset(store: Store, sha256: str, rows: Sequence[DatasetRow], reason: str | None) -> Iterator[Finding]:
    ready = [row for row in rows if row.state == READY]
    if reason is None:
        yield from (_whole_again(row, "dataset") for row in rows if row.state != READY)
    elif ready and any(_still_ready(store, row) for row in ready):
        owners = ", ".join(row.id for row in ready)
        what = f"datasets/{sha256}/rows.arrow of {owners}: {reason}"
        remedy = "Restore that file from a backup; or --repair, then upload the same rows again."
        repair = partial(repairs.fail_datasets, sha256=sha256, reason=reason)
        yield Finding("dataset-damaged", ready[0].id, what, remedy, repair)


def check_indexes(store: Store) -> Iterator[Finding]:
    rows = [row for row in _rows(store, IndexRow) if row.state == READY or repairs.was_damaged(row)]
    with store.progress("indexes", sum(row.bytes or 0 for row in rows), "bytes") as advance:
        for row in rows:
            damage = index_damage(store.settings.indexes_dir / row.id, row.revision, advance)
            if row.state != READY:
                yield from [] if damage else [_whole_again(row, "index")]
            elif damage and _still_ready(store, row):
                yield from (_of_index(row, bad) for bad in damage)


def _of_index(row: IndexRow, bad: Damage) -> Finding:
    remedy = "Restore that file from a backup; or --repair, then resume the build job: it makes what is missing again."
    repair = partial(repairs.fail_index, index_id=row.id, file=bad.file, reason=bad.reason)
    return Finding("index-damaged", row.id, f"indexes/{row.id}/{bad.file}: {bad.reason}", remedy, repair)


def check_evaluations(store: Store) -> Iterator[Finding]:
    """The scorecard lies in the database and holds whatever happens to the files: they are the raw figures, and the
    retrainings that a larger evaluation goes on from."""
    rows = [row for row in _rows(store, EvaluationRow) if row.state == READY]
    with store.progress("evaluations", len(rows), "evaluations") as advance:
        for row in rows:
            directory = store.settings.evaluations_dir / row.id
            damage = evaluation_damage(directory) if directory.is_dir() else [Damage("", "It is missing.")]
            if damage and _still_ready(store, row):
                yield from (_of_evaluation(row, bad) for bad in damage)
            advance(1)


def _of_evaluation(row: EvaluationRow, bad: Damage) -> Finding:
    remedy = "Restore it from a backup; or --repair: what is damaged is removed, and the scorecard stays."
    repair = partial(repairs.drop_from_evaluation, evaluation_id=row.id, file=bad.file)
    what = f"evaluations/{row.id}/{bad.file}: {bad.reason}"
    return Finding("evaluation-damaged", row.id, what, remedy, repair)


def check_checks(store: Store) -> Iterator[Finding]:
    """The result lies in the database; the files are retrainings that a further check goes on from, and the adapter of
    a model that unlearning made, which nothing makes again by itself."""
    rows = [row for row in _rows(store, CheckRow) if row.state == READY]
    with store.progress("checks", len(rows), "checks") as advance:
        for row in rows:
            damage = _check_damage(store, row)
            if damage and _still_ready(store, row):
                yield from (_of_check(row, bad) for bad in damage)
            advance(1)


def _check_damage(store: Store, row: CheckRow) -> list[Damage]:
    directory = store.settings.checks_dir / row.id
    found = evaluation_damage(directory) if directory.is_dir() else [Damage("", "It is missing.")]
    with store.database.read() as session:
        model = session.get(ModelRow, row.new_model_id) if row.new_model_id else None
    if model is not None and model.adapter and not (Path(model.adapter) / ADAPTER_FILE).is_file():
        found.append(Damage(ADAPTER_FILE, f"The adapter of model {model.id} is missing."))
    return found


def _of_check(row: CheckRow, bad: Damage) -> Finding:
    what = f"checks/{row.id}/{bad.file}: {bad.reason}"
    if bad.file == ADAPTER_FILE:
        remedy = "Restore that directory from a backup; or delete the model and the check, and check again."
        return Finding("check-damaged", row.id, what, remedy)
    remedy = "Restore it from a backup; or --repair: what is damaged is removed, and the result stays."
    repair = partial(repairs.drop_from_check, check_id=row.id, file=bad.file)
    return Finding("check-damaged", row.id, what, remedy, repair)


def check_batches(store: Store) -> Iterator[Finding]:
    """They carry no checksums: the file has to have its questions, and the results one whole line for each."""
    for row in _rows(store, BatchRow):
        if row.state == READY and (bad := _batch_damage(store, row)) and _still_ready(store, row):
            again = "send the file again" if bad.file == INPUT else "resume the job: it answers again"
            remedy = f"Restore that file from a backup; or --repair, then {again}."
            repair = partial(repairs.fail_batch, batch_id=row.id, file=bad.file, reason=bad.reason)
            yield Finding("batch-damaged", row.id, f"batches/{row.id}/{bad.file}: {bad.reason}", remedy, repair)


def _batch_damage(store: Store, row: BatchRow) -> Damage | None:
    files = BatchFiles(store.settings.batches_dir / row.id)
    if not files.input.is_file():
        return Damage(files.input.name, "It is missing.")
    try:
        asked = sum(1 for _ in files.lines(store.settings.max_body_bytes))
    except OSError as error:
        return Damage(files.input.name, f"It cannot be read: {error.strerror or error}.")
    if asked != row.lines:
        return Damage(files.input.name, f"It holds {asked} questions, not {row.lines}.")
    try:
        found = sum(1 for _ in files.read())
    except FilesDamaged as error:
        return Damage(files.results.name, error.detail)
    except OSError as error:
        return Damage(files.results.name, f"It cannot be read: {error.strerror or error}.")
    if found != row.lines:
        return Damage(files.results.name, f"It holds {found} results for {row.lines} questions.")
    return None


def _whole_again(row: Any, noun: str) -> Finding:
    what = f"The {noun} is marked as damaged, but its files are whole again."
    repair = partial(repairs.mark_whole, table=type(row), row_id=row.id)
    return Finding(f"{noun}-whole-again", row.id, what, "--repair makes it ready.", repair)


def _rows(store: Store, table: type[Row]) -> list[Row]:
    """Of every tenant: the disk is shared."""
    with store.database.read() as session:
        return list(session.scalars(select(table).order_by(table.id)))


def _still_ready(store: Store, row: DatasetRow | IndexRow | EvaluationRow | CheckRow | BatchRow) -> bool:
    with store.database.read() as session:
        return getattr(session.get(type(row), row.id), "state", None) == READY
