"""`whence dataset …`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.commands.console import count, facts, out, print_json, table, warn, when
from app.commands.following import follow
from app.commands.options import Json, Limit, Url, server
from whence_client import Dataset

app = typer.Typer(no_args_is_help=True, help="Upload training data and list it.")


@app.command("add")
def add(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSONL, JSON, CSV or Parquet.")],
    name: Annotated[str | None, typer.Option(help="Default: the file's name.")] = None,
    url: Url = None,
    json_: Json = False,
) -> None:
    """Upload a training file: rows with prompt+completion, messages or text."""
    with server(url) as whence:
        dataset = whence.datasets.upload(file, name=name)
        if dataset.state == "loading" and dataset.job_id:
            follow(whence, dataset.job_id)
            dataset = whence.datasets.get(dataset.id)
    print_json(dataset) if json_ else _show(dataset)


@app.command("list")
def list_(limit: Limit = 50, url: Url = None, json_: Json = False) -> None:
    """List datasets, newest first."""
    with server(url) as whence:
        page = whence.datasets.list(limit=limit)
    if json_:
        print_json(page)
        return
    rows = [(d.id, d.name, d.state, count(d.rows), d.format, when(d.created_at)) for d in page.data]
    out.print(table(None, ["id", "name", "state", ">rows", "format", "created"], rows))


def _show(dataset: Dataset) -> None:
    pairs = [("id", dataset.id), ("name", dataset.name), ("state", dataset.state), ("rows", count(dataset.rows))]
    out.print(facts([*pairs, ("format", dataset.format), ("sha256", dataset.sha256)]))
    for message in dataset.warnings:
        warn(message)
