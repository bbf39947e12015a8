"""Forms with a file, and JSON in their place: what the uploads of datasets, batches and indexes have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from app.bodies import read_form
from app.errors import AppError

FORM, JSON = "multipart/form-data", "application/json"
LONGEST_FILENAME = 1000
Body = TypeVar("Body", bound=BaseModel)


class UnsupportedMediaType(AppError):
    status, code, title = 415, "unsupported-media-type", "Unsupported media type"
    remedy = "Send multipart/form-data with the file and the fields that the API's description names."


@dataclass(frozen=True)
class SentFile:
    """`file` is readable from its start; `filename` is what the client called it; `fields`: all the others."""

    fields: dict[str, Any]
    filename: str
    file: BinaryIO


def kind_of(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


@asynccontextmanager
async def sent_file(request: Request, *, remedy: str | None = None) -> AsyncIterator[SentFile]:
    """Raises UnsupportedMediaType, RequestValidationError."""
    if (kind := kind_of(request)) != FORM:
        raise UnsupportedMediaType(f"This cannot be sent as '{kind}'.", remedy=remedy)
    form = await read_form(request)
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise invalid([{"loc": ("body", "file"), "msg": "a file is required"}])
        fields = {name: value for name, value in form.multi_items() if name != "file"}
        filename = "".join(filter(str.isprintable, file.filename or ""))[:LONGEST_FILENAME]
        yield SentFile(fields, filename or "upload", file.file)
    finally:
        await form.close()


async def sent_json(request: Request) -> Any:
    """Raises RequestValidationError."""
    try:
        return await request.json()
    except (ValueError, RecursionError) as error:
        raise invalid([{"loc": ("body",), "msg": f"not valid JSON: {error}"}]) from error


def validated(schema: type[Body], values: Any) -> Body:
    """Raises RequestValidationError, pointing into the body."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        # of a type of its own: what is no JSON here is one field, not the body
        raise invalid([{**found, "type": "field", "loc": ("body", *found["loc"])} for found in problems]) from error


def invalid(errors: list[Any]) -> RequestValidationError:
    return RequestValidationError(errors)
