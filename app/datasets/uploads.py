"""The two bodies that POST /v1/datasets takes: a form with a file, or JSON with a path."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO

from fastapi import Depends, Request
from pydantic import Json

from app.amending import Metadata
from app.bodies import Name, RequestBody
from app.datasets.schemas import DatasetImport, Format
from app.forms import SentFile, invalid, kind_of, sent_file, validated

REMEDY = "Send multipart/form-data with name and file, or application/json with name and uri."


@dataclass(frozen=True)
class Upload:
    """`file` is readable from its start; `filename` is what the client called it."""

    name: str
    format: str | None
    filename: str
    file: BinaryIO
    metadata: dict[str, Any] | None = None


class _Fields(RequestBody):
    name: Name
    format: Format | None = None
    metadata: Json[Metadata] | None = None


async def dataset_body(request: Request) -> AsyncIterator[Upload | DatasetImport]:
    if kind_of(request) == "application/json":
        yield validated(DatasetImport, await _json(request))
        return
    async with sent_file(request, remedy=REMEDY) as sent:
        yield upload_of(sent, sent.fields)


def upload_of(sent: SentFile, given: dict[str, Any]) -> Upload:
    """`given`: the fields beside the file. Raises RequestValidationError."""
    fields = validated(_Fields, given)
    return Upload(fields.name, fields.format, sent.filename, sent.file, fields.metadata)


DatasetBody = Annotated[Upload | DatasetImport, Depends(dataset_body)]


async def _json(request: Request) -> Any:
    try:
        return await request.json()
    except (ValueError, RecursionError) as error:
        raise invalid([{"loc": ("body",), "msg": f"not valid JSON: {error}"}]) from error
