"""`whence`: the commands put together, and how each of them may end."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from pydantic import ValidationError
from typer.exceptions import TyperException

from app import __version__
from app.commands import aliases, batches, datasets, indexes, jobs, keys, models
from app.commands.ask import ask
from app.commands.backup import backup, restore
from app.commands.console import fail
from app.commands.doctor import doctor
from app.commands.evaluate import evaluate
from app.commands.methods import methods
from app.commands.score import score
from app.commands.serve import CannotListen, demo, migrate, serve
from app.commands.train import train
from app.errors import AppError, Unavailable, problem_of, recognised
from app.homelock import HomeUnusable
from engine.errors import EngineError, InvalidOption, UnknownMethod
from whence_client import Problem, WhenceError

FAILED, BAD_USAGE, INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="whence",
    help="Which training examples caused this output of a fine-tuned language model?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (serve, demo, migrate, train, evaluate, ask, score, methods, doctor, backup, restore):
    app.command()(command)
app.add_typer(models.app, name="model")
app.add_typer(datasets.app, name="dataset")
app.add_typer(indexes.app, name="index")
app.add_typer(aliases.app, name="aliases")
app.add_typer(batches.app, name="batches")
app.add_typer(jobs.app, name="jobs")
app.add_typer(keys.app, name="keys")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"whence {__version__}")
        raise typer.Exit


@app.callback()
def _whence(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 (failed), 2 (bad usage), 130 (Ctrl-C). Errors are one line on stderr, never a traceback."""
    try:
        code = app(list(sys.argv[1:] if arguments is None else arguments), prog_name="whence", standalone_mode=False)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `whence methods | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - so that the flush at exit does not fail again
        return FAILED
    except Exception as error:
        if os.environ.get("WHENCE_TRACEBACK"):
            raise
        if message := _message(error):  # empty where the help was just shown instead
            fail(message)
        return _exit_code(error)
    return code if isinstance(code, int) else 0


def _message(error: BaseException) -> str:
    named = recognised(error)
    if type(named) is not Unavailable:  # what a database that is away says of itself says more
        error = named
    if isinstance(error, (EngineError, AppError)):
        return str(Problem.model_validate(problem_of(error)))
    if isinstance(error, TyperException):
        return error.format_message()
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        where = "_".join(str(part) for part in first["loc"]).upper()
        return f"Invalid setting {f'WHENCE_{where}' if where else ''}: {first['msg']}"
    if isinstance(error, (WhenceError, HomeUnusable, CannotListen)):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return f"Unexpected {type(error).__name__}: {error} (WHENCE_TRACEBACK=1 shows where)"


def _exit_code(error: Exception) -> int:
    if isinstance(error, TyperException):
        return error.exit_code
    return BAD_USAGE if isinstance(error, (UnknownMethod, InvalidOption, ValidationError)) else FAILED


if __name__ == "__main__":
    sys.exit(main())
