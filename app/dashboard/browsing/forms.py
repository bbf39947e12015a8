"""Forms as they are sent, and a refusal told at the field that caused it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from app.dashboard.pages import Notice
from app.errors import AppError, FieldError, InvalidRequest, problem_of
from app.problems import message_of, pointer_of
from engine.errors import EngineError

REFUSALS = (AppError, EngineError, ValidationError, RequestValidationError)
CHECK = "Correct what is marked, and send the form again. What you typed is still there."


async def _sent(request: Request) -> dict[str, str]:
    """Line breaks as files have them: browsers send CRLF."""
    form = await request.form()
    return {name: value.replace("\r\n", "\n") for name, value in form.items() if isinstance(value, str)}


Sent = Annotated[dict[str, str], Depends(_sent)]


@dataclass(frozen=True)
class Refusal:
    """`fields`: what is wrong, by the name of the field. `used_by`: the id of what stands in the way."""

    status: int
    notice: Notice
    fields: dict[str, str] = field(default_factory=dict)
    used_by: str | None = None
    rows: tuple[dict[str, Any], ...] = ()


def refusal_of(error: Exception, known: Collection[str] = ()) -> Refusal:
    """`known`: the names of the form's fields; a cause elsewhere is told above the form."""
    if isinstance(error, (ValidationError, RequestValidationError)):
        fields = _by_field(_causes(error.errors()), known)
        where = "; ".join(f"{name}: {cause}" if name else cause for name, cause in fields.items())
        return Refusal(422, Notice("This cannot be used as it is", where, CHECK), fields)
    problem = problem_of(error)
    found = [FieldError(item["pointer"], item["message"]) for item in problem["errors"]]
    fields = {name: cause for name, cause in _by_field(found, known).items() if name}
    remedy = problem.get("remedy")
    if fields and remedy:
        first = next(iter(fields))
        fields[first] = f"{fields[first]} {remedy}"
    notice = Notice(problem["title"], problem["detail"], remedy)
    return Refusal(problem["status"], notice, fields, problem.get("used_by"), _refused_rows(problem))


def json_object(text: str, field_name: str) -> dict[str, Any] | None:
    """What is in a text area: None when it is empty. Raises InvalidRequest, pointing at the field."""
    if not text.strip():
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"This is not valid JSON: {error}.", pointer=f"/{field_name}") from error
    if not isinstance(value, dict):
        raise InvalidRequest("This has to be a JSON object: {…}.", pointer=f"/{field_name}")
    return value


def given(sent: dict[str, str], names: Iterable[str]) -> dict[str, str]:
    """The fields that were filled in; blank ones are left out, as a program would."""
    return {name: sent[name] for name in names if sent.get(name, "").strip()}


def _causes(errors: Iterable[Any]) -> list[FieldError]:
    """pydantic's; FastAPI's own begin at the body, those of a schema do not."""
    found: list[FieldError] = []
    for item in errors:
        inside = item["loc"][1:] if item["loc"][:1] == ("body",) else item["loc"]
        found.append(FieldError(pointer_of(("body", *inside)), message_of(item)))
    return found


def _by_field(errors: Iterable[FieldError], known: Collection[str]) -> dict[str, str]:
    """`/recipe/training/epochs` is a cause at `recipe`, and says where in it; `/options/damping` is one at the field
    `options.damping` where there is such a field. Under "": causes of no field."""
    fields: dict[str, str] = {}
    for error in errors:
        first, *rest = error.pointer.strip("/").split("/")
        whole = ".".join((first, *rest))
        name = whole if whole in known else first if first in known else ""
        inside = f"{'.'.join(rest)}: " if rest and name == first else ""
        cause = f"{inside}{error.message}"
        fields[name] = f"{fields[name]} · {cause}" if name in fields else cause
    return fields


def _refused_rows(problem: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """The rows of a file that are wrong: several where the reading looked further."""
    if refused := problem.get("refused"):
        return tuple(refused)
    lines, rows = problem.get("lines") or [None], problem.get("rows") or [None]
    if not isinstance(lines, list) or not isinstance(rows, list):
        return ()
    line, row = problem.get("line", lines[-1]), problem.get("row", rows[-1])
    if line is None and row is None:
        return ()
    return ({"line": line, "row": row, "detail": problem["detail"], "remedy": problem.get("remedy")},)


def refused_rows(problem: dict[str, Any] | None) -> tuple[dict[str, Any], ...]:
    """Of a stored problem: that of a job."""
    return _refused_rows(problem) if problem else ()
