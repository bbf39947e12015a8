"""One line of a batch on its way from text to a question."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from app.attributions.schemas import AttributionCreate
from app.batches.files import Line
from app.batches.schemas import BatchLine
from app.errors import AppError, FieldError, InvalidRequest, PayloadTooLarge
from app.problems import message_of, pointer_of

REMEDY = "Correct the line, and send it again in a batch of its own or with POST /v1/attributions."


class MalformedLine(InvalidRequest):
    """What is wrong with a line; `custom_id` where it could be read all the same."""

    remedy = REMEDY


def read_line(line: Line, longest: int) -> dict[str, Any]:
    """The object of a line. Raises MalformedLine, PayloadTooLarge."""
    if line.raw is None:
        raise PayloadTooLarge(f"Line {line.number} is longer than {longest} bytes.")
    try:
        value = json.loads(line.raw)
    except (ValueError, RecursionError) as error:
        raise MalformedLine(f"Line {line.number} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise MalformedLine(f"Line {line.number} is not a JSON object.")
    return value


def question_of(value: dict[str, Any], defaults: dict[str, Any]) -> AttributionCreate:
    """What the line asks, with what it leaves out. Raises AppError."""
    try:
        given = BatchLine.model_validate(_filled(value, defaults))
    except ValidationError as error:
        raise _malformed(error) from error
    return AttributionCreate.model_validate(given.model_dump(exclude={"custom_id"}))


def custom_id_of(value: dict[str, Any]) -> str | None:
    """As it comes back, also with a problem: what could not be one is left out."""
    given = value.get("custom_id")
    return given if isinstance(given, str) and len(given) <= 200 else None


def _filled(value: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The form's model and index go together: a line that names either is asked as it says."""
    target = ("model", "index")
    names_own = any(value.get(name) is not None for name in target)
    used = {name: default for name, default in defaults.items() if not (names_own and name in target)}
    return used | {name: given for name, given in value.items() if given is not None or name not in used}


def _malformed(error: ValidationError) -> AppError:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    errors = [FieldError(pointer_of(("body", *item["loc"])), message_of(item)) for item in found]
    return MalformedLine("; ".join(f"{e.pointer or 'the line'}: {e.message}" for e in errors[:3]), errors=errors)
