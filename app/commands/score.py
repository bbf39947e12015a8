"""`whence score`: straight on the engine, without a server."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.console import clean, out, print_json
from app.commands.options import Json, OptionPairs, parse_options
from app.commands.progress import PhaseBars
from app.commands.queries import NamedQuery, read_queries
from app.commands.recipes import read_recipe
from app.indexes.options import index_config
from app.indexes.schemas import IndexCreate
from engine.config import DType, IndexConfig, ModelConfig
from engine.dataset import open_dataset, store_dataset
from engine.errors import EngineUnavailable

if TYPE_CHECKING:
    from engine.pipeline import ScoreResult


def score(
    base: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Base model, or a dense fine-tune.")],
    dataset: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="Training rows: JSONL, JSON, CSV, Parquet.")
    ],
    queries: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, help="JSONL: {id?, prompt|messages, completion, contrast?, span?}."),
    ],
    out_: Annotated[Path, typer.Option("--out", dir_okay=False, help="Where to write the .npz.")],
    method: Annotated[str, typer.Option(help="See `whence methods`.")] = "auto",
    adapter: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="PEFT adapter.")] = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option(exists=True, file_okay=False, help="Oldest first; may be repeated.")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="If not the base's.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(exists=True, help="What training did: a JSON file, or a run's directory.")
    ] = None,
    dtype: Annotated[DType, typer.Option(help="Of the model's weights.")] = "float32",
    option: OptionPairs = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")] = "cpu",
    json_: Json = False,
) -> None:
    """Score every training row for every query, into an .npz file. Positive = proponent."""
    model = ModelConfig(
        base=str(base),
        adapter=adapter and str(adapter),
        checkpoints=tuple(str(path) for path in checkpoint or ()),
        tokenizer=tokenizer and str(tokenizer),
        recipe=recipe and read_recipe(recipe, "--recipe"),
        dtype=dtype,
    )
    body = IndexCreate(model=str(base), dataset=str(dataset), method=method, options=parse_options(option))
    config = index_config(body, model.checkpoints)  # as over HTTP: the same names, ranges and errors
    asked = read_queries(queries)
    require_folder(out_)
    result = run(model, dataset, asked, config, device)
    write_npz(out_, result, asked)
    summary = {"out": str(out_), "queries": len(asked), "examples": len(result.example_ids), "method": result.method}
    summary |= {"seconds": result.seconds, "index_bytes": result.index_bytes, "coverage": result.coverage.share}
    if json_:
        print_json(summary)
    else:
        rows = f"{summary['queries']} queries × {summary['examples']} examples by {result.method}"
        out.print(
            clean(f"{out_}: {rows}, {result.seconds:.1f} s, coverage {result.coverage.share:.1%}"), soft_wrap=True
        )


def run(model: ModelConfig, dataset: Path, queries: list[NamedQuery], config: IndexConfig, device: str) -> ScoreResult:
    """Raises EngineError; EngineUnavailable where torch is not installed."""
    try:
        from engine.pipeline import score_matrix
    except ImportError as error:
        raise EngineUnavailable(f"`whence score` needs the engine's libraries: {error}.") from error
    with tempfile.TemporaryDirectory(prefix="whence-score-") as scratch, PhaseBars() as bars:
        info = store_dataset(dataset, format=None, root=Path(scratch), checkpoint=bars.show)
        rows = open_dataset(Path(scratch) / info.sha256)
        asked = [named.query for named in queries]
        return score_matrix(model, rows, asked, config, workdir=Path(scratch), device=device, checkpoint=bars.show)


def write_npz(path: Path, result: ScoreResult, queries: list[NamedQuery]) -> None:
    """Under a temporary name first: a file that is there is whole."""
    import numpy as np  # here: it comes with the engine

    arrays: dict[str, Any] = {
        "scores": result.scores,
        "query_ids": np.array([named.id for named in queries], dtype=np.str_),
        "example_ids": np.array(result.example_ids, dtype=np.str_),
        "method": np.array(result.method),
        "options": np.array(json.dumps(result.options, sort_keys=True)),
        "seconds": np.float64(result.seconds),
        "index_bytes": np.int64(result.index_bytes),
        "coverage": np.float64(result.coverage.share),
    }
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            np.savez(file, **arrays)
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def require_folder(path: Path) -> None:
    """Before the work, not after it."""
    if not path.resolve().parent.is_dir():
        raise typer.BadParameter(f"there is no directory {path.resolve().parent}", param_hint="--out")
    if path.is_dir() or not os.access(path.resolve().parent, os.W_OK):
        raise typer.BadParameter(f"{path} cannot be written", param_hint="--out")
