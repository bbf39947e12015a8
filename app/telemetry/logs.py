"""Structured logs: one event a line, with the request or job and the trace it belongs to.

A line never holds prompts, completions, rows or keys. So what callers send is not logged: of a path only the words of
our own routes and the ids we gave, of an exception that quotes its input only where it was raised.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Collection, Iterable, MutableMapping
from typing import Any

import fastapi.routing
import structlog
from fastapi import FastAPI
from opentelemetry import trace
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, ExcInfo

from app.settings import Settings

WITHHELD = "(withheld: such a message quotes what was sent)"
# Their messages quote the value they complain of. SQLAlchemy's leave it out (app.database hides parameters).
QUOTING = frozenset(
    {
        "ArrowInvalid",
        "RequestValidationError",
        "ResponseValidationError",
        "UnicodeDecodeError",
        "UnicodeEncodeError",
        "ValidationError",
    }
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_OUR_ID = re.compile(r"[a-z]{2,5}_[a-z2-7]{20}")  # app.tables.base.new_id
# Since FastAPI 0.137 included routers are nested; before, `app.routes` was flat.
_flat: Callable[[Any], Iterable[Any]] = getattr(fastapi.routing, "iter_route_contexts", iter)


def configure_logging(settings: Settings) -> None:
    """Logs go to stderr; context (request_id, job_id) is added to every line of its request or job."""
    rendering: list[Any]
    if settings.log_format == "json":
        rendering = [structlog.processors.ExceptionRenderer(told_exception), structlog.processors.JSONRenderer()]
    else:
        rendering = [
            _on_one_line,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_write_exception),
        ]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _add_span,
            *rendering,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level.upper()]),
        logger_factory=_stderr_logger,
        cache_logger_on_first_use=False,
    )


def told_exception(exc_info: ExcInfo) -> list[dict[str, Any]]:
    """The exception and its causes: type, message, frames. Never the locals: they hold what callers sent."""
    return [_without_quotes(stack) for stack in _TRANSFORM(exc_info)]


def shown_path(app: FastAPI, path: str) -> str:
    """The path without what a caller may have put there: segments that are no word of ours and no id are `*`."""
    words: Collection[str] | None = getattr(app.state, "route_words", None)
    if words is None:
        words = app.state.route_words = _route_words(app)
    return "/".join(part if part in words or _OUR_ID.fullmatch(part) else "*" for part in path.split("/"))


_TRANSFORM = ExceptionDictTransformer(show_locals=False)


def _route_words(app: FastAPI) -> Collection[str]:
    paths = [path for route in _flat(app.routes) if (path := getattr(route, "path", None))]
    return frozenset({""} | {part for path in paths for part in path.split("/") if "{" not in part})


def _without_quotes(stack: dict[str, Any]) -> dict[str, Any]:
    stack.pop("exc_notes", None)  # notes say what was being looked at
    if stack["exc_type"] in QUOTING:
        stack["exc_value"] = WITHHELD
    stack["exceptions"] = [[_without_quotes(inner) for inner in group] for group in stack.get("exceptions") or ()]
    return stack


def _write_exception(out: Any, exc_info: ExcInfo) -> None:
    """As Python prints it, the innermost cause first."""
    for stack in reversed(told_exception(exc_info)):
        _write_stack(out, stack)


def _write_stack(out: Any, stack: dict[str, Any]) -> None:
    out.write("\nTraceback (most recent call last):\n")
    for frame in stack["frames"]:
        out.write(f'  File "{frame["filename"]}", line {frame["lineno"]}, in {frame["name"]}\n')
    out.write(f"{stack['exc_type']}: {escaped(str(stack['exc_value']))}")
    for inner in (inner for group in stack["exceptions"] for inner in group):
        _write_stack(out, inner)


def escaped(text: str) -> str:
    """Without what could begin another line or steer a terminal: such characters are spelled out."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _on_one_line(_logger: Any, _method: str, line: EventDict) -> MutableMapping[str, Any]:
    """For people; JSON escapes by itself."""
    return {name: escaped(value) if isinstance(value, str) else value for name, value in line.items()}


def _add_span(_logger: Any, _method: str, line: EventDict) -> MutableMapping[str, Any]:
    """trace_id and span_id as W3C writes them, where a span is active."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        line["trace_id"] = trace.format_trace_id(context.trace_id)
        line["span_id"] = trace.format_span_id(context.span_id)
    return line


def _stderr_logger(*_: object) -> structlog.PrintLogger:
    """Looks sys.stderr up on every line, so that redirecting it redirects the log."""
    return structlog.PrintLogger(sys.stderr)
