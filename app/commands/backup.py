"""`whence backup` and `whence restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from app.backup.making import backup as make
from app.backup.restoring import restore as put_back
from app.backup.sources import Source
from app.commands.console import facts, out, print_json, size, warn
from app.commands.doctor import opened
from app.commands.options import Json
from app.commands.progress import PhaseBars
from app.commands.serve import Home
from app.errors import Unavailable
from app.settings import Settings
from engine.types import Progress


def backup(
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="A new directory; or a file, where it ends in .tar.")],
    home: Home = None,
    json_: Json = False,
) -> None:
    """Copy database and files of a server, which may go on running. Holds training data and the server's secret; the
    files of models are no part of it."""
    settings = Settings() if home is None else Settings(home=home)
    with opened(settings) as database, PhaseBars() as bars:
        made = make(settings, database, dest, _Count(bars, "copy", 0).add)
    manifest = made.manifest
    for message in made.warnings:
        warn(message)
    if json_:
        summed = {"path": str(dest.absolute()), "bytes": manifest.bytes, "files": len(manifest.files)}
        print_json(summed | {"tables": manifest.tables, "warnings": made.warnings, "models": manifest.models})
        return
    kinds = ("models", "datasets", "indexes", "evaluations", "attributions")
    rows = ", ".join(f"{manifest.tables.get(kind, 0)} {kind}" for kind in kinds)
    out.print(facts([("backup", dest), ("size", size(manifest.bytes)), ("files", len(manifest.files)), ("rows", rows)]))
    if manifest.models:
        out.print("Not in it: the files of models. Keep these yourself:", highlight=False)
        for path in manifest.models:
            out.print(f"  {path}", highlight=False, markup=False, soft_wrap=True)


def restore(
    src: Annotated[Path, typer.Argument(metavar="SRC", exists=True, help="What `whence backup` wrote.")],
    home: Home = None,
    force: Annotated[
        bool, typer.Option("--force", help="Move what the home holds aside, to before-restore-<time> in it.")
    ] = False,
    json_: Json = False,
) -> None:
    """Verify a backup, then fill an empty home (and database) from it. The server has to be stopped."""
    settings = Settings() if home is None else Settings(home=home)
    source = Source(src)
    with PhaseBars() as bars:
        count = _Count(bars, "restore", 2 * source.manifest.bytes)
        try:
            restored = put_back(settings, source, force=force, advance=count.add)
        except SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise Unavailable(
                f"The database cannot be filled: {cause}.", remedy="See that it runs and is empty."
            ) from error
    aside = None if restored.aside is None else str(restored.aside)
    if json_:
        missing = restored.missing_models
        print_json({"home": str(settings.home), "aside": aside, "tables": source.manifest.tables, "missing": missing})
        return
    out.print(facts([("home", settings.home), ("size", size(source.manifest.bytes)), ("moved aside to", aside)]))
    for path in restored.missing_models:
        warn(f"The files of a model are not on this machine: {path}")


class _Count:
    """Bytes so far as progress; of how many, where that is known."""

    def __init__(self, bars: PhaseBars, phase: str, total: int) -> None:
        self.bars, self.phase, self.total, self.done = bars, phase, total, 0

    def add(self, amount: int) -> None:
        self.done += amount
        self.bars.show(Progress(self.done, self.total, "bytes", self.phase))
