"""`whence aliases …`"""

from __future__ import annotations

from typing import Annotated

import typer

from app.commands.console import clean, facts, out, print_json, table, when
from app.commands.names import resolve_index
from app.commands.options import Json, Limit, Url, server
from whence_client import Alias

app = typer.Typer(no_args_is_help=True, help="Names that point at indexes, and move from one to another at once.")
Name = Annotated[str, typer.Argument(help="Name of an alias, e.g. prod.", metavar="NAME")]


@app.command("list")
def list_(limit: Limit = 50, url: Url = None, json_: Json = False) -> None:
    """List aliases, newest first."""
    with server(url) as whence:
        page = whence.aliases.list(limit=limit)
    if json_:
        print_json(page)
        return
    rows = [(a.name, a.index, a.version, a.previous_index, when(a.moved_at)) for a in page.data]
    out.print(table(None, ["name", "index", ">version", "before", "moved"], rows))


@app.command("set")
def set_(
    name: Name,
    index: Annotated[str, typer.Argument(help="Id or name of a ready index, or another alias.", metavar="INDEX")],
    only_new: Annotated[bool, typer.Option("--only-new", help="Fail when the alias exists.")] = False,
    only_from: Annotated[
        str | None, typer.Option("--only-from", metavar="INDEX", help="Fail unless it points at this index now.")
    ] = None,
    url: Url = None,
    json_: Json = False,
) -> None:
    """Point an alias at an index. Questions see the old target or the new one, never neither."""
    with server(url) as whence:
        seen = None
        if only_from is not None:
            alias, expected = whence.aliases.get(name), resolve_index(whence, only_from, "--only-from")
            if alias.index != expected:
                raise typer.BadParameter(
                    f"{name!r} points at {alias.index}, not at {expected}", param_hint="--only-from"
                )
            seen = alias.etag
        target = resolve_index(whence, index, "INDEX")
        _show(whence.aliases.put(name, index=target, if_match=seen, only_new=only_new), json_)


@app.command("remove")
def remove(name: Name, url: Url = None, json_: Json = False) -> None:
    """Forget an alias; its index stays."""
    with server(url) as whence:
        whence.aliases.delete(name)
    if json_:
        print_json({"removed": name})
    else:
        out.print(clean(f"{name} is forgotten."))


def _show(alias: Alias, as_json: bool) -> None:
    if as_json:
        print_json(alias)
        return
    pairs: list[tuple[str, object]] = [("name", alias.name), ("index", alias.index), ("version", alias.version)]
    out.print(facts([*pairs, ("before", alias.previous_index), ("moved", when(alias.moved_at))]))
