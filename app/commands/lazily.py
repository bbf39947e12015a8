"""The commands of `whence` by name: what `whence --help` says of each, and where it is defined.

A command's module, and all that it needs, is imported when the command is run (or its own help shown): the list of
commands needs none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup


class Place(NamedTuple):
    """`where` is module:name of a function, or of a typer.Typer with commands of its own; `help` is what it says."""

    where: str
    help: str


COMMANDS = {
    "serve": Place("serve:serve", "Serve the API and the page at /ui until Ctrl-C."),
    "demo": Place(
        "serve:demo",
        "Fine-tune a small model, index it, ask three questions over HTTP, measure their trust, then serve the page.",
    ),
    "migrate": Place("serve:migrate", "Bring the database to this version's tables; does nothing when it is there."),
    "train": Place(
        "train:train",
        "Fine-tune a LoRA adapter with every choice on record. Run it again after an interruption: it goes on.",
    ),
    "evaluate": Place(
        "evaluate:evaluate",
        "Train again without some of the rows, and compare with what the index predicts: a scorecard.",
    ),
    "verify": Place(
        "verify:verify",
        "Check one answer by an experiment: change the training, and measure what that does to the output.",
    ),
    "ask": Place("ask:ask", "Rank the training examples behind one output of a fine-tuned model."),
    "score": Place("score:score", "Score every training row for every query, into an .npz file. Positive = proponent."),
    "methods": Place(
        "methods:methods", "List every method: what it computes, its options, what it needs, what it costs."
    ),
    "doctor": Place(
        "doctor:doctor",
        "Check the store of a server: checksums, files against the database, rows without jobs. "
        "Exit code 1: something is\nwrong. Beside a running server it only reads.",
    ),
    "backup": Place(
        "backup:backup",
        "Copy database and files of a server, which may go on running. Holds training data and the "
        "server's secret; the\nfiles of models are no part of it.",
    ),
    "restore": Place(
        "backup:restore",
        "Verify a backup, then fill an empty home (and database) from it. The server has to be stopped.",
    ),
    "model": Place("models:app", "Register fine-tuned models and list them."),
    "dataset": Place("datasets:app", "Upload training data and list it."),
    "index": Place("indexes:app", "Build indexes of training gradients and look at them."),
    "aliases": Place("aliases:app", "Names that point at indexes, and move from one to another at once."),
    "batches": Place("batches:app", "Ask many questions from one file."),
    "jobs": Place("jobs:app", "Look at long work, cancel it, resume it."),
    "keys": Place(
        "keys:app",
        "API keys of the server with these settings (WHENCE_HOME, WHENCE_DATABASE_URL). "
        "Once there is one, every request needs one.",
    ),
}


class LazyGroup(TyperGroup):
    """Lists COMMANDS by name and help, and imports the one that is run. Completion goes the same way."""

    def __init__(self, **attributes: Any) -> None:
        attributes["commands"] = {name: TyperCommand(name, help=place.help) for name, place in COMMANDS.items()}
        super().__init__(**attributes)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, listed, rest = super().resolve_command(ctx, args)
        return name, load(name) if name is not None else listed, rest


def load(name: str) -> Any:
    """The command (or the group) itself, as typer makes it."""
    module, _, attribute = COMMANDS[name].where.partition(":")
    found = getattr(import_module(f"app.commands.{module}"), attribute)
    made = typer.Typer()
    if isinstance(found, typer.Typer):
        made.add_typer(found, name=name)
    else:
        made.command(name)(found)
    return typer.main.get_group(made).commands[name]
