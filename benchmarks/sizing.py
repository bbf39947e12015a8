"""What a server takes of memory and disk: the figures of docs/operations.md.

    python -m benchmarks.sizing [--work DIRECTORY]

A real server process, from its start to an answered question, with the demonstration's fine-tune and with a random
110M-parameter Llama; and the bytes on disk of a dataset and of its indexes in several forms.
Memory is what the kernel says of the server (VmRSS now, VmHWM the most so far), disk is the sum of the files' sizes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.demo_model import fact_queries
from benchmarks.load import prepare, serving
from benchmarks.random_llama import save_model, text_rows
from benchmarks.report import show, write
from engine.demo.tuning import BASE_MODEL
from whence_client import Whence

COMMAND = "python -m benchmarks.sizing"
TOKENS, LARGE_ROWS = 256, 16
FORMS: dict[str, dict[str, Any]] = {
    "none, float32": {"sketch": "none", "dtype": "float32"},
    "none, float16": {"sketch": "none", "dtype": "float16"},
    "random 16, int8": {"sketch": "random", "projection_dim": 16, "dtype": "int8"},
    "learned, 512 bytes a row": {"sketch": "learned", "bytes_per_row": 512, "dtype": "int8"},
}
Row = dict[str, Any]


def memory_mb(process: int) -> dict[str, float]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith("Vm")}
    return {"MB": round(found["VmRSS"], 1), "most MB": round(found["VmHWM"], 1)}


def disk_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def demo_server(work: Path, home: Path, found: list[Row]) -> None:
    """Memory step by step, then what lies on the disk."""
    rows, checkpoints = prepare(work)
    with serving(home, work, "") as (process, address), Whence(address) as client:
        client.methods()
        found.append({"what": "server, before its first use of the engine", **memory_mb(process)})
        model = client.models.create("demo", base=BASE_MODEL, checkpoints=checkpoints)
        found.append(
            {"what": f"… a {(model.parameters or 0) / 1e6:.1f}M-parameter model registered", **memory_mb(process)}
        )
        dataset = client.datasets.upload(rows)
        count = dataset.rows or 0
        stored = disk_bytes(home / "datasets")
        found.append({"what": "dataset: bytes a row as JSONL", "bytes": round(rows.stat().st_size / count, 1)})
        found.append({"what": "dataset: bytes a row on disk", "bytes": round(stored / count, 1)})
        index = ""
        for name, options in FORMS.items():
            built = client.indexes.build(model=model.id, dataset=dataset.id, options=options)
            client.jobs.wait(built.job_id or "")
            index = built.id
            found.append(_of_index(name, client, index, home))
        query = fact_queries()[0]
        client.ask(model.id, prompt=query.prompt, completion=query.completion, index=index)
        found.append({"what": f"… {len(FORMS)} indexes of {count} rows built, one asked", **memory_mb(process)})


def _of_index(name: str, client: Whence, index_id: str, home: Path) -> Row:
    """`fixed`: what does not grow with the rows (curvature, a learned basis)."""
    index, place = client.indexes.get(index_id), home / "indexes" / index_id
    shards = disk_bytes(place / "shards")
    return {
        "what": f"index ({name}): bytes a row",
        "bytes": round(shards / (index.rows or 1), 1),
        "numbers": index.dims,
        "fixed MB": round((disk_bytes(place) - shards) / 1e6, 2),
    }


def large_model(work: Path, home: Path, found: list[Row]) -> None:
    config = save_model(work / "large")
    rows = text_rows(work / "large-rows", LARGE_ROWS, TOKENS)
    source = work / "large-rows" / "rows.jsonl"
    with serving(home, work, "") as (process, address), Whence(address) as client:
        model = client.models.create("large", base=config.base, adapter=config.adapter)
        name = f"server with a {(model.parameters or 0) / 1e6:.0f}M-parameter model (float32)"
        found.append({"what": f"{name}, registered", **memory_mb(process)})
        dataset = client.datasets.upload(source)
        index = client.indexes.build(model=model.id, dataset=dataset.id)
        client.jobs.wait(index.job_id or "")
        found.append({"what": f"… its index built ({len(rows)} rows of {TOKENS} tokens)", **memory_mb(process)})
        row = _of_index("auto", client, index.id, home)
        found.append(row | {"what": f"index of that model (auto): bytes a row, {LARGE_ROWS} rows"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".bench/sizing"))
    work = parser.parse_args().work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        demo_server(work, Path(temporary) / "home", found)
        large_model(work, Path(temporary) / "large-home", found)
    keys = dict.fromkeys(key for row in found for key in row)
    show("what a server takes", [{key: row.get(key) for key in keys} for row in found])
    print(write("sizing", COMMAND, found))


if __name__ == "__main__":
    main()
