"""`whence ask`: which training examples caused this output?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.answer import show_answer
from app.commands.console import print_json
from app.commands.names import resolve, resolve_index
from app.commands.options import Json, Url, parse_pairs, server
from app.commands.queries import as_bodies, read_queries

Tags = Annotated[
    list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="Only rows with this tag; may be repeated.")
]
RemovalTags = Annotated[
    list[str] | None,
    typer.Option("--removal-tag", metavar="KEY=VALUE", help="What taking out the rows with this tag would do; repeat."),
]
RemovalIds = Annotated[
    list[str] | None, typer.Option("--removal-id", metavar="ID", help="What taking out this row would do; repeat.")
]
Excluded = Annotated[
    list[str] | None, typer.Option("--exclude", metavar="ID", help="Leave this row out; may be repeated.")
]


def ask(
    model: Annotated[
        str | None, typer.Option(help="Id or name of a registered model; with --index it may be left out.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="What the model was asked.")] = None,
    messages: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="JSON file with a list of {role, content}.")
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A set, explained as their mean. JSONL as for `whence score`."),
    ] = None,
    completion: Annotated[str | None, typer.Option(help="The output to explain.")] = None,
    generate: Annotated[bool, typer.Option("--generate", help="Let the model write the output.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="With --generate.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="With --generate; 0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="With --generate.")] = 0,
    contrast: Annotated[str | None, typer.Option(help="Another completion: why this one rather than that?")] = None,
    span: Annotated[
        str | None, typer.Option(metavar="START:END", help="Only these characters of the completion.")
    ] = None,
    log_odds: Annotated[
        bool, typer.Option("--log-odds", help="Explain the log-odds: for outputs the model is nearly certain of.")
    ] = False,
    index: Annotated[str | None, typer.Option(help="Id, alias or name; default: the model's newest.")] = None,
    method: Annotated[str | None, typer.Option(help="Default: the index's own.")] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Rows a list.")] = 10,
    opponents: Annotated[
        bool, typer.Option("--opponents/--no-opponents", help="Rows that speak against it, too.")
    ] = True,
    normalize: Annotated[str | None, typer.Option(help="none or cosine.")] = None,
    group_by: Annotated[str | None, typer.Option(metavar="tags.KEY", help="Sums by tag.")] = None,
    flat: Annotated[bool, typer.Option("--flat", help="Read every row, also where the index has lists.")] = False,
    removal_tag: RemovalTags = None,
    removal_id: RemovalIds = None,
    tag: Tags = None,
    exclude: Excluded = None,
    url: Url = None,
    json_: Json = False,
) -> None:
    """Rank the training examples behind one output of a fine-tuned model."""
    if model is None and index is None:
        raise typer.BadParameter("give --model, or --index with an index or an alias of one")
    _check(prompt, messages, queries, completion, generate)
    question: dict[str, Any] = {
        "prompt": prompt,
        "messages": _messages(messages),
        "completion": completion,
        "generate": {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed} if generate else None,
        "contrast": contrast,
        "span": _span(span),
        "queries": None if queries is None else as_bodies(read_queries(queries)),
        "measurement": "log_odds" if log_odds else None,
        "method": method,
        "top_k": top_k,
        "opponents": opponents,
        "normalize": normalize,
        "group_by": group_by,
        "search": "flat" if flat else None,
        "filter": _rows(tag, "--tag", exclude, "exclude_ids"),
        "removal": _rows(removal_tag, "--removal-tag", removal_id, "ids"),
    }
    with server(url) as whence:
        if index is not None:
            question["index"] = resolve_index(whence, index, "--index")
        asked = None if model is None else resolve(model, "mdl_", whence.models.all(), "--model")
        answer = whence.ask(asked, **question)
    print_json(answer) if json_ else show_answer(answer)


def _check(
    prompt: str | None, messages: Path | None, queries: Path | None, completion: str | None, generate: bool
) -> None:
    if [prompt, messages, queries].count(None) != 2:
        raise typer.BadParameter("give exactly one of --prompt, --messages and --queries")
    if generate and completion is not None:
        raise typer.BadParameter("give one of --completion and --generate, not both")
    if prompt is not None and completion is None and not generate:
        raise typer.BadParameter(
            "give the output to explain with --completion, or let the model write it with --generate"
        )


def _messages(path: Path | None) -> list[dict[str, str]] | None:
    if path is None:
        return None
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise typer.BadParameter(f"{path} is not JSON: {error}", param_hint="--messages") from None
    turns = value.get("messages") if isinstance(value, dict) else value
    if not isinstance(turns, list):
        raise typer.BadParameter(f"{path} holds no list of {{role, content}}", param_hint="--messages")
    return turns


def _span(text: str | None) -> dict[str, int] | None:
    if text is None:
        return None
    start, _, end = text.partition(":")
    if not (start.isdigit() and end.isdigit()):
        raise typer.BadParameter(f"{text!r} is not START:END, e.g. 0:12", param_hint="--span")
    return {"start": int(start), "end": int(end)}


def _rows(tags: list[str] | None, option: str, ids: list[str] | None, ids_name: str) -> dict[str, Any] | None:
    chosen: dict[str, Any] = {}
    if tags:
        chosen["tags"] = parse_pairs(tags, option)
    if ids:
        chosen[ids_name] = ids
    return chosen or None
