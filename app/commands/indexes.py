"""`whence index …`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.commands.console import count, facts, out, print_json, size, table, warn, when
from app.commands.following import follow
from app.commands.names import resolve, resolve_index
from app.commands.options import Json, Limit, OptionPairs, Url, parse_options, server
from whence_client import Index

app = typer.Typer(no_args_is_help=True, help="Build indexes of training gradients and look at them.")


@app.command("build")
def build(
    model: Annotated[str, typer.Option(help="Id or name of a registered model.")],
    dataset: Annotated[str, typer.Option(help="Id or name of a dataset.")],
    method: Annotated[str, typer.Option(help="See `whence methods`.")] = "auto",
    name: Annotated[str | None, typer.Option(help="A name of your own.")] = None,
    checkpoints: Annotated[str | None, typer.Option(help="all or final.")] = None,
    option: OptionPairs = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Build although less than half of what was trained can be tracked.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the build, or return its job.")] = True,
    url: Url = None,
    json_: Json = False,
) -> None:
    """Build an index of a model's training gradients."""
    options = parse_options(option) | ({"allow_partial": True} if allow_partial else {})
    with server(url) as whence:
        index = whence.indexes.build(
            model=resolve(model, "mdl_", whence.models.all(), "--model"),
            dataset=resolve(dataset, "ds_", whence.datasets.all(), "--dataset"),
            method=method,
            name=name,
            checkpoints=checkpoints,
            options=options or None,
        )
        if wait and index.job_id:
            follow(whence, index.job_id)
            index = whence.indexes.get(index.id)
    print_json(index) if json_ else _show(index)


@app.command("list")
def list_(limit: Limit = 50, url: Url = None, json_: Json = False) -> None:
    """List indexes, newest first."""
    with server(url) as whence:
        page = whence.indexes.list(limit=limit)
    if json_:
        print_json(page)
        return
    rows = [
        (i.id, i.state, i.method, i.model, i.dataset, count(i.rows), size(i.bytes), when(i.created_at))
        for i in page.data
    ]
    out.print(table(None, ["id", "state", "method", "model", "dataset", ">rows", ">size", "created"], rows))


@app.command("show")
def show(
    index: Annotated[str, typer.Argument(help="Id, alias or name of an index.")], url: Url = None, json_: Json = False
) -> None:
    """Show one index: state, coverage, options, warnings."""
    with server(url) as whence:
        found = whence.indexes.get(resolve_index(whence, index, "INDEX"))
    print_json(found) if json_ else _show(found)


@app.command("export")
def export(
    index: Annotated[str, typer.Argument(help="Id or name of an index.")],
    file: Annotated[Path, typer.Argument(dir_okay=False, help="A new file, e.g. support.tar.")],
    url: Url = None,
    json_: Json = False,
) -> None:
    """Write an index and its rows to one file, for another server."""
    if file.exists():
        raise typer.BadParameter(f"'{file}' is there already", param_hint="FILE")
    with server(url) as whence:
        index_id = resolve(index, "idx_", whence.indexes.all(), "INDEX")
        whence.indexes.export(index_id, file)
    made = file.stat().st_size
    if json_:
        print_json({"index": index_id, "file": str(file.absolute()), "bytes": made})
    else:
        out.print(facts([("index", index_id), ("file", file), ("size", size(made))]))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="What `whence index export` wrote.")],
    model: Annotated[str, typer.Option(help="Id or name of the same model on this server.")],
    name: Annotated[str | None, typer.Option(help="Default: the name it had.")] = None,
    url: Url = None,
    json_: Json = False,
) -> None:
    """Take in an exported index: it is ready at once."""
    with server(url) as whence:
        model_id = resolve(model, "mdl_", whence.models.all(), "--model")
        found = whence.indexes.import_(file, model=model_id, name=name)
    print_json(found) if json_ else _show(found)


def _show(index: Index) -> None:
    coverage = index.coverage.get("share") if isinstance(index.coverage, dict) else index.coverage
    options = ", ".join(f"{key}={value}" for key, value in (index.options or {}).items())
    pairs: list[tuple[str, object]] = [("id", index.id), ("name", index.name), ("state", index.state)]
    pairs += [("job", index.job_id), ("model", index.model), ("dataset", index.dataset), ("method", index.method)]
    pairs += [("rows", count(index.rows)), ("size", size(index.bytes))]
    pairs += [("coverage", None if coverage is None else f"{coverage:.1%} of the trained parameters")]
    out.print(facts([*pairs, ("options", options or None)]))
    for message in index.warnings:
        warn(message)
