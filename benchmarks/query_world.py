"""A home with a random Llama and indexes of any number of rows: what the benchmarks of queries and callers ask.

Only the smallest index is built; larger ones are its rows with noise (benchmarks/large_index), and both the files and
the database's rows of a dataset and an index are written beside those of the small one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select

from app.database import Database
from app.settings import Settings
from app.tables import DatasetRow, IndexRow, new_id
from benchmarks.large_index import enlarged, short_rows
from benchmarks.load import serving
from benchmarks.random_llama import save_model, save_small_model, saved_model
from engine.config import IndexConfig, IndexOptions, ModelConfig
from engine.model import load_model
from engine.store import IndexStore
from whence_client import Whence

MODELS: dict[str, Callable[[Path], ModelConfig]] = {"34M": save_small_model, "110M": save_model}
BUILT_ROWS = 512
OPTIONS: dict[str, Any] = {
    "sketch": "learned",
    "learned_dim": 512,
    "projection_dim": 8,
    "sketch_rows": BUILT_ROWS,
    "curvature_rows": 32,
    "dtype": "int8",
}


@dataclass(frozen=True)
class QueryWorld:
    """indexes: ids by their number of rows. dataset: the directory of the rows of the one that was built."""

    home: Path
    model_id: str
    indexes: dict[int, str]
    config: ModelConfig
    dataset: Path


def prepare(work: Path, size: str, rows: Sequence[int]) -> QueryWorld:
    """size: one of MODELS. Everything is kept in `work`."""
    root = work / size
    config = saved_model(root / "model") if (root / "model" / "adapter").exists() else MODELS[size](root / "model")
    home = root / "home"
    home.mkdir(parents=True, exist_ok=True)
    with serving(home, root, "") as (_, address), Whence(address) as client:
        found = client.models.list(name="bench").data
        recipe = {"template": {"eos": False}}
        made = found or [client.models.create("bench", base=config.base, adapter=config.adapter, recipe=recipe)]
        small = _built(client, made[0].id, root)
    indexes = {count: _enlarged(home, config, small, count) if count != BUILT_ROWS else small for count in rows}
    return QueryWorld(home, made[0].id, indexes, config, short_rows(root, BUILT_ROWS).path)


def _built(client: Whence, model: str, root: Path) -> str:
    short_rows(root, BUILT_ROWS)
    known = client.datasets.list(name="rows").data
    dataset = known[0].id if known else client.datasets.upload(root / f"rows-{BUILT_ROWS}.jsonl", name="rows").id
    if ready := client.indexes.list(model=model, dataset=dataset, state="ready").data:
        return ready[0].id
    index = client.indexes.build(model=model, dataset=dataset, method="ekfac", options=OPTIONS)
    client.jobs.wait(index.job_id or "")
    return index.id


def _enlarged(home: Path, config: ModelConfig, small: str, rows: int) -> str:
    """Made beside the small one, and entered into the database as a built one is."""
    settings = Settings(home=home)
    database = Database(settings.database)
    with database.read() as session:
        known = session.scalar(select(IndexRow.id).where(IndexRow.rows == rows, IndexRow.state == "ready"))
        if known is not None:
            return known
        kept = session.get_one(IndexRow, small)
        values = _values(kept)
        of_dataset = _values(session.get_one(DatasetRow, kept.dataset_id))
    data = short_rows(home, rows)
    index_id, dataset_id = new_id("idx"), new_id("ds")
    whole = IndexConfig("ekfac", options=IndexOptions(**OPTIONS))
    kept_store = IndexStore.open(settings.indexes_dir / small)
    store = enlarged(kept_store, load_model(config), data, whole, settings.indexes_dir / index_id)
    of_dataset |= {"id": dataset_id, "name": f"rows-{rows}", "rows": rows, "sha256": data.path.name, "job_id": None}
    values |= {"id": index_id, "dataset_id": dataset_id, "rows": rows, "revision": store.manifest.revision}
    values |= {"name": index_id, "version": 1, "fingerprints": store.manifest.fingerprints, "job_id": None}
    with database.write() as session:
        session.execute(insert(DatasetRow), [of_dataset])
        session.execute(insert(IndexRow), [values])
    database.close()
    return index_id


def _values(row: DatasetRow | IndexRow) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in type(row).__mapper__.column_attrs}
