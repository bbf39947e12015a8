"""The two bodies that POST /v1/datasets takes: a form with a file, or JSON with a path."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO, TypeVar

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile

from app.bodies import Name, RequestBody, read_form
from app.datasets.schemas import DatasetImport, Format
from app.errors import AppError


class UnsupportedMediaType(AppError):
    status, code, title = 415, "unsupported-media-type", "Unsupported media type"
    remedy = "Send multipart/form-data with name and file, or application/json with name and uri."


@dataclass(frozen=True)
class Upload:
    """`file` is readable from its start; `filename` is what the client called it."""

    name: str
    format: str | None
    filename: str
    file: BinaryIO


class _Fields(RequestBody):
    name: Name
    format: Format | None = None


async def dataset_body(request: Request) -> AsyncIterator[Upload | DatasetImport]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        yield _validated(DatasetImport, await _json(request))
    elif kind == "multipart/form-data":
        form = await read_form(request)
        try:
            yield _upload(form)
        finally:
            await form.close()
    else:
        raise UnsupportedMediaType(f"A dataset cannot be sent as '{kind}'.")


DatasetBody = Annotated[Upload | DatasetImport, Depends(dataset_body)]


async def _json(request: Request) -> Any:
    try:
        return await request.json()
    except (ValueError, RecursionError) as error:
        raise _invalid([{"loc": ("body",), "msg": f"not valid JSON: {error}"}]) from error


def _upload(form: FormData) -> Upload:
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise _invalid([{"loc": ("body", "file"), "msg": "a file is required"}])
    fields = _validated(_Fields, {name: value for name, value in form.multi_items() if name != "file"})
    filename = "".join(filter(str.isprintable, file.filename or "")) or "upload"
    return Upload(fields.name, fields.format, filename, file.file)


Body = TypeVar("Body", bound=BaseModel)


def _validated(schema: type[Body], value: Any) -> Body:
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        raise _invalid([{**problem, "loc": ("body", *problem["loc"])} for problem in problems]) from error


def _invalid(errors: list[Any]) -> RequestValidationError:
    return RequestValidationError(errors)
