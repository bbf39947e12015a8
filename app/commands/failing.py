"""How a command that failed ends: one line that says why, and an exit code."""

from __future__ import annotations

from pydantic import ValidationError

from app.commands.console import fail
from app.commands.serve import CannotListen
from app.errors import AppError, Unavailable, problem_of, recognised
from app.homelock import HomeUnusable
from engine.errors import EngineError, InvalidOption, UnknownMethod
from whence_client import Problem, WhenceError

FAILED, BAD_USAGE = 1, 2


def tell(error: Exception) -> int:
    """Says on stderr why; the exit code."""
    fail(_message(error))
    return BAD_USAGE if isinstance(error, (UnknownMethod, InvalidOption, ValidationError)) else FAILED


def _message(error: BaseException) -> str:
    named = recognised(error)
    if type(named) is not Unavailable:  # what a database that is away says of itself says more
        error = named
    if isinstance(error, (EngineError, AppError)):
        return str(Problem.model_validate(problem_of(error)))
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        where = "_".join(str(part) for part in first["loc"]).upper()
        return f"Invalid setting {f'WHENCE_{where}' if where else ''}: {first['msg']}"
    if isinstance(error, (WhenceError, HomeUnusable, CannotListen)):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return f"Unexpected {type(error).__name__}: {error} (WHENCE_TRACEBACK=1 shows where)"
