"""`whence batches …`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.commands.console import clean, count, facts, out, print_json, table, warn, when
from app.commands.following import follow
from app.commands.names import resolve, resolve_index
from app.commands.options import Json, Limit, Url, server
from app.commands.score import require_folder
from whence_client import Batch, Whence

app = typer.Typer(no_args_is_help=True, help="Ask many questions from one file.")
BatchId = Annotated[str, typer.Argument(help="Id of a batch.", metavar="BATCH")]
Out = Annotated[Path | None, typer.Option("--out", dir_okay=False, help="Where to write the answers, as JSONL.")]


@app.command("run")
def run(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="JSONL: the body of a POST /v1/attributions a line.")
    ],
    out_: Out = None,
    model: Annotated[str | None, typer.Option(help="Id or name; for lines without model and index.")] = None,
    index: Annotated[str | None, typer.Option(help="Id, alias or name; for lines without model and index.")] = None,
    method: Annotated[str | None, typer.Option(help="For lines that leave it out.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="For lines that leave it out.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the answers, or return the job.")] = True,
    url: Url = None,
    json_: Json = False,
) -> None:
    """Ask every line of a file, and write the answers to another one. A line that is wrong fails alone."""
    if out_ is not None:
        if not wait:
            raise typer.BadParameter("there is nothing to write without waiting", param_hint="--out")
        require_folder(out_)
    with server(url) as whence:
        batch = whence.attributions.batch(
            file,
            model=None if model is None else resolve(model, "mdl_", whence.models.all(), "--model"),
            index=None if index is None else resolve_index(whence, index, "--index"),
            method=method,
            top_k=top_k,
        )
        if wait and batch.job_id:
            follow(whence, batch.job_id)
            batch = whence.attributions.get_batch(batch.id)
            _save(whence, batch, out_, partial=False)
    print_json(batch) if json_ else _show(batch)


@app.command("list")
def list_(limit: Limit = 50, url: Url = None, json_: Json = False) -> None:
    """List batches, newest first."""
    with server(url) as whence:
        page = whence.attributions.list_batches(limit=limit)
    if json_:
        print_json(page)
        return
    rows = [
        (b.id, b.state, b.source, count(b.lines), count(b.succeeded), count(b.failed), when(b.created_at))
        for b in page.data
    ]
    out.print(table(None, ["id", "state", "file", ">lines", ">answered", ">failed", "created"], rows))


@app.command("show")
def show(batch_id: BatchId, url: Url = None, json_: Json = False) -> None:
    """Show one batch: how far it is."""
    with server(url) as whence:
        batch = whence.attributions.get_batch(batch_id)
    print_json(batch) if json_ else _show(batch)


@app.command("results")
def results(
    batch_id: BatchId,
    out_: Annotated[Path, typer.Option("--out", dir_okay=False, help="Where to write the answers, as JSONL.")],
    partial: Annotated[bool, typer.Option("--partial", help="Those there are, before it is ready.")] = False,
    url: Url = None,
    json_: Json = False,
) -> None:
    """Write the answers of a batch to a file."""
    require_folder(out_)
    with server(url) as whence:
        batch = whence.attributions.get_batch(batch_id)
        _save(whence, batch, out_, partial=partial)
    if json_:
        print_json(batch)


@app.command("remove")
def remove(batch_id: BatchId, url: Url = None, json_: Json = False) -> None:
    """Delete a batch and its file of results; the answers themselves stay."""
    with server(url) as whence:
        whence.attributions.delete_batch(batch_id)
    if json_:
        print_json({"removed": batch_id})
    else:
        out.print(clean(f"{batch_id} is deleted."))


def _save(whence: Whence, batch: Batch, path: Path | None, *, partial: bool) -> None:
    if path is not None:
        whence.attributions.save_batch_results(batch.id, path, partial=partial)
    if batch.failed:
        where = "" if path is None else f"; {path} says why"
        warn(f"{batch.failed} of {batch.lines} lines have no answer{where}")


def _show(batch: Batch) -> None:
    pairs: list[tuple[str, object]] = [("id", batch.id), ("state", batch.state), ("job", batch.job_id)]
    pairs += [("file", batch.source), ("index", batch.index), ("lines", count(batch.lines))]
    pairs += [("answered", count(batch.succeeded)), ("failed", count(batch.failed)), ("error", batch.error)]
    out.print(facts(pairs))
