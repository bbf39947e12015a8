"""What a query costs over HTTP, against its own forward and backward pass, as the index grows.

    python -m benchmarks.queries [--rows 1000 100000 1000000] [--repeats 9] [--work DIRECTORY]

A real server with a random 110M-parameter Llama (LoRA r = 8), queries of 256 tokens, EK-FAC, one checkpoint, learned
sketches of 512 int8 numbers. Rows of the larger indexes are the 1,000 real ones with noise (benchmarks/large_index).
Reference: the query's own forward pass and the gradient of every adapter weight, in plain PyTorch in this process; the
two take turns. Target: the median within 1.25 times the reference's, and 10 ms.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import insert, select

from app.database import Database
from app.settings import Settings
from app.tables import DatasetRow, IndexRow, new_id
from benchmarks.capture import TOKENS, plain_backward
from benchmarks.large_index import enlarged, short_rows
from benchmarks.load import serving
from benchmarks.random_llama import save_model, text_rows
from benchmarks.report import show, write
from engine.config import IndexConfig, IndexOptions, ModelConfig, Recipe, TemplateConfig
from engine.dataset import open_dataset
from engine.model import LoadedModel, load_model
from engine.rows import Batcher
from engine.store import IndexStore
from whence_client import Whence

COMMAND = "python -m benchmarks.queries"
FACTOR, ALLOWED_MS = 1.25, 10.0
SMALL = 1000
OPTIONS: dict[str, Any] = {
    "sketch": "learned",
    "learned_dim": 512,
    "projection_dim": 8,
    "sketch_rows": 512,
    "curvature_rows": 64,
    "dtype": "int8",
}
Row = dict[str, Any]


def prepare(work: Path, sizes: list[int]) -> tuple[str, dict[int, str], ModelConfig]:
    """(model id, index ids by their rows, the model): a home with all of them, kept in `work`."""
    config = save_model(work / "model") if not (work / "model").exists() else _saved(work / "model")
    home = work / "home"
    with serving(home, work, "") as (_, address), Whence(address) as client:
        found = client.models.list(name="bench").data
        recipe = {"template": {"eos": False}}
        model = (
            found[0]
            if found
            else client.models.create("bench", base=config.base, adapter=config.adapter, recipe=recipe)
        )
        datasets = {size: _dataset(client, work, size) for size in sorted({SMALL, *sizes})}
        ready = client.indexes.list(model=model.id, dataset=datasets[SMALL], state="ready").data
        small = ready[0].id if ready else _built(client, model.id, datasets[SMALL])
    indexes = {SMALL: small}
    for size in sizes:
        if size != SMALL:
            indexes[size] = _enlarged(home, config, small, datasets[size])
    return model.id, indexes, config


def _saved(root: Path) -> ModelConfig:
    recipe = Recipe(template=TemplateConfig(eos=False))
    return ModelConfig(str(root / "base"), adapter=str(root / "adapter"), recipe=recipe)


def _dataset(client: Whence, work: Path, rows: int) -> str:
    short_rows(work / "rows", rows)
    known = [one for one in client.datasets.list(name=f"rows-{rows}").data if one.rows == rows]
    if known:
        return known[0].id
    made = client.datasets.upload(work / "rows" / f"rows-{rows}.jsonl", name=f"rows-{rows}")
    if made.job_id:
        client.jobs.wait(made.job_id)
    return made.id


def _built(client: Whence, model: str, dataset: str) -> str:
    index = client.indexes.build(model=model, dataset=dataset, method="ekfac", options=OPTIONS)
    client.jobs.wait(index.job_id or "")
    return index.id


def _enlarged(home: Path, config: ModelConfig, small: str, dataset_id: str) -> str:
    """Made beside the small one, and entered into the database as a built one is."""
    settings = Settings(home=home)
    database = Database(settings.database)
    with database.write() as session:
        known = session.scalar(select(IndexRow.id).where(IndexRow.dataset_id == dataset_id, IndexRow.state == "ready"))
        if known is not None:
            return known
        kept = session.get_one(IndexRow, small)
        values = {column.key: getattr(kept, column.key) for column in IndexRow.__mapper__.column_attrs}
        sha256 = session.get_one(DatasetRow, dataset_id).sha256
    index_id = new_id("idx")
    data = open_dataset(settings.datasets_dir / str(sha256))
    whole = IndexConfig("ekfac", options=IndexOptions(**OPTIONS))
    store = enlarged(
        IndexStore.open(settings.indexes_dir / small), load_model(config), data, whole, settings.indexes_dir / index_id
    )
    values |= {"id": index_id, "dataset_id": dataset_id, "rows": len(data), "revision": store.manifest.revision}
    values |= {"name": index_id, "version": 1, "fingerprints": store.manifest.fingerprints, "job_id": None}
    with database.write() as session:
        session.execute(insert(IndexRow), [values])
    database.close()
    return index_id


def measure(work: Path, model_id: str, indexes: dict[int, str], config: ModelConfig, repeats: int) -> list[Row]:
    model = load_model(config)
    texts = [row.text or "" for row in text_rows(work / "queries", repeats + 1, TOKENS)]
    asked = [{"prompt": text[:192], "completion": text[192:]} for text in texts]
    rows = []
    with serving(work / "home", work, "") as (_, address), Whence(address, timeout=600) as client:
        for size, index in indexes.items():
            ours, reference = _turns(client, model, {"model": model_id, "index": index, "opponents": True}, asked)
            rows.append({"rows": size} | _figures(ours, reference))
    return rows


def _turns(
    client: Whence, model: LoadedModel, common: dict[str, Any], asked: list[Row]
) -> tuple[list[Row], list[float]]:
    """Answers with `ms`, and the reference's milliseconds; the first of both opens files and is not counted."""
    ours, reference = [], []
    for question in asked:
        answered: list[Any] = []
        took = _ms(lambda question=question, answered=answered: answered.append(_ask(client, common | question)))
        ours.append({"ms": took, "timings": answered[0].timings_ms})
        encoded = model.encoder().encode_query(prompt=question["prompt"], completion=question["completion"])
        batch = next(Batcher(model, TOKENS).batches([encoded], [1.0], [-1])).padded
        reference.append(_ms(lambda batch=batch: plain_backward(model, batch)))
    return ours[1:], reference[1:]


def _ask(client: Whence, body: dict[str, Any]) -> Any:
    return client.attributions.create(body["model"], **{key: value for key, value in body.items() if key != "model"})


def _ms(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)


def _figures(ours: list[Row], reference: list[float]) -> Row:
    p50, alone = statistics.median(one["ms"] for one in ours), statistics.median(reference)
    phases = {name: statistics.median(one["timings"][name] for one in ours) / p50 for name in ours[0]["timings"]}
    return {
        "p50 / reference": round(p50 / alone, 3),
        "target": round(FACTOR + ALLOWED_MS / alone, 3),
        "within": p50 <= FACTOR * alone + ALLOWED_MS,
        "p99 / reference": round(max(one["ms"] for one in ours) / alone, 3),
        "shares": ", ".join(f"{name} {share:.0%}" for name, share in phases.items() if name != "total"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--work", type=Path, default=Path(".bench/queries"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    work = given.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    rows = measure(work, *prepare(work, given.rows), given.repeats)
    show("a query over HTTP, against its own forward and backward pass", rows)
    print(write("queries", COMMAND, rows))


if __name__ == "__main__":
    main()
