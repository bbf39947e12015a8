"""`whence`: the commands put together, and how each of them may end."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from app import __version__
from app.commands.lazily import LazyGroup

FAILED, INTERRUPTED = 1, 130

app = typer.Typer(
    name="whence",
    cls=LazyGroup,
    help="Which training examples caused this output of a fine-tuned language model?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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
        return _misused(error) if isinstance(error, TyperException) else _failed(error)
    return code if isinstance(code, int) else 0


def _misused(error: TyperException) -> int:
    if message := error.format_message():  # empty where the help was just shown instead
        from app.commands.console import fail

        fail(message)
    return error.exit_code


def _failed(error: Exception) -> int:
    from app.commands import failing  # here: it knows every error of ours, and so imports much

    return failing.tell(error)


if __name__ == "__main__":
    sys.exit(main())
