"""`whence model …`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.console import count, facts, out, print_json, table, warn, when
from app.commands.names import resolve
from app.commands.options import Json, Limit, Url, server
from app.commands.recipes import recipe_as_json
from whence_client import Model

_NAMED = 8  # untracked modules that are listed one by one

app = typer.Typer(no_args_is_help=True, help="Register fine-tuned models and list them.")


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="A name; the same name again makes a new version.")],
    base: Annotated[str, typer.Option(help="Base model, or a dense fine-tune: a directory below the server's roots.")],
    adapter: Annotated[str | None, typer.Option(help="PEFT adapter directory.")] = None,
    checkpoint: Annotated[
        list[str] | None, typer.Option(help="A checkpoint's directory, oldest first; may be repeated.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Tokenizer directory, if not the base's.")] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="What training did: a recipe's JSON file, or the directory of a run (ours, or a Hugging Face "
            "Trainer's). Without it the server looks beside the adapter.",
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(min=1, help="Of the training set, to tell the order of rows of a Hugging Face run in --recipe."),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float64.")] = None,
    quantization: Annotated[str | None, typer.Option(help="Of the base under an adapter: 8bit or 4bit.")] = None,
    url: Url = None,
    json_: Json = False,
) -> None:
    """Register a fine-tuned model."""
    with server(url) as whence:
        model = whence.models.create(
            name,
            base=_absolute(base),
            adapter=adapter and _absolute(adapter),
            checkpoints=[_absolute(path) for path in checkpoint] if checkpoint else None,
            tokenizer=tokenizer and _absolute(tokenizer),
            recipe=recipe and recipe_as_json(recipe, "--recipe", rows),
            dtype=dtype,
            quantization=quantization,
        )
    print_json(model) if json_ else _show(model)


@app.command("list")
def list_(limit: Limit = 50, url: Url = None, json_: Json = False) -> None:
    """List registered models, newest first."""
    with server(url) as whence:
        page = whence.models.list(limit=limit)
    if json_:
        print_json(page)
        return
    rows = [
        (m.id, m.name, m.version, count(m.trained_parameters), m.adapter or m.base, when(m.created_at))
        for m in page.data
    ]
    out.print(table(None, ["id", "name", ">version", ">trained", "path", "created"], rows))


@app.command("show")
def show(
    model: Annotated[str, typer.Argument(help="Id or name of a model.")], url: Url = None, json_: Json = False
) -> None:
    """Show one model: what was trained of it, and what of that cannot be tracked."""
    with server(url) as whence:
        found = whence.models.get(resolve(model, "mdl_", whence.models.all(), "MODEL"))
    print_json(found) if json_ else _show(found)


def _absolute(path: str) -> str:
    """A path that exists here is made absolute, so that it means the same to a server started elsewhere."""
    return str(Path(path).resolve()) if Path(path).exists() else path


def _show(model: Model) -> None:
    pairs = [("id", model.id), ("name", model.name), ("version", model.version), ("base", model.base)]
    pairs += [("adapter", model.adapter), ("parameters", count(model.parameters))]
    pairs += [("trained", count(model.trained_parameters)), ("fingerprint", model.fingerprint)]
    coverage = model.coverage if isinstance(model.coverage, dict) else {}
    if "share" in coverage:
        pairs.append(("coverage", f"{coverage['share']:.1%} of the trained parameters can be tracked"))
    out.print(facts(pairs))
    if untracked := coverage.get("untracked"):
        out.print(table("not tracked", ["module", ">parameters", ">share", "why"], _untracked(model, untracked)))
    for message in model.warnings:
        warn(message)


def _untracked(model: Model, parts: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    """The largest first; many small ones (norms) share the last line."""
    parts = sorted(parts, key=lambda part: -part["parameters"])
    rows: list[tuple[object, ...]] = [
        (part["module"], count(part["parameters"]), _share(model, part["parameters"]), part["reason"])
        for part in parts[:_NAMED]
    ]
    if rest := parts[_NAMED:]:
        small = sum(part["parameters"] for part in rest)
        rows.append((f"{len(rest)} more", count(small), _share(model, small), "see --json"))
    return rows


def _share(model: Model, parameters: int) -> str:
    return f"{parameters / model.trained_parameters:.1%}" if model.trained_parameters else "–"
